"""Sources as people have them: odd files, odd tables, odd folders. Each is used, or refused in one sentence; what is
left out is named and counted."""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets import ClassLabel, Dataset, Features, Image
from helpers import ACTORS, TINY, face, png, tone, voice_name, write_faces, write_voices
from PIL import Image as PILImage

import evaluate_hf
import train_hf
import training.sources
from configuration_emoclip import LABELS
from processing_emoclip import EmoCLIPFeatureExtractor
from training.sources import load_faces, load_voices
from training.splits import split_voices

REAL = os.environ.get("EMOCLIP_DATA")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 96044\n"
CODES = {"angry": 0, "disgust": 1, "fear": 2, "happy": 3, "sad": 4, "surprise": 5, "neutral": 6}
HAPPY = LABELS.index("happy")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What `datasets` prepares here stays here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def extractor() -> EmoCLIPFeatureExtractor:
    return EmoCLIPFeatureExtractor()


def pixels(dataset: Dataset, row: int = 0) -> np.ndarray:
    return np.frombuffer(dataset["pixels"][row], np.uint8).reshape(48, 48)


def refusal(load: Callable, *arguments) -> str:
    """The one sentence with which a source is refused."""
    with pytest.raises(ValueError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- Pictures


def odd_pictures() -> dict[str, tuple[PILImage.Image, dict, np.ndarray]]:
    """Name -> (picture, options of its PNG, the bytes (48, 48) it must become)."""
    upright = face("happy")
    turned = PILImage.Exif()
    turned[0x0112] = 6  # to be turned by a quarter, clockwise
    seen = np.zeros((48, 48), np.uint8)
    seen[:, :24] = 255
    return {
        "16-bit grey": (PILImage.fromarray(upright.astype(np.uint16) * 257), {}, upright),
        "on its side, as its EXIF says": (PILImage.fromarray(np.rot90(upright)), {"exif": turned}, upright),
        "half transparent": (
            PILImage.fromarray(np.dstack([upright] * 3 + [seen])),
            {},
            np.where(seen, upright, 255).astype(np.uint8),
        ),
        "palette": (PILImage.fromarray(upright).convert("P"), {}, upright),
        "plain": (PILImage.fromarray(upright), {}, upright),
    }


@pytest.mark.parametrize("name", odd_pictures())
@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_pictures_are_read_as_inference_reads_them(tmp_path, name, layout):
    picture, options, expected = odd_pictures()[name]
    folder = write_faces(tmp_path / "fer", train=6, test=1)
    file = folder / "test" / "happy" / "0.png"
    picture.save(file, **options)
    if layout == "parquet":
        columns = Features(image=Image(), label=ClassLabel(names=list(LABELS)))
        for split, row in (("train", png(face("happy", 9))), ("validation", png(face("sad", 9))), ("test", None)):
            rows = {"image": [{"bytes": row or file.read_bytes(), "path": None}], "label": [HAPPY]}
            (tmp_path / "parquet").mkdir(exist_ok=True)
            Dataset.from_dict(rows, features=columns).to_parquet(tmp_path / "parquet" / f"{split}-0.parquet")
        folder = tmp_path / "parquet"
    test = load_faces(str(folder)).test
    assert np.array_equal(pixels(test, test["label"].index(HAPPY)), expected)


@pytest.mark.skipif(not REAL, reason="EMOCLIP_DATA does not say where the data is")
def test_fer2013s_own_files_keep_their_bytes(tmp_path):
    file = str(Path(REAL) / "fer2013" / "test-00000-of-00001.parquet")
    rows = datasets.load_dataset("parquet", data_files=file, split="train[:70]")
    for i, row in enumerate(rows):
        for split in ("train", "validation", "test"):
            folder = tmp_path / "fer" / split / LABELS[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i:02}.png")
    expected = sorted(np.asarray(row["image"]).tobytes() for row in rows)
    assert sorted(load_faces(str(tmp_path / "fer")).test["pixels"]) == expected
    whole = load_faces(str(Path(REAL) / "fer2013")).test["pixels"]
    assert sorted(whole[: len(rows)]) == expected


def test_what_was_refused_once_is_read_again(tmp_path, monkeypatch):
    """`datasets` keeps what it has prepared; a share that was not mounted must not be remembered."""

    def fail(error: type[Exception]) -> Callable:
        def load_image(source: dict):
            raise error("no luck")

        return load_image

    folder = write_faces(tmp_path / "fer", train=6, test=1)
    with monkeypatch.context() as patch:
        patch.setattr(training.sources, "load_image", fail(OSError))
        assert "42 of 42 files could not be read, the first of them " in refusal(load_faces, str(folder))
        patch.setattr(training.sources, "load_image", fail(ImportError))
        with pytest.raises(ImportError, match="^no luck$"):
            load_faces(str(folder))
    assert len(load_faces(str(folder)).test) == 7


# --- Folders of faces


def test_folders_may_have_kaggles_names_and_what_systems_leave_in_them(tmp_path, caplog):
    folder = write_faces(tmp_path / "fer", train=6, test=1)
    (folder / "train").rename(folder / "Training")
    (folder / "test").rename(folder / "PrivateTest")
    write_faces(tmp_path / "more", train=1, test=1)
    (tmp_path / "more" / "test").rename(folder / "PublicTest")
    for junk in (
        "Training/happy/._0.png",
        "Training/.DS_Store",
        "PrivateTest/sad/Thumbs.db",
        "Training/happy/.x/1.png",
    ):
        (folder / junk).parent.mkdir(exist_ok=True)
        (folder / junk).write_bytes(b"junk")
    (folder / "README.txt").write_text("about these")
    corpus = load_faces(str(folder))
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (42, 7, 7)
    assert corpus.test_name == "PrivateTest"
    assert "left out 4 hidden or system files, such as " in caplog.text
    assert "left out 1 files outside train/<emotion>, such as README.txt" in caplog.text


def test_a_split_that_is_empty_is_refused(tmp_path):
    folder = write_faces(tmp_path / "fer", train=6, test=1)
    (folder / "validation" / "happy").mkdir(parents=True)
    assert refusal(load_faces, str(folder)) == f"{folder} has no faces in its split validation."
    (folder / "train").rename(folder / "elsewhere")
    assert refusal(load_faces, str(folder)).endswith("has the splits validation, test; EmoCLIP needs train and test.")
    (tmp_path / "nothing").mkdir()
    assert "holds neither fer2013.csv, nor parquet" in refusal(load_faces, str(tmp_path / "nothing"))
    (tmp_path / "faces.zip").write_bytes(b"PK")
    assert "is a file, but not Kaggle's fer2013.csv" in refusal(load_faces, str(tmp_path / "faces.zip"))


# --- Kaggle's table


def write_table(
    file: Path, header: str = "emotion,pixels,Usage", row: str = "{code},{pixels},{usage}", extra: str = ""
) -> Path:
    """A row an emotion in each split."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [header]
    for usage, first in (("Training", 0), ("PublicTest", 100), ("PrivateTest", 200)):
        for label, code in CODES.items():
            text = " ".join(map(str, face(label, first).flatten()))
            lines.append(row.format(code=code, pixels=text, usage=usage, lower=usage.lower()))
    file.write_text("\n".join(lines) + "\n" + extra)
    return file


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("emotion, Usage, pixels", "{code},{usage},{pixels}"),  # icml_face_data.csv's
        (" Emotion ,PIXELS,usage", " {code} ,{pixels}, {lower} "),
        ("\ufeffemotion,pixels,Usage", '{code},"{pixels}",{usage}'),
        ("emotion,pixels,Usage", "{code},{pixels},{usage},,"),
        (",emotion,pixels,Usage", "0,{code},{pixels},{usage}"),  # with the index that pandas writes
    ],
)
@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv", "FER2013.CSV"])
def test_kaggles_table_in_all_its_forms(tmp_path, name, header, row):
    file = write_table(tmp_path / "kaggle" / name, header, row)
    for source in (file.parent, file):
        corpus = load_faces(str(source))
        assert (corpus.validation_name, corpus.test_name) == ("PublicTest", "PrivateTest")
        for first, split in ((0, corpus.train), (100, corpus.validation), (200, corpus.test)):
            assert [LABELS[i] for i in split["label"]] == list(CODES)
            assert all(np.array_equal(pixels(split, i), face(label, first)) for i, label in enumerate(CODES))


PIXELS = " ".join(["7"] * 48 * 48)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"0,{PIXELS}", "2 cells instead of 3"),
        (f"0,{PIXELS},Training,1", "4 cells instead of 3"),
        (f"0,{PIXELS},", "a Usage of '' instead of Training, PublicTest or PrivateTest"),
        (f"9,{PIXELS},Training", "an emotion of '9' instead of 0 to 6"),
        (f",{PIXELS},Training", "an emotion of '' instead of 0 to 6"),
        ("0,1 2 3,Training", "3 pixels instead of 2304"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_number(tmp_path, caplog, line, problem):
    file = write_table(tmp_path / "fer2013.csv", extra=f"{line}\n")
    corpus = load_faces(str(file))
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (7, 7, 7)
    assert f"{file}: left out row 23: {problem}" in caplog.text
    assert f"{file}: 1 of 22 rows could not be read and are left out." in caplog.text
    file.write_text(file.read_text() + f"{line}\n")
    expected = f"{file}: 2 of 23 rows could not be read, the first of them row 23: {problem}; get it afresh."
    assert refusal(load_faces, str(file)) == expected


def test_a_table_that_lacks_something_is_refused(tmp_path):
    file = write_table(tmp_path / "fer2013.csv", "emotion,pixels,split")
    assert refusal(load_faces, str(file)) == f"{file}, row 1: there is no column usage; FER-2013 has all three."
    file.write_text("emotion;pixels;Usage\n")
    assert "there is no column emotion or pixels or usage" in refusal(load_faces, str(file))
    file.write_text("")
    assert "there is no column emotion or pixels or usage" in refusal(load_faces, str(file))
    file.write_text("emotion,pixels,Usage\n\n")
    assert refusal(load_faces, str(file)) == f"{file} holds no data."
    write_table(file)
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "PublicTest" not in line))
    assert refusal(load_faces, str(file)) == f"{file} has no faces in its split validation."


# --- Parquet and the Hub


def test_parquet_that_is_cut_or_has_no_splits_name_is_refused(tmp_path):
    columns = Features(image=Image(), label=ClassLabel(names=[*LABELS]))
    rows = {"image": [{"bytes": png(face("happy")), "path": None}], "label": [HAPPY]}
    folder = tmp_path / "fer"
    folder.mkdir()
    for split in ("train", "test"):
        Dataset.from_dict(rows, features=columns).to_parquet(folder / f"{split}.parquet")
    data = (folder / "test.parquet").read_bytes()
    for damaged in (data[: len(data) // 2], b""):
        (folder / "test.parquet").write_bytes(damaged)
        sentence = f"{folder / 'test.parquet'} is damaged, or no parquet file: get it afresh."
        assert refusal(load_faces, str(folder)) == sentence
    (folder / "test.parquet").rename(folder / "faces.parquet")
    assert "faces.parquet has the name of no split" in refusal(load_faces, str(folder))


@pytest.mark.parametrize("label", [-1, None])
def test_labels_that_are_kept_secret_are_not_the_last_class(tmp_path, label):
    columns = Features(image=Image(), label=ClassLabel(names=[*LABELS]))
    (tmp_path / "fer").mkdir()
    for split in ("train", "test"):
        rows = {
            "image": [{"bytes": png(face("happy")), "path": None}],
            "label": [HAPPY if split == "train" else label],
        }
        Dataset.from_dict(rows, features=columns).to_parquet(tmp_path / "fer" / f"{split}-0.parquet")
    assert f"column 'label' holds {label}, which is none of its 7 classes" in refusal(
        load_faces, str(tmp_path / "fer")
    )


@pytest.mark.parametrize("load", [load_faces, lambda name: load_voices(name, EmoCLIPFeatureExtractor())])
@pytest.mark.parametrize("name", ["somebody/nothing", "no/such/folder", "./nowhere", "a b"])
def test_what_is_neither_a_folder_nor_on_the_hub_is_told_in_a_sentence(load, name):
    assert refusal(load, name).startswith(f"{name} cannot be read as a dataset: ")


# --- Recordings


def test_recordings_are_used_whatever_the_case_of_their_names_and_what_else_lies_there(tmp_path, extractor, caplog):
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",))
    names = sorted(path.name for path in (folder / "AudioWAV").iterdir())
    expected = load_voices(str(folder), extractor)["voice"][:]
    for i, name in enumerate(names):
        changed = (name, name.replace(".wav", ".WAV"), name.replace(".wav", ".Wav"), name.lower())[i % 4]
        (folder / "AudioWAV" / name).rename(folder / "AudioWAV" / changed)
        (folder / "AudioWAV" / f"._{changed}").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    for other in ("README.txt", ".DS_Store", "desktop.ini", "summary.csv"):
        (folder / "AudioWAV" / other).write_bytes(b"no sound")
    voices = load_voices(str(folder), extractor)
    assert voices["file"] == names and len(names) == 30  # the official names, in their order
    assert voices["voice"] == expected
    assert "left out 32 hidden or system files, such as .DS_Store." in caplog.text
    assert "left out 2 files that are no .wav, such as README.txt." in caplog.text
    (folder / "AudioWAV").rename(folder / "audiowav")
    for place in (folder, folder / "audiowav"):
        assert load_voices(str(place), extractor)["voice"] == expected


def test_recordings_keep_the_bytes_that_soundfile_and_the_extractor_give(tmp_path, extractor):
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",), actors=(1001,))
    other = folder / "AudioWAV" / voice_name("sad", 1019)  # another rate, two channels
    soundfile.write(other, np.stack([tone("sad", rate=44_100), 0.5 * tone("sad", rate=44_100)], 1), 44_100)
    voices = load_voices(str(folder), extractor)
    for file, voice in zip(voices["file"], voices["voice"]):
        samples, rate = soundfile.read(folder / "AudioWAV" / file, dtype="float32", always_2d=True)
        assert voice == extractor.encode(samples.T, rate).numpy().tobytes()


def test_channels_that_cancel_each_other_are_heard_and_said(tmp_path, extractor, caplog):
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",), actors=(1001,))
    expected = load_voices(str(folder), extractor)
    for path in (folder / "AudioWAV").iterdir():
        samples, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, np.stack([samples, -samples], 1), rate)
    voices = load_voices(str(folder), extractor)
    assert voices["voice"] == expected["voice"]
    assert "of 6 of 6 files, such as " in caplog.text and "most of it cancels out" in caplog.text


def test_suspect_clips_are_known_by_any_form_of_their_names(tmp_path, extractor):
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",))
    soundfile.write(folder / "AudioWAV" / "1076_mti_sad_xx.WAV", tone("sad"), 16_000, format="WAV")
    train = split_voices(load_voices(str(folder), extractor), 0).train
    assert len(train) == 18 and "1076_MTI_SAD_XX.wav" not in train["file"]


def test_a_few_names_that_are_not_cremads_are_left_out_and_named(tmp_path, extractor, caplog):
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",))
    soundfile.write(folder / "AudioWAV" / "1001_DFA_ANG_XX copy.wav", tone("sad"), 16_000)
    assert len(load_voices(str(folder), extractor)) == 30
    assert "left out 1001_DFA_ANG_XX copy.wav: not a CREMA-D file name such as" in caplog.text
    assert "1 of 31 files could not be read" in caplog.text


def test_only_so_many_are_named(tmp_path, extractor, caplog):
    folder = write_voices(tmp_path / "cremad", sentences=tuple(f"S{a}{b}" for a in "ABCDEFG" for b in "AB"))
    files = sorted((folder / "AudioWAV").iterdir())
    for path in files[:20]:
        path.write_bytes(b"RIFF")
    with caplog.at_level(logging.WARNING, "emoclip"):
        assert len(load_voices(str(folder), extractor)) == len(files) - 20 == 400
    assert len(caplog.messages) == 11 and caplog.messages[-1].endswith(
        "20 of 420 files could not be read and are left out."
    )


# --- Git LFS


def test_git_lfs_pointers_are_told_in_one_sentence(tmp_path, extractor, caplog):
    faces, voices = write_faces(tmp_path / "faces", 6, 1), write_voices(tmp_path / "voices", sentences=("DFA",))
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "fer2013.csv").write_bytes(POINTER)
    for name in ("fer-parquet", "cremad-parquet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-00000-of-00001.parquet").write_bytes(POINTER)
    for path in (*faces.glob("*/*/*.png"), *voices.glob("*/*.wav")):
        path.write_bytes(POINTER)
    hear = lambda name: load_voices(name, extractor)  # noqa: E731
    for load, name, count in (
        (load_faces, "faces", 49),
        (load_faces, "table", 1),
        (load_faces, "fer-parquet", 1),
        (hear, "voices", 30),
        (hear, "cremad-parquet", 1),
    ):
        sentence = refusal(load, str(tmp_path / name))
        assert f"{count} of {count} files are Git LFS pointers" in sentence and "run `git lfs pull` there" in sentence
    assert not caplog.text


# --- Splits without anything in them: both commands, before any training


@pytest.fixture
def command(tmp_path, monkeypatch) -> Callable[..., str]:
    """The sentence with which train_hf.py or evaluate_hf.py refuses the data in the folder."""

    def command(module, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as end:
            module.main()
        assert "\n" not in str(end.value.code)
        return end.value.code

    return command


def arguments_of(tmp_path: Path, *more: str) -> list[str]:
    return ["--config", json.dumps(TINY), "--faces", "faces", "--voices", "voices", "--use_cpu", *more]


def test_no_voices_to_train_on(tmp_path, command):
    write_faces(tmp_path / "faces")
    write_voices(tmp_path / "voices", sentences=("DFA",), actors=ACTORS[:2])  # of folds 0 and 1
    assert command(train_hf, *arguments_of(tmp_path)) == (
        "train_hf.py: There are no voices to train on: the training split has 0, that for choosing (fold 1) 6, and "
        "that for testing (fold 0) 6."
    )
    assert not (tmp_path / "outputs").exists()
    for more, sentence in (
        (["--fold", "2"], "no voices to choose by"),
        (["--fold", "4", "--do_predict"], "no voices to test on"),
    ):
        assert sentence in command(train_hf, *arguments_of(tmp_path, *more))


def test_no_voices_or_faces_to_choose_by_or_to_test_on(tmp_path, command):
    write_faces(tmp_path / "faces", train=3)
    write_voices(tmp_path / "voices", sentences=("DFA",), actors=ACTORS[1:])
    assert "no faces to choose by: the training split has 21, that for choosing (a tenth of train) 0" in command(
        train_hf, *arguments_of(tmp_path)
    )
    write_faces(tmp_path / "more")
    more = ["--faces", "more"]
    assert "no voices to test on" in command(train_hf, *arguments_of(tmp_path, *more, "--do_predict"))
    assert "no voices to choose by" in command(train_hf, *arguments_of(tmp_path, *more, "--fold", "4"))
    for option in ("--voices_per_epoch", "--max_train_samples", "--max_eval_samples"):
        assert f"{option} must be at least 1, not 0" in command(train_hf, *arguments_of(tmp_path, option, "0"))
    assert "--train_share 0.001 leaves none of 63 rows" in command(
        train_hf, *arguments_of(tmp_path, *more, "--train_share", "0.001")
    )


def test_nothing_to_evaluate(tmp_path, command, checkpoint):
    write_voices(tmp_path / "voices", sentences=("DFA",), actors=ACTORS[:2])
    arguments = ["--model", str(checkpoint), "--faces", "none", "--voices", "voices", "--fold", "2"]
    assert command(evaluate_hf, *arguments).startswith("evaluate_hf.py: There are no voices to test on: ")
    write_faces(tmp_path / "faces", train=3)
    arguments = ["--model", str(checkpoint), "--faces", "faces", "--voices", "none", "--split", "validation"]
    assert command(evaluate_hf, *arguments).startswith("evaluate_hf.py: There are no faces to choose by: ")


def test_five_folds_are_not_begun_where_one_has_nothing_to_test_on(tmp_path, command, checkpoint):
    write_voices(tmp_path / "voices", sentences=("DFA",), actors=ACTORS[:4])
    arguments = ["--model", str(checkpoint), "--faces", "faces", "--voices", "voices", "--protocol", "cremad-5fold"]
    expected = "There are no voices to choose by: the training split has 18, that for choosing (fold 4) 0, "
    assert command(evaluate_hf, *arguments).startswith(f"evaluate_hf.py: {expected}")
    assert not (tmp_path / "outputs").exists()
