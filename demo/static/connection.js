// To and from the server, over one WebSocket, which connects again by itself. What is sent and answered stands at the
// top of demo/live.py.

const FRAME_SIDE = 480, FRAME_MILLISECONDS = 80;

export class Connection {
  // `clock` gives the visit's seconds; `on` is told: connecting(), open(), message(message), lost().
  constructor(samplingRate, clock, on) {
    Object.assign(this, { samplingRate, clock, on, tries: 0, ready: false, closed: false });
    this.#connect();
  }

  #connect() {
    const address = new URL("live", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    this.on.connecting();
    const socket = (this.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ sampling_rate: this.samplingRate }));
    socket.onmessage = ({ data }) => {
      if (this.closed) return;
      const message = JSON.parse(data);
      if (message.type === "ready") this.tries = 0;
      if (message.type !== "answer") this.ready = message.type === "ready";
      this.on.message(message);
    };
    socket.onclose = () => {
      if (this.closed) return;
      this.ready = false;
      this.on.lost();
      this.timer = setTimeout(() => this.#connect(), Math.min(10000, 500 * 2 ** this.tries++));
    };
  }

  // A frame ("F") or a piece of sound ("S") of a time, as Uint8Array.
  send(kind, time, bytes) {
    if (!this.ready || this.socket.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(9 + bytes.length);
    message[0] = kind.charCodeAt(0);
    new DataView(message.buffer).setFloat64(1, time, true);
    message.set(bytes, 9);
    this.socket.send(message);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}

// The camera's frames. One is on its way at a time: a slow server or network gets fewer of them, and none is late.
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
    this.sheet.getContext("2d").drawImage(this.video, 0, 0, this.sheet.width, this.sheet.height);
    const time = (this.inFlight = this.clock());
    const send = async (jpeg) => this.connection.send("F", time, new Uint8Array(await jpeg.arrayBuffer()));
    this.sheet.toBlob(send, "image/jpeg", 0.75);
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
    this.timer = setTimeout(() => this.take(), Math.max(0, FRAME_MILLISECONDS - delay));
    return `${this.rate.toFixed(0)} frames/s · ${delay.toFixed(0)} ms`;
  }

  close() {
    clearTimeout(this.timer);
    this.inFlight = 0; // none is taken any more
  }
}
