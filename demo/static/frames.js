// The camera's frames. One is on its way at a time: a slow server or network gets fewer of them, and none is late.

const FRAME_SIDE = 480, FRAME_MILLISECONDS = 80;

export class Frames {
  constructor(video, connection, clock) {
    Object.assign(this, { video, connection, clock, inFlight: null, lastAnswer: null, rate: 0 });
    this.sheet = document.createElement("canvas");
  }

  take() {
    clearTimeout(this.timer);
    if (!this.connection.ready || this.inFlight !== null) return;
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return void (this.timer = setTimeout(() => this.take(), FRAME_MILLISECONDS));
    const scale = FRAME_SIDE / Math.max(width, height);
    this.sheet.width = Math.round(width * scale);
    this.sheet.height = Math.round(height * scale);
    const pen = this.sheet.getContext("2d", { willReadFrequently: true });
    pen.drawImage(this.video, 0, 0, this.sheet.width, this.sheet.height);
    const time = (this.inFlight = this.clock());
    this.connection.sendFrame(this.sheet, time, document.body.classList.contains("details")); // as plain.js switches
  }

  // After a connection was lost, what was under way is.
  begin() {
    this.inFlight = null;
    this.take();
  }

  // Notes that a frame of a time was answered, and takes the next: "12 frames/s · 76 ms", or null where it was none.
  answered(time) {
    if (this.inFlight === null || time === null || time < this.inFlight) return null;
    const now = this.clock(), delay = 1000 * (now - this.inFlight);
    const rate = this.lastAnswer === null ? 0 : 1 / (now - this.lastAnswer);
    this.rate = this.rate ? 0.9 * this.rate + 0.1 * rate : rate;
    this.lastAnswer = now;
    this.inFlight = null;
    if (delay < FRAME_MILLISECONDS) this.timer = setTimeout(() => this.take(), FRAME_MILLISECONDS - delay);
    else this.take(); // at once: the answer is drawn while the next is worked out
    return `${this.rate.toFixed(0)} frames/s · ${delay.toFixed(0)} ms`;
  }

  close() {
    clearTimeout(this.timer);
    this.inFlight = 0; // none is taken any more
  }
}
