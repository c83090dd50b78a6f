// The camera and the microphone, and the microphone's sound in pieces.

const SOUND_SECONDS = 0.25;
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

// Both together, so that the browser asks once; where one is missing or refused, the other alone: [stream, sentences].
export async function openDevices() {
  if (!navigator.mediaDevices)
    return [null, ["The browser gives camera and microphone only to a page opened over https or on localhost."]];
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
        notes.push(refusal(kind === "video" ? "camera" : "microphone", error.name));
      }
    return [tracks.length ? new MediaStream(tracks) : null, notes];
  }
}

function refusal(device, error) {
  return {
    NotAllowedError: `The ${device} was refused: allow it in the browser's address bar, and press Start again.`,
    NotFoundError: `There is no ${device}: connect one, and press Start again.`,
    NotReadableError: `The ${device} is in use by another program: close that, and press Start again.`,
  }[error] ?? `The ${device} cannot be opened (${error}).`;
}

// Sound at 16 kHz where the browser resamples the microphone itself; elsewhere at its own rate, and the server does.
// `hear` is called with every piece, as Int16Array. Gives the AudioContext, and an AnalyserNode.
export async function openSound(stream, hear) {
  const heard = new MediaStream(stream.getAudioTracks());
  let context, source;
  try {
    context = new AudioContext({ sampleRate: 16000 });
    source = context.createMediaStreamSource(heard);
  } catch {
    context = new AudioContext();
    source = context.createMediaStreamSource(heard);
  }
  const address = URL.createObjectURL(new Blob([CAPTURE], { type: "text/javascript" }));
  try {
    await context.audioWorklet.addModule(address);
  } catch (error) {
    context.close();
    throw error;
  } finally {
    URL.revokeObjectURL(address);
  }
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1 });
  capture.port.onmessage = ({ data }) => hear(data);
  source.connect(capture);
  const analyser = new AnalyserNode(context, { fftSize: 2048 });
  source.connect(analyser);
  context.resume().catch(() => {}); // waits for ever where there is nothing to play sound on: the camera shall not
  return [context, analyser];
}

// How loud a piece of sound is, 0 to 1: from 60 dB below the loudest on.
export function loudness(samples) {
  const power = samples.reduce((sum, value) => sum + value * value, 0) / samples.length / 32768 ** 2;
  return Math.max(0, Math.min(1, 1 + Math.log10(power + 1e-9) / 6));
}
