"""Every accuracy figure that the README or a model card prints, from one command:

    python evaluate_hf.py --model checkpoints/emoclip-small --faces DIR --voices DIR --output results.json

Faces: one crop, on the source's test split. Voices: the test actors of one fold. Fused: every test face that is not
surprise with a random test voice of the same label, 10 pairings: synthetic pairs, of people who never met. Words:
each face and voice against the prompts of every emotion, with the words of training and with those held out.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import datasets
import evaluate
import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset

from data_emoclip import (
    FACE_SIZE,
    Corpus,
    load_faces,
    load_voices,
    split_voices,
    split_words,
    to_tensors,
)
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor

PAIRINGS = 10
CALIBRATION_BINS = 15


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


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean gap between confidence (n,) in 0..1 and correctness (n,) bool over bins, weighted by their size."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def emotion_metrics(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`EmotionMetrics` of (n, C) posteriors and (n,) labels, with n."""
    return {"n": len(labels), **EmotionMetrics().compute(predictions=list(probs), references=list(labels))}


def prepare(processor: EmoCLIPProcessor, pixels: torch.Tensor | None, mels: torch.Tensor | None) -> dict:
    """Faces (B, 48, 48) and mel images (B, bands, frames), uint8, each or None, to the model's inputs."""
    inputs = {}
    if pixels is not None:
        inputs["pixel_values"] = processor.image_processor(list(pixels[:, None]), return_tensors="pt").pixel_values
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
    batch_size: int = 128,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A head's logits (n, C) and normalised embeddings (n, D), on the CPU, of n faces or else of n mel images."""
    name, values = ("pixels", pixels) if pixels is not None else ("mels", mels)
    parts = []
    for part in values.split(batch_size):
        inputs = prepare(processor, **{"pixels": None, "mels": None, name: part})
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


def evaluate_model(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    faces: Dataset | None,
    voices: Dataset | None,
    seed: int = 0,
) -> dict[str, dict]:
    """Every figure of one split: `face`, `voice`, `fused`, and `words`, each where there is data for it.

    Args:
        faces, voices: the split, in the one form of data_emoclip, or None.
        seed: of the pairings.
    """
    model.eval()
    fe = processor.feature_extractor
    data, results = {}, {}
    for name, split, column, shape in (
        ("face", faces, "pixels", (FACE_SIZE, FACE_SIZE)),
        ("voice", voices, "mel", (fe.n_mels, fe.num_frames)),
    ):
        if split is None:
            continue
        values, labels = to_tensors(split, column, shape)
        labels = labels.numpy()
        logits, embeds = predict(model, processor, **{"pixels" if name == "face" else "mels": values})
        data[name] = logits.log_softmax(-1), labels, embeds
        results[name] = emotion_metrics(logits.softmax(-1).numpy(), labels)
        uncalibrated = logits * getattr(model.config, f"{name}_temperature")
        before = emotion_metrics(uncalibrated.softmax(-1).numpy(), labels)["calibration_error"]
        results[name]["calibration_error_before_scaling"] = before
    if len(data) == 2:
        results["fused"] = evaluate_pairs(model, *data["face"][:2], *data["voice"][:2], seed)
    if model.config.words and model.config.prompt_templates:
        trained, held_out = split_words()
        results["words"] = {}
        for name, words in (("trained", model.config.words), ("held_out", held_out)):
            text = word_embeddings(model, processor, words)
            for modality, (_, labels, embeds) in data.items():
                answers = (embeds @ text.T).argmax(-1).numpy()
                results["words"][f"{modality}_{name}"] = {
                    "n": len(labels),
                    "accuracy": float((answers == labels).mean()),
                }
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
    drawn at random, PAIRINGS times over; means and standard deviations over the pairings."""
    rows = np.flatnonzero(np.isin(face_labels, voice_labels))
    generator = np.random.default_rng(seed)
    scores = {"fused": [], "face": [], "voice": []}
    for _ in range(PAIRINGS):
        partners = np.empty(len(rows), dtype=int)
        for label in np.unique(voice_labels):
            here = face_labels[rows] == label
            partners[here] = generator.choice(np.flatnonzero(voice_labels == label), here.sum())
        fused, _ = model.fuse(face_log_probs[rows], voice_log_probs[partners])
        for name, log_probs in (
            ("fused", fused),
            ("face", face_log_probs[rows]),
            ("voice", voice_log_probs[partners]),
        ):
            scores[name].append(float((log_probs.argmax(-1).numpy() == face_labels[rows]).mean()))
    results = {"n": len(rows), "pairings": PAIRINGS, "accuracy": float(np.mean(scores["fused"]))}
    results["accuracy_spread"] = float(np.std(scores["fused"]))
    return results | {f"{name}_alone_accuracy": float(np.mean(scores[name])) for name in ("face", "voice")}


def markdown_table(results: dict) -> str:
    """The figures of `results.json` as a table."""
    splits = results["splits"]

    def row(what: str, split: str, figures: dict, recall: bool = True) -> str:
        mean_recall = f"{100 * figures['mean_recall']:.1f}" if recall else "-"
        f1 = f"{100 * figures['macro_f1']:.1f}" if recall else "-"
        ece = (
            f"{100 * figures['calibration_error']:.1f} ({100 * figures['expected_if_calibrated']:.1f})"
            if recall
            else "-"
        )
        return f"| {what} | {split} | {figures['n']:,} | **{100 * figures['accuracy']:.1f}** | {mean_recall} | {f1} | {ece} |"

    lines = [
        "| what | split | n | accuracy % | mean recall % | macro F1 % | calibration error % (if perfect) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    if "face" in results:
        lines.append(row("face, one crop", splits["face"], results["face"]))
    if "voice" in results:
        lines.append(row("voice", splits["voice"], results["voice"]))
    if fused := results.get("fused"):
        pairs = f"{splits['face']} x {splits['voice']}, synthetic pairs"
        lines.append(row("face and voice, fused", pairs, fused, recall=False))
        for name in ("face", "voice"):
            alone = {"n": fused["n"], "accuracy": fused[f"{name}_alone_accuracy"]}
            lines.append(row(f"the {name} alone on the same pairs", pairs, alone, recall=False))
    for name, figures in results.get("words", {}).items():
        modality, words = name.split("_", 1)
        lines.append(
            row(f"{modality} against words ({words.replace('_', ' ')})", splits[modality], figures, recall=False)
        )
    return "\n".join(lines)


def load_split(corpus: Corpus | None, split: str) -> tuple[Dataset | None, str | None]:
    """A corpus's `validation` or `test` rows and what to call them."""
    if corpus is None:
        return None, None
    return getattr(corpus, split), corpus.test_name if split == "test" else f"validation of {corpus.test_name}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--faces", help="FER-2013: a folder or a Hub id; `none` for no faces")
    parser.add_argument("--voices", help="CREMA-D: a folder or a Hub id; `none` for no voices")
    parser.add_argument("--fold", type=int, default=0, help="CREMA-D's test fold")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--output", default="results.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        model = EmoCLIPForEmotionClassification.from_pretrained(args.model).eval()
        processor = EmoCLIPProcessor.from_pretrained(args.model)
        faces = None if args.faces == "none" else load_faces(args.faces)
        voices = None
        if args.voices != "none":
            voices = split_voices(load_voices(args.voices, processor.feature_extractor), args.fold)
    except (OSError, ValueError) as error:
        sys.exit(f"evaluate_hf.py: {error}")
    if torch.cuda.is_available():
        model.cuda()
    (face_rows, face_split), (voice_rows, voice_split) = (load_split(c, args.split) for c in (faces, voices))
    results = {
        "model": args.model,
        "command": " ".join(["python", *sys.argv]),
        "splits": {"face": face_split, "voice": voice_split},
        **evaluate_model(model, processor, face_rows, voice_rows),
    }
    Path(args.output).write_text(json.dumps(results, indent=2) + "\n")
    print(markdown_table(results))


if __name__ == "__main__":
    main()
