"""Every figure of `results.json`, of a model on the validation or test rows."""

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset

from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from training.dataset import to_tensors, voice_tensors
from training.labels import votes_for
from training.metrics import confusion_matrix, emotion_metrics, reliability
from training.prompts import split_words
from training.sources import FACE_SIZE
from training.splits import Corpus

PAIRINGS = 10
CROP_SIDE = 44  # pixels of a test-time crop, of FACE_SIZE, as is customary for FER-2013
AGE_GROUPS = ((20, 29), (30, 39), (40, 49), (50, 74))  # CREMA-D's actors, both ends within


def prepare(
    processor: EmoCLIPProcessor,
    pixels: torch.Tensor | None,
    mels: torch.Tensor | None = None,
    waveforms: torch.Tensor | None = None,
) -> dict:
    """Faces (B, 48, 48) uint8, mel images (B, bands, frames) uint8 and waveforms (B, T) int16, each or None, to the
    model's inputs."""
    inputs = {}
    if pixels is not None:
        inputs["pixel_values"] = processor.image_processor(list(pixels[:, None]), return_tensors="pt").pixel_values
    if waveforms is not None:
        inputs["input_values"] = waveforms[:, None].float()
    if mels is not None:
        # the middle of each level: the bytes are floor(256 v)
        inputs["input_features"] = processor.feature_extractor.standardize((mels[:, None].float() + 0.5) / 256)
    return inputs


@torch.no_grad()
def predict(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    pixels: torch.Tensor | None = None,
    mels: torch.Tensor | None = None,
    waveforms: torch.Tensor | None = None,
    batch_size: int = 128,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A head's logits (n, C) and normalised embeddings (n, D), on the CPU, of n faces or else of n voices."""
    given = {"pixels": pixels, "mels": mels, "waveforms": waveforms}
    name, values = next((name, values) for name, values in given.items() if values is not None)
    parts = []
    for part in values.split(batch_size):
        inputs = prepare(processor, **{"pixels": None, name: part})
        out = model(**{key: value.to(model.device) for key, value in inputs.items()})
        logits, embeds = (
            (out.face_logits, out.image_embeds) if pixels is not None else (out.voice_logits, out.audio_embeds)
        )
        parts.append((logits.float().cpu(), embeds.float().cpu()))
    return tuple(torch.cat(columns) for columns in zip(*parts))


@torch.no_grad()
def word_embeddings(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, words: dict[str, list[str]]
) -> torch.Tensor:
    """(C, D): each label's prompts, every word in every template, embedded, averaged and normalised."""
    rows = []
    for label in model.config.labels:
        sentences = [template.format(word) for word in words[label] for template in model.config.prompt_templates]
        inputs = processor(text=sentences, return_tensors="pt").to(model.device)
        embeds = F.normalize(model.emoclip.get_text_features(**inputs).pooler_output.float(), dim=-1)
        rows.append(F.normalize(embeds.mean(0), dim=0))
    return torch.stack(rows).cpu()


def describe(model: EmoCLIPForEmotionClassification, head: str, logits: torch.Tensor, labels: np.ndarray) -> dict:
    """The figures of the `face` or `voice` head: `emotion_metrics` of its logits (n, C), the accuracy and calibration
    error that they had before they were calibrated, each emotion's recall, the confusion matrix and the reliability
    diagram."""
    probs, names = logits.softmax(-1).numpy(), model.config.labels
    before = emotion_metrics(model.calibrate(head, logits, undo=True).softmax(-1).numpy(), labels)
    answers = probs.argmax(-1)
    return {
        **emotion_metrics(probs, labels),
        "uncalibrated": {name: before[name] for name in ("n", "accuracy", "calibration_error")},
        "recall": {names[i]: float((answers[labels == i] == i).mean()) for i in np.unique(labels)},
        "confusion": confusion_matrix(probs, labels),
        "reliability": reliability(probs, labels),
    }


def ten_crops(pixels: torch.Tensor) -> list[torch.Tensor]:
    """The four corners and the middle of faces (n, 48, 48), CROP_SIDE pixels wide, and each of them mirrored."""
    margin = FACE_SIZE - CROP_SIDE
    corners = [(y, x) for y in (0, margin) for x in (0, margin)]
    crops = [pixels[:, y : y + CROP_SIDE, x : x + CROP_SIDE] for y, x in [*corners, (margin // 2, margin // 2)]]
    return [*crops, *(crop.flip(-1) for crop in crops)]


def evaluate_faces(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, faces: Dataset, train: Dataset | None
) -> tuple[dict[str, dict], tuple[torch.Tensor, np.ndarray, torch.Tensor]]:
    """The figures of faces in the one form, and their log-posteriors (n, C), labels (n,) and embeddings (n, D).

    `train` is what the model was trained on, of which no face may count as unseen.
    """
    pixels, labels = to_tensors(faces, "pixels", (FACE_SIZE, FACE_SIZE))
    labels = labels.numpy()
    logits, embeds = predict(model, processor, pixels=pixels)
    results = {"face": describe(model, "face", logits, labels)}
    probs = logits.softmax(-1).numpy()
    views = np.mean([predict(model, processor, pixels=crop)[0].softmax(-1).numpy() for crop in ten_crops(pixels)], 0)
    results["face_ten_crops"] = emotion_metrics(views, labels)
    if train is not None:
        seen = set(train["pixels"])
        unseen = np.array([face not in seen for face in faces["pixels"]])
        results["face_unseen"] = emotion_metrics(probs[unseen], labels[unseen])
    votes = votes_for(faces)
    if votes is not None:
        clear = votes.max(-1).values.numpy() > 0.5  # more than half of all who were asked
        majority = votes.argmax(-1).numpy()
        results["face_majority"] = emotion_metrics(probs[clear], majority[clear])
    return results, (logits.log_softmax(-1), labels, embeds)


def evaluate_voices(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, voices: Dataset
) -> tuple[dict[str, dict], tuple[torch.Tensor, np.ndarray, torch.Tensor]]:
    """The figures of voices in the one form, and their log-posteriors (n, C), labels (n,) and embeddings (n, D)."""
    kind, values, labels = voice_tensors(voices, (128, 188))
    labels = labels.numpy()
    logits, embeds = predict(model, processor, **{kind: values})
    results = {"voice": describe(model, "voice", logits, labels)}
    correct = logits.argmax(-1).numpy() == labels
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
    return results, (logits.log_softmax(-1), labels, embeds)


def evaluate_words(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    data: dict[str, tuple[torch.Tensor, np.ndarray, torch.Tensor]],
) -> dict[str, dict]:
    """How often the embeddings of faces and voices are closest to their own emotion's words."""
    results = {}
    for name, words in (("trained", model.config.words), ("held_out", split_words()[1])):
        text = word_embeddings(model, processor, words)
        for modality, (_, labels, embeds) in data.items():
            answers = (embeds @ text.T).argmax(-1).numpy()
            accuracy = float((answers == labels).mean())
            results[f"{modality}_{name}"] = {"n": len(labels), "accuracy": accuracy}
    return results


def evaluate_pairs(
    model: EmoCLIPForEmotionClassification,
    face_log_probs: torch.Tensor,
    face_labels: np.ndarray,
    voice_log_probs: torch.Tensor,
    voice_labels: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Accuracy of the fusion, and of its parts on the same pairs: each face that has a voice of its label with one
    drawn at random, PAIRINGS times over; means and standard deviations over the pairings. `predicted_accuracy` is the
    mean probability that the fusion gives its own answers: what it would come to, were its product rule right."""
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
    split: str,
    most: int | None = None,
) -> dict[str, dict]:
    """Every figure of the `validation` or `test` rows, at most so many, with the splits' names under `splits`."""
    rows, names = {}, {}
    for name, corpus in (("face", faces), ("voice", voices)):
        dataset = None if corpus is None else getattr(corpus, split)
        if dataset is not None and most is not None:
            dataset = dataset.shuffle(0).select(range(min(most, len(dataset))))
        rows[name] = dataset
        if corpus is not None:
            names[name] = corpus.test_name if split == "test" else corpus.validation_name
    model.eval().to(memory_format=torch.channels_last)  # convolutions are faster so, on a CPU too
    results, data = {"splits": names}, {}
    if rows["face"] is not None:
        figures, data["face"] = evaluate_faces(model, processor, rows["face"], faces.train)
        results |= figures
    if rows["voice"] is not None:
        figures, data["voice"] = evaluate_voices(model, processor, rows["voice"])
        results |= figures
    if len(data) == 2:
        results["fused"] = evaluate_pairs(model, *data["face"][:2], *data["voice"][:2], seed=0)
    if data and model.config.words and model.config.prompt_templates:
        results["words"] = evaluate_words(model, processor, data)
    return results
