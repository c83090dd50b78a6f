"""What sources call the emotions, and what people voted, in the order of LABELS."""

import torch
import torch.nn.functional as F
from datasets import Dataset

from configuration_emoclip import LABELS, VOICE_LABELS

#: What the answers in a column of votes mean, in order; None is none of LABELS. FER+ (Barsoum et al., 2016) asked ten
#: people about each face, CREMA-D about ten about each voice alone.
VOTES = {
    "ferplus_votes": ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", None, None, None),
    "voice_votes": VOICE_LABELS,
}
#: The number in the place of a label's, where no label is meant.
NOBODY = -1

#: What others call the emotions. CREMA-D's file names have three capitals.
ALIASES = {
    **{label: label for label in LABELS},
    **{"anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "joy": "happy"},
    **{"sadness": "sad", "surprised": "surprise"},
    **{"ang": "angry", "dis": "disgust", "fea": "fear", "hap": "happy", "neu": "neutral"},
}


def to_label(name: str) -> int:
    """LABELS' index of an emotion by any of its names.

    Raises:
        ValueError: no emotion has this name.
    """
    label = ALIASES.get(str(name).strip().lower())
    if label is None:
        raise ValueError(f"Unknown emotion {name!r}; known are {', '.join(ALIASES)}.")
    return LABELS.index(label)


def counts_for(dataset: Dataset | None) -> tuple[str, torch.Tensor] | None:
    """A dataset's column of votes and how often each answer was given, (n, answers) in the order of VOTES; None where
    it has no votes."""
    column = next((column for column in VOTES if dataset and column in dataset.column_names), None)
    if column is None:
        return None
    counts = torch.tensor(dataset[column], dtype=torch.float32)
    if "row_exact" in dataset.column_names:  # False: these votes may belong to another image
        counts *= torch.tensor(dataset["row_exact"])[:, None]
    return column, counts


def votes_for(dataset: Dataset | None) -> torch.Tensor | None:
    """The share of all voters who chose each of LABELS, (n, C); None where the dataset has no votes.

    A row sums to less than 1 where some voters gave another answer, and to 0 where nobody voted on it.
    """
    if (found := counts_for(dataset)) is None:
        return None
    column, counts = found
    shares = torch.zeros(len(counts), len(LABELS))
    for answer, label in enumerate(VOTES[column]):
        if label is not None:
            shares[:, LABELS.index(label)] = counts[:, answer]
    return shares / counts.sum(-1, keepdim=True).clamp(min=1)


def vote_targets(dataset: Dataset | None, labels: torch.Tensor) -> torch.Tensor:
    """The votes as distributions over LABELS (n, C); for a row without votes, its label (n,) with probability 1."""
    own, votes = F.one_hot(labels, len(LABELS)).float(), votes_for(dataset)
    if votes is None:
        return own
    total = votes.sum(-1, keepdim=True)
    return torch.where(total > 0, votes / total.clamp(min=1e-6), own)


def is_clear(column: str, counts: torch.Tensor) -> torch.Tensor:
    """Whether an answer has a clear majority of the votes (n, answers), (n,) bool: of FER+'s, more than half, as is
    usual there; of CREMA-D's, where that is rare, more than any other answer."""
    first, second = counts.topk(2, dim=-1).values.T
    return first > counts.sum(-1) / 2 if column == "ferplus_votes" else first > second


def clear_majority(dataset: Dataset) -> torch.Tensor:
    """The label on which a clear majority of a dataset's voters agrees, (n,); NOBODY's where there is none."""
    column, counts = counts_for(dataset)
    label_of = torch.tensor([NOBODY if label is None else LABELS.index(label) for label in VOTES[column]])
    return label_of[counts.argmax(-1)].masked_fill(~is_clear(column, counts), NOBODY)


def one_against_others(dataset: Dataset) -> float:
    """How often one voter says what a clear majority of the others says, where they have one: what a model's agreement
    with a majority is to be compared with."""
    column, counts = counts_for(dataset)
    agreed = asked = 0.0
    for answer in range(counts.shape[1]):
        voters = counts[:, answer]
        others = counts - F.one_hot(torch.tensor(answer), counts.shape[1])
        clear = (voters > 0) & is_clear(column, others)
        asked += voters[clear].sum()
        agreed += voters[clear & (others.argmax(-1) == answer)].sum()
    return (agreed / asked).item()
