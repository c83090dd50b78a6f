"""The data: every source layout, labels by name, broken files, splits and folds, pairs, words, augmentation."""

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
from transformers import set_seed

import data_emoclip
from configuration_emoclip import LABELS, VOICE_LABELS
from data_emoclip import (
    SUSPECT_VOICES,
    TEMPLATES,
    WORDS,
    Corpus,
    FaceVoiceDataset,
    actor_fold,
    augment_faces,
    augment_voices,
    fill_templates,
    label_reader,
    load_faces,
    load_voices,
    mix,
    rectangles,
    relabel_by_votes,
    split_voices,
    split_words,
    stratified_split,
    to_label,
    to_tensors,
    tokenize_prompts,
    vote_targets,
    votes_for,
)
from processing_emoclip import EmoCLIPFeatureExtractor
from train_hf import train_tokenizer

REAL = os.environ.get("EMOCLIP_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="EMOCLIP_DATA does not say where the data is")


# --- Small sources, which other tests use too


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """What `datasets` prepares here stays here."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def extractor() -> EmoCLIPFeatureExtractor:
    return EmoCLIPFeatureExtractor()


def pixels_of(dataset: Dataset) -> np.ndarray:
    return to_tensors(dataset, "pixels", (48, 48))[0].numpy()


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
    assert "1 of 36 files could not be read" in caplog.text


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
    known = label_reader(table, "cls", data_emoclip.FACES_HUB_ID)
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


def table_of(pixels: list[bytes], labels: list[int]) -> Dataset:
    features = Features({"pixels": Value("binary"), "label": Value("int64")})
    return Dataset.from_dict({"pixels": pixels, "label": labels}, features=features)


def test_the_validation_split_keeps_identical_images_together_and_takes_a_tenth_of_each_class():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 2_000).tolist()
    images = [bytes([label]) + int(generator.integers(0, 400)).to_bytes(2, "big") for label in labels]  # many repeat
    labels[5] = (labels[5] + 1) % 7  # identical images with conflicting labels exist, too
    train, validation = stratified_split(table_of(images, labels), 0.1, seed=0)
    assert not set(train["pixels"]) & set(validation["pixels"])
    assert Counter(train["pixels"]) + Counter(validation["pixels"]) == Counter(images)
    for label, count in Counter(labels).items():
        assert validation["label"].count(label) == pytest.approx(count / 10, abs=5)
    assert stratified_split(table_of(images, labels), 0.1, seed=0)[1]["pixels"] == validation["pixels"]
    assert stratified_split(table_of(images, labels), 0.1, seed=1)[1]["pixels"] != validation["pixels"]


# --- Voices


def test_voices_from_a_folder_of_recordings(tmp_path, cache, extractor):
    voices = load_voices(str(write_voices(tmp_path / "cremad")), extractor)
    assert len(voices) == 60
    mels, labels = to_tensors(voices, "mel", (128, 188))
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
    original = soundfile.read
    monkeypatch.setattr(soundfile, "read", lambda *a, **k: (reads.append(1), original(*a, **k))[1])
    first = load_voices(str(folder), extractor)
    assert len(reads) == 30
    assert load_voices(str(folder), extractor)["mel"] == first["mel"]
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
    mels = [
        (extractor.spectrogram(extractor.to_waveform(s, 16_000)[None])[0, 0] * 256).clamp(max=255).byte().numpy()
        for s in samples
    ]
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
    assert heard["mel"] == seen["mel"]
    assert seen["sex"] == ["Female"] * 12


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


# --- Folds


def test_the_five_folds_have_18_18_18_18_and_19_actors():
    counts = Counter(actor_fold(actor) for actor in range(1001, 1092))
    assert counts == {0: 18, 1: 18, 2: 18, 3: 18, 4: 19}
    assert [actor_fold(a) for a in (1001, 1018, 1019, 1054, 1055, 1072, 1073, 1091)] == [0, 0, 1, 2, 3, 3, 4, 4]
    for actor in (1000, 1092):
        with pytest.raises(ValueError, match=str(actor)):
            actor_fold(actor)


def every_actor() -> Dataset:
    names = [voice_name(label, actor) for actor in range(1001, 1092) for label in CODES] + list(SUSPECT_VOICES)
    return Dataset.from_dict({"file": names, "actor_id": [int(name[:4]) for name in names]})


@pytest.mark.parametrize("fold", range(5))
def test_no_actor_stands_in_two_splits_and_suspect_clips_train_nobody(fold):
    voices = every_actor()
    corpus = split_voices(voices, fold)
    speakers = [set(split["actor_id"]) for split in (corpus.train, corpus.validation, corpus.test)]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 91
    assert {actor_fold(a) for a in speakers[2]} == {fold}
    assert {actor_fold(a) for a in speakers[1]} == {(fold + 1) % 5}
    assert not set(corpus.train["file"]) & set(SUSPECT_VOICES)
    lost = len(voices) - sum(map(len, (corpus.train, corpus.validation, corpus.test)))
    held = {0: 6, 4: 1}  # suspect clips of actors 1006, 1013, 1017 and of 1076
    assert lost == 7 - held.get(fold, 0) - held.get((fold + 1) % 5, 0)
    assert corpus.test_name == f"fold {fold}"


def test_there_is_no_sixth_fold():
    for fold in (-1, 5):
        with pytest.raises(ValueError, match=str(fold)):
            split_voices(every_actor(), fold)


# --- Pairs


def corpus_of(counts: dict[int, int], column: str, size: int) -> Dataset:
    """Rows of which each holds its own number in every byte, from 1; `counts` says how many of each label."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    features = Features({column: Value("binary"), "label": Value("int64")})
    rows = [bytes([i + 1]) * size for i in range(len(labels))]
    return Dataset.from_dict({column: rows, "label": labels}, features=features)


FACE_COUNTS = {0: 20, 1: 3, 2: 15, 3: 30, 4: 20, 5: 15, 6: 20}
VOICE_COUNTS = dict.fromkeys(range(6), 8)


def pairs(voices_per_epoch: int | None = None, seed: int = 0, prompts=None, **counts) -> FaceVoiceDataset:
    faces = corpus_of(counts.get("faces", FACE_COUNTS), "pixels", 48 * 48)
    voices = corpus_of(counts.get("voices", VOICE_COUNTS), "mel", 4 * 6)
    return FaceVoiceDataset(faces, voices, prompts, (4, 6), voices_per_epoch, seed)


def drawn(dataset: FaceVoiceDataset) -> list[tuple[int, int]]:
    """(face, voice) of every row by the numbers in their bytes; 0 where the row has none."""
    batch = dataset.__getitems__(range(len(dataset)))
    return list(zip(batch["faces"][:, 0, 0].tolist(), batch["mels"][:, 0, 0].tolist()))


def test_a_pair_is_a_face_and_a_voice_of_one_label():
    dataset = pairs(96)
    batch = dataset.__getitems__(range(len(dataset)))
    assert torch.equal(batch["face_labels"], batch["voice_labels"])
    both = batch["face_mask"] & batch["voice_mask"]
    assert both.sum() > 50
    for (face_number, voice_number), label in zip(drawn(dataset), batch["face_labels"].tolist()):
        if face_number:
            assert dataset.face_labels[face_number - 1] == label
        if voice_number:
            assert dataset.voice_labels[voice_number - 1] == label


def test_every_face_stands_in_one_row_and_every_voice_in_as_many_as_any_other():
    for per_epoch, times in ((None, 1), (48, 1), (96, 2), (144, 3)):
        rows = drawn(pairs(per_epoch))
        faces = Counter(face_number for face_number, _ in rows if face_number)
        voices = Counter(voice_number for _, voice_number in rows if voice_number)
        assert faces == dict.fromkeys(range(1, 124), 1)
        assert voices == dict.fromkeys(range(1, 49), times)
        assert (0, 0) not in rows


def test_voices_per_epoch_is_the_number_of_rows_that_carry_one():
    for per_epoch in (24, 60, 96):
        voices = Counter(voice for _, voice in drawn(pairs(per_epoch)) if voice)
        assert sum(voices.values()) == per_epoch
        assert max(voices.values()) - min(voices.get(i, 0) for i in range(1, 49)) <= 1


def test_voices_of_a_label_with_too_few_faces_stand_alone():
    dataset = pairs(48)  # 3 faces of disgust, 8 voices
    batch = dataset.__getitems__(range(len(dataset)))
    disgust = batch["face_labels"] == 1
    assert (disgust & batch["face_mask"] & batch["voice_mask"]).sum() == 3
    assert (disgust & ~batch["face_mask"] & batch["voice_mask"]).sum() == 5
    assert len(dataset) == 123 + 5
    surprise = batch["face_labels"] == 6
    assert surprise.sum() == 20 and not batch["voice_mask"][surprise].any()


def test_pairs_are_drawn_anew_every_epoch_and_again_the_same_from_the_seed():
    dataset = pairs(96)
    first, length = drawn(dataset), len(dataset)
    dataset.set_epoch(1)
    second = drawn(dataset)
    assert len(dataset) == length
    assert len(set(first) & set(second)) < length / 2 and sorted(first) != sorted(second)
    dataset.set_epoch(0)
    assert drawn(dataset) == first
    other = pairs(96)
    torch.manual_seed(123)  # nobody else's draws matter
    other.set_epoch(1)
    assert drawn(other) == second
    assert drawn(pairs(96, seed=1)) != first


def test_batches_are_of_even_make_up():
    dataset = pairs(48)
    batch = dataset.__getitems__(range(len(dataset)))
    for mask in (batch["face_mask"], batch["voice_mask"], batch["face_mask"] & batch["voice_mask"]):
        counts = [part.sum().item() for part in mask.split(32)]
        assert max(counts) - min(counts) <= 3, counts
    assert len(set(batch["face_labels"][:32].tolist())) >= 5  # and shuffled within


def test_an_absent_face_or_voice_is_zeros_under_a_mask():
    dataset = pairs(48)
    batch = dataset.__getitems__(range(len(dataset)))
    for name, values in (("face", batch["faces"]), ("voice", batch["mels"])):
        mask = batch[f"{name}_mask"]
        assert mask.dtype == torch.bool and values.dtype == torch.uint8
        assert not mask.all() and not values[~mask].any() and values[mask].flatten(1).any(1).all()
    assert batch["faces"].shape[1:] == (48, 48) and batch["mels"].shape[1:] == (4, 6)
    one = dataset[3]
    assert all(torch.equal(value, batch[name][3]) for name, value in one.items())


def test_faces_or_voices_may_be_missing_altogether():
    faces, voices = corpus_of(FACE_COUNTS, "pixels", 48 * 48), corpus_of(VOICE_COUNTS, "mel", 24)
    only_faces = FaceVoiceDataset(faces, None, mel_shape=(4, 6))
    assert len(only_faces) == 123 and not only_faces.__getitems__(range(123))["voice_mask"].any()
    only_voices = FaceVoiceDataset(None, voices, mel_shape=(4, 6))
    assert len(only_voices) == 48 and only_voices.__getitems__(range(48))["voice_mask"].all()


def voted(column: str, votes: list[list[int]], **more) -> Dataset:
    return Dataset.from_dict({column: votes, **more})


def test_ferplus_votes_are_shares_of_all_who_were_asked_in_the_projects_order():
    #        neutral happy surprise sad angry disgust fear contempt unknown NF
    votes = [[1, 6, 0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 10], [10, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    shares = votes_for(voted("ferplus_votes", votes, row_exact=[True, True, False]))
    first = dict(zip(LABELS, shares[0].tolist()))
    assert first == pytest.approx({**dict.fromkeys(LABELS, 0), "neutral": 0.1, "happy": 0.6, "fear": 0.1})
    assert not shares[1].any()  # everybody saw something else
    assert not shares[2].any()  # perhaps another image's votes


def test_ferplus_labels_are_what_most_chose_and_those_to_be_tested_on_what_more_than_half_did():
    counts = {  # of neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, not a face
        "happy": [1, 8, 1, 0, 0, 0, 0, 0, 0, 0],
        "sad": [4, 0, 0, 5, 0, 0, 0, 0, 1, 0],  # half is not more than half
        None: [0, 0, 0, 0, 0, 0, 0, 3, 3, 4],
    }
    split = voted("ferplus_votes", list(counts.values()), row_exact=[True] * 3, label=[0, 0, 0])
    corpus = relabel_by_votes(Corpus(split, split, split, "PublicTest", "PrivateTest"))
    assert [LABELS[i] for i in corpus.train["label"]] == ["happy", "sad"]
    assert [LABELS[i] for i in corpus.validation["label"]] == [LABELS[i] for i in corpus.test["label"]] == ["happy"]
    assert corpus.test_name == "PrivateTest, FER+'s majority"


def test_ferplus_labels_need_votes(tmp_path, cache):
    with pytest.raises(ValueError, match="ferplus_votes"):
        relabel_by_votes(load_faces(str(write_faces(tmp_path))))


def test_what_was_voted_on_becomes_a_distribution_and_the_rest_keeps_its_label():
    voices = voted("voice_votes", [[1, 0, 0, 3, 0, 0], [0, 0, 0, 0, 0, 0]])
    targets = vote_targets(voices, torch.tensor([0, 5]))
    assert targets[0].tolist() == pytest.approx([0.25, 0, 0, 0.75, 0, 0, 0])
    assert targets[1].tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert torch.equal(vote_targets(voted("label", [3]), torch.tensor([3])), torch.eye(7)[[3]])
    assert votes_for(voted("label", [3])) is None and votes_for(None) is None


def test_a_batch_holds_the_votes_of_its_own_rows():
    faces = corpus_of(FACE_COUNTS, "pixels", 48 * 48)
    generator = np.random.default_rng(0)
    votes = generator.integers(0, 5, (len(faces), 10)).tolist()
    faces = faces.add_column("ferplus_votes", votes)
    dataset = FaceVoiceDataset(faces, corpus_of(VOICE_COUNTS, "mel", 24), mel_shape=(4, 6))
    batch = dataset.__getitems__(range(len(dataset)))
    every = vote_targets(faces, torch.tensor(faces["label"]))
    present = batch["face_mask"]
    numbers = batch["faces"][present][:, 0, 0].long() - 1
    assert torch.equal(batch["face_votes"][present], every[numbers])
    assert not batch["face_votes"][~present].any()


# --- Words


def test_thirty_words_an_emotion_a_fifth_of_them_held_out():
    assert set(WORDS) == set(LABELS) and len(TEMPLATES) == len(set(TEMPLATES)) == 10
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    trained, held_out = split_words()
    every = [word for words in WORDS.values() for word in words]
    assert len(every) == len(set(every)), "a word of two emotions"
    for label in LABELS:
        assert len(WORDS[label]) >= 30
        assert len(held_out[label]) == len(WORDS[label]) // 5
        assert not set(trained[label]) & set(held_out[label])
        assert set(trained[label]) | set(held_out[label]) == set(WORDS[label])
        assert all(word == word.strip() and word for word in WORDS[label])
    assert fill_templates(["glad"], ["so {}", "{}"]) == ["so glad", "glad"]


def test_each_row_has_a_prompt_that_speaks_of_its_emotion_and_no_other_row_length():
    trained, _ = split_words()
    sentences = {label: set(fill_templates(trained[label])) for label in LABELS}
    tokenizer = train_tokenizer([s for group in sentences.values() for s in group], 1024, 32)
    prompts = tokenize_prompts(tokenizer, trained)
    assert [len(p) for p in prompts] == [10 * len(trained[label]) for label in LABELS]
    assert all(p.shape[1] == prompts[0].shape[1] <= 32 for p in prompts)
    dataset = pairs(48, prompts=prompts)
    batch = dataset.__getitems__(range(len(dataset)))
    texts = [text.strip() for text in tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)]
    assert all(text in sentences[LABELS[i]] for text, i in zip(texts, batch["face_labels"].tolist()))
    dataset.set_epoch(1)
    assert len(set(texts)) > 90
    assert not torch.equal(dataset.__getitems__(range(len(dataset)))["input_ids"], batch["input_ids"])


# --- Augmentation


def test_augmented_faces_keep_shape_and_range_and_differ_from_call_to_call():
    faces = torch.tensor(np.stack([face(label, i) for label in LABELS for i in range(4)]))
    set_seed(0)
    first, second = augment_faces(faces, 64), augment_faces(faces, 64)
    assert first.shape == (28, 1, 64, 64) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    assert (first != second).flatten(1).any(1).all()
    set_seed(0)
    assert torch.equal(augment_faces(faces, 64), first)


def test_augmented_faces_still_show_the_face():
    faces = torch.tensor(np.stack([face("angry", i) for i in range(64)]))  # wide stripes from top to bottom
    set_seed(0)
    averages = augment_faces(faces, 48).mean((0, 1, 3)) * 255
    assert np.corrcoef(averages.numpy(), face("angry").mean(1))[0, 1] > 0.9


def test_about_half_of_the_faces_are_flipped():
    bright_left = torch.zeros(400, 48, 48, dtype=torch.uint8)
    bright_left[:, :, :24] = 200
    set_seed(0)
    images = augment_faces(bright_left, 48)[:, 0]
    flipped = images[:, :, 34:].mean((1, 2)) > images[:, :, :14].mean((1, 2))
    assert 0.4 < flipped.float().mean() < 0.6


def test_every_third_face_has_a_grey_rectangle():
    set_seed(0)
    noise = torch.randint(0, 256, (300, 48, 48), dtype=torch.uint8)
    images = augment_faces(noise, 48)[:, 0]
    level = images.flatten(1).mode().values[:, None, None]
    erased = (images == level).float().mean((1, 2))  # in noise, no value is frequent but the rectangle's
    inside = (level.flatten() > 0.2) & (level.flatten() < 0.8)
    assert 0.2 < ((erased > 0.02) & inside).float().mean() < 0.47
    assert erased[inside].max() < 0.25


def test_augmented_voices_keep_shape_and_range_and_differ_from_call_to_call():
    set_seed(0)
    mels = torch.randint(1, 256, (16, 128, 188), dtype=torch.uint8)
    first, second = augment_voices(mels), augment_voices(mels)
    assert first.shape == (16, 1, 128, 188) and first.min() >= 0 and first.max() < 1
    assert (first != second).flatten(1).any(1).all()
    set_seed(0)
    mels = torch.randint(1, 256, (16, 128, 188), dtype=torch.uint8)
    assert torch.equal(augment_voices(mels), first)


def test_rectangles_are_as_large_as_said_and_lie_anywhere():
    set_seed(0)
    masks = rectangles(500, 40, 60, torch.device("cpu"), (0.1, 0.4), (0.5, 0.5))
    heights, widths = masks.any(2).sum(1), masks.any(1).sum(1)
    assert (masks.sum((1, 2)) == heights * widths).all()  # rectangles, and one each
    assert heights.min() >= 3 and heights.max() <= 17 and heights.float().std() > 2
    assert ((widths - 30).abs() <= 1).all()
    assert masks.any(0).float().mean() > 0.9
    bands = rectangles(500, 40, 60, torch.device("cpu"), height_share=(0.0, 0.2))
    assert torch.equal(bands.any(2), bands.all(2))  # the whole width


def test_stretches_of_frequency_and_of_time_are_masked(monkeypatch):
    """Each of the four masks does its work: one stretch of either kind less would show."""
    drawn_masks = []

    def record(*args, **kwargs):
        drawn_masks.append(rectangles(*args, **kwargs))
        return drawn_masks[-1]

    monkeypatch.setattr(data_emoclip, "rectangles", record)
    set_seed(0)
    images = augment_voices(torch.full((64, 128, 188), 200, dtype=torch.uint8))[:, 0]
    assert len(drawn_masks) == 4
    bands = [mask for mask in drawn_masks if torch.equal(mask.any(2), mask.all(2))]
    times = [mask for mask in drawn_masks if torch.equal(mask.any(1), mask.all(1))]
    assert len(bands) == 2 and len(times) == 2
    for mask in drawn_masks:
        assert mask.any() and (images[mask] == 0).all()
    masked = torch.stack(drawn_masks).any(0)
    centre = torch.zeros_like(masked)
    centre[:, 30:100, 60:120] = True  # far from the edges, which shifting may bring in
    assert (images[centre & ~masked] > 0.7).all()


def test_mixup_mixes_input_and_target_alike_and_only_with_those_that_are_there():
    torch.manual_seed(0)
    values, mask = torch.arange(1.0, 9.0)[:, None].repeat(1, 3), torch.arange(8) % 4 != 3
    values[~mask] = 0
    targets = torch.eye(8)
    mixed, mixed_targets = mix(values, targets, mask, alpha=0.5)
    assert torch.allclose(mixed, mixed_targets @ values)  # whoever the partner and whatever its part
    assert torch.allclose(mixed_targets.sum(-1), torch.ones(8))
    assert (mixed_targets.diagonal() >= 0.5).all() and (mixed_targets.diagonal() < 1).any()
    assert torch.equal(mixed[~mask], values[~mask])
    assert not mixed_targets[mask][:, ~mask].any()
    assert torch.equal(values, torch.arange(1.0, 9.0)[:, None].repeat(1, 3) * mask[:, None])  # the originals stay


def test_cutmix_pastes_a_rectangle_and_as_much_of_the_target():
    torch.manual_seed(0)
    values, targets = torch.arange(1.0, 9.0).view(-1, 1, 1, 1).repeat(1, 3, 32, 32), torch.eye(8)
    mask = torch.arange(8) != 7
    mixed, mixed_targets = mix(values, targets, mask, alpha=0, cut=1)
    for row, (image, target) in enumerate(zip(mixed, mixed_targets)):
        pasted = image[0] != row + 1
        assert (image == image[0]).all() and torch.equal(pasted, pasted.any(1)[:, None] & pasted.any(0))
        assert target[row] == pytest.approx(1 - pasted.float().mean().item()) and target.sum() == pytest.approx(1)
        assert target[row] >= 0.5 and len(image.unique()) == 2 - (target[row] == 1).int()
    assert torch.equal(mixed[7], values[7]) and not mixed_targets[:7, 7].any()
    half, half_targets = mix(values.repeat(50, 1, 1, 1), targets.repeat(50, 1), mask.repeat(50), alpha=0, cut=0.5)
    untouched = (half == values.repeat(50, 1, 1, 1)).flatten(1).all(1)
    assert 0.4 < untouched.float().mean() < 0.8 and (half_targets[untouched].amax(1) == 1).all()


def test_the_start_and_the_length_of_a_voice_are_moved():
    mels = torch.zeros(200, 128, 188, dtype=torch.uint8)
    mels[:, 20:108, 60:100] = 250
    set_seed(0)
    loud = augment_voices(mels)[:, 0].amax(1) > 0.5
    spans = [(row.nonzero().min().item(), row.nonzero().max().item()) for row in loud if row.any()]
    starts, lengths = np.array([a for a, _ in spans]), np.array([b - a + 1 for a, b in spans])
    assert len(spans) > 190
    assert starts.std() > 10 and starts.min() < 45 and starts.max() > 75
    assert 18 <= np.percentile(lengths, 5) < 36 and 44 < np.percentile(lengths, 95) <= 52


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
