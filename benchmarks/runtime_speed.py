"""How fast the network is on a CPU, by ONNX Runtime and by PyTorch: alone, in batches, and for several callers.

    python benchmarks/runtime_speed.py
    python benchmarks/runtime_speed.py --rounds 50 --model FOLDER

The two take turns, and their ratio is taken turn by turn, so that what else the machine does burdens both alike. Times
are medians, in milliseconds a row; "mel" is a voice from its samples on. With several callers each has a thread, as
Live's visitors have, and PyTorch one core for each, as Live sets it.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import hub  # noqa: E402
from media_emoclip import load_audio  # noqa: E402
from runtime_emoclip import Head, Runtime, Towers  # noqa: E402

CALLERS, CALLS = (1, 2, 4), 12  # and how many calls they make together in a round


def compare(name: str, works: dict[Runtime, Callable[[], object]], rows: int, rounds: int) -> None:
    """Times both runtimes' work on so many rows in turn, and prints a line."""
    took: dict[Runtime, list[float]] = {runtime: [] for runtime in works}
    for turn in range(rounds + 1):
        for runtime, work in works.items():
            start = time.perf_counter()
            work()
            if turn:  # the first builds what is built on first use
                took[runtime].append(1000 * (time.perf_counter() - start) / rows)
    ratio = statistics.median(slow / fast for slow, fast in zip(took["torch"], took["onnx"]))
    by_torch, by_onnx = (statistics.median(took[runtime]) for runtime in ("torch", "onnx"))
    print(f"{name:30} {by_torch:8.1f} {by_onnx:8.1f} {ratio:8.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "emoclip-small"), help="folder or Hub id")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    pipe = hub.load_pipeline(args.model, device="cpu")
    towers: dict[Runtime, Towers] = {runtime: Towers(pipe.model, runtime) for runtime in ("torch", "onnx")}
    faces = pipe.recognizer.face_inputs([np.array(Image.open(ROOT / "examples" / "astronaut.jpg"))])
    extractor = pipe.processor.feature_extractor
    samples = load_audio(ROOT / "examples" / "reading.flac")[0][:48_000]

    def window() -> torch.Tensor:
        return extractor(samples, sampling_rate=16_000, return_tensors="pt")[extractor.input_name]

    def alone(run: Towers, head: Head, rows: torch.Tensor) -> Callable[[], object]:
        return lambda: run(head, rows)

    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads")
    print(f"{'ms a row':30} {'torch':>8} {'onnx':>8} {'ratio':>8}")
    for head, row in (("face", faces), ("voice", window())):
        for count in (1, 8, 32):
            rows = row.repeat(count, 1, 1, 1)
            works = {runtime: alone(run, head, rows) for runtime, run in towers.items()}
            compare(f"{head}, {count} together", works, count, args.rounds)
    works = {runtime: lambda run=run: run("voice", window()) for runtime, run in towers.items()}
    compare("voice, with its mel image", works, 1, args.rounds)

    def one_core() -> None:
        torch.set_grad_enabled(False)  # for this thread
        torch.set_num_threads(1)

    for callers in CALLERS:
        with ThreadPoolExecutor(callers, initializer=one_core) as pool:
            works = {
                runtime: lambda run=run: list(pool.map(lambda _: run("face", faces), range(CALLS)))
                for runtime, run in towers.items()
            }
            compare(f"face, {callers} callers", works, CALLS, args.rounds)


if __name__ == "__main__":
    main()
