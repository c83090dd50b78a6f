// The tab Live in the browser: a visit from Start to Stop. `start` is called once, with the element around what
// demo/live_page.py made.

import { Card } from "./card.js";
import { Connection } from "./connection.js";
import { download, toCSV } from "./csv.js";
import { loudness, openDevices, openSound } from "./devices.js";
import { readEmotions } from "./emotions.js";
import { Frames } from "./frames.js";
import { Game } from "./game.js";
import { Neutral } from "./neutral.js";
import { Preview } from "./preview.js";
import { drawTimeline, SECONDS } from "./timeline.js";
import { View } from "./view.js";
import { showWave } from "./wave.js";

const SPOKEN_SECONDS = 5; // between two answers that a screen reader says, or it would never come to an end
const HEARING = {
  speech: "hears you", listening: "listening …", silent: "silence", off: "microphone off", wait: "microphone on",
};

export function start(element) {
  const live = element.querySelector(".live"), find = (selector) => live.querySelector(selector);
  const video = find("video.camera"), toggle = find(".toggle"), canvas = find(".timeline canvas");
  const emotions = readEmotions(live), view = new View(live, emotions);
  const game = new Game(live, emotions), card = new Card(live, emotions);
  const neutral = new Neutral(live, (wanted) => visit.connection.send("N", visit.clock(), new Uint8Array([wanted])));
  let preview = null; // until the first visit
  let visit = null; // everything of one visit; null when nothing runs, so that nothing of the last is left

  async function begin() {
    preview?.end();
    preview = null;
    view.clear();
    const began = performance.now();
    const mine = (visit = { clock: () => (performance.now() - began) / 1000, moments: [], spoken: -SPOKEN_SECONDS });
    show("asking", "Please allow the camera and the microphone.");
    const [stream, notes] = await openDevices();
    Object.assign(mine, { stream, notes });
    if (visit !== mine) return close(mine);
    if (!stream) return stop(notes.join(" "), "failed");
    for (const track of stream.getTracks())
      track.onended = () => {
        mine.notes.push(`The ${track.kind === "video" ? "camera" : "microphone"} was turned off.`);
        if (stream.getTracks().every((each) => each.readyState === "ended")) stop(mine.notes.join(" "), "failed");
      };
    if (stream.getAudioTracks().length)
      await openSound(stream, (samples) => hear(mine, samples)).then(
        ([context, analyser]) => Object.assign(mine, { context, analyser }),
        () => mine.notes.push("The microphone's sound cannot be read in this browser."),
      );
    mine.seen = stream.getVideoTracks().length > 0;
    if (mine.seen && visit === mine) {
      video.srcObject = stream;
      await video.play().catch(() => {});
      find(".picture").style.aspectRatio = `${video.videoWidth || 4} / ${video.videoHeight || 3}`;
    }
    if (visit !== mine) return close(mine);
    if (!mine.seen && !mine.analyser) return stop(mine.notes.join(" "), "failed");
    live.dataset.stage = mine.seen ? "camera" : "voice";
    if (!mine.seen)
      mine.endWave = showWave(find(".wave"), mine.analyser, () => emotions[mine.heard ?? "neutral"].colour);
    connect(mine);
  }

  function connect(mine) {
    mine.connection = new Connection(mine.context?.sampleRate ?? 16000, mine.clock, {
      connecting: (sentence) => show("connecting", sentence),
      message: (message) => receive(mine, message),
      lost: () => {
        game.end();
        neutral.show(null, 0); // the server forgot it with the connection
        age(mine);
        show("lost", "The connection was lost: trying again …");
      },
    });
    if (mine.seen) mine.frames = new Frames(video, mine.connection, mine.clock);
  }

  // What came before a break stays, grey.
  function age(mine) {
    for (const moment of mine.moments) moment.old = true;
    mine.moments.push({ time: mine.clock(), face: null, voice: null, fused: null, old: true });
    drawTimeline(canvas, emotions, mine.moments, mine.clock());
  }

  function close(mine) {
    mine.connection?.close();
    mine.frames?.close();
    mine.endWave?.();
    mine.stream?.getTracks().forEach((track) => track.stop());
    if (mine.context?.state !== "closed") mine.context?.close();
  }

  function stop(sentence = "", state = "off") {
    const old = visit;
    visit = null;
    if (old) close(old);
    game.end();
    neutral.show(null, 0);
    card.close();
    video.srcObject = null;
    delete live.dataset.stage;
    find(".rate").textContent = find(".sr-only").textContent = "";
    find(".level i").style.width = 0;
    find(".heard").textContent = HEARING.off;
    view.clear();
    drawTimeline(canvas, emotions);
    show(state, sentence);
  }

  function show(state, sentence) {
    live.dataset.state = state;
    find(".status").textContent = sentence;
    toggle.textContent = visit ? "Stop" : "Start";
    for (const button of live.querySelectorAll(".tools button")) button.disabled = state !== "on";
  }

  function hear(mine, samples) {
    if (visit !== mine) return;
    find(".level i").style.width = `${100 * loudness(samples)}%`;
    mine.connection?.send("S", mine.clock(), new Uint8Array(samples.buffer));
  }

  function receive(mine, message) {
    if (visit !== mine) return;
    if (message.type === "error") return stop(message.message, "failed");
    if (message.type === "waiting") {
      game.end();
      neutral.show(null, 0); // the server forgot it with the place
      if (live.dataset.state === "on") age(mine);
      const people = message.before === 1 ? "One person is" : `${message.before} people are`;
      show("waiting", message.before ? `${people} before you: your turn comes by itself.` : "You are next.");
    } else if (message.type === "ready") {
      show("on", "");
      find(".heard").textContent = mine.context ? HEARING.wait : HEARING.off;
      mine.frames?.begin();
    } else answered(mine, message);
  }

  function answered(mine, answer) {
    const now = mine.clock(), { face, voice, fused, agreement } = answer.result;
    find(".rate").textContent = mine.frames?.answered(answer.time) ?? find(".rate").textContent;
    mine.moments.push({ time: now, face, voice, fused, agreement });
    while (mine.moments[0].time < now - SECONDS - 1) mine.moments.shift();
    mine.answer = answer;
    mine.heard = voice?.label;
    view.draw(answer);
    view.messages([...mine.notes, ...answer.result.messages]);
    find(".heard").textContent = HEARING[answer.hearing ?? (mine.context ? "wait" : "off")];
    live.dataset.hearing = answer.hearing ?? "";
    drawTimeline(canvas, emotions, mine.moments, now);
    game.hear(answer);
    neutral.show(answer.neutral, now);
    if (now - mine.spoken > SPOKEN_SECONDS) {
      mine.spoken = now;
      find(".sr-only").textContent = answer.headline;
    }
  }

  function play() {
    const sources = [visit.seen && "face", visit.context && "voice"].filter(Boolean);
    game.start(sources, visit.clock);
  }

  toggle.addEventListener("click", () => (visit ? stop() : begin()));
  find(".play").addEventListener("click", play);
  find(".again").addEventListener("click", () => (game.end(), visit && play()));
  find(".share").addEventListener("click", () =>
    visit.answer && card.open(visit.answer, visit.moments, visit.clock(), visit.seen ? video : null));
  find(".minute").addEventListener("click", () =>
    download("emoclip-live.csv", new Blob([toCSV(visit.moments, Object.keys(emotions))], { type: "text/csv" })));
  // Who turns away from the tab is no longer watched: in another of the demo's tabs it stops, in another of the
  // browser's it pauses.
  new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting && visit && !live.offsetParent) stop();
  }).observe(live);
  let paused = false;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && visit) {
      paused = true;
      stop("Paused while you are away.", "paused");
    } else if (!document.hidden && paused && live.isConnected) {
      paused = false;
      begin();
    }
  });
  new ResizeObserver(() => visit || drawTimeline(canvas, emotions)).observe(canvas);
  stop();
  toggle.disabled = false; // until now nobody would have heard it
  preview = new Preview(live, view);
}
