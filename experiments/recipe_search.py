"""Trains the recipes of a plan, several at once, and compares their figures on validation.

    python experiments/recipe_search.py experiments/plans/contrastive.json --faces DIR --voices DIR
    python experiments/recipe_search.py PLAN.json --jobs 3 --minutes 9     # on a GPU that is lent for a while

A plan is a JSON object: `arguments`, those of train_hf.py that all runs share; `recipes`, the name and the further
arguments of each; and `seeds`. The first recipe is the one that the others are compared with. Objects in both
`arguments` and a recipe, such as `config`, are merged. Every recipe is run with every seed, seed after seed, in the
folder `RECIPE-seedN`, or `RECIPE` if there is only one seed. Finished runs are not run again; runs that the time limit
or Ctrl-C stopped are resumed from their last checkpoint. The printed tables are saved as `table.md` beside these
folders.

To let several runs share a GPU, start NVIDIA's MPS first: `nvidia-cuda-mps-control -d`. With several GPUs, each run
uses one, in turn.
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

from training.arguments import ModelArguments
from training.build import build_processor
from training.sources import FACES_HUB_ID, VOICES_HUB_ID, load_faces, load_voices

ROOT = Path(__file__).resolve().parents[1]
HEADS = ("face", "voice", "fused")  # as in results.json
POLL_SECONDS = 0.5
KILL_SECONDS = 10  # for a process to end by itself
CONFIDENCE = 0.95


def merged(common: dict, own: dict) -> dict:
    """Both, `own` going before `common`; objects within them are merged in the same way."""
    both = {name: merged(common[name], own[name]) for name in own if isinstance(common.get(name), dict)}
    return common | own | both


def command_line(arguments: dict) -> list[str]:
    """The arguments as words of train_hf.py's command line; objects become JSON."""
    words = []
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(each if isinstance(each, str) else json.dumps(each) for each in values)]
    return words


def surroundings(slot: int, jobs: int) -> dict[str, str]:
    """The environment of one of `jobs` processes: one of the GPUs, and as many threads as its share of the cores.
    By default each process would start a thread for every core."""
    added = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    if torch.cuda.device_count() > 1:
        added["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    return {**os.environ, **added}


def train(waiting: list[tuple[Path, list[str]]], jobs: int, deadline: float):
    """Runs commands, several at a time. One that fails does not stop the others.

    Args:
        waiting: folders and commands; a command's output goes to its folder's `train.log`.
        jobs: commands at a time.
        deadline: the value of `time.monotonic()` at which whatever is running is stopped.
    """
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
    """The epoch that a run has reached, and the accuracies on validation of its best checkpoint so far, by HEADS; None
    before its first evaluation."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if not checkpoints:
        return None
    history = json.loads((checkpoints[-1] / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_accuracy" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_accuracy"])
    accuracies = {name: best[f"eval_{name}_accuracy"] for name in HEADS if f"eval_{name}_accuracy" in best}
    return accuracies | {"epoch": evaluations[-1]["epoch"]}


def calibrated(folder: Path) -> dict:
    """The accuracies of a finished run, with calibrated heads, and the `split` that they were measured on: the test
    split if the plan says `do_predict`."""
    results = json.loads((folder / "results.json").read_text())
    accuracies = {name: results[name]["accuracy"] for name in HEADS if name in results}
    return accuracies | {"split": " x ".join(results["splits"].values())}


def interval(values: list[float]) -> float:
    """Half the width of the mean's confidence interval under Student's t (n - 1 degrees of freedom); NaN for n = 1."""
    if len(values) < 2:
        return math.nan
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def cells(figures: list[dict], sign: str = "") -> str:
    """A row's cells, one for each of HEADS: the mean of `figures` in percent and, of several, its interval."""
    texts = []
    for name in HEADS:
        values = [each[name] for each in figures if name in each]
        width = interval(values)
        spread = "" if math.isnan(width) else f" ± {100 * width:.1f}"
        texts.append(f"{100 * np.mean(values):{sign}.1f}{spread}" if values else "")
    return " | ".join(texts)


def runs_table(folders: dict[tuple[str, int], Path]) -> list[str]:
    """Every run's accuracies on validation."""
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
    """Each recipe's mean over its finished seeds, and the mean difference to the first recipe with the same seeds."""
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
    """The recipes' arguments and both tables, as Markdown; ± is half a mean's 95 % confidence interval."""
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
    parser.add_argument("--minutes", type=float, default=math.inf, help="runs that take longer are stopped")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    plan = json.loads(args.plan.read_text())
    parent = args.folder or ROOT / "outputs" / args.plan.stem
    runs = [(recipe, seed) for seed in plan["seeds"] for recipe in plan["recipes"]]
    # Read once, here; the runs find the data in the cache of `datasets` instead of all reading them at the same time.
    of_model = {name: plan["arguments"][name] for name in ("init_from", "config") if name in plan["arguments"]}
    try:
        load_faces(args.faces)
        load_voices(args.voices, build_processor(ModelArguments(**of_model)).feature_extractor)
    except (OSError, ValueError) as error:
        sys.exit(f"recipe_search.py: {error}")
    several = len(plan["seeds"]) > 1
    folders = {(recipe, seed): parent / (f"{recipe}-seed{seed}" if several else recipe) for recipe, seed in runs}
    waiting = []
    for (recipe, seed), folder in folders.items():
        arguments = merged(plan["arguments"], plan["recipes"][recipe])
        where = {"faces": args.faces, "voices": args.voices, "output_dir": str(folder), "disable_tqdm": True}
        if not (folder / "results.json").is_file():  # written once a training is done
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
