"""How fast predict_hf.py is, against the pipeline called for one file after the other, and in how much memory.

    python benchmarks/predict_speed.py                                # 1,000 photos and 100 recordings of 10 s
    python benchmarks/predict_speed.py --photos 200 --width 4000      # 12 megapixels each
    python benchmarks/predict_speed.py --processes 2

The files are made here, of the photos and the recording in examples/: 4:3, the face somewhere in it; the reading from
another place on. The command is timed as a whole, with its start; the pipeline without. "CPU" is the time of all
cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import hub  # noqa: E402

RATE, RECORDING_SECONDS = 16_000, 10


def make_photos(folder: Path, count: int, width: int) -> None:
    """JPEGs of width x 3/4 width pixels, each another part of a photo."""
    folder.mkdir()
    faces = [
        ImageOps.fit(
            Image.open(ROOT / "examples" / f"{name}.jpg").convert("RGB"), (width, width * 3 // 4), centering=c
        )
        for name, c in (("astronaut", (0.5, 0.1)), ("grace-hopper", (0.5, 0.3)), ("two-people", (0.5, 0.5)))
    ]
    random = np.random.default_rng(0)
    for number in range(count):
        photo = faces[number % len(faces)]
        left, top = random.integers(0, width // 10, 2)
        photo.transform(photo.size, Image.Transform.AFFINE, (1, 0, left, 0, 1, top // 2)).save(
            folder / f"{number:05}.jpg", quality=90
        )


def make_recordings(folder: Path, count: int) -> None:
    """WAVs of RECORDING_SECONDS."""
    folder.mkdir()
    samples, rate = soundfile.read(ROOT / "examples" / "reading.flac", dtype="float32")
    assert rate == RATE
    for number in range(count):
        sound = np.resize(np.roll(samples, -number * RATE // 10), RECORDING_SECONDS * RATE)
        soundfile.write(folder / f"{number:05}.wav", sound, RATE)


def time_command(files: list[str], output: Path, processes: int) -> tuple[float, float, float]:
    """Seconds, seconds of all cores, and the most memory that a process held, in MB."""
    start = ["torchrun", "--nproc_per_node", str(processes)] if processes > 1 else [sys.executable]
    command, begun = [*start, "predict_hf.py", *files, "--output", output], time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    spent = time.perf_counter() - begun
    output.unlink()
    return spent, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**10


def time_pipeline(files: list[str]) -> tuple[float, float]:
    """Seconds, and seconds of all cores, one call for each file."""
    pipe = hub.load_pipeline(ROOT / "checkpoints" / "emoclip-small", device="cpu")
    pipe(files[0])  # what is built on first use
    begun, busy = time.perf_counter(), time.process_time()
    for file in files:
        pipe(file)
    return time.perf_counter() - begun, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1280, help="of the photos, in pixels")
    parser.add_argument("--recordings", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as place:
        make_photos(Path(place) / "photos", args.photos, args.width)
        make_recordings(Path(place) / "recordings", args.recordings)
        for name in ("photos", "recordings"):
            files = sorted(map(str, (Path(place) / name).iterdir()))
            for some in (files[: len(files) // 4], files):
                if not some:
                    continue
                spent, busy, memory = time_command(some, Path(place) / "results.parquet", args.processes)
                print(
                    f"{len(some)} {name}, predict_hf.py: {spent:.1f} s, CPU {busy:.1f} s, {memory:.0f} MB", flush=True
                )
            if files:
                spent, busy = time_pipeline(files)
                print(f"{len(files)} {name}, one by one: {spent:.1f} s, CPU {busy:.1f} s", flush=True)


if __name__ == "__main__":
    main()
