// "This is me, neutral": five seconds of a resting face and a normal voice, to which the server's answers are relative
// from then on, until the visit ends or it is dropped.

const SECONDS = 5;

export class Neutral {
  // `ask` is called with 1 to begin, and with 0 to drop it.
  constructor(live, ask) {
    this.button = live.querySelector(".neutral");
    this.prompt = live.querySelector(".resting");
    this.button?.addEventListener("click", () => ask(this.state ? 0 : 1));
  }

  // Of an answer's "neutral": null, "learning" or "known", at a time of the visit.
  show(state, now) {
    if (!this.button) return;
    if (state === "learning" && this.state !== "learning") this.began = now;
    this.state = state;
    this.prompt.hidden = state !== "learning";
    if (state === "learning")
      this.prompt.querySelector("i").style.width = `${Math.max(0, 100 - (100 * (now - this.began)) / SECONDS)}%`;
    this.button.textContent = state === "known" ? "Drop my neutral" : state ? "Cancel" : "This is me, neutral";
  }
}
