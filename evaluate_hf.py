"""Every accuracy figure that the README or a model card prints, from one command:

    python evaluate_hf.py --model checkpoints/emoclip-small --faces DIR --voices DIR --output results.json
    python evaluate_hf.py --protocol cremad-5fold --faces DIR --voices DIR --num_train_epochs 64   # trains, five times

Faces: one crop, on the source's test split; again as the mean over ten crops; without those that stand in the training
split pixel for pixel; and against the label that most FER+ taggers chose. Voices: the test actors of one fold, whole
and by sex, age, sentence and intensity. Fused: every test face that is not surprise with a random test voice of the
same label, 10 pairings: synthetic pairs, of people who never met. Words: each face and voice against the prompts of
every emotion, with the words of training and with those held out.

The protocol `cremad-5fold` trains one model a fold (test fold k, choose on fold k + 1, train on the other three) with
whatever arguments of train_hf.py are given, and goes on where it was interrupted.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import evaluate
import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from huggingface_hub import EvalResult, ModelCardData

from configuration_emoclip import LABELS, EmoCLIPConfig
from data_emoclip import (
    FACE_SIZE,
    FACES_HUB_ID,
    FOLDS,
    VOICES_HUB_ID,
    Corpus,
    load_faces,
    load_voices,
    split_voices,
    split_words,
    to_tensors,
    voice_tensors,
    votes_for,
)
from hub import CARD_EXAMPLES, THIS_REPOSITORY, HubError, load_pipeline
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor

PAIRINGS = 10
CALIBRATION_BINS = 15
CROP_SIDE = 44  # pixels of a test-time crop, of FACE_SIZE, as is customary for FER-2013
#: What of the five folds is averaged.
FOLD_MEANS = ("accuracy", "mean_recall", "macro_f1", "calibration_error", "expected_if_calibrated")
AGE_GROUPS = ((20, 29), (30, 39), (40, 49), (50, 74))  # CREMA-D's actors, both ends within
#: The Hub's name of a figure, where it has one.
METRICS = {"mean_recall": "recall", "macro_f1": "f1"}
#: Task, data set and its Hub id of what stands in results.json about the face, the voice, or neither alone.
TASKS = {
    "face": ("image-classification", "FER-2013", FACES_HUB_ID),
    "voice": ("audio-classification", "CREMA-D", VOICES_HUB_ID),
    None: ("other", "FER-2013 x CREMA-D, synthetic pairs", FACES_HUB_ID),
}


class EmotionMetrics(evaluate.Metric):
    """Accuracy, mean recall, macro F1 and expected calibration error of (n, C) posteriors; needs no network.

    Classes that no reference has are left out of the means. The calibration error is that of Naeini et al. (2015)
    with 15 bins of equal width; `expected_if_calibrated` is what a perfectly calibrated model with these confidences
    and as many samples would show, from sampling alone.
    """

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__, citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        probs, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        answers = probs.argmax(-1)
        recalls, f1s = [], []
        for label in np.unique(labels):
            hits = ((answers == label) & (labels == label)).sum()
            recalls.append(hits / (labels == label).sum())
            f1s.append(2 * hits / ((answers == label).sum() + (labels == label).sum()))
        confidence, correct = probs.max(-1), answers == labels
        draws = np.random.default_rng(0).random((100, len(labels))) < confidence
        return {
            "accuracy": float(correct.mean()),
            "mean_recall": float(np.mean(recalls)),
            "macro_f1": float(np.mean(f1s)),
            "calibration_error": calibration_error(confidence, correct),
            "expected_if_calibrated": float(np.mean([calibration_error(confidence, draw) for draw in draws])),
        }


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """Which of CALIBRATION_BINS bins of equal width each confidence (n,) in 0..1 falls into, (n,)."""
    return np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean gap between confidence (n,) in 0..1 and correctness (n,) bool over bins, weighted by their size."""
    gaps = np.bincount(calibration_bins(confidence), weights=confidence - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(probs: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """The calibration's bins, those that hold anything: n, mean confidence and accuracy of each."""
    confidence, correct = probs.max(-1), probs.argmax(-1) == labels
    bins = calibration_bins(confidence)
    return [
        {"n": int(here.sum()), "confidence": float(confidence[here].mean()), "accuracy": float(correct[here].mean())}
        for here in (bins == i for i in range(CALIBRATION_BINS))
        if here.any()
    ]


def confusion_matrix(probs: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """How often each label (row) was answered by each of the C (column)."""
    classes = probs.shape[1]
    counts = np.bincount(labels * classes + probs.argmax(-1), minlength=classes**2)
    return counts.reshape(classes, classes).tolist()


def emotion_metrics(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`EmotionMetrics` of (n, C) posteriors and (n,) labels, with n."""
    return {"n": len(labels), **EmotionMetrics().compute(predictions=list(probs), references=list(labels))}


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


def markdown_table(results: dict) -> str:
    """The figures of `results.json` as tables: the whole, each emotion's recall, and the voices by group."""
    splits = results["splits"]
    pairs = " x ".join(splits.values()) + ", synthetic pairs"
    rows = [
        ("face, one crop", splits.get("face"), results.get("face")),
        ("face, mean over ten crops", splits.get("face"), results.get("face_ten_crops")),
        ("face, one crop, not in train", f"{splits.get('face')}, without repeats", results.get("face_unseen")),
        ("face, against FER+'s majority", f"{splits.get('face')}, FER+ labels", results.get("face_majority")),
        ("voice", splits.get("voice"), results.get("voice")),
        ("voice, mean of five folds", "folds 0 to 4", results.get("voice_folds")),
    ]
    if fused := results.get("fused"):
        rows.append(("face and voice, fused", pairs, fused))
        for key, what in (
            ("predicted", "the same, as the product rule predicts"),
            ("face_alone", "the face alone, same pairs"),
            ("voice_alone", "the voice alone, same pairs"),
        ):
            rows.append((what, pairs, {"n": fused["n"], "accuracy": fused[f"{key}_accuracy"]}))
    for name, figures in results.get("words", {}).items():
        modality, words = name.split("_", 1)
        rows.append((f"{modality} against {words.replace('_', '-')} words", splits[modality], figures))
    lines = [
        "| what | split | n | accuracy % | mean recall % | macro F1 % | calibration error % (if perfect) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for what, split, figures in rows:
        if figures is None:
            continue
        cells = [f"{100 * figures[key]:.1f}" if key in figures else "" for key in ("mean_recall", "macro_f1")]
        if "calibration_error" in figures:
            keys = ("calibration_error", "expected_if_calibrated")
            cells.append("{:.1f} ({:.1f})".format(*(100 * figures[key] for key in keys)))
        else:
            cells.append("")
        accuracy = f"**{100 * figures['accuracy']:.1f}**"
        if "accuracy_spread" in figures:
            accuracy += f" ± {100 * figures['accuracy_spread']:.1f}"
        lines.append(f"| {what} | {split} | {figures['n']:,} | {accuracy} | {' | '.join(cells)} |")
    recalls = {name: results[name]["recall"] for name in ("face", "voice") if name in results}
    emotions = [label for label in LABELS if any(label in recall for recall in recalls.values())]
    if recalls:
        lines += ["", f"| recall % | {' | '.join(emotions)} |", f"| --- |{' --- |' * len(emotions)}"]
    for name, recall in recalls.items():
        cells = [f"{100 * recall[label]:.0f}" if label in recall else "" for label in emotions]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if groups := results.get("voice_by"):
        lines += ["", "| voices by | accuracy % (n) |", "| --- | --- |"]
        for name, values in groups.items():
            cells = [f"{value} {100 * each['accuracy']:.0f} ({each['n']:,})" for value, each in values.items()]
            lines.append(f"| {name} | {', '.join(cells)} |")
    return "\n".join(lines)


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


def evaluate_folds(folder: Path, train_arguments: list[str]) -> dict:
    """Trains a model for each fold of CREMA-D, those that `folder` does not hold yet; each is tested on its fold when
    it is trained.

    Returns:
        `folds`, the figures of each; the mean over them of accuracy (WA), mean recall (UA), macro F1 and calibration
        error, and the accuracies' standard deviation.
    Raises:
        ValueError: what `folder` holds of a fold was tested on something else.
    """
    script, folds = str(Path(__file__).with_name("train_hf.py")), []
    for fold in range(FOLDS):
        output = folder / f"fold{fold}"
        if not (output / "results.json").is_file():  # the last thing that a training writes
            arguments = ["--fold", str(fold), "--output_dir", str(output), "--do_predict", "true", *train_arguments]
            subprocess.run([sys.executable, script, *arguments], check=True)
        results = json.loads((output / "results.json").read_text())
        if results.get("splits", {}).get("voice") != f"fold {fold}":
            raise ValueError(f"{output} was not tested on fold {fold}: train it with --do_predict, or remove it.")
        folds.append({"fold": fold, "n": results["voice"]["n"], **{key: results["voice"][key] for key in FOLD_MEANS}})
    return {
        "n": sum(each["n"] for each in folds),
        **{key: float(np.mean([each[key] for each in folds])) for key in FOLD_MEANS},
        "accuracy_spread": float(np.std([each["accuracy"] for each in folds])),
        "folds": folds,
    }


def write_results(results: dict, path: Path):
    """Saves the figures as JSON."""
    path.write_text(json.dumps(results, indent=2) + "\n")


def replace_table(path: Path, table: str):
    """Puts the table between the marks <!-- results --> and <!-- /results --> of a Markdown file.

    Raises:
        ValueError: the file has no such marks.
    """
    parts = re.split(r"(<!-- /?results -->)", path.read_text())
    if parts[1::2] != ["<!-- results -->", "<!-- /results -->"]:
        raise ValueError(f"{path} must have <!-- results --> and <!-- /results --> once each, where the table goes.")
    path.write_text("".join([*parts[:2], f"\n{table}\n", *parts[3:]]))


def groups(results: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
    """Every group of figures of `results.json`, however deep it lies: the names that lead to it, and its numbers."""
    if figures := {name: value for name, value in results.items() if isinstance(value, (int, float))}:
        yield path, figures
    for name, value in results.items():
        if isinstance(value, dict):
            yield from groups(value, (*path, name))


def model_index(results: dict) -> list[EvalResult]:
    """Every figure of `results.json` as the Hub's front matter knows them, counts as their metrics' arguments."""
    splits, figures = results["splits"], []
    for path, values in groups({name: value for name, value in results.items() if name != "splits"}):
        words = " ".join(path).replace("_", " ")
        modality = next((name for name in ("face", "voice") if name in words.split()), None)
        task, dataset, dataset_id = TASKS[modality]
        counts = {name: value for name, value in values.items() if isinstance(value, int)}
        for name, value in values.items():
            if name not in counts:
                figures.append(
                    EvalResult(
                        task_type=task,
                        dataset_name=dataset,
                        dataset_type=dataset_id,
                        dataset_split=splits.get(modality, " x ".join(splits.values())),
                        metric_type=METRICS.get(name, name),
                        metric_name=f"{words}: {name.replace('_', ' ')}",
                        metric_value=round(value, 4),
                        metric_args=counts,
                    )
                )
    return figures


def write_card(folder: Path, results: dict):
    """Writes the model card `README.md` of a saved model: its figures, its training from `training.json`, and what it
    says of the examples."""
    config = EmoCLIPConfig.from_pretrained(folder)
    training = json.loads((folder / "training.json").read_text())
    data = ModelCardData(
        model_name="EmoCLIP",
        base_model=next((stage["base_model"] for stage in training if stage.get("base_model")), None),
        license="apache-2.0",
        language="en",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["emotion-recognition", "audioclip", "multimodal", "face", "speech", "custom_code"],
        datasets=[FACES_HUB_ID, VOICES_HUB_ID],
        metrics=["accuracy", "recall", "f1"],
        eval_results=model_index(results),
    )
    stages = "\n".join(
        f"{i}. `{stage['command']}`: {stage['rows']['faces']:,} faces and {stage['rows']['voices']:,} voices, "
        f"{stage['epochs']} epochs, seed {stage['seed']}, {stage['precision']} on {stage['device']}, "
        f"{stage['seconds'] / 60:.0f} minutes"
        if stage["epochs"]
        else f"{i}. `{stage['command']}`: the heads calibrated anew, the weights as they were"
        for i, stage in enumerate(training, 1)
    )
    pipe = load_pipeline(folder, device="cpu")
    result = pipe(**{source: str(file) for source, file in CARD_EXAMPLES.items()})
    text = CARD.format(
        front_matter=data.to_yaml(),
        this_repository=THIS_REPOSITORY,
        photo=CARD_EXAMPLES["image"].name,
        recording=CARD_EXAMPLES["audio"].name,
        output=f"{result.fused.label} {result.agreement:.2f} {result.fused.scores[result.fused.label]:.0%}",
        table=markdown_table(results),
        training=stages,
        calibration="\n".join(
            f"| {head}: {what} | "
            + " | ".join(f"{getattr(config, f'{head}_{what}').get(label, '')}" for label in config.labels)
            + " |"
            for head in ("face", "voice")
            for what in ("temperature", "bias")
        ),
        emotions=" | ".join(config.labels),
    )
    (folder / "README.md").write_text(text)


CARD = """---
{front_matter}
---

# EmoCLIP

Says what a person looks **and** sounds like: a tri-modal emotion recogniser (face, voice, words) with one shared
AudioCLIP-shaped backbone. Emotions: angry, disgust, fear, happy, neutral, sad, surprise; the voice was not taught
surprise, and says nothing of it.

## Use

```python
from huggingface_hub import hf_hub_download
from transformers import pipeline

pipe = pipeline("emotion-recognition", model="{this_repository}", trust_remote_code=True)
photo = hf_hub_download("{this_repository}", "examples/{photo}")
recording = hf_hub_download("{this_repository}", "examples/{recording}")
result = pipe(image=photo, audio=recording)  # or either alone
print(result.fused.label, f"{{result.agreement:.2f}}", f"{{result.fused.scores[result.fused.label]:.0%}}")
```

```text
{output}
```

`agreement` is the logarithm of how much likelier this face and this voice are together than apart: above 0 they agree,
below 0 they conflict. Finding faces and speech needs `opencv-python-headless`, `silero-vad` and `onnxruntime`, reading
recordings `soundfile` and `av`; an image array with a `face_box` needs none of them. Without the network, after
`hf download {this_repository}`, the same lines run. The example's picture (NASA) and reading (LibriVox) are in the
public domain.

## Results

<!-- results -->
{table}
<!-- /results -->

Chosen on validation data, tested once. FER-2013: train on Training, choose on PublicTest, test on PrivateTest.
CREMA-D: folds by actor, so no voice is in both training and test; fold 1 chooses, folds 2 to 4 train. "Fused" pairs
a test face with a random test voice of the same label, 10 times: synthetic pairs, of people who never met. On real
people the independence that the fusion rests on is an assumption; CREMA-D's own videos would be its test. The mean of
five folds, where it is given, is that of five more models, one a fold, of the same recipe without teachers (± the
folds' standard deviation). Words "held out" were never seen by the text tower.

## Training

{training}

Each of a head's logits is divided by a temperature, and a bias is added to it, both fitted on validation data (vector
scaling, Guo et al., 2017):

| head | {emotions} |
| --- | --- | --- | --- | --- | --- | --- | --- |
{calibration}

## Limits and responsible use

It recognises acted and posed expressions: CREMA-D is acted speech in English by 91 people, FER-2013 web photos on
whose labels people agree about two times in three. It was not tested on children, on other languages, or by ethnicity,
and it does not know what anybody feels. Do not use it to decide about people. In the European Union the AI Act bans
emotion recognition at work and in education, other than for medical or safety reasons.

Weights are under Apache-2.0. CREMA-D is under the Open Database License 1.0; FER-2013 is not redistributed here.
"""


def draw(results: dict, path: Path, labels: list[str]):
    """The confusion matrices and reliability diagrams of the face and the voice as one picture."""
    try:
        from matplotlib import pyplot
    except ImportError:
        sys.exit("evaluate_hf.py: --picture needs matplotlib: pip install matplotlib")
    heads = [name for name in ("face", "voice") if name in results]
    figure, axes = pyplot.subplots(len(heads), 2, figsize=(10, 4.6 * len(heads)), squeeze=False, layout="constrained")
    for (matrix_axis, reliability_axis), name in zip(axes, heads):
        known = [i for i, label in enumerate(labels) if label in results[name]["recall"]]
        shares = np.array(results[name]["confusion"], dtype=float)[known]
        shares /= shares.sum(1, keepdims=True)
        matrix_axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            matrix_axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
        matrix_axis.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
        matrix_axis.set_yticks(range(len(known)), [labels[i] for i in known])
        matrix_axis.set(title=f"{name}: answers % of each label", xlabel="answer", ylabel="label")
        bins = results[name]["reliability"]
        confidence, accuracy, n = (np.array([each[key] for each in bins]) for key in ("confidence", "accuracy", "n"))
        reliability_axis.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="perfectly calibrated")
        error = np.sqrt(accuracy * (1 - accuracy) / n)
        reliability_axis.errorbar(confidence, accuracy, error, fmt="o-", capsize=3, label="model ± standard error")
        reliability_axis.bar(confidence, n / n.sum(), width=0.05, alpha=0.25, label="share of the answers")
        reliability_axis.set(
            title=f"{name}: reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1)
        )
        reliability_axis.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--faces", help="FER-2013: a folder or a Hub id; `none` for no faces")
    parser.add_argument("--voices", help="CREMA-D: a folder or a Hub id; `none` for no voices")
    parser.add_argument("--fold", type=int, default=0, help="CREMA-D's test fold")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--protocol", choices=("split", "cremad-5fold"), default="split", help="see above")
    parser.add_argument("--folds", default="outputs/folds", help="where the models of the five folds are kept")
    parser.add_argument("--output", default="results.json", help="what is there of the other protocol stays")
    parser.add_argument("--card", action="store_true", help="write the model's card anew, from these figures")
    parser.add_argument("--table", metavar="FILE", help="put the table between the marks of this Markdown file")
    parser.add_argument("--picture", metavar="FILE", help="draw confusion matrices and reliability diagrams")
    args, train_arguments = parser.parse_known_args()
    if args.faces == args.voices == "none":
        parser.error("neither faces nor voices: there is nothing to evaluate")
    if train_arguments and args.protocol != "cremad-5fold":
        parser.error(f"unrecognized arguments: {' '.join(train_arguments)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        pipe = load_pipeline(args.model, device="cpu")
    except HubError as error:
        sys.exit(f"evaluate_hf.py: {error}")
    model, processor = pipe.model, pipe.processor
    if args.card and not (Path(args.model) / "training.json").is_file():
        sys.exit(f"evaluate_hf.py: {args.model} has no training.json, from which its card says how it was trained.")
    output = Path(args.output)
    results = json.loads(output.read_text()) if output.is_file() else {}
    if args.protocol == "cremad-5fold":
        sources = [f"--{name}={source}" for name, source in (("faces", args.faces), ("voices", args.voices)) if source]
        try:
            results["voice_folds"] = evaluate_folds(Path(args.folds), [*sources, *train_arguments])
        except ValueError as error:
            sys.exit(f"evaluate_hf.py: {error}")
        except subprocess.CalledProcessError:
            sys.exit("evaluate_hf.py: a fold's training failed, as told above; the same command goes on from there.")
        results.setdefault("splits", {})  # of the other protocol, where it was run
    else:
        try:
            faces = None if args.faces == "none" else load_faces(args.faces)
            voices = None if args.voices == "none" else load_voices(args.voices, processor.feature_extractor)
            split = None if voices is None else split_voices(voices, args.fold)
        except (OSError, ValueError) as error:
            sys.exit(f"evaluate_hf.py: {error}")
        if torch.cuda.is_available():
            model.cuda()
        folds = {name: value for name, value in results.items() if name == "voice_folds"}
        results = evaluate_split(model, processor, faces, split, args.split) | folds
    write_results(results, output)
    print(markdown_table(results))
    if args.card:
        write_card(Path(args.model), results)
    if args.table:
        replace_table(Path(args.table), markdown_table(results))
    if args.picture:
        draw(results, Path(args.picture), model.config.labels)


if __name__ == "__main__":
    main()
