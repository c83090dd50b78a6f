// The page's way to the network: a worker that answers questions. It begins to load with the page.

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" }), waiting = new Map();
let count = 0, broken = null;

worker.onmessage = ({ data: { id, answer, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(answer);
  else reject(new Error(error));
};
worker.onerror = () => {
  broken = new Error("its scripts cannot be loaded");
  for (const { reject } of waiting.values()) reject(broken);
};

export function ask(kind, asked = {}, transferred = []) {
  return new Promise((resolve, reject) => {
    if (broken) return reject(broken);
    waiting.set(++count, { resolve, reject });
    worker.postMessage({ id: count, kind, ...asked }, transferred);
  });
}
