// A game of thirty seconds: seven prompts, and points for how likely face and voice show what was asked for. With a
// camera or a microphone alone, that one counts. Nothing is kept.

const PROMPTS = [
  ["happy", "happy"], ["angry", "angry"], ["surprise", "happy"], ["neutral", "neutral"], ["happy", "angry"],
  ["sad", "sad"], ["angry", "happy"],
]; // what to look like, and to sound like: the emotions that are recognised best
const PROMPT_SECONDS = 30 / PROMPTS.length;
const LATE_SECONDS = 1; // in which what was shown for the last prompt still lasts, and counts for nothing

export class Game {
  constructor(live, emotions) {
    this.emotions = emotions;
    this.prompt = live.querySelector(".asked");
    this.summary = live.querySelector("dialog.summary");
    this.rounds = null; // while it runs
  }

  // `sources` are "face", "voice", or both; `clock` gives seconds.
  start(sources, clock) {
    this.end();
    Object.assign(this, { sources, clock, began: clock(), rounds: PROMPTS.map(() => ({})) });
    this.prompt.hidden = false;
    this.timer = setInterval(() => this.#tick(), 100);
    this.#tick();
  }

  end() {
    clearInterval(this.timer);
    this.rounds = null;
    this.prompt.hidden = true;
    if (this.summary.open) this.summary.close();
  }

  hear({ result }) {
    const seconds = this.rounds && this.clock() - this.began, round = Math.floor(seconds / PROMPT_SECONDS);
    if (!this.rounds || round >= PROMPTS.length || seconds % PROMPT_SECONDS < LATE_SECONDS) return;
    for (const source of this.sources) {
      const score = result[source]?.scores[this.#wanted(round, source)] ?? 0;
      this.rounds[round][source] = Math.max(this.rounds[round][source] ?? 0, score);
    }
  }

  #wanted(round, source) {
    return PROMPTS[round][source === "face" ? 0 : 1];
  }

  #words(round) {
    const verbs = { face: "look", voice: "sound" };
    const words = this.sources.map((source) => `${verbs[source]} ${this.emotions[this.#wanted(round, source)].word}`);
    return words.join(", ").replace(/^./, (letter) => letter.toUpperCase());
  }

  #points(round) {
    const scores = this.sources.map((source) => this.rounds[round][source] ?? 0);
    return Math.round((100 * scores.reduce((sum, score) => sum + score, 0)) / scores.length);
  }

  get #total() {
    return this.rounds.reduce((sum, _, round) => sum + this.#points(round), 0);
  }

  #tick() {
    const seconds = this.clock() - this.began, round = Math.floor(seconds / PROMPT_SECONDS);
    if (round >= PROMPTS.length) return this.#finish();
    const words = this.prompt.querySelector("b");
    if (words.textContent !== this.#words(round)) words.textContent = this.#words(round);
    this.prompt.querySelector("small").textContent = `${round + 1} of ${PROMPTS.length} · ${this.#total} points`;
    this.prompt.querySelector("i").style.width = `${100 - (100 * (seconds % PROMPT_SECONDS)) / PROMPT_SECONDS}%`;
  }

  #finish() {
    clearInterval(this.timer);
    this.prompt.hidden = true;
    this.summary.querySelector("h2").textContent = `${this.#total} of ${100 * PROMPTS.length} points`;
    this.summary.querySelector("ol").replaceChildren(
      ...PROMPTS.map((_, round) => {
        const row = document.createElement("li"), points = document.createElement("b");
        points.textContent = this.#points(round);
        row.append(this.#words(round), points);
        return row;
      }),
    );
    this.rounds = null;
    this.summary.showModal();
  }
}
