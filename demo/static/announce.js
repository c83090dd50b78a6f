() => {
  // Screen readers say each answer when it comes. Gradio has no setting for that, and makes a tab's elements when the
  // tab is opened.
  const announce = () => {
    for (const id of ["answer", "why", "words-answer", "video-answer"])
      document.getElementById(id)?.setAttribute("aria-live", "polite");
  };
  new MutationObserver(announce).observe(document.body, { childList: true, subtree: true });
}
