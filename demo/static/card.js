// A card to share, drawn in the browser from one moment of Live: the verdict, its drawn faces, the last minute, and
// the picture only where that is wanted. It is sent nowhere but to where the visitor shares it.

import { download } from "./csv.js";
import { drawBands } from "./timeline.js";

const WIDTH = 1200, HEIGHT = 630, MARGIN = 60, FILE = "emoclip.png";

export class Card {
  constructor(live, emotions) {
    this.emotions = emotions;
    this.dialog = live.querySelector("dialog.card");
    this.canvas = this.dialog.querySelector("canvas");
    this.tick = this.dialog.querySelector("input");
    this.tick.addEventListener("change", () => this.#draw());
    this.dialog.querySelector(".download").addEventListener("click", async () => download(FILE, await this.#file()));
    const share = this.dialog.querySelector(".share-sheet");
    share.addEventListener("click", async () => navigator.share({ files: [await this.#file()] }).catch(() => {}));
    share.hidden = !navigator.canShare?.({ files: [new File([], FILE, { type: "image/png" })] });
    this.dialog.addEventListener("close", () => this.#forget());
  }

  // Of an answer, the moments of the last minute until `now`, and the camera's <video>, or null where there is none.
  async open(answer, moments, now, video) {
    const moment = (this.moment = { answer, moments: [...moments], now, picture: null });
    moment.picture = video && (await createImageBitmap(video).catch(() => null)); // no frame came yet
    this.tick.checked = false;
    this.tick.closest("label").hidden = !moment.picture;
    await this.#draw();
    if (this.moment === moment) this.dialog.showModal();
    else moment.picture?.close();
  }

  close() {
    if (this.dialog.open) this.dialog.close();
    else this.moment = null; // it may be about to open
  }

  #forget() {
    this.moment?.picture?.close();
    this.moment = null;
    this.canvas.getContext("2d").clearRect(0, 0, WIDTH, HEIGHT);
  }

  async #draw() {
    if (!this.moment) return;
    const { answer, moments, now, picture } = this.moment, pen = this.canvas.getContext("2d");
    const labels = answer.labels.length ? answer.labels : ["neutral"];
    const faces = await Promise.all(labels.map((label) => this.#face(label)));
    const background = pen.createLinearGradient(0, 0, WIDTH, HEIGHT);
    background.addColorStop(0, "#25254a");
    background.addColorStop(1, "#101018");
    pen.fillStyle = background;
    pen.fillRect(0, 0, WIDTH, HEIGHT);
    let left = MARGIN;
    if (picture && this.tick.checked) {
      const width = Math.min(400, (300 * picture.width) / picture.height);
      const height = (width * picture.height) / picture.width;
      pen.save();
      pen.translate(left + width, MARGIN);
      pen.scale(-1, 1); // as the mirror on the page
      pen.drawImage(picture, 0, 0, width, height);
      pen.restore();
      left += width + 40;
    }
    faces.forEach((face, i) => pen.drawImage(face, left + i * 120, MARGIN, 150, 150));
    pen.fillStyle = "#f4f4f8";
    pen.textAlign = "left";
    pen.textBaseline = "top";
    pen.font = "700 50px system-ui, sans-serif";
    let y = MARGIN + 175;
    for (const row of lines(pen, answer.headline, WIDTH - MARGIN - left)) {
      pen.fillText(row, left, y);
      y += 58;
    }
    pen.font = "28px system-ui, sans-serif";
    pen.fillStyle = "#c3c3d4";
    pen.fillText(answer.line, left, y + 4);
    pen.save();
    pen.translate(MARGIN, 410);
    drawBands(pen, this.emotions, moments, now,
      { left: 90, width: WIDTH - 2 * MARGIN, gap: 8, band: 62, colour: "#f4f4f8", size: 22 });
    pen.restore();
    pen.font = "600 22px system-ui, sans-serif";
    pen.textAlign = "left";
    pen.textBaseline = "alphabetic";
    pen.fillStyle = "#c3c3d4";
    pen.fillText("EmoCLIP recognises acted expressions. It does not know what anybody feels.", MARGIN, HEIGHT - 38);
  }

  // The drawn face of an emotion as a picture. The page's style sheet gives its lines their look, which is not there.
  async #face(label) {
    const svg = this.emotions[label].drawn().querySelector("svg");
    svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    svg.setAttribute("width", 300);
    svg.setAttribute("height", 300);
    for (const line of svg.querySelectorAll("path, ellipse"))
      Object.assign(line.style,
        { fill: "none", stroke: "#16161d", strokeWidth: 2.6, strokeLinecap: "round", strokeLinejoin: "round" });
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(svg.outerHTML)}`;
    await image.decode();
    return image;
  }

  async #file() {
    const blob = await new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
    return new File([blob], FILE, { type: "image/png" });
  }
}

// A text in rows that are no wider than so much.
function lines(pen, text, width) {
  const rows = [""];
  for (const word of text.split(" ")) {
    const longer = `${rows.at(-1)} ${word}`.trim();
    if (pen.measureText(longer).width <= width || !rows.at(-1)) rows[rows.length - 1] = longer;
    else rows.push(word);
  }
  return rows;
}
