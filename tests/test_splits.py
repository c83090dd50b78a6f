"""Splits: stratified, by actor, by FER+'s majority."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from helpers import CODES, voice_name

from configuration_emoclip import LABELS
from training.splits import (
    SUSPECT_VOICES,
    Corpus,
    actor_fold,
    relabel_by_votes,
    split_voices,
    stratified_split,
    subsample,
)


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


def test_ferplus_labels_are_what_most_chose_and_those_to_be_tested_on_what_more_than_half_did():
    counts = {  # of neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, not a face
        "happy": [1, 8, 1, 0, 0, 0, 0, 0, 0, 0],
        "sad": [4, 0, 0, 5, 0, 0, 0, 0, 1, 0],  # half is not more than half
        None: [0, 0, 0, 0, 0, 0, 0, 3, 3, 4],
    }
    split = Dataset.from_dict({"ferplus_votes": list(counts.values()), "row_exact": [True] * 3, "label": [0, 0, 0]})
    corpus = relabel_by_votes(Corpus(split, split, split, "PublicTest", "PrivateTest"))
    assert [LABELS[i] for i in corpus.train["label"]] == ["happy", "sad"]
    assert [LABELS[i] for i in corpus.validation["label"]] == [LABELS[i] for i in corpus.test["label"]] == ["happy"]
    assert corpus.test_name == "PrivateTest, FER+'s majority"


def test_a_subsample_is_random_the_same_for_the_same_seed_and_no_larger_than_asked():
    dataset = Dataset.from_dict({"row": list(range(100))})
    assert subsample(dataset, None, seed=0)["row"] == list(range(100))
    tenth = subsample(dataset, None, seed=0, share=0.1)["row"]
    assert len(set(tenth)) == 10 and tenth != sorted(tenth)
    assert subsample(dataset, None, seed=0, share=0.1)["row"] == tenth
    assert subsample(dataset, None, seed=1, share=0.1)["row"] != tenth
    assert len(subsample(dataset, 7, seed=0, share=0.1)) == 7 and len(subsample(dataset, 1_000, seed=0)) == 100
    for share in (0, 1.1):
        with pytest.raises(ValueError, match="--train_share must be above 0 and at most 1"):
            subsample(dataset, None, seed=0, share=share)
