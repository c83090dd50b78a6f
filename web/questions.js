// Between the page and its workers: questions, {id, kind, ...}, and their answers, {id, answer} or {id, error}.

// Starts a worker; gives ask(kind, what, transferred), which gives a promise of its answer.
export function questions(address) {
  const worker = new Worker(address, { type: "module" }), waiting = new Map();
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
  return (kind, asked = {}, transferred = []) =>
    new Promise((resolve, reject) => {
      if (broken) return reject(broken);
      waiting.set(++count, { resolve, reject });
      worker.postMessage({ id: count, kind, ...asked }, transferred);
    });
}

// In a worker: answers each kind of question by the function of that name.
export function answers(functions) {
  onmessage = async ({ data: { id, kind, ...asked } }) => {
    try {
      postMessage({ id, answer: await functions[kind](asked) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  };
}
