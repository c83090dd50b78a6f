// In the place of the demo's connection.js: what live.js sends goes to this page's own network, and nowhere else.

import { ask } from "./ask.js";

export class Connection {
  constructor(samplingRate, clock, on) {
    Object.assign(this, { clock, on, ready: false, closed: false });
    on.connecting("Loading the network …");
    ask("start", { rate: samplingRate }).then(
      (side) => {
        this.side = side;
        this.ready = !this.closed;
        if (this.ready) on.message({ type: "ready" });
      },
      (error) => this.#fail(error),
    );
  }

  // Faces are looked for in a smaller copy, which the browser makes faster than the worker would.
  sendFrame(sheet, time, everyone) {
    const scale = Math.min(1, this.side / Math.max(sheet.width, sheet.height));
    const small = new OffscreenCanvas(Math.round(scale * sheet.width), Math.round(scale * sheet.height));
    const pen = small.getContext("2d", { willReadFrequently: true });
    pen.imageSmoothingQuality = "medium";
    pen.drawImage(sheet, 0, 0, small.width, small.height);
    const [image, copy] = [sheet.getContext("2d"), pen].map((each) =>
      each.getImageData(0, 0, each.canvas.width, each.canvas.height));
    this.#ask("frame", { image, copy, time, everyone }, [image.data.buffer, copy.data.buffer]);
  }

  // The only kind of bytes that there is here is sound, 16-bit samples.
  send(kind, time, bytes) {
    if (!this.ready) return;
    const samples = Float32Array.from(new Int16Array(bytes.buffer), (value) => value / 32768);
    this.#ask("sound", { samples, time }, [samples.buffer]);
  }

  async #ask(...question) {
    try {
      const answer = await ask(...question);
      if (answer && !this.closed) this.on.message({ type: "answer", ...answer });
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error) {
    if (!this.closed) this.on.message({ type: "error", message: `The network cannot be run here (${error.message}).` });
  }

  close() {
    this.ready = false;
    this.closed = true;
  }
}
