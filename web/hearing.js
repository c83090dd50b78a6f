// The worker that listens: speech found, and windows of it scored. It is one of its own, so that the pictures do not
// wait meanwhile.

import { Graphs, floats, settings } from "./graphs.js";
import { answers } from "./questions.js";
import { speechSeconds, speechSegments, windowStarts } from "./sound.js";

const PIECE = 512, CONTEXT = 64; // samples that Silero VAD hears at a time, and those before that it hears again
const AT_ONCE = 512; // such pieces, which bounds the memory of a long recording
const MEMORY = 128; // numbers that it keeps of what it has heard

const loaded = Promise.all([settings.then(({ voice }) => voice), Graphs.load("voice", "silero")]);
loaded.catch(() => {}); // whoever asks is told

answers({
  async load() {
    await loaded;
  },

  // Log-posteriors of the windows that hold speech enough, by default all of a recording: [segments, log-posteriors].
  async voices({ samples, starts }) {
    const [{ hop_seconds, min_speech_seconds, sampling_rate, window }] = await loaded;
    const seconds = window / sampling_rate, segments = await findSpeech(samples), heard = [];
    for (const start of starts ?? windowStarts(samples.length / sampling_rate, seconds, hop_seconds)) {
      if (speechSeconds(segments, start, start + seconds) < min_speech_seconds) continue;
      heard.push(await score(samples.subarray(Math.round(start * sampling_rate))));
    }
    return [segments, heard];
  },
});

// Log-posterior of a window of sound: as many samples as a window has, or fewer, which silence is added to.
async function score(samples) {
  const [{ window }, graphs] = await loaded, input = new Float32Array(window);
  input.set(samples.subarray(0, window));
  const { log_probs } = await graphs.run("voice", { samples: floats(input, [1, window]) });
  return Array.from(log_probs);
}

// The [start, end] of speech, in seconds.
async function findSpeech(samples) {
  const [{ sampling_rate, speech }, graphs] = await loaded;
  const pieces = Math.ceil(samples.length / PIECE), probabilities = [];
  const padded = new Float32Array(CONTEXT + pieces * PIECE);
  padded.set(samples, CONTEXT);
  let [h, c] = [new Float32Array(MEMORY), new Float32Array(MEMORY)];
  for (let first = 0; first < pieces; first += AT_ONCE) {
    const count = Math.min(AT_ONCE, pieces - first), input = new Float32Array(count * (CONTEXT + PIECE));
    for (let i = 0; i < count; i++)
      input.set(padded.subarray((first + i) * PIECE, (first + i + 1) * PIECE + CONTEXT), i * (CONTEXT + PIECE));
    const shape = [count, CONTEXT + PIECE], memory = [1, 1, MEMORY];
    const out = await graphs.run("silero", { input: floats(input, shape), h: floats(h, memory), c: floats(c, memory) });
    probabilities.push(...out.speech_probs);
    [h, c] = [out.hn, out.cn];
  }
  return speechSegments(probabilities, samples.length, sampling_rate, PIECE, speech);
}
