"""experiments/recipe_search.py: a plan is trained, cut off where time is up, and told in tables."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import datasets
import pytest
from helpers import TINY, write_faces, write_voices

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import recipe_search  # noqa: E402
from recipe_search import command_line, interval, merged, train  # noqa: E402

import train_hf  # noqa: E402

PLAN = {
    "arguments": {
        "config": TINY,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "use_cpu": True,
    },
    "recipes": {
        "without": {"config": {"loss_weights": {"image_audio": 0}}},
        "with": {},
        "broken": {"train_share": 2},
    },
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    write_faces(folder / "faces", train=9, test=1)
    write_voices(folder / "voices")
    (folder / "plan.json").write_text(json.dumps(PLAN))
    return folder


class TrainingHere:
    """In the place of a process: the training in this one, which has imported everything already."""

    def __init__(self, arguments: list[str], stdout: TextIO, stderr: TextIO, env: dict[str, str]):
        self.returncode = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments[1:])
            try:
                train_hf.main()
            except SystemExit as end:
                self.returncode = 1
                print(end.code, file=stderr)

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def search(folder, monkeypatch, capsys) -> Callable[[], str]:
    """`python experiments/recipe_search.py` in this process, as are all trainings but the first; returns what it
    prints."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    arguments = ["plan.json", "--faces", "faces", "--voices", "voices", "--folder", "runs", "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", ["recipe_search.py", *arguments])
    kinds = chain([subprocess.Popen], repeat(TrainingHere))
    start = SimpleNamespace(Popen=lambda *args, **options: next(kinds)(*args, **options))
    monkeypatch.setattr(recipe_search, "subprocess", start)

    def search() -> str:
        recipe_search.main()
        return capsys.readouterr().out

    return search


def test_what_is_not_finished_in_time_is_cut_off_and_what_waits_is_not_begun(tmp_path, capsys):
    sleeper = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]
    quick = [sys.executable, "-c", "print('well')"]
    runs = [(tmp_path / "quick", quick), (tmp_path / "slow", sleeper), (tmp_path / "waiting", sleeper)]
    start = time.monotonic()
    train(runs, 1, start + 5)
    assert time.monotonic() - start < 60
    told = capsys.readouterr().out
    assert "quick done" in told and "slow cut off" in told and "waiting" not in told
    assert (tmp_path / "quick" / "train.log").read_text() == "well\n"


def test_a_plan_is_trained_once_and_told(folder, search):
    told = search()
    assert told.count(" done") == 4 and told.count("FAILED") == 2  # whoever fails does not stop the others
    assert "--train_share must be" in (folder / "runs" / "broken-seed0" / "train.log").read_text()
    again = search()
    assert " done" not in again and "with-seed0 started" not in again
    text = (folder / "runs" / "table.md").read_text()
    assert text.strip() in again
    results = json.loads((folder / "runs" / "with-seed1" / "results.json").read_text())
    assert "| with | 1 | 1 | " in text and "| on a tenth of train x fold 1 | seeds | face | voice | pairs |" in text
    means = next(line for line in text.splitlines() if line.startswith("| with, less without | 2 |"))
    assert means.count("±") == 3
    faces = [json.loads((folder / "runs" / f"with-seed{seed}" / "results.json").read_text()) for seed in (0, 1)]
    mean = sum(each["face"]["accuracy"] for each in faces) / 2
    assert f"| with | 2 | {100 * mean:.1f} ± " in text
    assert "broken" not in text.split("| recipe | seed |")[1] and results["splits"]["voice"] == "fold 1"


def test_the_recipes_own_arguments_are_merged_and_become_a_command_line():
    both = merged({"config": {"a": {"x": 1, "y": 2}}, "fold": 0}, {"config": {"a": {"y": 3}}, "fold": 1})
    assert both == {"config": {"a": {"x": 1, "y": 3}}, "fold": 1}
    assert command_line({"config": {"a": 1}, "bf16": True, "faces": "my faces", "freeze": ["text", "image"]}) == [
        "--config", '{"a": 1}', "--bf16", "true", "--faces", "my faces", "--freeze", "text", "image",
    ]  # fmt: skip


def test_the_interval_is_students():
    assert interval([0.70, 0.72, 0.74]) == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-3)  # t, 2 degrees
    assert math.isnan(interval([0.7]))


@pytest.mark.parametrize("plan", sorted((ROOT / "experiments" / "plans").glob("*.json")), ids=lambda path: path.stem)
def test_the_plans_name_arguments_that_there_are(plan):
    from transformers import HfArgumentParser

    from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments
    from training.build import build_model, build_processor

    content = json.loads(plan.read_text())
    for own in content["recipes"].values():
        words = command_line(merged(content["arguments"], own))
        parser = HfArgumentParser((ModelArguments, DataArguments, EmoCLIPTrainingArguments))
        model_args, *_ = parser.parse_args_into_dataclasses(words)
        build_model(model_args, build_processor(model_args), [3], [5])
