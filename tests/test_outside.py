"""People outside the corpora: read from tables and folders, and scored as the pipeline scores a visitor's."""

import json
import shutil
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from helpers import ASTRONAUT, LABELS, READING, ROOT
from PIL import Image

import evaluate_hf
from hub import load_pipeline
from training.outside import evaluate_outside, load_labelled
from training.report import markdown_table

#: By what arguments of the pipeline an answer is had.
ANSWERS = {
    "acted": {"reading": "acted"},
    "perceived": {"reading": "perceived"},
    "perceived_uniform": {"reading": "perceived", "prior": "uniform"},
}
HAPPY, ANGRY, SURPRISE = (LABELS.index(label) for label in ("happy", "angry", "surprise"))


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return load_pipeline(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder with a folder for each emotion: a happy face, a grey picture said to be sad, and what is no picture."""
    folder = tmp_path_factory.mktemp("outside") / "faces"
    folder.mkdir()
    for name in ("happy", "Sadness"):
        (folder / name).mkdir()
    shutil.copy(ASTRONAUT, folder / "happy" / "astronaut.jpg")
    Image.new("RGB", (200, 200), "grey").save(folder / "Sadness" / "grey.png")
    (folder / "Sadness" / "notes.jpg").write_text("Nobody is sad here.")
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A parquet file with two recordings, the second of an emotion that the voice head was not taught."""
    path = tmp_path_factory.mktemp("voices") / "two.parquet"
    rows = {"audio": [{"bytes": READING.read_bytes(), "path": None}] * 2, "label": [1, 0]}
    Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["surprised", "anger"])).to_parquet(path)
    return path


def test_folders_and_tables_are_read_by_the_names_of_their_emotions(faces, voices):
    table = load_labelled(str(faces), "face")
    assert sorted(table["label"]) == [HAPPY, *[LABELS.index("sad")] * 2]
    assert load_labelled(str(voices), "voice")["label"][:] == [ANGRY, SURPRISE]


def test_what_has_neither_is_refused_in_a_sentence(tmp_path, faces):
    with pytest.raises(ValueError, match="neither parquet files nor a folder of files for each emotion"):
        load_labelled(str(tmp_path), "face")
    (tmp_path / "bored").mkdir()
    shutil.copy(ASTRONAUT, tmp_path / "bored")
    with pytest.raises(ValueError, match="Unknown emotion 'bored'"):
        load_labelled(str(tmp_path), "face")


def test_faces_are_looked_for_and_scored_by_every_answer(pipe, faces):
    figures = evaluate_outside(pipe.recognizer, "face", load_labelled(str(faces), "face"))
    assert figures["n"] == 3 and figures["found"] == pytest.approx(1 / 3)
    for answer, options in ANSWERS.items():
        score = pipe(str(ASTRONAUT), **options).face.scores["happy"]
        assert figures[answer]["nll"] == pytest.approx(-np.log(score), abs=1e-4)
        assert figures[answer]["n"] == 1 and figures[answer]["accuracy"] == 1.0
    assert len({figures[answer]["nll"] for answer in ANSWERS}) == 3


def test_faces_may_be_cut_out_already(pipe, tmp_path):
    face = np.random.default_rng(0).integers(0, 256, (48, 48), "u1")
    (tmp_path / "happy").mkdir()
    Image.fromarray(face).save(tmp_path / "happy" / "face.png")
    dataset = load_labelled(str(tmp_path), "face")
    with pytest.raises(ValueError, match="no face, or no speech, was found"):
        evaluate_outside(pipe.recognizer, "face", dataset)
    figures = evaluate_outside(pipe.recognizer, "face", dataset, crops=True)
    [expected] = pipe.recognizer.adapted("acted").face_log_probs([np.stack([face] * 3, -1)])
    assert figures["acted"]["nll"] == pytest.approx(-expected[HAPPY].item(), abs=1e-4)


def test_voices_go_through_the_speech_detector_and_untaught_emotions_are_left_out(pipe, voices):
    figures = evaluate_outside(pipe.recognizer, "voice", load_labelled(str(voices), "voice"))
    assert figures["n"] == 1 and figures["found"] == 1.0
    for answer, options in ANSWERS.items():
        score = pipe(str(READING), **options).voice.scores["angry"]
        assert figures[answer]["nll"] == pytest.approx(-np.log(score), abs=1e-4)


def test_the_command_adds_them_to_the_other_figures(checkpoint, faces, voices, tmp_path, monkeypatch, capsys):
    output = tmp_path / "results.json"
    before = json.loads((ROOT / "checkpoints" / "emoclip-small" / "results.json").read_text())
    output.write_text(json.dumps(before))
    arguments = ["--model", str(checkpoint), "--protocol", "outside", "--faces", str(faces), "--voices", str(voices)]
    monkeypatch.setattr(sys, "argv", ["evaluate_hf.py", *arguments, "--output", str(output)])
    evaluate_hf.main()
    results = json.loads(output.read_text())
    assert {"faces", "two"} <= results["outside"].keys() and results["face"] == before["face"]
    printed = capsys.readouterr().out
    assert printed.strip() == markdown_table(results).strip()
    assert "| faces outside, as acted | faces | 1 |" in printed and "| voices outside, as perceived | two |" in printed
    assert "| voices outside, as perceived, if all emotions are equally frequent | two | 1 |" in printed


def test_the_command_without_anybody_ends_in_a_sentence(checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate_hf.py", "--model", str(checkpoint), "--protocol", "outside"])
    with pytest.raises(SystemExit) as end:
        evaluate_hf.main()
    assert str(end.value) == "evaluate_hf.py: Name --faces, --voices or both, whom the answers are to be about."
