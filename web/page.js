// The page that runs in the browser alone: the demo's Live, and files, on a network of its own.

import { ask } from "./ask.js";
import { Files } from "./files.js";
import { start } from "./live.js";

start(document.querySelector("#live"));
const files = new Files(document.querySelector(".live"), document.querySelector(".files"));

document.querySelector("#details input").addEventListener("change", ({ target }) =>
  document.body.classList.toggle("details", target.checked));
document.querySelector(".no-camera").addEventListener("click", () => {
  const { photo, recording } = document.querySelector(".files").dataset;
  document.querySelector(".files").scrollIntoView({ behavior: "smooth" });
  files.example(photo, recording);
});

const said = document.querySelector(".network");
ask("load").then(
  () => (said.textContent = "The network is here: from now on the page works offline."),
  (error) => (said.textContent = `The network cannot be run in this browser (${error.message}).`),
);
