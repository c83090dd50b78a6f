// A photo and a recording of the visitor's own, read and answered in the browser.

import { ask } from "./ask.js";
import { readEmotions } from "./emotions.js";
import { View } from "./view.js";

const limits = ask("load"); // of files, and the rate that the network hears: a promise

// `live` is the element whose emotions' drawn faces are used, `element` that of the files.
export class Files {
  constructor(live, element) {
    this.find = (selector) => element.querySelector(selector);
    this.view = new View(element, readEmotions(live), { face: "", voice: "whole recording" });
    this.image = this.channels = null;
    this.asked = 0;
    for (const [name, read] of [["photo", readPhoto], ["recording", readRecording]]) {
      const input = this.find(`input.${name}`);
      input.addEventListener("change", () => input.files.length && this.#add(read, input.files[0], input));
    }
    this.find(".clear").addEventListener("click", () => this.clear());
    this.clear();
  }

  // From two addresses.
  async example(photo, recording) {
    const [image, sound] = await Promise.all([photo, recording].map(async (each) => (await fetch(each)).blob()));
    Object.assign(this, await readPhoto(image), await readRecording(sound));
    await this.#answer();
  }

  async #add(read, file, input) {
    const name = input.className;
    this.#say(`Reading the ${name} …`);
    try {
      Object.assign(this, await read(file));
    } catch (error) {
      const unknown = `The ${name} cannot be read in this browser: choose another file.`;
      return this.#say(error instanceof Unreadable ? error.message : unknown);
    } finally {
      input.value = ""; // the same file may be chosen again
    }
    await this.#answer();
  }

  async #answer() {
    const mine = ++this.asked;
    this.#say("Looking and listening …");
    try {
      const answer = await ask("files", { image: this.image, channels: this.channels });
      if (mine === this.asked) this.#show(answer);
    } catch (error) {
      if (mine === this.asked) this.#say(`The network cannot be run here (${error.message}).`);
    }
  }

  #show(answer) {
    this.#say("");
    const canvas = this.find("canvas"), picture = this.find(".picture");
    picture.hidden = !this.image;
    if (this.image) {
      const { width, height } = this.image, [shownWidth, shownHeight] = answer.size, pen = canvas.getContext("2d");
      Object.assign(canvas, { width: shownWidth, height: shownHeight });
      const sheet = new OffscreenCanvas(width, height);
      sheet.getContext("2d").putImageData(this.image, 0, 0);
      pen.translate(shownWidth / 2, shownHeight / 2);
      pen.rotate((-Math.PI / 2) * answer.turns); // counter-clockwise
      pen.drawImage(sheet, -width / 2, -height / 2);
      picture.style.aspectRatio = `${shownWidth} / ${shownHeight}`;
    }
    if (!answer.labels.length) Object.assign(answer, { headline: "Nothing to go by", line: "" });
    this.view.draw(answer, false);
    this.view.messages(answer.result.messages);
    this.find(".answer").hidden = false;
    this.find(".clear").hidden = false;
  }

  #say(sentence) {
    this.find(".status").textContent = sentence;
  }

  clear() {
    this.asked++;
    this.image = this.channels = null;
    this.#say("");
    this.view.messages([]);
    for (const each of [".picture", ".answer", ".clear"]) this.find(each).hidden = true;
  }
}

class Unreadable extends Error {}

// {image}, upright and on white.
export async function readPhoto(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const { width, height } = bitmap;
  const { max_pixels } = await limits;
  if (width * height > max_pixels)
    throw new Unreadable(`The photo is too large: scale it down to at most ${max_pixels / 1e6} megapixels.`);
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { image: pen.getImageData(0, 0, width, height) };
}

// {channels}, at the rate that the network hears: what has another is resampled by the browser.
export async function readRecording(file) {
  const { max_seconds, sampling_rate } = await limits;
  const sound = await new OfflineAudioContext(1, 1, sampling_rate).decodeAudioData(await file.arrayBuffer());
  if (sound.duration > max_seconds)
    throw new Unreadable(`The recording is too long: cut it to at most ${max_seconds / 60} minutes.`);
  return { channels: Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i)) };
}
