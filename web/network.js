// The network: faces found and scored in this worker, voices in another, and both fused. What a photo and a recording
// look and sound like is put together as in `Recognizer` in recognizer_emoclip.py.

import { FaceFinder, clipBox } from "./faces.js";
import { bytes, flag, floats } from "./graphs.js";
import { cropFace, resize, toGrey, turn } from "./pixels.js";
import { peak } from "./sound.js";

export class Network {
  // `graphs` are "face", "yunet" and "fusion"; `hear` asks the worker that listens.
  constructor(settings, graphs, hear) {
    Object.assign(this, { settings, graphs, hear });
    this.faces = new FaceFinder((input, shape) => graphs.run("yunet", { input: floats(input, shape) }), settings.faces);
  }

  // Log-posterior of the face in a square of a picture.
  async face(picture, square) {
    const { crop_side, grey, side } = this.settings.faces, crop = cropFace(picture, square, crop_side);
    const { data } = resize(grey ? toGrey(crop) : crop, side, side, "torch");
    const { log_probs } = await this.graphs.run("face", { face: bytes(Uint8Array.from(data), [1, side, side, 3]) });
    return Array.from(log_probs);
  }

  // As the worker that listens answers; `starts` are of windows, in seconds, null for those of a recording.
  voices(samples, starts = null) {
    return this.hear("voices", { samples, starts });
  }

  // The fused log-posterior and the agreement of a face's and a voice's, either of which may be null.
  async fuse(face, voice) {
    const absent = this.settings.labels.map(() => 0);
    const row = (logProbs) => floats(Float32Array.from(logProbs ?? absent), [1, absent.length]);
    const there = { has_face: flag(face !== null), has_voice: flag(voice !== null) };
    const { fused, agreement } = await this.graphs.run("fusion", { face: row(face), voice: row(voice), ...there });
    return [Array.from(fused), face && voice ? agreement[0] : null];
  }

  // Of a photo and of samples, either of which may be null: {face, voice} as `resultOf` takes them, the other
  // faces as `otherFace` does, by how many quarters the photo must be turned, and sentences for the visitor.
  async analyse(photo, samples) {
    const seen = { face: null, voice: null, others: [], turns: 0, messages: [] };
    if (photo) await this.#look(seen, photo);
    if (samples) await this.#listen(seen, samples);
    return seen;
  }

  async #look(seen, photo) {
    const [squares, turns] = await this.faces.findTurned(photo);
    if (!squares.length) {
      seen.messages.push("No face was found in the photo: try one where a face is larger, or better lit.");
      return;
    }
    const upright = turn(photo, turns);
    const faces = [];
    for (const square of squares)
      faces.push({ logProbs: await this.face(upright, square), box: clipBox(square, upright.width, upright.height) });
    const [face, ...others] = faces;
    Object.assign(seen, { face, others, turns });
  }

  async #listen(seen, samples) {
    const { silence_peak, min_speech_seconds } = this.settings.voice;
    if (peak(samples) < silence_peak) {
      seen.messages.push("The recording is silent: check the microphone and record again.");
      return;
    }
    const [segments, heard] = await this.voices(samples);
    if (heard.length) seen.voice = { logProbs: mean(heard), segments };
    else seen.messages.push(`No speech was found in the recording: at least ${min_speech_seconds} s of it is needed.`);
  }
}

// The normalised mean of log-posteriors; -Infinity, a class not taught, stays so.
function mean(rows) {
  const sums = rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
  const total = Math.log(sums.reduce((sum, value) => sum + Math.exp(value), 0));
  return sums.map((value) => value - total);
}
