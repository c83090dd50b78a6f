// The tab Video: a click on a moment, or anywhere on the timeline, seeks the player, and the playhead follows it. Run
// once, with `element` around what demo.timeline.below_view() makes.

const player = () => document.querySelector("#video-player video");

element.addEventListener("click", (event) => {
  const video = player(), button = event.target.closest("[data-time]"), rows = event.target.closest(".rows svg");
  if (!video || !(button || rows)) return;
  const strip = element.querySelector(".strip"), over = strip.querySelector(".over").getBoundingClientRect();
  video.currentTime = button ? button.dataset.time
    : Math.max(0, event.clientX - over.left) / over.width * strip.dataset.seconds;
  if (button) video.play();
});

document.addEventListener("timeupdate", (event) => {
  const strip = element.querySelector(".strip");
  if (strip && event.target === player())
    strip.querySelector(".playhead").style.left = 100 * event.target.currentTime / strip.dataset.seconds + "%";
}, true);
