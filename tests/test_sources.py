"""Sources: every layout of FER-2013 and CREMA-D, labels by name, broken files."""

import logging
import os
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from helpers import ACTORS, CODES, face, png, tone, voice_name, wav, write_faces, write_voices
from PIL import Image as PILImage

from configuration_emoclip import LABELS, VOICE_LABELS
from processing_emoclip import EmoCLIPFeatureExtractor, EmoCLIPWaveformExtractor
from training.dataset import face_tensors, voice_tensors
from training.labels import to_label
from training.sources import FACES_HUB_ID, label_reader, load_faces, load_voices
from training.splits import relabel_by_votes, split_voices

REAL = os.environ.get("EMOCLIP_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="EMOCLIP_DATA does not say where the data is")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """What `datasets` prepares here stays here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def extractor() -> EmoCLIPFeatureExtractor:
    return EmoCLIPFeatureExtractor()


def pixels_of(dataset: Dataset) -> np.ndarray:
    return face_tensors(dataset)[0].numpy()


# --- Faces


def test_faces_from_folders_named_after_the_emotions(tmp_path, cache):
    corpus = load_faces(str(write_faces(tmp_path / "fer")))
    assert corpus.test_name == "PublicTest+PrivateTest"
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (63, 7, 14)
    assert set(corpus.validation["label"]) == set(range(7))  # 10 % of every class
    for split in (corpus.train, corpus.validation, corpus.test):
        for pixels, label in zip(pixels_of(split), split["label"]):
            closest = min(range(7), key=lambda i: np.abs(pixels.astype(int) - face(LABELS[i])).mean())
            assert closest == label


def test_faces_of_other_sizes_and_colours_become_48_by_48_grey(tmp_path, cache):
    folder = write_faces(tmp_path / "fer", train=2, test=1)
    large = PILImage.fromarray(face("sad", 0)).convert("RGB").resize((200, 200), PILImage.Resampling.NEAREST)
    large.save(folder / "test" / "sad" / "0.png")
    test = load_faces(str(folder)).test
    assert pixels_of(test).shape == (7, 48, 48)
    row = test["label"].index(LABELS.index("sad"))
    assert np.abs(pixels_of(test)[row].astype(int) - face("sad", 0)).mean() < 10


def write_kaggle_csv(folder: Path) -> dict[str, list[np.ndarray]]:
    """fer2013.csv as Kaggle has it: codes of its own order, and the splits under `Usage`."""
    folder.mkdir()
    codes = {"angry": 0, "disgust": 1, "fear": 2, "happy": 3, "sad": 4, "surprise": 5, "neutral": 6}
    lines, faces = ["emotion,pixels,Usage"], {}
    for usage, first in (("Training", 0), ("PublicTest", 100), ("PrivateTest", 200)):
        faces[usage] = []
        for i, (label, code) in enumerate(codes.items()):
            pixels = face(label, first + i)
            faces[usage].append((label, pixels))
            lines.append(f"{code},{' '.join(map(str, pixels.flatten()))},{usage}")
    (folder / "fer2013.csv").write_text("\n".join(lines) + "\n")
    return faces


def test_faces_from_kaggles_csv_with_its_own_codes_and_splits(tmp_path, cache):
    expected = write_kaggle_csv(tmp_path / "kaggle")
    corpus = load_faces(str(tmp_path / "kaggle"))
    assert corpus.test_name == "PrivateTest"
    splits = {"Training": corpus.train, "PublicTest": corpus.validation, "PrivateTest": corpus.test}
    for usage, split in splits.items():
        assert [LABELS[i] for i in split["label"]] == [label for label, _ in expected[usage]]
        assert np.array_equal(pixels_of(split), np.stack([pixels for _, pixels in expected[usage]]))


@pytest.mark.parametrize("cell", ["300 " * 2304, "-1 " * 2304, "1 2 3", "a b c", ""])
def test_a_broken_row_of_the_csv_is_left_out_and_counted(tmp_path, cache, caplog, cell):
    write_kaggle_csv(tmp_path / "kaggle")
    file = tmp_path / "kaggle" / "fer2013.csv"
    rows = [row for row in file.read_text().splitlines() if row.endswith(",Training")]
    file.write_text(file.read_text() + "\n".join(rows * 4) + f"\n0,{cell.strip()},Training\n")
    assert len(load_faces(str(tmp_path / "kaggle")).train) == 35
    assert "fer2013.csv: 1 of 50 rows could not be read" in caplog.text


def write_parquet(folder: Path, names: list[str] | None = None, splits=("train", "validation", "test")) -> Path:
    """As ../shared/data has it: PNG bytes and a ClassLabel, one file a split."""
    folder.mkdir()
    names = names or list(LABELS)
    features = Features({"image": Image(), "label": ClassLabel(names=names), "name": Value("string")})
    for first, split in enumerate(splits):
        rows = [(name, png(face(label, 50 * first))) for name, label in zip(names, LABELS)]
        table = Dataset.from_dict(
            {
                "image": [{"bytes": data, "path": None} for _, data in rows],
                "label": [names.index(name) for name, _ in rows],
                "name": [f"{split}-{name}" for name, _ in rows],
            },
            features=features,
        )
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_faces_from_parquet_with_the_official_splits(tmp_path, cache):
    corpus = load_faces(str(write_parquet(tmp_path / "fer")))
    assert corpus.test_name == "PrivateTest"
    for first, split in enumerate((corpus.train, corpus.validation, corpus.test)):
        assert split["label"] == list(range(7))
        assert np.array_equal(pixels_of(split), np.stack([face(label, 50 * first) for label in LABELS]))
        assert "name" in split.column_names  # what else the source says travels on


def test_labels_are_mapped_by_name_whatever_their_order(tmp_path, cache):
    names = ["Anger", "disgusted", "fearful", "happiness", "Neutral", "sadness", "surprised"][::-1]
    folder = tmp_path / "fer"
    write_parquet(folder, names)  # row i shows LABELS[i] and is called names[i]
    corpus = load_faces(str(folder))
    assert [LABELS[i] for i in corpus.train["label"]] == list(LABELS)[::-1]
    assert to_label(" HAPPY ") == LABELS.index("happy") and to_label("neu") == LABELS.index("neutral")


def test_an_unknown_label_fails_with_the_known_ones(tmp_path, cache):
    with pytest.raises(ValueError, match="contempt") as error:
        load_faces(str(write_parquet(tmp_path / "fer", [*LABELS[:-1], "contempt"])))
    assert all(label in str(error.value) for label in LABELS) and "\n" not in str(error.value)
    folder = write_faces(tmp_path / "folders", train=1, test=1)
    (folder / "train" / "angry").rename(folder / "train" / "bored")
    with pytest.raises(ValueError, match="bored"):
        load_faces(str(folder))


def test_bare_integers_are_refused_unless_their_order_is_known():
    table = Dataset.from_dict({"cls": [0, 3]})
    with pytest.raises(ValueError, match="bare integers") as error:
        label_reader(table, "cls", "somebody/faces")
    assert "somebody/faces" in str(error.value) and "\n" not in str(error.value)
    known = label_reader(table, "cls", FACES_HUB_ID)
    assert [LABELS[known(i)] for i in range(7)] == list(LABELS)


def test_a_source_without_what_is_needed_is_refused_in_one_sentence(tmp_path, cache, extractor):
    with pytest.raises(ValueError, match="train and test"):
        load_faces(str(write_parquet(tmp_path / "half", splits=("train",))))
    (tmp_path / "empty" / "AudioWAV").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    for folder, expected in (("empty", "no .wav file"), ("nothing", "neither")):
        with pytest.raises(ValueError, match=expected) as error:
            load_voices(str(tmp_path / folder), extractor)
        assert "\n" not in str(error.value)


def test_a_corrupt_picture_is_named_left_out_and_counted(tmp_path, cache, caplog):
    folder = write_faces(tmp_path / "fer", train=10, test=1)
    (folder / "train" / "fear" / "3.png").write_bytes(b"no picture")
    data = (folder / "train" / "sad" / "7.png").read_bytes()
    (folder / "train" / "sad" / "7.png").write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING, "emoclip"):
        corpus = load_faces(str(folder))
    assert len(corpus.train) + len(corpus.validation) == 68
    assert f"fear{os.sep}3.png" in caplog.text and f"sad{os.sep}7.png" in caplog.text
    assert "2 of 70 files" in caplog.text


def test_too_many_corrupt_pictures_stop_the_run(tmp_path, cache):
    folder = write_faces(tmp_path / "fer", train=10, test=1)
    for i in range(4):
        (folder / "train" / "fear" / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="4 of 70 files"):
        load_faces(str(folder))


# --- Voices


def test_voices_from_a_folder_of_recordings(tmp_path, cache, extractor):
    voices = load_voices(str(write_voices(tmp_path / "cremad")), extractor)
    assert len(voices) == 60
    mels, labels = voice_tensors(voices, extractor)
    assert {LABELS[i] for i in labels.tolist()} == set(VOICE_LABELS)
    for mel, file, actor, label in zip(mels, voices["file"], voices["actor_id"], labels.tolist()):
        assert file.startswith(str(actor)) and CODES[LABELS[label]] in file
        samples, _ = soundfile.read(tmp_path / "cremad" / "AudioWAV" / file, dtype="float32")
        features = extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_features"][0, 0]
        level = (features * extractor.std + extractor.mean) * 256
        assert (mel.float() - level).abs().max() <= 1.01  # bytes are floor(256 v)
        assert mel.max() == 255 and not mel[:, 60:].any()


def test_the_official_folder_has_one_name_with_a_single_x(tmp_path, cache, extractor):
    folder = tmp_path / "cremad" / "AudioWAV"
    folder.mkdir(parents=True)
    for name in ("1040_ITH_SAD_X.wav", "1040_ITH_HAP_XX.wav"):
        soundfile.write(folder / name, tone("sad"), 16_000)
    voices = load_voices(str(tmp_path / "cremad"), extractor)
    assert voices["label"] == [LABELS.index("happy"), LABELS.index("sad")]
    assert voices["actor_id"] == [1040, 1040]


def test_spectrograms_are_computed_once(tmp_path, cache, extractor, monkeypatch):
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",))
    reads = []
    original = EmoCLIPFeatureExtractor.encode
    monkeypatch.setattr(EmoCLIPFeatureExtractor, "encode", lambda *a: (reads.append(1), original(*a))[1])
    first = load_voices(str(folder), extractor)
    assert len(reads) == 30
    assert load_voices(str(folder), extractor)["voice"] == first["voice"]
    assert len(reads) == 30, "computed again"


def write_voice_parquet(folder: Path, column: str, extractor=None) -> Path:
    """Recordings in an `audio` column, or mel images as ../shared/data has them, beside a bare `file`."""
    folder.mkdir()
    names = [voice_name(label, actor) for actor in ACTORS[:2] for label in CODES]
    samples = [tone(label, actor % 7) for actor in ACTORS[:2] for label in CODES]
    if column == "audio":
        struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        values = pa.array([{"bytes": wav(s), "path": None} for s in samples], type=struct)
        pq.write_table(pa.table({"audio": values, "file": names}), folder / "train-00000-of-00001.parquet")
        return folder
    mels = extractor.encode(samples, 16_000).numpy()
    features = Features(
        {
            "mel": Image(),
            "label": ClassLabel(names=list(VOICE_LABELS)),
            "file": Value("string"),
            "sex": Value("string"),
        }
    )
    Dataset.from_dict(
        {
            "mel": [{"bytes": png(mel), "path": None} for mel in mels],
            "label": [i for _ in ACTORS[:2] for i in range(6)],
            "file": names,
            "sex": ["Female"] * 12,
        },
        features=features,
    ).to_parquet(folder / "fold0-00000-of-00001.parquet")
    return folder


def test_recordings_in_parquet_and_their_mel_images_give_the_same_voices(tmp_path, cache, extractor):
    heard = load_voices(str(write_voice_parquet(tmp_path / "sound", "audio")), extractor)
    seen = load_voices(str(write_voice_parquet(tmp_path / "mel", "mel", extractor)), extractor)
    assert len(heard) == 12 and heard["file"] == seen["file"]
    assert heard["label"] == seen["label"] == list(range(6)) * 2
    assert heard["actor_id"] == [1001] * 6 + [1019] * 6
    assert heard["voice"] == seen["voice"]
    assert seen["sex"] == ["Female"] * 12


def test_a_waveform_tower_gets_the_recordings_themselves_and_no_mel_images(tmp_path, cache, extractor):
    waveform = EmoCLIPWaveformExtractor(sampling_rate=16_000, chunk_length_s=1.0)
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",))
    voices = load_voices(str(folder), waveform)
    stored, _ = voice_tensors(voices, waveform)
    assert stored.shape == (30, 16_000) and stored.dtype == torch.int16
    for samples, file in zip(stored, voices["file"]):
        expected, _ = soundfile.read(folder / "AudioWAV" / file, dtype="int16")
        assert np.array_equal(samples[: len(expected)], expected) and not samples[len(expected) :].any()
    with pytest.raises(ValueError, match="holds mel images, and this model's audio tower reads recordings"):
        load_voices(str(write_voice_parquet(tmp_path / "mel", "mel", extractor)), waveform)


def test_mel_images_of_another_shape_are_left_out(tmp_path, cache, extractor):
    with pytest.raises(ValueError, match="12 of 12 files could not be read"):
        load_voices(str(write_voice_parquet(tmp_path / "mel", "mel", extractor)), EmoCLIPFeatureExtractor(n_mels=64))


def test_a_label_that_contradicts_the_file_name_is_refused(tmp_path, cache, extractor):
    folder = write_voice_parquet(tmp_path / "mel", "mel", extractor)
    file = next(folder.glob("*.parquet"))
    table = Dataset.from_parquet(str(file), cache_dir=str(cache)).to_dict()
    table["label"][0] = 3
    features = Features(
        {
            "mel": Image(),
            "label": ClassLabel(names=list(VOICE_LABELS)),
            "file": Value("string"),
            "sex": Value("string"),
        }
    )
    Dataset.from_dict(table, features=features).to_parquet(file)
    with pytest.raises(ValueError, match="file names"):
        load_voices(str(folder), extractor)


def test_a_name_that_is_not_cremads_is_refused(tmp_path, cache, extractor):
    folder = write_voices(tmp_path / "cremad", sentences=("DFA",), actors=(1001,))
    soundfile.write(folder / "AudioWAV" / "my_voice.wav", tone("sad"), 16_000)
    with pytest.raises(ValueError, match="my_voice.wav"):
        load_voices(str(folder), extractor)
    (folder / "AudioWAV" / "my_voice.wav").rename(folder / "AudioWAV" / "1001_DFA_BOR_XX.wav")
    with pytest.raises(ValueError, match="BOR"):
        load_voices(str(folder), extractor)


def test_a_corrupt_recording_is_named_left_out_and_counted(tmp_path, cache, extractor, caplog):
    folder = write_voices(tmp_path / "cremad")
    victims = [voice_name("fear", 1001), voice_name("sad", 1037)]
    (folder / "AudioWAV" / victims[0]).write_bytes(b"")
    soundfile.write(folder / "AudioWAV" / victims[1], np.zeros(0, "f4"), 16_000)
    with caplog.at_level(logging.WARNING, "emoclip"):
        voices = load_voices(str(folder), extractor)
    assert len(voices) == 58 and not set(victims) & set(voices["file"])
    assert all(name in caplog.text for name in victims) and "2 of 60 files" in caplog.text
    for label in ("happy", "sad"):
        (folder / "AudioWAV" / voice_name(label, 1001)).write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="4 of 60 files"):
        load_voices(str(folder), extractor)


def test_ferplus_labels_need_votes(tmp_path, cache):
    with pytest.raises(ValueError, match="ferplus_votes"):
        relabel_by_votes(load_faces(str(write_faces(tmp_path))))


# --- The real data


@needs_data
def test_the_real_faces_are_complete():
    corpus = load_faces(str(Path(REAL) / "fer2013"))
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (28_709, 3_589, 3_589)
    assert corpus.test_name == "PrivateTest"
    happy = corpus.train["label"].count(LABELS.index("happy"))
    assert happy == max(Counter(corpus.train["label"]).values()) == 7_215
    by_votes = relabel_by_votes(corpus)
    assert (len(by_votes.validation), len(by_votes.test)) == (2_854, 2_720)


@needs_data
def test_the_real_voices_are_complete(extractor):
    voices = load_voices(str(Path(REAL) / "cremad_mel"), extractor)
    assert len(voices) == 7_432
    assert len(set(voices["actor_id"])) == 91
    sizes = [len(split_voices(voices, fold).test) for fold in range(5)]
    assert sum(sizes) == 7_432 and sizes == [1461, 1468, 1474, 1472, 1557]
    corpus = split_voices(voices, 0)
    assert len(corpus.validation) == 1468 and len(corpus.train) == 1474 + 1472 + 1557 - 1
