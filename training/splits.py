"""What is trained on, chosen by and tested on: a source's own splits, a stratified one, CREMA-D's folds by actor."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from configuration_emoclip import LABELS
from training.labels import votes_for

CREMAD_ACTORS = range(1001, 1092)
ACTORS_PER_FOLD = 18
FOLDS = 5
#: One silent recording, and three pairs of identical ones with different labels: of no use for training.
SUSPECT_VOICES = (
    "1006_TIE_HAP_XX.wav",
    "1006_TIE_NEU_XX.wav",
    "1013_WSI_DIS_XX.wav",
    "1013_WSI_SAD_XX.wav",
    "1017_IWW_ANG_XX.wav",
    "1017_IWW_FEA_XX.wav",
    "1076_MTI_SAD_XX.wav",
)


@dataclass
class Corpus:
    """One modality's splits, and what those that figures are given for are called beside one."""

    train: Dataset
    validation: Dataset
    test: Dataset
    validation_name: str
    test_name: str


def relabel_by_votes(faces: Corpus) -> Corpus:
    """FER-2013's faces by FER+ (Barsoum et al., 2016): each has the label that most of its taggers chose. Those on
    whom nobody voted for one of LABELS are left out of train; in the other splits stand only those of whom more than
    half of all taggers chose the same one, as is the custom.

    Raises:
        ValueError: the source has no votes.
    """
    if "ferplus_votes" not in faces.train.column_names:
        raise ValueError("These faces have no FER+ votes, column `ferplus_votes`: leave out --face_labels ferplus.")
    splits = {}
    for split in ("train", "validation", "test"):
        dataset = getattr(faces, split)
        votes = votes_for(dataset)
        share, label = votes.max(-1)
        rows = (share > (0 if split == "train" else 0.5)).nonzero().flatten()
        kept = dataset.select(rows.tolist()).remove_columns("label")
        splits[split] = kept.add_column("label", label[rows].tolist())
    names = (f"{name}, FER+'s majority" for name in (faces.validation_name, faces.test_name))
    return Corpus(*splits.values(), *names)


def stratified_split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Sets `share` of every class aside; identical images stay together, on one side."""
    groups: dict[bytes, list[int]] = {}
    for index, pixels in enumerate(dataset["pixels"]):
        groups.setdefault(pixels, []).append(index)
    labels = np.array(dataset["label"])
    generator = np.random.default_rng(seed)
    aside: list[int] = []
    for label in range(len(LABELS)):
        members = [rows for rows in groups.values() if labels[rows[0]] == label]
        wanted, taken = round(share * (labels == label).sum()), 0
        for position in generator.permutation(len(members)):
            if taken >= wanted:
                break
            aside += members[position]
            taken += len(members[position])
    kept = np.setdiff1d(np.arange(len(dataset)), aside)
    return dataset.select(kept), dataset.select(sorted(aside))


def actor_fold(actor: int) -> int:
    """CREMA-D's fold of an actor: 18 actors each, the last 19.

    Raises:
        ValueError: no such actor.
    """
    if actor not in CREMAD_ACTORS:
        raise ValueError(f"CREMA-D has actors {CREMAD_ACTORS[0]} to {CREMAD_ACTORS[-1]}, not {actor}.")
    return min((actor - CREMAD_ACTORS[0]) // ACTORS_PER_FOLD, FOLDS - 1)


def split_voices(voices: Dataset, fold: int) -> Corpus:
    """Test on the actors of `fold`, choose on those of the next, train on the others, without the suspect clips."""
    if not 0 <= fold < FOLDS:
        raise ValueError(f"CREMA-D has folds 0 to {FOLDS - 1}, not {fold}.")
    actors = np.array(voices["actor_id"])
    folds = np.array([actor_fold(actor) for actor in actors])
    suspect = np.isin(voices["file"], SUSPECT_VOICES)
    validation = folds == (fold + 1) % FOLDS
    rows = {"train": (folds != fold) & ~validation & ~suspect, "validation": validation, "test": folds == fold}
    speakers = [set(actors[mask]) for mask in rows.values()]
    if sum(map(len, speakers)) != len(set.union(*speakers)):
        raise ValueError("An actor of CREMA-D stands in two splits.")
    parts = {name: voices.select(np.flatnonzero(mask)) for name, mask in rows.items()}
    return Corpus(**parts, validation_name=f"fold {(fold + 1) % FOLDS}", test_name=f"fold {fold}")


def limit(dataset: Dataset, most: int | None, seed: int, share: float = 1.0) -> Dataset:
    """This share of the rows, and at most so many, drawn at random.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--train_share must be above 0 and at most 1, not {share}.")
    count = min(round(share * len(dataset)), len(dataset) if most is None else most)
    return dataset if count == len(dataset) else dataset.shuffle(seed).select(range(count))
