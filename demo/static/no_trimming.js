() => {
  // Where a video is put in, Gradio fetches FFmpeg, 32 MB, for its button that trims. That button is hidden: its
  // program is never asked for.
  const fetch = window.fetch;
  window.fetch = (what, ...options) =>
    String(what.url ?? what).includes("/static/ffmpeg/") ? new Promise(() => {}) : fetch(what, ...options);
}
