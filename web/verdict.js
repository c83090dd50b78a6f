// What may be said of a result: demo/verdict.py in JavaScript. Its numbers come from there too, in `settings`.

import { percent } from "./emotions.js";

export class Rule {
  constructor(settings) {
    this.settings = settings;
  }

  // A log-posterior by label; unsure below the threshold of any of the heads that it is of.
  emotion(logProbs, ...heads) {
    const { labels, thresholds } = this.settings;
    const best = logProbs.indexOf(Math.max(...logProbs));
    const scores = Object.fromEntries(
      labels.map((label, i) => [label, logProbs[i] === -Infinity ? null : Math.exp(logProbs[i])]));
    const needed = Math.max(...heads.map((head) => thresholds[head]));
    return { label: labels[best], scores, unsure: scores[labels[best]] < needed };
  }

  verdict(result) {
    const nothing = { headline: "Nothing to go by", labels: [], kind: "nothing", face: [], voice: [], fused: [] };
    if (!result.fused) return nothing;
    const [face, voice, fused] = ["face", "voice", "fused"].map((name) => this.likeliest(result[name]));
    const marked = { face, voice, fused };
    if (this.isConflict(result)) {
      const headline = `Looks ${this.#word(face[0])}, sounds ${this.#word(voice[0])}`;
      return { headline, labels: [...face, ...voice], kind: "conflict", ...marked };
    }
    if (fused.length === 2) {
      const words = fused.map((label) => this.#word(label)).join(" or ");
      return { headline: `Hard to tell: ${words}`, labels: fused, kind: "unsure", ...marked };
    }
    const word = this.#word(fused[0]);
    let headline = `Most likely ${word}`;
    if (!face.length || !voice.length) headline = `${face.length ? "Looks" : "Sounds"} ${word}`;
    else if (`${face}` === `${fused}` && `${voice}` === `${fused}`) headline = `Looks and sounds ${word}`;
    return { headline, labels: fused, kind: "sure", ...marked };
  }

  // The label, with the second where that is close behind, or the answer unsure; none where the source is missing.
  likeliest(emotion) {
    if (!emotion) return [];
    const score = (label) => emotion.scores[label] ?? 0;
    const [first, second] = Object.keys(emotion.scores).sort((a, b) => score(b) - score(a));
    if (score(first) - score(second) >= this.settings.ahead && !emotion.unsure) return [first];
    return this.settings.labels.filter((label) => label === first || label === second);
  }

  isConflict({ face, voice, agreement }) {
    if (agreement === null || agreement > this.settings.conflict || face.label === voice.label) return false;
    return !face.unsure && !voice.unsure && this.likeliest(face).length === 1 && this.likeliest(voice).length === 1;
  }

  // The numbers of a result, of what the headline names.
  line({ labels, kind }, result) {
    if (kind === "conflict")
      return `Face ${percent(result.face.scores[labels[0]])}, voice ${percent(result.voice.scores[labels[1]])}`;
    const scores = labels.map((label) => result.fused.scores[label] ?? 0);
    if (kind === "unsure") return scores.map(percent).join(" against ");
    const [, word] = this.settings.confidence.find(([least]) => Math.round(100 * scores[0]) >= Math.round(100 * least));
    return `${word} confidence, ${percent(scores[0])}`;
  }

  // What stands at the face's box.
  tag(labels, emotion) {
    const words = labels.map((label) => this.#word(label)).join(" or ");
    return labels.length === 2 ? words : `${words} ${percent(emotion.scores[labels[0]])}`;
  }

  // Valence and arousal, each -1 to 1.
  derived(emotion) {
    const weighed = (signs) =>
      Object.entries(emotion.scores).reduce((sum, [label, score]) => sum + signs[label] * (score ?? 0), 0);
    return [weighed(this.settings.valence), weighed(this.settings.arousal)];
  }

  #word(label) {
    return this.settings.words[label];
  }
}

// The words of a stream of results, held against flicker.
export class Held {
  constructor(rule) {
    Object.assign(this, { rule, shown: rule.verdict({ fused: null }), right: 0 });
  }

  // The verdict to show for the result of a time, in seconds.
  show(result, time) {
    const now = this.rule.verdict(result);
    const there = ({ face, voice }) => `${face.length > 0} ${voice.length > 0}`;
    if (JSON.stringify(now) === JSON.stringify(this.shown)) this.right = time;
    else if (there(now) !== there(this.shown) || time - this.right >= this.rule.settings.held_seconds)
      Object.assign(this, { shown: now, right: time });
    return this.shown;
  }
}
