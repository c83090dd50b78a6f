// Faces found by YuNet and framed as in training: `FaceDetector` in media_emoclip.py, and what OpenCV's
// FaceDetectorYN does around the network.

import { clamp, resize, round, turn, withBorder } from "./pixels.js";

const STRIDES = [8, 16, 32]; // pixels between the places at which YuNet looks for a face
const MULTIPLE = 32; // of which a picture's sides must be

export class FaceFinder {
  // `run` gives YuNet's outputs by name for (1, 3, height, width) floats, BGR; `settings` are those of faces.
  constructor(run, settings) {
    Object.assign(this, { run, settings });
  }

  // The square of every face, largest first, in a picture that may be large.
  async find(picture) {
    const [small, scale] = this.#toSearch(picture);
    return (await this.#search(small, scale))[0];
  }

  // The same in a photo that may lie on its side or stand on its head: [squares, quarters by which it must be turned].
  async findTurned(picture) {
    const { sure_score, turn_gain } = this.settings;
    const [small, scale] = this.#toSearch(picture);
    let [squares, score] = await this.#search(small, scale), turns = 0;
    if (score < sure_score)
      for (const quarters of [1, 2, 3]) {
        const [turned, turnedScore] = await this.#search(turn(small, quarters), scale);
        if (turnedScore > score + (turns === 0 ? turn_gain : 0))
          [squares, score, turns] = [turned, turnedScore, quarters];
      }
    return [squares, turns];
  }

  #toSearch(picture) {
    const { search_side, smallest_search_side } = this.settings, longer = Math.max(picture.width, picture.height);
    const scale = Math.max(Math.min(1, search_side / longer), smallest_search_side / longer);
    const [width, height] = [picture.width, picture.height].map((each) => Math.max(1, round(each * scale)));
    return [resize(picture, width, height, scale < 1 ? "area" : "cubic"), scale];
  }

  // The squares, and the score of the best.
  async #search(picture, scale) {
    // A face that is cut by the picture's edges is found more often with something around it.
    for (const border of [0, Math.floor(Math.max(picture.width, picture.height) / 4)]) {
      const faces = await this.#detect(border ? withBorder(picture, border) : picture);
      if (!faces.length) continue;
      const squares = faces.map(({ box }) => this.#frame(box, border, scale));
      return [squares.sort((a, b) => b[2] - a[2]), Math.max(...faces.map(({ score }) => score))];
    }
    return [[], 0];
  }

  #frame([x, y, width, height], border, scale) {
    const side = this.settings.frame_side * Math.sqrt(width * height);
    return [x + (width - side) / 2 - border, y + (height - side) / 2 - border, side, side].map((each) => each / scale);
  }

  async #detect({ data, width, height }) {
    const [fullWidth, fullHeight] = [width, height].map((each) => MULTIPLE * Math.ceil(each / MULTIPLE));
    const area = fullWidth * fullHeight, input = new Float32Array(3 * area);
    for (let y = 0, from = 0; y < height; y++)
      for (let to = y * fullWidth, end = to + width; to < end; to++, from += 3) {
        input[to] = data[from + 2];
        input[to + area] = data[from + 1];
        input[to + 2 * area] = data[from];
      }
    const out = await this.run(input, [1, 3, fullHeight, fullWidth]);
    const faces = [];
    for (const stride of STRIDES) {
      const classes = out[`cls_${stride}`], objects = out[`obj_${stride}`], boxes = out[`bbox_${stride}`];
      for (let i = 0; i < classes.length; i++) {
        const score = Math.sqrt(clamp(classes[i], 0, 1) * clamp(objects[i], 0, 1));
        if (score < this.settings.score) continue;
        const column = i % (fullWidth / stride), row = Math.floor(i / (fullWidth / stride));
        const [right, down, wide, high] = boxes.subarray(4 * i, 4 * i + 4);
        const boxWidth = Math.exp(wide) * stride, boxHeight = Math.exp(high) * stride;
        const x = (column + right) * stride - boxWidth / 2, y = (row + down) * stride - boxHeight / 2;
        faces.push({ score, box: [x, y, boxWidth, boxHeight] });
      }
    }
    return this.#best(faces);
  }

  // Of faces that overlap, the best (non-maximum suppression); OpenCV compares boxes in whole pixels.
  #best(faces) {
    const kept = [];
    for (const face of faces.sort((a, b) => b.score - a.score)) {
      const box = face.box.map(Math.trunc);
      if (kept.every((other) => overlap(box, other.box.map(Math.trunc)) <= this.settings.overlap)) kept.push(face);
    }
    return kept;
  }
}

// Intersection over union of two boxes.
export function overlap([x, y, width, height], [otherX, otherY, otherWidth, otherHeight]) {
  const across = Math.min(x + width, otherX + otherWidth) - Math.max(x, otherX);
  const down = Math.min(y + height, otherY + otherHeight) - Math.max(y, otherY);
  const shared = Math.max(0, across) * Math.max(0, down);
  return shared / (width * height + otherWidth * otherHeight - shared || 1);
}

// The part of a box inside a picture, in whole pixels: `clip_box` in media_emoclip.py.
export function clipBox([x, y, width, height], fullWidth, fullHeight) {
  const left = clamp(round(x), 0, fullWidth - 1), top = clamp(round(y), 0, fullHeight - 1);
  const right = clamp(round(x + width), left + 1, fullWidth), bottom = clamp(round(y + height), top + 1, fullHeight);
  return [left, top, right - left, bottom - top];
}
