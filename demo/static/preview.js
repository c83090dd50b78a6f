// Before the first Start: an example plays, under the answers that this server's model gave to it.

export class Preview {
  constructor(live, view) {
    Object.assign(this, { live, view, timer: null });
    this.video = live.querySelector("video.example");
    this.#load();
  }

  async #load() {
    const reply = await fetch(new URL("look/preview.json", document.baseURI));
    const answers = reply.ok ? await reply.json() : [];
    if (!this.video || !answers.length) return;
    this.live.dataset.preview = "on";
    this.video.src = new URL(this.video.dataset.src, document.baseURI);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.video.currentTime = answers[answers.length >> 1].time;
      return this.view.draw(answers[answers.length >> 1], false);
    }
    this.video.play().catch(() => {});
    this.timer = setInterval(() => {
      const now = answers.findLast((answer) => answer.time <= this.video.currentTime);
      if (now && this.video.offsetParent) this.view.draw(now, false);
    }, 200);
  }

  end() {
    clearInterval(this.timer);
    delete this.live.dataset.preview;
    this.video?.remove();
    this.video = null;
  }
}
