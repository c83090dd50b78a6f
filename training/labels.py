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


def votes_for(dataset: Dataset | None) -> torch.Tensor | None:
    """The share of all voters who chose each of LABELS, (n, C); None where the dataset has no votes.

    A row sums to less than 1 where some voters gave another answer, and to 0 where nobody voted on it.
    """
    column = next((column for column in VOTES if dataset and column in dataset.column_names), None)
    if column is None:
        return None
    counts = torch.tensor(dataset[column], dtype=torch.float32)  # (n, answers)
    if "row_exact" in dataset.column_names:  # False: these votes may belong to another image
        counts *= torch.tensor(dataset["row_exact"])[:, None]
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
