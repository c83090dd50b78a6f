"""Every figure of `results.json`, for a model on the validation or test rows."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from configuration_emoclip import Reading
from modeling_emoclip import EmoCLIPForEmotionClassification, normalize
from processing_emoclip import EmoCLIPProcessor
from training.dataset import Head, face_tensors, to_model_input, voice_tensors
from training.labels import NOBODY, clear_majority, one_against_others, votes_for
from training.metrics import confusion_matrix, emotion_metrics, reliability, selective
from training.sources import FACE_SIZE
from training.splits import Corpus
from training.words import emotion_embeddings, evaluate_texts, evaluate_words

PAIRINGS = 10
CROP_SIDE = 44  # pixels of a test-time crop, of FACE_SIZE, as is customary for FER-2013
AGE_GROUPS = ((20, 29), (30, 39), (40, 49), (50, 74))  # CREMA-D's actors, both ends within


class Predictions(NamedTuple):
    """What a model makes of n faces, or of n voices, beside their labels."""

    log_probs: torch.Tensor  # (n, C), the head's log-posteriors
    labels: np.ndarray  # (n,)
    embeds: torch.Tensor  # (n, D), normalised


@torch.no_grad()
def encode(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    head: Head,
    stored: torch.Tensor,
    batch_size: int = 128,
) -> torch.Tensor:
    """A tower's features (n, D), not normalised, of n stored faces or voices (n, ...); on the CPU."""
    modality, parts = {"face": "image", "voice": "audio"}[head], []
    for part in stored.split(batch_size):
        name, values = to_model_input(processor, head, part)
        parts.append(model.emoclip.encode(**{name: values.to(model.device)})[modality].float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def own_logits(
    model: EmoCLIPForEmotionClassification, head: Head, features: torch.Tensor, reading: Reading = "acted"
) -> torch.Tensor:
    """The logits (n, C), before calibration, of a reading's head for features (n, D); on the CPU."""
    return model.head(head, reading)(features.to(model.device)).float().cpu()


def describe(
    model: EmoCLIPForEmotionClassification, head: Head, features: torch.Tensor, labels: np.ndarray
) -> tuple[dict, torch.Tensor]:
    """A head's figures for features (n, D): `emotion_metrics`, accuracy and calibration error without calibration,
    each emotion's recall, the confusion matrix, the reliability diagram, and `selective`; and its log-posteriors
    (n, C)."""
    own = own_logits(model, head, features)
    log_probs = model.calibrate(head, own).log_softmax(-1)
    probs, names = log_probs.exp().numpy(), model.config.labels
    before = emotion_metrics(own.softmax(-1).numpy(), labels)
    answers = probs.argmax(-1)
    return {
        **emotion_metrics(probs, labels),
        "uncalibrated": {name: before[name] for name in ("n", "accuracy", "calibration_error")},
        "recall": {names[i]: float((answers[labels == i] == i).mean()) for i in np.unique(labels)},
        "confusion": confusion_matrix(probs, labels),
        "reliability": reliability(probs, labels),
        "selective": selective(probs, labels, model.config.head(head).threshold),
    }, log_probs


def describe_perceived(
    model: EmoCLIPForEmotionClassification, head: Head, features: torch.Tensor, dataset: Dataset
) -> dict[str, dict]:
    """The figures `face_perceived` or `voice_perceived` of the reading "perceived"; none where the dataset has no
    votes.

    Args:
        features: (n, D) of the head's tower.
    Returns:
        Accuracy, recall and F1 against the clear majority of the voters, where there is one (scores are shares of the
        voters, and no probabilities that most of them say so: they have no calibration error); `one_person`, see
        `one_against_others`; `cross_entropy` to the votes, in nats, and `votes_entropy`, which no model can go below;
        `selective`, over all that anybody voted on, where an answer without a clear majority counts as wrong.
    """
    votes = votes_for(dataset)
    if votes is None:
        return {}
    own = own_logits(model, head, features, "perceived")
    log_probs = model.calibrate(head, own, "perceived").log_softmax(-1)
    probs, majority = log_probs.exp().numpy(), clear_majority(dataset).numpy()
    voted, clear = votes.sum(-1) > 0, majority != NOBODY
    if not clear.any():
        return {}
    shares = votes[voted] / votes[voted].sum(-1, keepdim=True)
    log_shares = shares.clamp(min=1e-12).log()
    metrics = emotion_metrics(probs[clear], majority[clear])
    figures = {name: metrics[name] for name in ("n", "accuracy", "mean_recall", "macro_f1")} | {
        "one_person": one_against_others(dataset),
        "cross_entropy": -(shares * log_probs[voted].clamp(min=-1e4)).sum(-1).mean().item(),
        "votes_entropy": -(shares * log_shares).sum(-1).mean().item(),
        "selective": selective(probs[voted], majority[voted], model.config.head(head, "perceived").threshold),
    }
    return {f"{head}_perceived": figures}


def ten_crops(pixels: torch.Tensor) -> list[torch.Tensor]:
    """The four corners and the centre of faces (n, 48, 48), CROP_SIDE pixels wide, and the mirror image of each."""
    margin = FACE_SIZE - CROP_SIDE
    corners = [(y, x) for y in (0, margin) for x in (0, margin)]
    crops = [pixels[:, y : y + CROP_SIDE, x : x + CROP_SIDE] for y, x in [*corners, (margin // 2, margin // 2)]]
    return [*crops, *(crop.flip(-1) for crop in crops)]


def evaluate_faces(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, faces: Dataset, train: Dataset | None
) -> tuple[dict[str, dict], Predictions]:
    """The figures of the face head, and the predictions behind them.

    Args:
        faces: in the one form. train: the training split; the figures `face_unseen` leave out faces that are in it.
    """
    pixels, labels = face_tensors(faces)
    labels = labels.numpy()
    features = encode(model, processor, "face", pixels)
    results = {}
    results["face"], log_probs = describe(model, "face", features, labels)
    probs = log_probs.exp().numpy()
    views = [own_logits(model, "face", encode(model, processor, "face", crop)) for crop in ten_crops(pixels)]
    views = [model.calibrate("face", view).softmax(-1).numpy() for view in views]
    results["face_ten_crops"] = emotion_metrics(np.mean(views, 0), labels)
    if train is not None:
        seen = set(train["pixels"])
        unseen = np.array([face not in seen for face in faces["pixels"]])
        if unseen.any():
            results["face_unseen"] = emotion_metrics(probs[unseen], labels[unseen])
    results |= describe_perceived(model, "face", features, faces)
    return results, Predictions(log_probs, labels, normalize(features))


def evaluate_voices(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, voices: Dataset
) -> tuple[dict[str, dict], Predictions]:
    """The figures of the voice head on voices in the one form, and the predictions behind them."""
    stored, labels = voice_tensors(voices, processor.feature_extractor)
    labels = labels.numpy()
    features = encode(model, processor, "voice", stored)
    results = {}
    results["voice"], log_probs = describe(model, "voice", features, labels)
    results |= describe_perceived(model, "voice", features, voices)
    correct = log_probs.argmax(-1).numpy() == labels
    groups = {}
    for name in ("sex", "sentence", "intensity"):
        if name in voices.column_names:
            feature = voices.features[name]
            groups[name] = np.array([getattr(feature, "int2str", str)(value) for value in voices[name]])
    if "age" in voices.column_names:
        ages = np.array(voices["age"])
        groups["age"] = np.full(len(ages), "", dtype="U5")
        for low, high in AGE_GROUPS:
            groups["age"][(ages >= low) & (ages <= high)] = f"{low}-{high}"
    by = {
        name: {
            str(value): {"n": int((of == value).sum()), "accuracy": float(correct[of == value].mean())}
            for value in np.unique(of)
        }
        for name, of in groups.items()
    }
    if by:
        results["voice_by"] = by
    return results, Predictions(log_probs, labels, normalize(features))


def evaluate_pairs(
    model: EmoCLIPForEmotionClassification,
    face_log_probs: torch.Tensor,
    face_labels: np.ndarray,
    voice_log_probs: torch.Tensor,
    voice_labels: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Accuracy of the fusion, and of the face and the voice alone, on synthetic pairs.

    Every face whose label has any voices is paired with a random one of them, PAIRINGS times; the figures are means
    over the pairings, and `accuracy_spread` is the standard deviation. `predicted_accuracy` is the mean of the fused
    posteriors' maxima, which equals the accuracy if the product rule holds and the heads are calibrated.

    Args:
        face_log_probs: (F, C). face_labels: (F,). voice_log_probs: (V, C). voice_labels: (V,). seed: of the pairings.
    """
    rows = np.flatnonzero(np.isin(face_labels, voice_labels))
    generator = np.random.default_rng(seed)
    scores, predicted = {"fused": [], "face": [], "voice": []}, []
    for _ in range(PAIRINGS):
        partners = np.empty(len(rows), dtype=int)
        for label in np.unique(voice_labels):
            here = face_labels[rows] == label
            partners[here] = generator.choice(np.flatnonzero(voice_labels == label), here.sum())
        fused, _ = model.fuse(face_log_probs[rows], voice_log_probs[partners])
        predicted.append(fused.exp().max(-1).values.mean().item())
        for name, log_probs in (
            ("fused", fused),
            ("face", face_log_probs[rows]),
            ("voice", voice_log_probs[partners]),
        ):
            scores[name].append(float((log_probs.argmax(-1).numpy() == face_labels[rows]).mean()))
    results = {"n": len(rows), "pairings": PAIRINGS, "accuracy": float(np.mean(scores["fused"]))}
    results |= {"accuracy_spread": float(np.std(scores["fused"])), "predicted_accuracy": float(np.mean(predicted))}
    return results | {f"{name}_alone_accuracy": float(np.mean(scores[name])) for name in ("face", "voice")}


def evaluate_split(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    faces: Corpus | None,
    voices: Corpus | None,
    split: Literal["validation", "test"],
    most: int | None = None,
) -> dict[str, dict]:
    """Every figure of `results.json`, with the names of the splits in `splits`.

    Args:
        split: "validation" or "test". most: at most so many faces, and so many voices, drawn at random.
    """
    rows, names = {}, {}
    for name, corpus in (("face", faces), ("voice", voices)):
        dataset = None if corpus is None else getattr(corpus, split)
        if dataset is not None and most is not None:
            dataset = dataset.shuffle(0).select(range(min(most, len(dataset))))
        rows[name] = dataset
        if corpus is not None:
            names[name] = corpus.test_name if split == "test" else corpus.validation_name
    model.eval().to(memory_format=torch.channels_last)  # faster convolutions, on a CPU too
    results, predictions = {"splits": names}, {}
    if rows["face"] is not None:
        figures, predictions["face"] = evaluate_faces(model, processor, rows["face"], faces.train)
        results |= figures
    if rows["voice"] is not None:
        figures, predictions["voice"] = evaluate_voices(model, processor, rows["voice"])
        results |= figures
    if len(predictions) == 2:
        (face_log_probs, face_labels, _), (voice_log_probs, voice_labels, _) = predictions.values()
        if np.isin(face_labels, voice_labels).any():
            results["fused"] = evaluate_pairs(
                model, face_log_probs, face_labels, voice_log_probs, voice_labels, seed=0
            )
    if predictions and model.config.words and model.config.prompt_templates:
        embeds = {head: (each.embeds, each.labels) for head, each in predictions.items()}
        trained = emotion_embeddings(model, processor, model.config.words)
        results["words"] = evaluate_words(model, processor, embeds, trained, split)
        results["texts"] = evaluate_texts(model, processor, trained, split)
    return results
