"""Training, validation and test: stratified splits of faces, CREMA-D's folds by actor, subsamples."""

from collections.abc import Iterable
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
    """The splits of faces or of voices, and what tables of figures call two of them."""

    train: Dataset
    validation: Dataset
    test: Dataset
    validation_name: str
    test_name: str

    def require(self, splits: Iterable[str], what: str):
        """Raises a ValueError where one of the splits is empty; `what` are "faces" or "voices"."""
        purposes = {"train": "to train on", "validation": "to choose by", "test": "to test on"}
        for split in splits:
            if not len(getattr(self, split)):
                raise ValueError(
                    f"There are no {what} {purposes[split]}: the training split has {len(self.train)}, that for "
                    f"choosing ({self.validation_name}) {len(self.validation)}, and that for testing "
                    f"({self.test_name}) {len(self.test)}."
                )


def relabel_by_votes(faces: Corpus) -> Corpus:
    """FER-2013's faces with FER+'s labels (Barsoum et al., 2016): for each, the one of LABELS that most taggers chose.

    Training leaves out faces on which nobody voted for any of LABELS. Validation and test keep only those on which
    more than half of all taggers agree, as is usual for FER+.

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
    """The rows without and with those set aside: `share` of every class, identical images always on the same side."""
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
    """The fold of one of CREMA-D's actors: folds 0 to 3 have 18 each, fold 4 has 19.

    Raises:
        ValueError: no such actor.
    """
    if actor not in CREMAD_ACTORS:
        raise ValueError(f"CREMA-D has actors {CREMAD_ACTORS[0]} to {CREMAD_ACTORS[-1]}, not {actor}.")
    return min((actor - CREMAD_ACTORS[0]) // ACTORS_PER_FOLD, FOLDS - 1)


def split_voices(voices: Dataset, fold: int) -> Corpus:
    """CREMA-D's folds by actor: `fold` is the test split, the next fold (modulo 5) the validation split, and the other
    three are the training split, without SUSPECT_VOICES.

    Raises:
        ValueError: there is no such fold, or an actor is in two splits.
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"CREMA-D has folds 0 to {FOLDS - 1}, not {fold}.")
    actors = np.array(voices["actor_id"])
    folds = np.array([actor_fold(actor) for actor in actors])
    suspect = np.isin(voices["file"], SUSPECT_VOICES)
    validation = folds == (fold + 1) % FOLDS
    rows = {"train": (folds != fold) & ~validation & ~suspect, "validation": validation, "test": folds == fold}
    speakers = [set(actors[mask]) for mask in rows.values()]
    if sum(map(len, speakers)) != len(set.union(*speakers)):
        raise ValueError("An actor of CREMA-D is in two splits.")
    parts = {name: voices.select(np.flatnonzero(mask)) for name, mask in rows.items()}
    return Corpus(**parts, validation_name=f"fold {(fold + 1) % FOLDS}", test_name=f"fold {fold}")


def subsample(dataset: Dataset, most: int | None, seed: int, share: float = 1.0) -> Dataset:
    """`share` of the rows, but no more than `most`, drawn at random.

    Raises:
        ValueError: the share is not above 0 and at most 1, or leaves no row.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--train_share must be above 0 and at most 1, not {share}.")
    count = min(round(share * len(dataset)), len(dataset) if most is None else most)
    if not count:
        raise ValueError(f"--train_share {share} leaves none of {len(dataset)} rows.")
    return dataset if count == len(dataset) else dataset.shuffle(seed).select(range(count))
