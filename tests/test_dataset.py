"""Rows and batches: pairs of faces and voices, votes, prompts."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import SMALL_EXTRACTOR, numbered_faces, numbered_voices

from configuration_emoclip import LABELS
from training.dataset import FaceVoiceDataset, TrainingDataset
from training.labels import vote_targets, votes_for
from training.prompts import (
    TEMPLATES,
    WORD_LIST,
    emotion_words,
    fill_templates,
    read_words,
    tokenize_prompts,
    train_tokenizer,
)


def pairs(seed: int = 0, prompts: list[torch.Tensor] | None = None) -> FaceVoiceDataset:
    return FaceVoiceDataset(numbered_faces(), numbered_voices(), SMALL_EXTRACTOR, prompts, seed)


def drawn(dataset: FaceVoiceDataset) -> list[tuple[int, int]]:
    """(face, voice) of every row by the numbers in their bytes; 0 where the row has none."""
    batch = dataset.__getitems__(range(len(dataset)))
    return list(zip(batch["faces"][:, 0, 0].tolist(), batch["voices"][:, 0, 0].tolist()))


def test_a_pair_is_a_face_and_a_voice_of_one_label():
    dataset = pairs()
    batch = dataset.__getitems__(range(len(dataset)))
    assert torch.equal(batch["face_labels"], batch["voice_labels"])
    both = batch["face_mask"] & batch["voice_mask"]
    assert both.sum() == 48 - 5  # see below
    for (face_number, voice_number), label in zip(drawn(dataset), batch["face_labels"].tolist()):
        if face_number:
            assert dataset.face_labels[face_number - 1] == label
        if voice_number:
            assert dataset.voice_labels[voice_number - 1] == label


def test_every_face_and_every_voice_stands_in_one_row():
    rows = drawn(pairs())
    assert Counter(face for face, _ in rows if face) == dict.fromkeys(range(1, 124), 1)
    assert Counter(voice for _, voice in rows if voice) == dict.fromkeys(range(1, 49), 1)
    assert (0, 0) not in rows


def test_voices_of_a_label_with_too_few_faces_stand_alone():
    dataset = pairs()  # 3 faces of disgust, 8 voices
    batch = dataset.__getitems__(range(len(dataset)))
    disgust = batch["face_labels"] == 1
    assert (disgust & batch["face_mask"] & batch["voice_mask"]).sum() == 3
    assert (disgust & ~batch["face_mask"] & batch["voice_mask"]).sum() == 5
    assert len(dataset) == 123 + 5
    surprise = batch["face_labels"] == 6
    assert surprise.sum() == 20 and not batch["voice_mask"][surprise].any()


def test_pairs_are_drawn_anew_every_epoch_and_again_the_same_from_the_seed():
    dataset = pairs()
    first, length = drawn(dataset), len(dataset)
    dataset.set_epoch(1)
    second = drawn(dataset)
    assert len(dataset) == length
    both = [{pair for pair in rows if all(pair)} for rows in (first, second)]
    assert len(both[0]) == len(both[1]) == 43 and len(both[0] & both[1]) < 43 / 2
    dataset.set_epoch(0)
    assert drawn(dataset) == first
    other = pairs()
    torch.manual_seed(123)  # nobody else's draws matter
    other.set_epoch(1)
    assert drawn(other) == second
    assert drawn(pairs(seed=1)) != first


def test_batches_are_of_even_make_up():
    dataset = pairs()
    batch = dataset.__getitems__(range(len(dataset)))
    for mask in (batch["face_mask"], batch["voice_mask"], batch["face_mask"] & batch["voice_mask"]):
        counts = [part.sum().item() for part in mask.split(32)]
        assert max(counts) - min(counts) <= 3, counts
    assert len(set(batch["face_labels"][:32].tolist())) >= 5  # and shuffled within


def test_an_absent_face_or_voice_is_zeros_under_a_mask():
    dataset = pairs()
    batch = dataset.__getitems__(range(len(dataset)))
    for name, values in (("face", batch["faces"]), ("voice", batch["voices"])):
        mask = batch[f"{name}_mask"]
        assert mask.dtype == torch.bool and values.dtype == torch.uint8
        assert not mask.all() and not values[~mask].any() and values[mask].flatten(1).any(1).all()
    assert batch["faces"].shape[1:] == (48, 48) and batch["voices"].shape[1:] == (4, 6)
    one = dataset[3]
    assert all(torch.equal(value, batch[name][3]) for name, value in one.items())


def test_faces_or_voices_may_be_missing_altogether():
    only_faces = FaceVoiceDataset(numbered_faces(), None, SMALL_EXTRACTOR)
    assert len(only_faces) == 123 and not only_faces.__getitems__(range(123))["voice_mask"].any()
    only_voices = FaceVoiceDataset(None, numbered_voices(), SMALL_EXTRACTOR)
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


def test_what_was_voted_on_becomes_a_distribution_and_the_rest_keeps_its_label():
    voices = voted("voice_votes", [[1, 0, 0, 3, 0, 0], [0, 0, 0, 0, 0, 0]])
    targets = vote_targets(voices, torch.tensor([0, 5]))
    assert targets[0].tolist() == pytest.approx([0.25, 0, 0, 0.75, 0, 0, 0])
    assert targets[1].tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert torch.equal(vote_targets(voted("label", [3]), torch.tensor([3])), torch.eye(7)[[3]])
    assert votes_for(voted("label", [3])) is None and votes_for(None) is None


def test_a_batch_holds_the_votes_of_its_own_rows():
    faces, generator = numbered_faces(), np.random.default_rng(0)
    faces = faces.add_column("ferplus_votes", generator.integers(0, 5, (len(faces), 10)).tolist())
    every = vote_targets(faces, torch.tensor(faces["label"]))
    dataset = FaceVoiceDataset(faces, numbered_voices(), SMALL_EXTRACTOR)
    batch = dataset.__getitems__(range(len(dataset)))
    present = batch["face_mask"]
    numbers = batch["faces"][present][:, 0, 0].long() - 1
    assert torch.equal(batch["face_votes"][present], every[numbers])
    assert not batch["face_votes"][~present].any()
    batch = TrainingDataset(faces, numbered_voices(), SMALL_EXTRACTOR, batch_size=50).__getitems__(list(range(50)))
    assert torch.equal(batch["face_votes"], every[batch["faces"][:, 0, 0].long() - 1])
    assert torch.equal(batch["voice_votes"], torch.eye(7)[batch["voice_labels"]])  # nobody voted


# --- Words


def test_no_word_of_the_list_means_two_things_or_is_in_two_splits():
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 10
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    splits = {split: read_words(split) for split in ("train", "validation", "test")}
    every = [word for groups in splits.values() for words in groups.values() for word in words]
    assert len(every) == len(set(every)) > 1_500
    assert all(word == " ".join(word.split()) != "" for word in every)
    assert all(set(groups) == {*LABELS, "thing", "other"} for groups in splits.values())
    assert sum(map(len, emotion_words("test").values())) == len(splits["test"]["thing"]) == 200
    assert fill_templates(["glad"], ["so {}", "{}"]) == ["so glad", "glad"]


def test_the_word_list_says_how_it_came_about():
    header = [line for line in WORD_LIST.read_text().splitlines() if line.startswith("#")]
    assert "WordNet 3.0: Copyright 2006 by Princeton University" in " ".join(header)


def test_each_row_has_a_prompt_that_speaks_of_its_emotion_and_no_other_row_length():
    trained = emotion_words("train")
    sentences = {label: set(fill_templates(trained[label])) for label in LABELS}
    tokenizer = train_tokenizer([s for group in sentences.values() for s in group], 1024, 32)
    prompts = tokenize_prompts(tokenizer, trained)
    others = read_words("train")["thing"] + read_words("train")["other"]
    assert [len(p) for p in prompts] == [10 * len(words) for words in (*trained.values(), others)]
    assert all(p.shape[1] == prompts[0].shape[1] <= 32 for p in prompts)
    dataset = pairs(prompts=prompts)
    batch = dataset.__getitems__(range(len(dataset)))
    texts = [text.strip() for text in tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)]
    assert all(text in sentences[LABELS[i]] for text, i in zip(texts, batch["face_labels"].tolist()))
    dataset.set_epoch(1)
    assert len(set(texts)) > 90
    assert not torch.equal(dataset.__getitems__(range(len(dataset)))["input_ids"], batch["input_ids"])


def test_a_training_batch_has_prompts_of_every_emotion_and_of_none_equally_often_whatever_its_faces():
    prompts = [torch.full((3, 4), label) for label in range(len(LABELS) + 1)]
    dataset = TrainingDataset(numbered_faces(), numbered_voices(), SMALL_EXTRACTOR, prompts, batch_size=16)
    counts = torch.zeros(len(LABELS) + 1)
    for epoch in range(40):
        dataset.set_epoch(epoch)
        batch = dataset.__getitems__(range(16, 32))
        assert batch["input_ids"].shape == (16, 4)
        of_none = batch["input_ids"][:, 0] == len(LABELS)
        assert torch.equal(batch["text_labels"], batch["input_ids"][:, 0].masked_fill(of_none, -1))
        counts += batch["input_ids"][:, 0].bincount(minlength=len(counts))
    assert counts.min() > 50 and counts.max() < 110  # 80 each, on average
