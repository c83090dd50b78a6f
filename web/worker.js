// Beside the page, so that it stays responsive: loads the network, then answers what the page asks, one thing after the
// other. {id, kind, ...} is answered by {id, answer} or {id, error}.

import { fromImageData } from "./pixels.js";
import { Network } from "./network.js";
import { LiveSession, answerOf, resultOf } from "./session.js";
import { mixDown } from "./sound.js";
import { Rule } from "./verdict.js";

let session = null; // of the visit in Live
let sounds = 0; // pieces of sound that wait

const loaded = (async () => {
  const folder = new URL("../../network/", import.meta.url), reply = await fetch(new URL("settings.json", folder));
  const rule = new Rule(await reply.json());
  return [await Network.load(folder, rule.settings), rule];
})();

const ASKED = {
  // What the page needs to know of the network, once it is there.
  load: (asked, network, rule) => rule.settings.files,

  start({ rate }, network, rule) {
    session = new LiveSession(network, rule, rate);
    return null;
  },

  async frame({ image, time }) {
    await session.addFrame(fromImageData(image), time);
    return session.answer();
  },

  // null where there is no news; where this machine is slow, only the newest window is scored
  async sound({ samples, time }) {
    sounds--;
    session.addSound(samples, time);
    if (!session.windowDue || sounds) return null;
    await session.scoreWindow();
    return session.answer();
  },

  // Of a photo, ImageData, and a recording's channels at the network's rate, either of which may be null.
  async files({ image, channels }, network, rule) {
    const samples = channels && mixDown(channels, rule.settings.voice.cancelled);
    const seen = await network.analyse(image && fromImageData(image), samples);
    const face = seen.face && { logProbs: seen.face, box: seen.box };
    const voice = seen.voice && { logProbs: seen.voice, segments: seen.segments };
    const result = await resultOf(network, rule, face, voice, seen.messages), said = rule.verdict(result);
    const { width, height } = image ?? {}, size = seen.turns % 2 ? [height, width] : [width, height];
    return { ...answerOf(rule, result, said, size), others: seen.others, turns: seen.turns };
  },
};

let last = loaded;

// Resolves when what was asked in the meantime has come in: the network keeps the worker from hearing while it runs.
function heard() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port2.onmessage = resolve;
    port1.postMessage(null);
  });
}

onmessage = ({ data: { id, kind, ...asked } }) => {
  if (kind === "sound") sounds++;
  last = last
    .catch(() => {})
    .then(heard)
    .then(async () => ASKED[kind](asked, ...(await loaded)))
    .then((answer) => postMessage({ id, answer }), (error) => postMessage({ id, error: error.message }));
};
