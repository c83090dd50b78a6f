"""What the people in many photos, recordings and videos look and sound like, as one table:

    python predict_hf.py photos --output results.parquet              # folders are walked
    python predict_hf.py clips/*.mp4 --every 1 --output results.csv   # a row a second, and one a person
    python predict_hf.py pairs.csv --output results.jsonl             # columns image and audio
    python predict_hf.py list.txt --what voice --output results.parquet
    torchrun --nproc_per_node 2 predict_hf.py photos --output results.parquet    # two processes, or two GPUs

The same command goes on where an interrupted one was. Columns, inputs and clusters: docs/many-files.md.
"""

import gc

gc.disable()  # what is imported stays: to look for garbage among it would take a tenth of a short run

import contextlib
import hashlib
import json
import os
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import cv2
import datasets
import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import HfArgumentParser

from baseline_emoclip import Baseline
from configuration_emoclip import Reading
from demo.emotions import COLOURS
from hub import NEEDED, HubError, fetch, load_pipeline
from prediction.inputs import find_inputs
from prediction.output import Output, columns, parts_of, rows_of, summary
from prediction.plot import draw, picture_of
from prediction.work import NOT_THE_FILES, Answer, recognize
from video_emoclip import SAMPLES_PER_SECOND, VideoResult, What

gc.enable()
gc.freeze()  # what was imported is not looked at again

SAVE_SECONDS = 10.0  # of work that an interruption may cost
BAR = "{l_bar}{bar}| {n:,.0f}/{total:,} [{elapsed}<{remaining}]"  # of whole inputs, though videos count by the part
WAIT = timedelta(days=30)  # that a process waits for the slowest


@dataclass
class PredictArguments:
    output: str = field(metadata={"help": "the table to write: .parquet, .csv or .jsonl"})
    model: str = field(default="checkpoints/emoclip-small", metadata={"help": "folder or Hub id"})
    what: What = field(default="both", metadata={"help": "faces, voices, or both"})
    every: float | None = field(
        default=None, metadata={"help": "of videos, also a row for every so many seconds, a multiple of 0.2"}
    )
    reading: Reading = field(
        default="perceived", metadata={"help": "how people perceive a face and a voice, or what was acted"}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "the file of a person's baseline, to which all answers are relative"}
    )
    prior: dict | str | None = field(
        default=None,
        metadata={
            "help": "how often each emotion is among the inputs: uniform, or shares as JSON; by default as in training"
        },
    )
    plot: str | None = field(default=None, metadata={"help": "a folder for a picture of each video's timeline"})
    threads: int | None = field(
        default=None, metadata={"help": "that work at once in a process; by default, one for each core"}
    )

    def __post_init__(self):
        if self.every is not None:
            steps = self.every * SAMPLES_PER_SECOND
            if steps < 1 - 1e-6 or abs(steps - round(steps)) > 1e-6:
                raise ValueError(f"--every must be a multiple of {1 / SAMPLES_PER_SECOND}, not {self.every}.")
        if isinstance(self.prior, str):
            with contextlib.suppress(ValueError):  # what is no JSON is `uniform`, or is refused as a prior
                self.prior = json.loads(self.prior)
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads must be at least 1, not {self.threads}.")


def digest(folder: Path) -> str:
    """What tells a checkpoint from another, whatever it is called."""
    sha = hashlib.sha256()
    for name in NEEDED:
        sha.update((folder / name).read_bytes())
    return sha.hexdigest()


def save(answers: Iterable[Answer], output: Output, args: PredictArguments) -> None:
    """Writes answers as they come: every SAVE_SECONDS, at the end, and where it is interrupted."""
    rows, saved = [], time.monotonic()
    try:
        for answer in answers:
            rows += rows_of(answer, args.every)
            if args.plot and isinstance(answer.result, VideoResult):
                draw(answer.result, picture_of(answer, Path(args.plot)), COLOURS)
            if time.monotonic() - saved > SAVE_SECONDS:
                output.write(rows)
                rows, saved = [], time.monotonic()
    finally:
        if rows:
            output.write(rows)


def main():
    parser = HfArgumentParser(PredictArguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="files, folders, lists (.txt), tables (.csv, .jsonl, .parquet)")
    try:
        args, given = parser.parse_args_into_dataclasses()
        state = PartialState(cpu=True, timeout=WAIT)  # processes only wait for each other, which needs no GPU
        datasets.disable_progress_bars()
        path = Path(args.output)
        left_out = [path, parts_of(path), *([Path(args.plot)] if args.plot else [])]
        inputs = find_inputs(given.inputs, left_out)
        cores = os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        threads = args.threads or max(1, cores)
        for library in (torch.set_num_threads, cv2.setNumThreads):  # of each of our own threads
            library(max(1, cores // threads))
        folder = fetch(args.model)
        gpus = torch.cuda.device_count()
        device = f"cuda:{state.local_process_index % gpus}" if gpus else "cpu"
        baseline = Baseline.load(args.baseline) if args.baseline else None
        pipe = load_pipeline(folder, device=device, reading=args.reading, baseline=baseline, prior=args.prior)
        run = {
            "inputs": inputs.digest,
            "weights": digest(folder),
            "--what": args.what,
            "--every": args.every,
            "--reading": args.reading,
            "--baseline": baseline and asdict(baseline),
            "--prior": args.prior,
        }
        output = Output(path, columns(inputs.columns, pipe.model.config.labels), run)
        if state.is_main_process:
            output.begin()
        state.wait_for_everyone()
        done = output.done()
        state.wait_for_everyone()  # so that all have seen the same before one writes more
    except (HubError, ImportError, OSError, ValueError) as error:
        sys.exit(f"predict_hf.py: {error}")

    left = [number for number in range(len(inputs.rows)) if number not in done]
    share = left[state.process_index :: state.num_processes]
    if state.is_main_process and done:
        print(f"Going on: {len(done):,} of {len(inputs.rows):,} inputs are answered.")
    rows = ((number, inputs.rows[number]) for number in share)
    name = f"process 1 of {state.num_processes}" if state.num_processes > 1 else None
    try:
        with tqdm(desc=name, total=len(share), bar_format=BAR, disable=not state.is_main_process) as bar:
            save(recognize(rows, pipe.recognizer, threads, args.what, bar.update), output, args)
        state.wait_for_everyone()
        if state.is_main_process:
            print(summary(output.finish()))
            output.clear()
            print(f"Saved to {path}")
    except KeyboardInterrupt:
        sys.exit("predict_hf.py: interrupted; the same command goes on.")
    except (OSError, *NOT_THE_FILES) as error:
        reason = str(error) or type(error).__name__
        sys.exit(f"predict_hf.py: {reason.rstrip('.')}; once that is mended, the same command goes on.")


if __name__ == "__main__":
    main()
