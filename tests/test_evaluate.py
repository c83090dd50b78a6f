"""The figures: each metric against its definition, the pairing of faces with voices, and the command."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import tiny_parts, write_faces, write_voices
from PIL import Image

import evaluate_hf
from configuration_emoclip import LABELS
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import save_all
from processing_emoclip import EmoCLIPProcessor
from training.dataset import HEADS, to_model_input
from training.evaluation import (
    CROP_SIDE,
    encode,
    evaluate_faces,
    evaluate_pairs,
    evaluate_split,
    evaluate_voices,
    own_logits,
    ten_crops,
)
from training.metrics import EmotionMetrics, emotion_metrics
from training.report import draw, markdown_table, replace_table, write_results
from training.sources import load_voices
from training.splits import Corpus, split_voices

ROOT = Path(__file__).parent.parent


def posteriors(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet(np.full(7, 0.5), n)
    labels = np.where(generator.random(n) < 0.6, probs.argmax(-1), generator.integers(0, 7, n))
    return probs, labels


# --- Metrics


def by_definition(probs: list[list[float]], labels: list[int]) -> dict[str, float]:
    """The metrics in plain Python."""
    answers = [max(range(7), key=row.__getitem__) for row in probs]
    pairs = Counter(zip(labels, answers))
    said, are = Counter(answers), Counter(labels)
    recall = {c: pairs[c, c] / are[c] for c in are}
    precision = {c: pairs[c, c] / said[c] if said[c] else 0.0 for c in are}
    f1 = [2 * recall[c] * precision[c] / (recall[c] + precision[c]) if pairs[c, c] else 0.0 for c in are]
    error = 0.0
    for low in range(15):
        # in (low / 15, (low + 1) / 15], but for confidences on an edge, of which these have none
        bin_ = [(max(row), a == y) for row, a, y in zip(probs, answers, labels) if low < 15 * max(row) <= low + 1]
        if bin_:
            confidence = sum(c for c, _ in bin_) / len(bin_)
            accuracy = sum(hit for _, hit in bin_) / len(bin_)
            error += len(bin_) / len(labels) * abs(confidence - accuracy)
    return {
        "accuracy": sum(pairs[c, c] for c in are) / len(labels),
        "mean_recall": sum(recall.values()) / len(are),
        "macro_f1": sum(f1) / len(are),
        "calibration_error": error,
    }


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_its_definition(seed):
    probs, labels = posteriors(300, seed)
    figures = emotion_metrics(probs, labels)
    assert figures["n"] == 300
    expected = by_definition(probs.astype("f4").tolist(), labels.tolist())
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_classes_that_nobody_has_are_left_out_of_the_means():
    probs = np.eye(7)[[0, 0, 1, 6]] * 0.9 + 0.1 / 7
    figures = emotion_metrics(probs, np.array([0, 0, 1, 1]))
    assert figures["accuracy"] == 0.75
    assert figures["mean_recall"] == pytest.approx((1 + 0.5) / 2)
    assert figures["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_certainty_and_its_error_at_the_ends():
    sure = np.eye(7)[[0, 1, 2, 3]]
    assert emotion_metrics(sure, np.array([0, 1, 2, 3]))["calibration_error"] == 0
    assert emotion_metrics(sure, np.array([1, 2, 3, 4]))["calibration_error"] == 1
    assert emotion_metrics(sure, np.array([0, 1, 2, 3]))["expected_if_calibrated"] == 0


def test_the_error_of_a_calibrated_model_is_what_sampling_makes_of_it():
    generator = np.random.default_rng(0)
    probs, _ = posteriors(3_000, 0)
    labels = (probs.cumsum(-1) > generator.random((3_000, 1))).argmax(-1)  # drawn from the posteriors themselves
    figures = emotion_metrics(probs, labels)
    assert 0.005 < figures["expected_if_calibrated"] < 0.03
    assert figures["calibration_error"] == pytest.approx(figures["expected_if_calibrated"], abs=0.012)
    small = emotion_metrics(probs[:200], labels[:200])
    assert small["expected_if_calibrated"] > 2 * figures["expected_if_calibrated"]


def test_metrics_are_those_of_the_package_evaluate():
    assert issubclass(EmotionMetrics, evaluate.Metric)
    assert emotion_metrics(np.eye(7), np.arange(7))["accuracy"] == 1.0


# --- Pairs


@pytest.fixture(scope="module")
def parts() -> tuple[EmoCLIPForEmotionClassification, EmoCLIPProcessor]:
    return tiny_parts()


def row(probs: dict[str, float]) -> list[float]:
    rest = (1 - sum(probs.values())) / (6 - len(probs))
    return [math.log(probs.get(label, rest)) if label != "surprise" else -30.0 for label in LABELS]


def test_the_pairing_protocol_on_an_example_by_hand(parts):
    """Two happy faces, one called sad; a sad one, called sad; a surprised one, which no voice can join. A happy voice
    that says so clearly, and two sad ones, of which neither does."""
    happy, sad, surprise = (LABELS.index(label) for label in ("happy", "sad", "surprise"))
    faces = torch.tensor([row({"happy": 0.6}), row({"sad": 0.5, "happy": 0.4}), row({"sad": 0.7}), row({"sad": 0.9})])
    voices = torch.tensor([row({"happy": 0.9}), row({"happy": 0.8}), row({"fear": 0.9})])
    figures = evaluate_pairs(
        parts[0], faces, np.array([happy, happy, sad, surprise]), voices, np.array([happy, sad, sad]), seed=0
    )
    assert figures["n"] == 3 and figures["pairings"] == 10
    assert figures["face_alone_accuracy"] == pytest.approx(2 / 3)
    assert figures["voice_alone_accuracy"] == pytest.approx(2 / 3)
    # the voice turns the second face to happy, and the third from sad to happy (.8) or to fear (.9)
    assert figures["accuracy"] == pytest.approx(2 / 3) and figures["accuracy_spread"] == pytest.approx(0)
    again = evaluate_pairs(
        parts[0], faces, np.array([happy, happy, sad, surprise]), voices, np.array([happy, sad, sad]), seed=0
    )
    assert again == figures


def test_pairings_differ_and_their_spread_is_told(parts):
    generator = np.random.default_rng(0)
    face_labels, voice_labels = generator.integers(0, 6, 200), generator.integers(0, 6, 40)

    def guesses(labels: np.ndarray) -> torch.Tensor:
        scores = generator.normal(0, 1, (len(labels), 7)) + 1.2 * np.eye(7)[labels]
        return torch.tensor(scores).log_softmax(-1)

    figures = evaluate_pairs(parts[0], guesses(face_labels), face_labels, guesses(voice_labels), voice_labels, 0)
    assert 0 < figures["accuracy_spread"] < 0.1
    assert figures["accuracy"] > max(figures["face_alone_accuracy"], figures["voice_alone_accuracy"])
    assert 0 < figures["predicted_accuracy"] < 1


def test_predictions_are_in_order_whatever_the_batch(parts):
    faces = torch.randint(0, 256, (5, 48, 48), dtype=torch.uint8)
    voices = torch.randint(0, 256, (5, *parts[1].feature_extractor.stored_shape), dtype=torch.uint8)
    for head, stored in zip(HEADS, (faces, voices)):
        whole = encode(*parts, head, stored)
        pieces = encode(*parts, head, stored, batch_size=2)
        assert whole.shape == (5, 16) and own_logits(parts[0], head, whole).shape == (5, 7)
        assert torch.allclose(whole, pieces, atol=1e-5)


def test_bytes_become_what_the_processor_makes_of_the_original(parts):
    processor = parts[1]
    samples = np.sin(np.arange(32_000) / 9).astype("f4")
    name, features = to_model_input(processor, "voice", processor.feature_extractor.encode(samples, 16_000))
    assert name == "input_features"
    expected = processor(audio=samples, sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert (features - expected).abs().max() * processor.feature_extractor.std * 256 <= 0.51  # half a level


def votes(*counts: int) -> list[int]:
    return [*counts, *[0] * (10 - len(counts))]


def faces_with_votes() -> tuple[Dataset, Dataset]:
    """Four test faces, of which the first stands in train; FER+ taggers call the second sad, clearly, and the third
    happy, by five of ten only."""
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, 48 * 48, dtype=np.uint8).tobytes() for _ in range(6)]
    train = Dataset.from_dict({"pixels": [pixels[0], *pixels[4:]], "label": [0, 1, 2]})
    columns = {
        "pixels": pixels[:4],
        "label": [0, 3, 3, 6],
        #                 neutral happy surprise sad
        "ferplus_votes": [votes(10), votes(1, 0, 0, 8), votes(3, 5, 2), votes(0, 0, 9)],
        "row_exact": [True, True, True, False],
    }
    return Dataset.from_dict(columns), train


def test_faces_are_scored_whole_by_crops_unseen_and_against_the_majority(parts):
    test, train = faces_with_votes()
    results, (log_probs, labels, embeds) = evaluate_faces(*parts, test, train)
    assert {name: figures["n"] for name, figures in results.items()} == {
        "face": 4,
        "face_ten_crops": 4,
        "face_unseen": 3,  # without the one that stands in train
        "face_perceived": 2,  # without the face that half agree on, and the one whose votes may be another's
    }
    answers = log_probs.argmax(-1).numpy()
    assert results["face_unseen"]["accuracy"] == pytest.approx((answers[1:] == labels[1:]).mean())
    majority = np.array([LABELS.index("neutral"), LABELS.index("sad")])
    people = results["face_perceived"]
    assert people["accuracy"] == pytest.approx((answers[:2] == majority).mean())  # it has one reading only
    # The ten who say neutral have the nine others on their side, the eight who say sad too, their ninth has not; of
    # the third face the five who say no happy stand against five of nine, and those who do have no majority of others.
    assert people["one_person"] == pytest.approx((10 + 8) / (10 + 9 + 5))
    shares = np.array([[1, 0, 0, 0], [1 / 9, 0, 0, 8 / 9], [3 / 10, 5 / 10, 2 / 10, 0]])  # neutral happy surprise sad
    columns = [LABELS.index(label) for label in ("neutral", "happy", "surprise", "sad")]
    assert people["cross_entropy"] == pytest.approx(-(shares * log_probs[:3, columns].numpy()).sum(1).mean(), abs=1e-5)
    assert people["votes_entropy"] == pytest.approx(
        -(shares * np.log(np.maximum(shares, 1e-12))).sum(1).mean(), abs=1e-5
    )
    assert people["selective"]["n"] == 3  # with the one without a clear majority, of which no answer is right
    figures = results["face"]
    assert np.array(figures["confusion"]).sum(1).tolist() == np.bincount(labels, minlength=7).tolist()
    hits = np.diag(figures["confusion"])
    assert figures["accuracy"] == pytest.approx(hits.sum() / 4)
    assert figures["recall"] == {LABELS[i]: pytest.approx(hits[i] / (labels == i).sum()) for i in np.unique(labels)}
    assert sum(each["n"] for each in figures["reliability"]) == 4
    gap = sum(each["n"] / 4 * abs(each["confidence"] - each["accuracy"]) for each in figures["reliability"])
    assert gap == pytest.approx(figures["calibration_error"], abs=1e-6)


def test_figures_of_no_rows_are_left_out(parts):
    """Every face is in train, no two taggers agree, and no voice has a face's emotion."""
    face = np.random.default_rng(0).integers(0, 256, 48 * 48, dtype=np.uint8).tobytes()
    columns = {"pixels": [face], "label": [LABELS.index("surprise")]}
    faces = Dataset.from_dict({**columns, "ferplus_votes": [votes(3, 3, 4)], "row_exact": [True]})
    voice = np.zeros((128, 188), np.uint8).tobytes()
    voices = Dataset.from_dict({"voice": [voice], "label": [LABELS.index("sad")]})
    corpora = (Corpus(split, split, split, "validation", "test") for split in (faces, voices))
    results = evaluate_split(*parts, *corpora, "test")
    assert set(results) == {"splits", "face", "face_ten_crops", "voice", "words", "texts"}
    assert "NaN" not in json.dumps(results) and "| face, one crop | test | 1 |" in markdown_table(results)


def test_the_ten_crops_are_the_corners_the_middle_and_their_mirror_images():
    pixels = torch.randint(0, 256, (2, 48, 48), dtype=torch.uint8)
    crops = ten_crops(pixels)
    side = CROP_SIDE
    assert len(crops) == 10 and {tuple(crop.shape) for crop in crops} == {(2, side, side)}
    assert len({crop[0].numpy().tobytes() for crop in crops}) == 10
    assert torch.equal(crops[0], pixels[:, :side, :side]) and torch.equal(crops[3], pixels[:, -side:, -side:])
    assert all(torch.equal(a.flip(-1), b) for a, b in zip(crops[:5], crops[5:]))


def test_voices_are_scored_by_group(parts):
    generator = np.random.default_rng(0)
    voices = Dataset.from_dict(
        {
            "voice": [generator.integers(0, 256, 128 * 188, dtype=np.uint8).tobytes() for _ in range(5)],
            "label": [0, 1, 2, 3, 4],
            "sex": ["Male", "Female", "Female", "Male", "Female"],
            "age": [20, 29, 30, 51, 74],
        }
    )
    results, (log_probs, labels, _) = evaluate_voices(*parts, voices)
    correct = log_probs.argmax(-1).numpy() == labels
    assert results["voice_by"]["sex"] == {
        "Female": {"n": 3, "accuracy": pytest.approx(correct[[1, 2, 4]].mean())},
        "Male": {"n": 2, "accuracy": pytest.approx(correct[[0, 3]].mean())},
    }
    assert {group: each["n"] for group, each in results["voice_by"]["age"].items()} == {
        "20-29": 2,
        "30-39": 1,
        "50-74": 2,
    }


@pytest.fixture
def folds(tmp_path, parts) -> Path:
    """The folders of folds 0, 1, 2 and 4, each tested on its actors by a model of its own."""
    write_voices(tmp_path / "voices", sentences=("DFA",))
    voices = load_voices(str(tmp_path / "voices"), parts[1].feature_extractor)
    for fold in (0, 1, 2, 4):
        (tmp_path / f"fold{fold}").mkdir()
        figures = evaluate_split(*parts, None, split_voices(voices, fold), "test")
        write_results(figures, tmp_path / f"fold{fold}" / "results.json")
    return tmp_path


def finish_fold3(folds: Path):
    """Gives fold 3 the figures of fold 2, as its own."""
    (folds / "fold3").mkdir()
    text = (folds / "fold2" / "results.json").read_text().replace("fold 2", "fold 3")
    (folds / "fold3" / "results.json").write_text(text)


def test_five_folds_are_trained_tested_and_not_trained_again(folds, monkeypatch):
    trained = []

    def train(command: list[str], check: bool):
        trained.append(command[2:])
        finish_fold3(folds)

    monkeypatch.setattr(evaluate_hf.subprocess, "run", train)
    figures = evaluate_hf.evaluate_folds(folds, {"faces": None, "voices": None}, ["--num_train_epochs", "2"])
    output = ["--output_dir", str(folds / "fold3"), "--do_predict", "true"]
    assert trained == [["--fold", "3", *output, "--num_train_epochs", "2"]]
    assert [each["fold"] for each in figures["folds"]] == [0, 1, 2, 3, 4]
    assert figures["n"] == sum(each["n"] for each in figures["folds"]) > 0
    for name in ("accuracy", "mean_recall", "macro_f1", "calibration_error", "expected_if_calibrated"):
        assert figures[name] == pytest.approx(np.mean([each[name] for each in figures["folds"]]))
    assert figures["accuracy_spread"] == pytest.approx(np.std([each["accuracy"] for each in figures["folds"]]))
    assert "| voice, mean of five folds | folds 0 to 4 |" in markdown_table({"splits": {}, "voice_folds": figures})


def test_a_fold_that_was_tested_on_something_else_is_refused(folds):
    shutil.copytree(folds / "fold2", folds / "fold3")
    with pytest.raises(ValueError, match="fold3 was not tested on fold 3: train it with --do_predict"):
        evaluate_hf.evaluate_folds(folds, {"faces": None, "voices": None}, [])


def test_the_picture_is_drawn(tmp_path, parts):
    pytest.importorskip("matplotlib")
    results, _ = evaluate_faces(*parts, *faces_with_votes())
    draw(results, tmp_path / "figures.png")
    with Image.open(tmp_path / "figures.png") as picture:
        assert min(picture.size) > 300 and len(np.unique(picture.convert("L"))) > 50


# --- The command


NO_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError("a connection")

socket.socket.connect = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, parts) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_faces(folder / "faces", train=3, test=3)
    write_voices(folder / "voices", sentences=("DFA",))
    save_all(*parts, folder / "model")
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python evaluate_hf.py ARGUMENTS`, with empty caches and without a network."""
    (folder / "start").mkdir()
    (folder / "start" / "sitecustomize.py").write_text(NO_NETWORK)  # which Python imports before anything else
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "home"),
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(folder / "start"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "evaluate_hf.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_one_command_prints_and_writes_every_figure_with_n_and_needs_no_network(folders):
    arguments = ("--model", "model", "--faces", "faces", "--voices", "voices", "--output", "results.json")
    done = command(folders, *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads((folders / "results.json").read_text())
    assert results["face"]["n"] == 21 and results["voice"]["n"] == 6
    assert results["fused"]["n"] == 18  # every test face but the surprised
    assert {name: part["n"] for name, part in results["words"].items()} == {
        "face_trained": 21,
        "voice_trained": 6,
        "face_held_out": 21,
        "voice_held_out": 6,
    }
    for name in ("accuracy", "mean_recall", "macro_f1", "calibration_error", "expected_if_calibrated"):
        assert 0 <= results["face"][name] <= 1 and 0 <= results["voice"][name] <= 1
    assert results["splits"] == {"face": "PublicTest+PrivateTest", "voice": "fold 0"}
    assert done.stdout.strip() == markdown_table(results)
    main, unsure, recall, texts = done.stdout.strip().split("\n\n")
    rows = [line.split("|") for line in main.splitlines()[2:]]
    assert [int(cells[3].replace(",", "")) for cells in rows] == [21, 21, 21, 6, 18, 18, 18, 18, 21, 6, 21, 6]
    assert [line.split("|")[1].strip() for line in recall.splitlines()[2:]] == ["face", "voice"]
    assert [line.split("|")[1].strip() for line in unsure.splitlines()[2:]] == ["faces, as acted", "voices, as acted"]
    assert [int(line.split("|")[2]) for line in texts.splitlines()[2:]] == [200, 400, 300]
    assert f"accuracy {100 * results['texts']['emotion']['accuracy']:.1f} %" in texts
    assert f"**{100 * results['face']['accuracy']:.1f}**" in done.stdout


@pytest.fixture
def run(folders, monkeypatch) -> Callable:
    """`python evaluate_hf.py ARGUMENTS` in this process; returns what it exits with."""
    monkeypatch.chdir(folders)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folders / "cache"))  # of a process that it starts

    def run(*arguments: str) -> str | int | None:
        monkeypatch.setattr(sys, "argv", ["evaluate_hf.py", *arguments])
        try:
            evaluate_hf.main()
        except SystemExit as end:
            return end.code

    return run


def test_a_model_that_is_not_there_ends_in_a_sentence(run):
    end = run("--model", "nowhere", "--faces", "none")
    assert end.startswith("evaluate_hf.py: For nowhere the Hub cannot be reached") and "\n" not in end


def test_folds_that_are_tested_need_no_data_and_a_training_that_fails_no_traceback(run, folders, folds, capfd):
    finish_fold3(folds)
    arguments = ["--model", "model", "--faces", "nowhere", "--protocol", "cremad-5fold"]
    arguments += ["--folds", str(folds), "--output", "folds.json"]
    assert run(*arguments) is None
    assert "voice, mean of five folds" in capfd.readouterr().out
    assert len(json.loads((folders / "folds.json").read_text())["voice_folds"]["folds"]) == 5
    shutil.rmtree(folds / "fold4")
    assert "a fold's training failed, as told above" in run(*arguments)
    told = capfd.readouterr().err
    assert "train_hf.py: " in told and "Traceback" not in told


def test_nothing_to_evaluate_leaves_the_results_as_they_are(run, capfd):
    assert run("--faces", "none", "--voices", "none") == 2
    assert "nothing to evaluate" in capfd.readouterr().err


def test_unknown_arguments_are_refused_unless_they_are_for_a_training(run, capfd):
    assert run("--model", "model", "--num_train_epochs", "2") == 2
    assert "unrecognized arguments: --num_train_epochs 2" in capfd.readouterr().err


def test_a_card_needs_to_know_of_the_training(run):
    end = run("--model", "model", "--card")
    assert end == "evaluate_hf.py: model has no training.json, from which its card says how it was trained."


def test_the_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- results -->\nan old table\n<!-- /results -->\nbelow\n")
    replace_table(page, "a table")
    assert page.read_text() == "above\n<!-- results -->\na table\n<!-- /results -->\nbelow\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="must have <!-- results --> and <!-- /results --> once each"):
        replace_table(page, "a table")
