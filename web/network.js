// The network in the browser: the graphs that build_web.py wrote, run by onnxruntime-web on one thread. Several would
// need a server that isolates the page (COOP, COEP), which a static Space does not.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { FaceFinder, clipBox } from "./faces.js";
import { cropFace, resize, toGrey, turn } from "./pixels.js";
import { peak, speechSeconds, speechSegments, windowStarts } from "./sound.js";

ort.env.wasm.numThreads = 1;

const PIECE = 512, CONTEXT = 64; // samples that Silero VAD hears at a time, and those before that it hears again
const AT_ONCE = 512; // such pieces, which bounds the memory of a long recording
const MEMORY = 128; // numbers that it keeps of what it has heard

export class Network {
  // From the folder of the graphs, an address; `settings` are those of settings.json there.
  static async load(folder, settings) {
    const fetched = async (name) => {
      const reply = await fetch(new URL(name, folder));
      if (!reply.ok) throw new Error(`${name} cannot be loaded (${reply.status})`);
      return new Uint8Array(await reply.arrayBuffer());
    };
    const names = ["face", "voice", "fusion", "yunet", "silero"];
    const [weights, ...graphs] = await Promise.all(["weights.bin", ...names.map((name) => `${name}.onnx`)].map(fetched));
    const options = { externalData: [{ path: "weights.bin", data: weights }], logSeverityLevel: 3 }; // 3: errors
    const sessions = {};
    for (const [i, name] of names.entries()) // one after the other: each needs memory for its own copy of the weights
      sessions[name] = await ort.InferenceSession.create(graphs[i], options);
    return new Network(sessions, settings);
  }

  constructor(sessions, settings) {
    Object.assign(this, { sessions, settings });
    this.faces = new FaceFinder((input, shape) => this.#run("yunet", { input: floats(input, shape) }), settings.faces);
  }

  // Outputs by name, as typed arrays.
  async #run(name, feeds) {
    const outputs = await this.sessions[name].run(feeds);
    return Object.fromEntries(Object.entries(outputs).map(([key, tensor]) => [key, tensor.data]));
  }

  // Log-posterior of the face in a square of a picture.
  async face(picture, square) {
    const { crop_side, grey, side } = this.settings.faces, crop = cropFace(picture, square, crop_side);
    const { data } = resize(grey ? toGrey(crop) : crop, side, side, "torch");
    const face = new ort.Tensor("uint8", Uint8Array.from(data), [1, side, side, 3]);
    const { log_probs } = await this.#run("face", { face });
    return Array.from(log_probs);
  }

  // Log-posterior of a window of sound: so many samples as a window has, or fewer, which silence is added to.
  async voice(samples) {
    const window = new Float32Array(this.settings.voice.window);
    window.set(samples.subarray(0, window.length));
    const { log_probs } = await this.#run("voice", { samples: floats(window, [1, window.length]) });
    return Array.from(log_probs);
  }

  // The fused log-posterior and the agreement of a face's and a voice's, either of which may be null.
  async fuse(face, voice) {
    const absent = this.settings.labels.map(() => 0), row = (of) => floats(Float32Array.from(of ?? absent), [1, absent.length]);
    const flag = (of) => new ort.Tensor("bool", [of !== null], [1]);
    const feeds = { face: row(face), voice: row(voice), has_face: flag(face), has_voice: flag(voice) };
    const { fused, agreement } = await this.#run("fusion", feeds);
    return [Array.from(fused), face && voice ? agreement[0] : null];
  }

  // The [start, end] of speech in samples at 16 kHz, in seconds.
  async speech(samples) {
    const pieces = Math.ceil(samples.length / PIECE), probabilities = [];
    const padded = new Float32Array(CONTEXT + pieces * PIECE);
    padded.set(samples, CONTEXT);
    let [h, c] = [new Float32Array(MEMORY), new Float32Array(MEMORY)];
    for (let first = 0; first < pieces; first += AT_ONCE) {
      const count = Math.min(AT_ONCE, pieces - first), input = new Float32Array(count * (CONTEXT + PIECE));
      for (let i = 0; i < count; i++)
        input.set(padded.subarray((first + i) * PIECE, (first + i + 1) * PIECE + CONTEXT), i * (CONTEXT + PIECE));
      const shape = [count, CONTEXT + PIECE], memory = [1, 1, MEMORY];
      const out = await this.#run("silero", { input: floats(input, shape), h: floats(h, memory), c: floats(c, memory) });
      probabilities.push(...out.speech_probs);
      [h, c] = [out.hn, out.cn];
    }
    const { sampling_rate, speech } = this.settings.voice;
    return speechSegments(probabilities, samples.length, sampling_rate, PIECE, speech);
  }

  // Log-posteriors of the windows that hold speech enough, by default all of a recording: [segments, log-posteriors].
  async voices(samples, starts = null) {
    const { sampling_rate, window, hop_seconds, min_speech_seconds } = this.settings.voice;
    const seconds = window / sampling_rate, segments = await this.speech(samples), heard = [];
    for (const start of starts ?? windowStarts(samples.length / sampling_rate, seconds, hop_seconds)) {
      if (speechSeconds(segments, start, start + seconds) < min_speech_seconds) continue;
      heard.push(await this.voice(samples.subarray(Math.round(start * sampling_rate))));
    }
    return [segments, heard];
  }

  // What a photo and a recording, either of which may be null, look and sound like: `Recognizer.observe` and `score` in
  // recognizer_emoclip.py. Log-posteriors, and what is to be shown of them.
  async analyse(photo, samples) {
    const seen = { face: null, voice: null, box: null, others: [], turns: 0, segments: [], messages: [] };
    if (photo) {
      const [squares, turns] = await this.faces.findTurned(photo);
      seen.turns = turns;
      if (!squares.length)
        seen.messages.push("No face was found in the photo: try one where a face is larger, or better lit.");
      else {
        const upright = turn(photo, turns), boxes = squares.map((each) => clipBox(each, upright.width, upright.height));
        seen.face = await this.face(upright, squares[0]);
        [seen.box, ...seen.others] = boxes;
      }
    }
    if (samples) {
      if (peak(samples) < this.settings.voice.silence_peak)
        seen.messages.push("The recording is silent: check the microphone and record again.");
      else {
        const [segments, heard] = await this.voices(samples);
        seen.segments = segments;
        if (heard.length) seen.voice = mean(heard);
        else seen.messages.push(
          `No speech was found in the recording: at least ${this.settings.voice.min_speech_seconds} s of it is needed.`);
      }
    }
    return seen;
  }
}

function floats(values, shape) {
  return new ort.Tensor("float32", values, shape);
}

// The normalised mean of log-posteriors; -Infinity, a class not taught, stays so.
function mean(rows) {
  const sums = rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
  const total = Math.log(sums.reduce((sum, value) => sum + Math.exp(value), 0));
  return sums.map((value) => value - total);
}
