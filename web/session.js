// What one visitor of Live looks and sounds like now: `LiveSession` in demo/live_session.py, in the browser.

import { clipBox, overlap } from "./faces.js";
import { peak, resample } from "./sound.js";
import { Held } from "./verdict.js";

export class LiveSession {
  // `rate` is that of the sound, in hertz.
  constructor(network, rule, rate) {
    Object.assign(this, { network, rule, rate, live: rule.settings.live, held: new Held(rule) });
    this.sound = new Float32Array(0); // the last contiguous seconds, a window at most
    this.soundEnd = this.time = this.size = null;
    this.face = this.voice = null; // {logProbs, time}, smoothed, and the face's box
    this.faceTime = -1;
    this.square = null; // of the face that is followed, where it was found last
    this.still = false; // whether it had hardly moved by then
    this.heard = this.unscored = this.silent = 0; // samples
    this.scoring = false; // a window, in the worker that listens
    this.otherSquares = []; // of the other faces, where they were found last
    this.others = []; // {logProbs, time, box}, smoothed; of a face that is not looked at, the box alone
    this.took = {}; // milliseconds
  }

  // A frame, and a smaller copy of it in which faces are looked for, of a time in the page's seconds; `everyone`:
  // whether all faces are looked at.
  async addFrame(picture, copy, time, everyone) {
    const { width, height } = picture;
    Object.assign(this, { time, size: [width, height] });
    let started = performance.now();
    if (this.still) this.still = false; // a face that stands still is looked for in every other frame only
    else await this.#find(copy, width);
    const square = this.square;
    this.took.find = performance.now() - started;
    await this.#lookAtOthers(picture, time, everyone);
    if (!square) {
      if (time - this.faceTime > this.live.face_kept_seconds) this.face = null;
      return;
    }
    started = performance.now();
    const logProbs = await this.network.face(picture, square);
    this.took.recognise = performance.now() - started;
    this.faceTime = Math.max(time, this.faceTime);
    this.face = { ...this.#smooth(this.face, logProbs, this.faceTime), box: clipBox(square, width, height) };
  }

  // The face that was there before, if it still is, or the largest; and the others.
  async #find(copy, width) {
    const found = await this.network.faces.find(copy), scale = width / copy.width;
    const squares = found.map((square) => square.map((each) => scale * each));
    const followed = (each) => !this.face || overlap(each, this.face.box) >= this.live.track_overlap;
    const square = squares.find(followed) ?? null;
    this.otherSquares = squares.filter((each) => each !== square);
    this.still = square !== null && this.square !== null && overlap(square, this.square) >= this.live.still_overlap;
    this.square = square;
  }

  async #lookAtOthers(picture, time, everyone) {
    const before = this.others, { max_other_faces, track_overlap } = this.live;
    this.others = this.otherSquares.map((each) => ({ box: clipBox(each, picture.width, picture.height) }));
    for (const [i, other] of this.others.slice(0, everyone ? max_other_faces : 0).entries()) {
      const last = before.find((each) => each.logProbs && overlap(each.box, other.box) >= track_overlap);
      const logProbs = await this.network.face(picture, this.otherSquares[i]);
      Object.assign(other, this.#smooth(last, logProbs, time));
    }
  }

  // Samples, Float32Array, that ended at a time in the page's seconds.
  addSound(samples, time) {
    const start = time - samples.length / this.rate;
    if (this.soundEnd !== null && Math.abs(start - this.soundEnd) > this.live.max_gap_seconds)
      Object.assign(this, { sound: new Float32Array(0), unscored: 0, silent: 0 });
    this.soundEnd = time;
    const { window, sampling_rate, silence_peak } = this.rule.settings.voice;
    const both = new Float32Array(this.sound.length + samples.length);
    both.set(this.sound);
    both.set(samples, this.sound.length);
    this.sound = both.slice(-Math.round((window / sampling_rate) * this.rate));
    this.heard += samples.length;
    this.unscored += samples.length;
    this.silent = peak(samples) < silence_peak ? this.silent + samples.length : 0;
  }

  // Whether there is sound enough for another window, and the last one is done.
  get windowDue() {
    return !this.scoring && this.unscored >= this.live.voice_hop_seconds * this.rate;
  }

  async scoreWindow() {
    this.scoring = true;
    this.unscored = 0;
    const started = performance.now(), seconds = this.heard / this.rate;
    const samples = resample(this.sound, this.rate, this.rule.settings.voice.sampling_rate);
    const [segments, heard] = await this.network.voices(samples, [0]);
    this.scoring = false;
    this.voice = heard.length ? { ...this.#smooth(this.voice, heard[0], seconds), segments } : null;
    this.took.voice = performance.now() - started;
  }

  // The weight of what was seen halves every half_life seconds: `PosteriorFilter` in results_emoclip.py.
  #smooth(before, logProbs, time) {
    if (!before) return { logProbs, time };
    const keep = 0.5 ** ((time - before.time) / this.live.half_life_seconds);
    const mixed = logProbs.map((value, i) =>
      Math.log(keep * Math.exp(before.logProbs[i]) + (1 - keep) * Math.exp(value)));
    return { logProbs: mixed, time };
  }

  // The state for the page, as `LiveAnswer` in demo/live_session.py.
  async answer() {
    const now = Math.max(this.time ?? 0, this.soundEnd ?? 0), { stopped_seconds, silent_seconds } = this.live;
    if (this.time !== null && now - this.time > stopped_seconds)
      Object.assign(this, { time: null, face: null, otherSquares: [], others: [] });
    if (this.soundEnd !== null && now - this.soundEnd > stopped_seconds)
      Object.assign(this, { soundEnd: null, voice: null });
    const result = await resultOf(this.network, this.rule, this.face, this.voice);
    let hearing = null;
    if (this.soundEnd !== null)
      hearing = this.voice ? "speech" : this.silent >= silent_seconds * this.rate ? "silent" : "listening";
    if (this.time !== null && !this.face)
      result.messages.push("There is no face in the picture: come closer, or turn towards the light.");
    if (hearing === "silent") result.messages.push("Nothing comes from the microphone: is it muted?");
    const answer = answerOf(this.rule, result, this.held.show(result, now), this.size);
    const others = this.others.map((each) => otherFace(this.rule, each));
    return { ...answer, time: this.time, hearing, others, took: this.took };
  }
}

// An `EmotionResult` as JSON of {logProbs, box} and {logProbs, segments}, either of which may be null.
export async function resultOf(network, rule, face, voice, messages = []) {
  const result = { face: null, voice: null, fused: null, agreement: null, messages: [...messages] };
  if (face) result.face = { ...rule.emotion(face.logProbs, "face"), box: face.box };
  if (voice) result.voice = { ...rule.emotion(voice.logProbs, "voice"), segments: voice.segments };
  if (face || voice) {
    const [fused, agreement] = await network.fuse(face?.logProbs ?? null, voice?.logProbs ?? null);
    const heads = ["face", "voice"].filter((head) => result[head]);
    Object.assign(result, { fused: rule.emotion(fused, ...heads), agreement });
  }
  return result;
}

// What is shown of a face beside the main one, {logProbs, box}; it has no logProbs where it was not looked at.
export function otherFace(rule, { logProbs, box }) {
  if (!logProbs) return { box, label: null, tag: "" };
  const emotion = rule.emotion(logProbs, "face"), labels = rule.likeliest(emotion);
  return { box, label: labels[0], tag: rule.tag(labels, emotion) };
}

// What is shown of it, for the page's View.
export function answerOf(rule, result, said, size) {
  const named = said.labels.length > 0, [valence, arousal] = result.fused ? rule.derived(result.fused) : [0, 0];
  return {
    size, result, valence, arousal,
    labels: said.labels,
    headline: named ? said.headline : "Nobody seen or heard",
    line: named ? rule.line(said, result) : "Look at the camera, or say something.",
    tag: said.face.length ? rule.tag(said.face, result.face) : "",
    likeliest: { face: said.face, voice: said.voice, fused: said.fused },
    neutral: null,
  };
}
