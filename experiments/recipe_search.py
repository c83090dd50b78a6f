"""Trains a plan of recipes, several at once, and tells what each came to on validation.

    python experiments/recipe_search.py experiments/plans/contrastive.json --faces DIR --voices DIR
    python experiments/recipe_search.py PLAN.json --jobs 3 --minutes 9     # on a GPU that is lent for a while

A plan is a JSON object: `arguments`, those of train_hf.py that all runs share; `recipes`, the name and the further
arguments of each, the one that the others are compared with first; and `seeds`. What is an object in both, such as
`config`, is merged. Every recipe is run with every seed, seed after seed, in the folder `RECIPE-seedN`, or `RECIPE`
where there is but one seed. What was finished before is not run again; what was cut off by the limit, or by Ctrl-C,
goes on from its last checkpoint. The tables that are printed are also in `table.md` beside these folders.

Several processes share a GPU at the same time under NVIDIA's MPS: `nvidia-cuda-mps-control -d` first. Where there
are several GPUs, each run has one, and the runs are spread over them.
"""

import argparse
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from processing_emoclip import EmoCLIPFeatureExtractor
from training.sources import FACES_HUB_ID, VOICES_HUB_ID, load_faces, load_voices

ROOT = Path(__file__).resolve().parents[1]
HEADS = ("face", "voice", "fused")
POLL_SECONDS = 0.5
KILL_SECONDS = 10  # what a process that was told to end may take
CONFIDENCE = 0.95


def merged(common: dict, own: dict) -> dict:
    """`common` with what `own` says otherwise, objects within them merged alike."""
    both = {name: merged(common[name], own[name]) for name in own if isinstance(common.get(name), dict)}
    return common | own | both


def command_line(arguments: dict) -> list[str]:
    """The arguments as train_hf.py takes them; an object is JSON."""
    words = []
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(each if isinstance(each, str) else json.dumps(each) for each in values)]
    return words


def surroundings(slot: int, jobs: int) -> dict[str, str]:
    """The environment of one of `jobs` processes: its share of the cores, of which each would otherwise start as many
    threads as there are, and one of the GPUs."""
    added = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    if torch.cuda.device_count() > 1:
        added["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    return {**os.environ, **added}


def train(waiting: list[tuple[Path, list[str]]], jobs: int, deadline: float):
    """Runs the commands, `jobs` at a time, each with its output in `train.log` of its folder, until the deadline, a
    value of `time.monotonic()`. One that fails does not stop the others."""
    running: dict[int, tuple[Path, subprocess.Popen]] = {}  # by slot, one of `jobs`
    try:
        while (waiting or running) and time.monotonic() < deadline:
            for slot in range(jobs):
                if waiting and slot not in running:
                    folder, arguments = waiting.pop(0)
                    folder.mkdir(parents=True, exist_ok=True)
                    with open(folder / "train.log", "a") as log:
                        process = subprocess.Popen(arguments, stdout=log, stderr=log, env=surroundings(slot, jobs))
                    running[slot] = folder, process
                    print(f"{folder.name} started", flush=True)
            for slot, (folder, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    how = "done" if process.returncode == 0 else f"FAILED, see {folder / 'train.log'}"
                    print(f"{folder.name} {how}", flush=True)
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running.values():
            process.send_signal(signal.SIGTERM)
        for folder, process in running.values():
            try:
                process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            print(f"{folder.name} cut off", flush=True)


def validation(folder: Path) -> dict | None:
    """What a run has come to: `epoch`, and the accuracies on validation of its best checkpoint so far (`face`,
    `voice`, `fused`). None where nothing was evaluated yet."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if not checkpoints:
        return None
    history = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_accuracy" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_accuracy"])
    accuracies = {name: best[f"eval_{name}_accuracy"] for name in HEADS if f"eval_{name}_accuracy" in best}
    return accuracies | {"epoch": evaluations[-1]["epoch"]}


def calibrated(folder: Path) -> dict:
    """The figures that a finished run ends with, of the calibrated heads: accuracies, and what they were measured on,
    `split`, which is the test split where the plan says `do_predict`."""
    results = json.loads((folder / "results.json").read_text())
    accuracies = {name: results[name]["accuracy"] for name in HEADS if name in results}
    return accuracies | {"split": " x ".join(results["splits"].values())}


def interval(values: list[float]) -> float:
    """Half the width of the mean's confidence interval under Student's t (n - 1 degrees of freedom); NaN for n = 1."""
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def cells(figures: list[dict], sign: str = "") -> str:
    """The cells face, voice and pairs of a row: the mean of what each of `figures` says, in percent, and the interval
    where there are several."""
    texts = []
    for name in HEADS:
        values = [each[name] for each in figures if name in each]
        width = interval(values)
        spread = "" if math.isnan(width) else f" ± {100 * width:.1f}"
        texts.append(f"{100 * np.mean(values):{sign}.1f}{spread}" if values else "")
    return " | ".join(texts)


def runs_table(folders: dict[tuple[str, int], Path]) -> list[str]:
    """A row a run, with its accuracies on validation."""
    lines = [
        "| recipe | seed | epochs | face | voice | pairs | training time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (recipe, seed), folder in folders.items():
        if figures := validation(folder):
            took = "cut off"
            if (folder / "training.json").is_file():
                took = f"{json.loads((folder / 'training.json').read_text())[-1]['seconds']:,} s"
            lines.append(f"| {recipe} | {seed} | {figures['epoch']:.0f} | {cells([figures])} | {took} |")
    return lines


def means_table(folders: dict[tuple[str, int], Path]) -> list[str]:
    """Each recipe's mean over the seeds that are finished, and its difference from the first one, seed by seed."""
    finished: dict[str, dict[int, dict]] = {}
    for (recipe, seed), folder in folders.items():
        if (folder / "results.json").is_file():
            finished.setdefault(recipe, {})[seed] = calibrated(folder)
    if not finished:
        return []
    (first, firsts), *others = finished.items()
    split = next(iter(firsts.values()))["split"]
    lines = [f"| on {split} | seeds | face | voice | pairs |", "| --- | --- | --- | --- | --- |"]
    lines.append(f"| {first} | {len(firsts)} | {cells(list(firsts.values()))} |")
    for recipe, seeds in others:
        lines.append(f"| {recipe} | {len(seeds)} | {cells(list(seeds.values()))} |")
        gains = [
            {name: seeds[seed][name] - firsts[seed][name] for name in HEADS if name in seeds[seed]}
            for seed in seeds.keys() & firsts.keys()
        ]
        if gains:
            lines.append(f"| {recipe}, less {first} | {len(gains)} | {cells(gains, '+')} |")
    return lines


def report(plan: dict, folders: dict[tuple[str, int], Path]) -> str:
    """Both tables as Markdown, and the arguments behind them. ± is half of the 95 % confidence interval of the mean
    over the seeds."""
    lines = [f"Common to all: `{shlex.join(command_line(plan['arguments']))}`", ""]
    for recipe, arguments in plan["recipes"].items():
        lines.append(f"- {recipe}: `{shlex.join(command_line(arguments))}`")
    return "\n".join([*lines, "", *runs_table(folders), "", *means_table(folders)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--faces", default=FACES_HUB_ID, help="FER-2013: a folder or a Hub id")
    parser.add_argument("--voices", default=VOICES_HUB_ID, help="CREMA-D: a folder or a Hub id")
    parser.add_argument("--folder", type=Path, help="of the runs; by default outputs/ and the plan's name")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="what is not finished by then is cut off")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    plan = json.loads(args.plan.read_text())
    parent = args.folder or ROOT / "outputs" / args.plan.stem
    runs = [(recipe, seed) for seed in plan["seeds"] for recipe in plan["recipes"]]
    load_faces(args.faces)  # now, once: the runs find in the cache what would otherwise be read by all at a time
    load_voices(args.voices, EmoCLIPFeatureExtractor())
    several = len(plan["seeds"]) > 1
    folders = {(recipe, seed): parent / (f"{recipe}-seed{seed}" if several else recipe) for recipe, seed in runs}
    waiting = []
    for (recipe, seed), folder in folders.items():
        arguments = merged(plan["arguments"], plan["recipes"][recipe])
        where = {"faces": args.faces, "voices": args.voices, "output_dir": str(folder), "disable_tqdm": True}
        if not (folder / "results.json").is_file():  # the last but one thing that a training writes
            words = command_line(arguments | {"seed": seed} | where)
            waiting.append((folder, [sys.executable, str(ROOT / "train_hf.py"), *words]))
    try:
        train(waiting, args.jobs, deadline)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.")
    text = report(plan, folders)
    (parent / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
