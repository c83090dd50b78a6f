// The worker that looks, and answers the page, which stays responsive meanwhile; another one listens.

import { Graphs, settings } from "./graphs.js";
import { Network } from "./network.js";
import { fromImageData } from "./pixels.js";
import { answers, questions } from "./questions.js";
import { LiveSession, answerOf, otherFace, resultOf } from "./session.js";
import { mixDown } from "./sound.js";
import { Rule } from "./verdict.js";

const hear = questions(new URL("hearing.js", import.meta.url));
let session = null; // of the visit in Live

const loaded = (async () => {
  const [known, graphs] = await Promise.all([settings, Graphs.load("face", "yunet", "fusion"), hear("load")]);
  return [new Network(known, graphs, hear), new Rule(known)];
})();
loaded.catch(() => {}); // whoever asks is told

answers({
  // What the page needs to know of the network, once it is there.
  async load() {
    const [{ settings }] = await loaded;
    return settings.files;
  },

  // Pixels of the longer side of the copies of frames that are to come with them.
  async start({ rate }) {
    session = new LiveSession(...(await loaded), rate);
    return session.live.search_side;
  },

  async frame({ image, copy, time, everyone }) {
    const mine = session;
    await mine.addFrame(fromImageData(image), fromImageData(copy), time, everyone);
    return mine.answer();
  },

  // null where there is no news
  async sound({ samples, time }) {
    const mine = session;
    mine.addSound(samples, time);
    if (!mine.windowDue) return null;
    await mine.scoreWindow();
    return mine.answer();
  },

  // Of a photo, ImageData, and a recording's channels at the network's rate, either of which may be null.
  async files({ image, channels }) {
    const [network, rule] = await loaded;
    const samples = channels && mixDown(channels, rule.settings.voice.cancelled);
    const seen = await network.analyse(image && fromImageData(image), samples);
    const result = await resultOf(network, rule, seen.face, seen.voice, seen.messages), said = rule.verdict(result);
    const { width, height } = image ?? {}, size = seen.turns % 2 ? [height, width] : [width, height];
    const others = seen.others.map((each) => otherFace(rule, each));
    return { ...answerOf(rule, result, said, size), others, turns: seen.turns };
  },
});
