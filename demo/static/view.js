// What an answer of the server looks like: the boxes in the picture, the verdict, the cards with their bars. Nothing
// is decided here: which emotions are named and marked, the server says (demo/verdict.py).

import { percent, signed } from "./emotions.js";

const NOBODY = { headline: "Ready when you are", line: "Press Start.", labels: [], likeliest: {}, result: {} };

export class View {
  // `notes` say what the cards' numbers are of.
  constructor(live, emotions, notes = { face: "smoothed", voice: "last 3 s" }) {
    this.find = (selector) => live.querySelector(selector);
    Object.assign(this, { emotions, notes });
  }

  // `mirrored`: whether the picture is shown as a mirror shows it.
  draw(answer, mirrored = true) {
    const { face, voice, fused } = answer.result;
    this.find(".box.main").hidden = !face;
    // Its colour is that of its tag, which is held against flicker.
    const label = answer.likeliest.face?.[0] ?? face?.label;
    if (face) this.#box(this.find(".box.main"), { box: face.box, label, tag: answer.tag }, answer.size, mirrored);
    this.#others(answer.others ?? [], answer.size, mirrored);
    this.#card("Face", face, this.notes.face, answer.likeliest.face);
    this.#card("Voice", voice, this.notes.voice, answer.likeliest.voice);
    this.#card("Together", fused, face && voice ? "fused" : "alone", answer.likeliest.fused);
    this.#verdict(answer);
  }

  clear() {
    this.draw(NOBODY);
    this.messages([]);
  }

  // A face's box and its tag; both plain where it was not looked at, and has no label.
  #box(box, face, size, mirrored) {
    place(box, face.box, size, mirrored);
    const { colour, ink } = this.emotions[face.label] ?? {};
    box.style.setProperty("--colour", colour ?? "");
    box.style.setProperty("--ink", ink ?? "");
    box.title = face.label ? "" : "Not looked at";
    const [x, y, width, height] = face.box;
    const atTop = y < 0.12 * size[1];
    box.classList.toggle("below", atTop && y + height <= 0.88 * size[1]);
    box.classList.toggle("inside", atTop && y + height > 0.88 * size[1]); // it fills the picture
    box.classList.toggle("right", x + width / 2 < size[0] / 2 === mirrored); // its tag, which may be wider than it
    box.firstElementChild.textContent = face.tag;
  }

  // Faces beside the one that is followed.
  #others(faces, size, mirrored) {
    const others = this.find(".others");
    while (others.children.length > faces.length) others.lastChild.remove();
    while (others.children.length < faces.length)
      others.append(Object.assign(document.createElement("div"), { className: "box other", innerHTML: "<span></span>" }));
    faces.forEach((face, i) => this.#box(others.children[i], face, size, mirrored));
  }

  #card(name, emotion, note, likeliest) {
    const card = this.find(`.bars[aria-label="${name}"]`);
    card.classList.toggle("missing", !emotion);
    card.querySelector("small").textContent = emotion ? note : "";
    for (const row of card.querySelectorAll("li")) {
      const score = emotion ? emotion.scores[row.dataset.label] : 0;
      row.classList.toggle("top", Boolean(emotion) && likeliest.includes(row.dataset.label));
      const shown = row.querySelector(".score");
      if (emotion && score === null)
        shown.innerHTML = '<abbr title="The voice was not taught this emotion">n/a</abbr>';
      else shown.textContent = emotion ? percent(score) : "";
      row.querySelector(".track i").style.width = `${100 * (score ?? 0)}%`;
    }
  }

  #verdict({ headline, line, labels, result, valence, arousal }) {
    const verdict = this.find(".verdict"), shown = labels.length ? labels : ["neutral"];
    verdict.style.setProperty("--colour", this.emotions[shown[0]].colour);
    if (verdict.dataset.shown !== shown.join()) {
      verdict.dataset.shown = shown.join();
      verdict.querySelector(".glyphs").replaceChildren(...shown.map((label) => this.emotions[label].drawn()));
    }
    verdict.querySelector(".headline").textContent = headline;
    verdict.querySelector(".line").textContent = line;
    const agreement = result.agreement ?? null;
    verdict.classList.toggle("alone", agreement === null);
    verdict.querySelector(".scale i").style.left = `${50 + 25 * Math.max(-2, Math.min(2, agreement ?? 0))}%`;
    verdict.querySelector(".value").textContent = agreement === null ? "" : `agreement ${signed(agreement)}`;
    verdict.querySelector(".derived").textContent =
      result.fused ? `valence ${signed(valence)}, arousal ${signed(arousal)}, both derived from the seven` : "";
  }

  messages(sentences) {
    const list = this.find(".messages");
    if (list.dataset.shown === sentences.join()) return;
    list.dataset.shown = sentences.join();
    list.replaceChildren(
      ...sentences.map((sentence) => Object.assign(document.createElement("li"), { textContent: sentence })),
    );
  }
}

function place(element, [x, y, width, height], [fullWidth, fullHeight], mirrored) {
  element.style.left = `${(100 * (mirrored ? fullWidth - x - width : x)) / fullWidth}%`;
  element.style.top = `${(100 * y) / fullHeight}%`;
  element.style.width = `${(100 * width) / fullWidth}%`;
  element.style.height = `${(100 * height) / fullHeight}%`;
}
