// What stands for each emotion, as demo/live_page.py wrote it into the page: by its label, in the data's order.

export function readEmotions(live) {
  const emotions = {};
  for (const template of live.querySelectorAll("template[data-label]")) {
    const { label, word, colour, ink } = template.dataset;
    emotions[label] = { word, colour, ink, drawn: () => template.content.cloneNode(true) };
  }
  return emotions;
}

export const percent = (score) => `${Math.round(100 * score)}%`;

export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
