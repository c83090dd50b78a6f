// The tab Live in the browser: takes pictures and sound, sends them, and draws what the server answers. Run once, with
// `element` around what demo.live.live_view() made. What is sent and answered stands at the top of demo/live.py.

const live = element.querySelector(".live");
const find = (selector) => live.querySelector(selector);
const picture = find(".picture"), video = find("video"), box = find(".box"), toggle = find(".toggle");
const canvas = find("canvas"), pen = canvas.getContext("2d");
const labels = [...live.querySelectorAll("template")].map((template) => template.dataset.glyph);
const inks = {}, words = {};
for (const { dataset } of live.querySelectorAll("template")) {
  inks[dataset.glyph] = dataset.ink;
  words[dataset.glyph] = dataset.word;
}
const colours = {};
for (const row of find(".bars").querySelectorAll("li"))
  colours[row.dataset.label] = row.style.getPropertyValue("--colour");

const FRAME_SIDE = 480, FRAME_MILLISECONDS = 80, SOUND_SECONDS = 0.25, TIMELINE_SECONDS = 60;
const INVITATION = find(".status").textContent;
const WORDS = {
  speech: "hears you", listening: "listening …", silent: "silence", off: "microphone off", wait: "microphone on",
};
const CAPTURE = `registerProcessor("capture", class extends AudioWorkletProcessor {
  constructor() { super(); this.samples = new Int16Array(Math.round(${SOUND_SECONDS} * sampleRate)); this.filled = 0; }
  process([[channel]]) {
    for (const value of channel ?? []) {
      this.samples[this.filled++] = Math.max(-1, Math.min(1, value)) * 32767;
      if (this.filled === this.samples.length) { this.port.postMessage(this.samples.slice()); this.filled = 0; }
    }
    return true;
  }
})`;

let visit = null; // everything of one visit; null when nothing runs, so that nothing of the last is left

// ------------------------------------------------------------------------------------------- start and stop

async function start() {
  const mine = (visit = { began: performance.now(), moments: [], inFlight: null, ready: false, tries: 0, spoken: -9 });
  show("asking", "Please allow the camera and the microphone.");
  const [stream, notes] = await openDevices();
  Object.assign(mine, { stream, notes });
  if (visit !== mine) return close(mine);
  if (!stream) return stop(notes.join(" "), "failed");
  for (const track of stream.getTracks())
    track.onended = () => {
      mine.notes.push(`The ${track.kind === "video" ? "camera" : "microphone"} was turned off.`);
      if (stream.getTracks().every((each) => each.readyState === "ended")) stop(mine.notes.join(" "), "failed");
    };
  if (stream.getAudioTracks().length)
    await openSound(mine).catch(() => mine.notes.push("The microphone's sound cannot be read in this browser."));
  if (stream.getVideoTracks().length && visit === mine) {
    video.srcObject = stream;
    await video.play().catch(() => {});
    picture.style.aspectRatio = `${video.videoWidth || 4} / ${video.videoHeight || 3}`;
  }
  if (visit === mine) connect(mine);
  else close(mine);
}

function close(mine) {
  clearTimeout(mine.timer);
  mine.socket?.close();
  mine.stream?.getTracks().forEach((track) => track.stop());
  if (mine.context?.state !== "closed") mine.context?.close();
}

function stop(sentence = INVITATION, state = "off") {
  const old = visit;
  visit = null;
  if (old) close(old);
  video.srcObject = null;
  box.hidden = true;
  find(".rate").textContent = find(".sr-only").textContent = "";
  find(".level i").style.width = 0;
  find(".heard").textContent = WORDS.off;
  for (const name of ["Face", "Voice", "Together"]) fillCard(name, null, "");
  fillVerdict({ headline: "Ready when you are", line: "Press Start.", labels: [], result: {} });
  fillMessages([]);
  drawTimeline();
  show(state, sentence);
}

function show(state, sentence) {
  live.dataset.state = state;
  find(".status").textContent = sentence;
  toggle.textContent = visit ? "Stop" : "Start";
}

// Camera and microphone together, so that the browser asks once; where one is missing or refused, the other alone.
async function openDevices() {
  if (!navigator.mediaDevices)
    return [null, ["The browser gives the camera and the microphone only to a page opened over https or on localhost."]];
  const wanted = {
    video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" },
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  };
  try {
    return [await navigator.mediaDevices.getUserMedia(wanted), []];
  } catch {
    const tracks = [], notes = [];
    for (const kind of ["video", "audio"])
      try {
        tracks.push(...(await navigator.mediaDevices.getUserMedia({ [kind]: wanted[kind] })).getTracks());
      } catch (error) {
        notes.push(deviceSentence(kind === "video" ? "camera" : "microphone", error.name));
      }
    return [tracks.length ? new MediaStream(tracks) : null, notes];
  }
}

function deviceSentence(device, error) {
  return {
    NotAllowedError: `The ${device} was refused: allow it in the browser's address bar, and press Start again.`,
    NotFoundError: `There is no ${device}: connect one, and press Start again.`,
    NotReadableError: `The ${device} is in use by another program: close that, and press Start again.`,
  }[error] ?? `The ${device} cannot be opened (${error}).`;
}

// Sound at 16 kHz where the browser resamples the microphone itself; elsewhere at its own rate, and the server does.
async function openSound(mine) {
  const stream = new MediaStream(mine.stream.getAudioTracks());
  let source;
  try {
    mine.context = new AudioContext({ sampleRate: 16000 });
    source = mine.context.createMediaStreamSource(stream);
  } catch {
    mine.context = new AudioContext();
    source = mine.context.createMediaStreamSource(stream);
  }
  const address = URL.createObjectURL(new Blob([CAPTURE], { type: "text/javascript" }));
  await mine.context.audioWorklet.addModule(address);
  URL.revokeObjectURL(address);
  const capture = new AudioWorkletNode(mine.context, "capture", { numberOfOutputs: 0, channelCount: 1 });
  capture.port.onmessage = ({ data }) => {
    if (visit !== mine) return;
    const power = data.reduce((sum, value) => sum + value * value, 0) / data.length / 32768 ** 2;
    find(".level i").style.width = `${Math.max(0, Math.min(100, 100 + (100 / 60) * 10 * Math.log10(power + 1e-9)))}%`;
    if (mine.ready) send(mine, "S", seconds(mine), new Uint8Array(data.buffer));
  };
  source.connect(capture);
  await mine.context.resume();
}

// ------------------------------------------------------------------------------------------- to and from the server

const seconds = (mine) => (performance.now() - mine.began) / 1000;

function connect(mine) {
  const address = new URL("live", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = (mine.socket = new WebSocket(address));
  socket.binaryType = "arraybuffer";
  show("connecting", "Connecting …");
  socket.onopen = () => socket.send(JSON.stringify({ sampling_rate: mine.context?.sampleRate ?? 16000 }));
  socket.onmessage = ({ data }) => visit === mine && receive(mine, JSON.parse(data));
  socket.onclose = () => {
    if (visit !== mine) return;
    mine.ready = false;
    show("lost", "The connection was lost: trying again …");
    mine.timer = setTimeout(() => visit === mine && connect(mine), Math.min(10000, 500 * 2 ** mine.tries++));
  };
}

function receive(mine, message) {
  if (message.type === "error") return stop(message.message, "failed");
  if (message.type === "waiting") {
    mine.ready = false;
    const people = message.before === 1 ? "One person is" : `${message.before} people are`;
    show("waiting", message.before ? `${people} before you: your turn comes by itself.` : "You are next.");
  } else if (message.type === "ready") {
    Object.assign(mine, { ready: true, inFlight: null, tries: 0, moments: [] });
    show("on", "");
    find(".heard").textContent = mine.context ? WORDS.wait : WORDS.off;
    takeFrame(mine);
  } else draw(mine, message);
}

function send(mine, kind, time, bytes) {
  if (mine.socket.readyState !== WebSocket.OPEN) return;
  const message = new Uint8Array(9 + bytes.length);
  message[0] = kind.charCodeAt(0);
  new DataView(message.buffer).setFloat64(1, time, true);
  message.set(bytes, 9);
  mine.socket.send(message);
}

// One frame is on its way at a time: a slow server or network gets fewer of them, and none is late.
const sheet = document.createElement("canvas");
function takeFrame(mine) {
  clearTimeout(mine.timer);
  if (visit !== mine || !mine.ready || mine.inFlight !== null) return;
  const track = mine.stream.getVideoTracks()[0];
  if (!track || track.readyState !== "live") return;
  if (!video.videoWidth) return void (mine.timer = setTimeout(() => takeFrame(mine), FRAME_MILLISECONDS));
  const scale = FRAME_SIDE / Math.max(video.videoWidth, video.videoHeight);
  sheet.width = Math.round(video.videoWidth * scale);
  sheet.height = Math.round(video.videoHeight * scale);
  sheet.getContext("2d").drawImage(video, 0, 0, sheet.width, sheet.height);
  const time = (mine.inFlight = seconds(mine));
  sheet.toBlob(async (jpeg) => send(mine, "F", time, new Uint8Array(await jpeg.arrayBuffer())), "image/jpeg", 0.75);
}

// ------------------------------------------------------------------------------------------- drawing

function draw(mine, answer) {
  const now = seconds(mine), { face, voice, fused } = answer.result;
  if (mine.inFlight !== null && answer.time !== null && answer.time >= mine.inFlight) {
    const delay = 1000 * (now - mine.inFlight);
    const rate = mine.lastAnswer ? 1 / (now - mine.lastAnswer) : 0;
    mine.rate = mine.rate ? 0.9 * mine.rate + 0.1 * rate : rate;
    mine.lastAnswer = now;
    mine.inFlight = null;
    find(".rate").textContent = `${mine.rate.toFixed(0)} frames/s · ${delay.toFixed(0)} ms`;
    mine.timer = setTimeout(() => takeFrame(mine), Math.max(0, FRAME_MILLISECONDS - delay));
  }
  mine.moments.push({ time: now, face, voice });
  while (mine.moments[0].time < now - TIMELINE_SECONDS - 1) mine.moments.shift();
  drawBox(face, answer.tag, answer.size);
  fillCard("Face", face, "smoothed", answer.likeliest.face);
  fillCard("Voice", voice, "last 3 s", answer.likeliest.voice);
  fillCard("Together", fused, face && voice ? "fused" : "alone", answer.likeliest.fused);
  fillVerdict(answer);
  fillMessages([...mine.notes, ...answer.result.messages]);
  find(".heard").textContent = WORDS[answer.hearing ?? (mine.context ? "wait" : "off")];
  live.dataset.hearing = answer.hearing ?? "";
  drawTimeline(mine.moments, now);
  if (now - mine.spoken > 5) {
    mine.spoken = now; // not more often, or a screen reader would never come to an end
    find(".sr-only").textContent = answer.headline;
  }
}

const percent = (score) => `${Math.round(100 * score)}%`;

function drawBox(face, tag, size) {
  box.hidden = !face;
  if (!face) return;
  const [x, y, width, height] = face.box, [fullWidth, fullHeight] = size;
  box.style.setProperty("--colour", colours[face.label]);
  box.style.setProperty("--ink", inks[face.label]);
  box.style.left = `${(100 * (fullWidth - x - width)) / fullWidth}%`; // the picture is shown as a mirror shows it
  box.style.top = `${(100 * y) / fullHeight}%`;
  box.style.width = `${(100 * width) / fullWidth}%`;
  box.style.height = `${(100 * height) / fullHeight}%`;
  box.classList.toggle("below", y < 0.12 * fullHeight);
  box.classList.toggle("right", x + width / 2 < fullWidth / 2); // its tag, which may be wider than it
  box.firstElementChild.textContent = tag;
}

function fillCard(name, emotion, note, likeliest) {
  const card = find(`.bars[aria-label="${name}"]`);
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

function fillVerdict({ headline, line, labels: named, result }) {
  const verdict = find(".verdict"), shown = named.length ? named : ["neutral"];
  verdict.style.setProperty("--colour", colours[shown[0]]);
  if (verdict.dataset.shown !== shown.join()) {
    verdict.dataset.shown = shown.join();
    verdict.querySelector(".glyphs").replaceChildren(
      ...shown.map((name) => find(`template[data-glyph="${name}"]`).content.cloneNode(true)),
    );
  }
  verdict.querySelector(".headline").textContent = headline;
  verdict.querySelector(".line").textContent = line;
  const agreement = result.agreement ?? null;
  verdict.classList.toggle("alone", agreement === null);
  verdict.querySelector(".scale i").style.left = `${50 + 25 * Math.max(-2, Math.min(2, agreement ?? 0))}%`;
  const sign = agreement < 0 ? "−" : "+";
  verdict.querySelector(".value").textContent =
    agreement === null ? "" : `agreement ${sign}${Math.abs(agreement).toFixed(2)}`;
}

function fillMessages(sentences) {
  const list = find(".messages");
  if (list.dataset.shown === sentences.join()) return;
  list.dataset.shown = sentences.join();
  list.replaceChildren(
    ...sentences.map((sentence) => Object.assign(document.createElement("li"), { textContent: sentence })),
  );
}

// Two bands, the face's above the voice's: at each moment the emotions' probabilities stand one on the other.
function drawTimeline(moments = [], now = 0) {
  const width = canvas.clientWidth, height = canvas.clientHeight, dense = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
  }
  const style = getComputedStyle(live), left = 52, axis = 18, gap = 8, band = (height - axis - gap) / 2;
  const across = (time) => width - ((now - time) / TIMELINE_SECONDS) * (width - left);
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.clearRect(0, 0, width, height);
  ["face", "voice"].forEach((source, i) => {
    const top = i * (band + gap);
    pen.globalAlpha = 0.07;
    pen.fillStyle = style.color;
    pen.fillRect(left, top, width - left, band);
    pen.globalAlpha = 1;
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.fillText(source === "face" ? "Face" : "Voice", 0, top + band / 2);
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width - left, band);
    pen.clip();
    const runs = stretches(moments, source).flatMap((stretch) => drawStretch(stretch, source, top, band, across));
    pen.fillStyle = "#0d0d12";
    pen.textAlign = "center";
    for (const [label, x, y] of runs) pen.fillText(label, x, y); // after all colours: none covers a name
    pen.restore();
  });
  pen.fillStyle = style.getPropertyValue("--body-text-color-subdued") || style.color;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "bottom";
  for (const ago of [60, 45, 30, 15, 0]) {
    pen.textAlign = ago === 60 ? "left" : ago ? "center" : "right";
    pen.fillText(ago ? `−${ago} s` : "now", across(now - ago), height);
  }
  const told = (source) => `${source} ${words[moments.at(-1)?.[source]?.label] ?? "nothing"}`;
  const length = moments.length ? Math.min(TIMELINE_SECONDS, Math.round(now - moments[0].time)) : 0;
  canvas.setAttribute("aria-label",
    moments.length ? `Timeline of ${length} seconds, now: ${told("face")}, ${told("voice")}` : "Timeline, empty");
}

// Contiguous moments in which a source was there.
function stretches(moments, source) {
  const found = [];
  let open = false;
  for (const moment of moments) {
    if (moment[source]) (open ? found.at(-1) : (found.push([]), found.at(-1))).push(moment);
    open = Boolean(moment[source]);
  }
  return found;
}

// Its colours; and [label, x, y] wherever an emotion was the likeliest for long enough to be written.
function drawStretch(stretch, source, top, band, across) {
  const names = [], floor = stretch.map(() => 0);
  for (const label of labels) {
    const roof = stretch.map((moment, i) => floor[i] + (moment[source].scores[label] ?? 0));
    pen.beginPath();
    stretch.forEach((moment, i) => pen.lineTo(across(moment.time), top + band * (1 - roof[i])));
    for (let i = stretch.length - 1; i >= 0; i--) pen.lineTo(across(stretch[i].time), top + band * (1 - floor[i]));
    pen.fillStyle = colours[label];
    pen.fill();
    let from = 0;
    for (let i = 0; i < stretch.length; i++) {
      if (stretch[i][source].label !== label) from = i + 1;
      else if (stretch[i + 1]?.[source].label !== label) {
        const middle = (from + i) >> 1, start = across(stretch[from].time), end = across(stretch[i].time);
        if (end - start > 64 && band * (roof[middle] - floor[middle]) > 13)
          names.push([words[label], (start + end) / 2, top + band * (1 - (roof[middle] + floor[middle]) / 2)]);
      }
    }
    roof.forEach((value, i) => (floor[i] = value));
  }
  return names;
}

// ------------------------------------------------------------------------------------------- what the visitor does

toggle.addEventListener("click", () => (visit ? stop() : start()));
// Who turns away from the tab is no longer watched: in another of the demo's tabs it stops, in another of the
// browser's it pauses.
new IntersectionObserver(([entry]) => {
  if (!entry.isIntersecting && visit && !live.offsetParent) stop();
}).observe(live);
let paused = false;
document.addEventListener("visibilitychange", () => {
  if (document.hidden && visit) {
    paused = true;
    stop("Paused while you are away.", "paused");
  } else if (!document.hidden && paused && live.isConnected) {
    paused = false;
    start();
  }
});
new ResizeObserver(() => visit || drawTimeline()).observe(canvas);
stop();
