// To and from the server, over one WebSocket, which connects again by itself. What is sent and answered stands at the
// top of demo/live.py.

export class Connection {
  // `clock` gives the visit's seconds; `on` is told: connecting(sentence), message(message), lost().
  constructor(samplingRate, clock, on) {
    Object.assign(this, { samplingRate, clock, on, tries: 0, ready: false, closed: false });
    this.#connect();
  }

  #connect() {
    const address = new URL("live", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    this.on.connecting("Connecting …");
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

  // A frame of a time, from the canvas on which it was drawn, of `everyone` or of the main face alone.
  sendFrame(sheet, time, everyone) {
    const kind = everyone ? "A" : "F";
    sheet.toBlob(async (jpeg) => this.send(kind, time, new Uint8Array(await jpeg.arrayBuffer())), "image/jpeg", 0.75);
  }

  // A frame ("F", "A"), a piece of sound ("S") or a wish ("N") of a time, as Uint8Array.
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
