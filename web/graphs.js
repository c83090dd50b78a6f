// The graphs that build_web.py wrote, run by onnxruntime-web, on one thread each worker: two workers keep two cores busy,
// and more threads, which need a server that isolates the page (COOP, COEP), slow them down there.

import * as ort from "./ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1;

const FOLDER = new URL("../../network/", import.meta.url);

async function fetched(name) {
  const reply = await fetch(new URL(name, FOLDER));
  if (!reply.ok) throw new Error(`${name} cannot be loaded (${reply.status})`);
  return reply;
}

export const settings = fetched("settings.json").then((reply) => reply.json());

export class Graphs {
  #last = Promise.resolve(); // onnxruntime-web runs one thing at a time

  static async load(...names) {
    const files = ["weights.bin", ...names.map((name) => `${name}.onnx`)];
    const bytes = async (file) => new Uint8Array(await (await fetched(file)).arrayBuffer());
    const [data, ...graphs] = await Promise.all(files.map(bytes));
    const options = { externalData: [{ path: "weights.bin", data }], logSeverityLevel: 3 }; // 3: errors
    const loaded = new Graphs();
    loaded.sessions = {};
    for (const [i, name] of names.entries())
      loaded.sessions[name] = await ort.InferenceSession.create(graphs[i], options);
    return loaded;
  }

  // Outputs by name, as typed arrays.
  run(name, feeds) {
    this.#last = this.#last.catch(() => {}).then(async () => {
      const outputs = await this.sessions[name].run(feeds);
      return Object.fromEntries(Object.entries(outputs).map(([key, tensor]) => [key, tensor.data]));
    });
    return this.#last;
  }
}

export function floats(values, shape) {
  return new ort.Tensor("float32", values, shape);
}

export function bytes(values, shape) {
  return new ort.Tensor("uint8", values, shape);
}

export function flag(value) {
  return new ort.Tensor("bool", [value], [1]);
}
