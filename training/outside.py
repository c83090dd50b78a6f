"""People outside the corpora: any labelled faces or recordings, scored as the pipeline scores a visitor's.

    dataset = load_labelled("emodb.parquet", "voice")
    figures = evaluate_outside(recognizer, "voice", dataset)

Photos go through the face detector, recordings through the speech detector, and both readings answer. People perceive
half of all voices as neutral, which those of a corpus of acted emotions are not: so what they perceive is also scored
as if all emotions were equally frequent.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from datasets import ClassLabel, Dataset

from configuration_emoclip import LABELS, Prior, Reading
from media_emoclip import InputError, load_image
from recognizer_emoclip import Observation, Recognizer, mean_log_probs
from training.dataset import Head
from training.labels import to_label
from training.metrics import emotion_metrics, selective
from training.sources import as_row, label_reader, list_files, load_parquet, pick_column

COLUMNS = {"face": ("image", "img"), "voice": ("audio", "wav", "flac")}
AT_ONCE = 32  # photos or recordings that are held in memory together


class Answer(NamedTuple):
    """What is scored: an answer of the pipeline with these arguments, and what tables call it."""

    reading: Reading
    prior: Prior | None
    title: str


ANSWERS = {
    "acted": Answer("acted", None, "as acted"),
    "perceived": Answer("perceived", None, "as perceived"),
    "perceived_uniform": Answer("perceived", "uniform", "as perceived, if all emotions are equally frequent"),
}


def load_labelled(source: str, head: Head) -> Dataset:
    """Faces or voices with the columns `image` or `audio`, unread, and `label`, LABELS' index.

    Args:
        source: a parquet file or a folder of such, with labels by name; or a folder with a folder of files for each
            emotion, which has the emotion's name.
    Raises:
        ValueError: one sentence that says what it holds instead.
    """
    path, column = Path(source), COLUMNS[head][0]
    tables = [path] if path.is_file() else list_files(path, "*.parquet")
    if tables:
        table = load_parquet(source, {"test": tables})["test"]
        own, label = pick_column(table, COLUMNS[head], source), pick_column(table, ("label", "emotion"), source)
        read = label_reader(table, label, source)
        labels = [read(value) for value in table[label]]
        table = table.cast_column(own, (datasets.Image if head == "face" else datasets.Audio)(decode=False))
        rows = table[own]
    else:
        files = list_files(path, "*/*")
        if not files:
            raise ValueError(f"{source} holds neither parquet files nor a folder of files for each emotion.")
        rows, labels = [as_row(file) for file in files], [to_label(file.parent.name) for file in files]
    return Dataset.from_dict({column: list(rows), "label": labels}).cast_column(
        "label", ClassLabel(names=list(LABELS))
    )


def evaluate_outside(recognizer: Recognizer, head: Head, dataset: Dataset, crops: bool = False) -> dict:
    """The figures of a head, for each of ANSWERS, on what `load_labelled` gives.

    Args:
        crops: the photos are faces cut out as FER-2013's are; by default faces are looked for in them.
    Returns:
        `n` rows of an emotion that the head was taught; `found`, the share in which a face, or speech, was found, of
        which alone the rest is; and for each answer `emotion_metrics`, `nll`, the mean negative log-likelihood of
        the label in nats, and `selective`.
    Raises:
        ValueError: there are no such rows, or nobody was found.
    """
    labels = np.array(dataset["label"])
    taught = [LABELS.index(label) for label in recognizer.model.config.head(head).prior]
    dataset, labels = dataset.select(np.flatnonzero(np.isin(labels, taught))), labels[np.isin(labels, taught)]
    log_probs: dict[str, list[torch.Tensor]] = {name: [] for name in ANSWERS}
    found = []
    for start in range(0, len(dataset), AT_ONCE):
        rows = dataset.select(range(start, min(start + AT_ONCE, len(dataset))))
        observed = list(observe(recognizer, head, rows, crops))
        seen = [each for each in observed if each is not None]
        found += [each is not None for each in observed]
        for name, answer in ANSWERS.items():
            recognizer.adapted(answer.reading, prior=answer.prior).score(seen)
            log_probs[name] += [
                each.faces.log_probs[0] if head == "face" else mean_log_probs(each.voice.log_probs)[0] for each in seen
            ]
    if not any(found):
        raise ValueError("There is nobody of an emotion that the model knows: no face, or no speech, was found.")
    figures = {"n": len(labels), "found": float(np.mean(found))}
    labels = labels[found]
    for name, answer in ANSWERS.items():
        each = torch.stack(log_probs[name])
        probs = each.exp().numpy()
        figures[name] = emotion_metrics(probs, labels) | {
            "nll": -each[range(len(labels)), labels].mean().item(),
            "selective": selective(probs, labels, recognizer.model.config.head(head, answer.reading).threshold),
        }
    return figures


def observe(recognizer: Recognizer, head: Head, rows: Dataset, crops: bool) -> Iterator[Observation | None]:
    """What is found in each row; None where nobody is, or where it cannot be read."""
    for row in rows:
        try:
            if crops and head == "face":
                pixels = np.asarray(load_image(row["image"])[0])
                yield Observation(recognizer.frame_faces(pixels, [(0, 0, pixels.shape[1], pixels.shape[0])], "given"))
                continue
            given = {"image": row["image"]} if head == "face" else {"audio": row["audio"]}
            observation = recognizer.observe(**given)
            yield observation if observation.faces or observation.voice else None
        except InputError:
            yield None
