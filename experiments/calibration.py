"""Compares ways to calibrate the heads by cross-validation within the validation data.

    python experiments/calibration.py --model checkpoints/emoclip-small --faces DIR --voices DIR

Five folds, five times over: a calibration is fitted on four of them and scored on the fifth. Prints each head's
negative log-likelihood, accuracy and calibration error, with that of a perfectly calibrated model in brackets; and the
accuracy of the fusion on synthetic pairs, with the one that the product rule predicts in brackets. No test split is
used.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hub import HubError, load_pipeline
from training.calibration import fit_calibration, fit_map
from training.dataset import HEADS, face_tensors, voice_tensors
from training.evaluation import encode, evaluate_pairs, own_logits
from training.metrics import emotion_metrics
from training.sources import load_faces, load_voices
from training.splits import split_voices

FOLDS, REPEATS = 5, 5
FIGURES = ("nll", "accuracy", "calibration_error", "expected_if_calibrated")
Calibration = Callable[[torch.Tensor], torch.Tensor]  # logits (n, C) to logits (n, C)
Fit = Callable[[torch.Tensor, torch.Tensor], Calibration]  # of logits (n, C) and labels (n,)


def fitting(apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weights: torch.Tensor) -> Fit:
    """A method that fits the parameters of `apply`, as `fit_map` takes it; parameters of 0 change nothing."""

    def fit(logits: torch.Tensor, labels: torch.Tensor) -> Calibration:
        parameters = fit_map(apply, weights, logits, labels)
        return lambda other: apply(parameters, other)

    return fit


def vector_scaling(logits: torch.Tensor, labels: torch.Tensor) -> Calibration:
    """The calibration that train_hf.py fits."""
    temperature, bias = (torch.tensor(values, dtype=logits.dtype) for values in fit_calibration(logits, labels))
    return lambda other: other / temperature + bias


def sharpened(logits: torch.Tensor, log_power: torch.Tensor) -> torch.Tensor:
    """The gap between the largest logit and each, to a power; above 1, small gaps shrink and large ones grow."""
    gaps = logits.max(-1, keepdim=True).values - logits
    return -(gaps.clamp(min=1e-9) ** log_power.exp())


def methods(classes: int) -> dict[str, Fit]:
    """The methods by name, for this many classes."""
    ones = torch.ones(1 + classes + classes**2, dtype=torch.float64)
    matrix = ones.clone()
    matrix[1 + classes :] = 30  # a stronger prior: a matrix has many parameters for so few labels

    def mixed(parameters: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        scaled = logits / parameters[0].exp() + parameters[1 : 1 + classes]
        centred = logits - logits.mean(-1, keepdim=True)
        return scaled + centred @ parameters[1 + classes :].view(classes, classes)

    return {
        "temperature (Guo et al., 2017)": fitting(lambda p, z: z / p[0].exp(), ones[:1]),
        "temperature, and a bias for each class (Alexandari et al., 2020)": fitting(
            lambda p, z: z / p[0].exp() + p[1:], ones[: 1 + classes]
        ),
        "**a temperature and a bias for each class: vector scaling (Guo et al., 2017)**": vector_scaling,
        "the same, and a power of the gaps between logits": fitting(
            lambda p, z: sharpened(z / p[1 : 1 + classes].exp() + p[1 + classes :], p[0]), ones[: 1 + 2 * classes]
        ),
        "temperature, biases and a matrix (matrix scaling, Guo et al., 2017)": fitting(mixed, matrix),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--faces", required=True, help="FER-2013: a folder or a Hub id")
    parser.add_argument("--voices", required=True, help="CREMA-D: a folder or a Hub id")
    parser.add_argument("--fold", type=int, default=0, help="CREMA-D's test fold; the next is for validation")
    args = parser.parse_args()
    try:
        pipe = load_pipeline(args.model, device="cpu")
        model, processor = pipe.model, pipe.processor
        faces = load_faces(args.faces)
        voices = split_voices(load_voices(args.voices, processor.feature_extractor), args.fold)
        for corpus, what in ((faces, "faces"), (voices, "voices")):
            corpus.require(["validation"], what)
        faces, voices = faces.validation, voices.validation
    except (HubError, OSError, ValueError) as error:
        sys.exit(f"calibration.py: {error}")
    stored = {"face": face_tensors(faces), "voice": voice_tensors(voices, processor.feature_extractor)}
    data = {}
    for head, (values, labels) in stored.items():
        data[head] = own_logits(model, head, encode(model, processor, head, values)).double(), labels
    print(f"Faces, n {len(faces):,}, and voices of fold {(args.fold + 1) % 5}, n {len(voices):,}:\n")
    columns = [f"{head}: {what}" for head in HEADS for what in ("NLL", "accuracy %", "ECE %")]
    print(f"| fitted on validation | {' | '.join(columns)} | pairs % (predicted) |")
    print("| --- |" + " --- |" * 7)
    for name in methods(1):
        cells, log_probs = [], [{} for _ in range(REPEATS)]
        for head, (logits, labels) in data.items():
            prior = model.config.head(head).prior
            taught = [i for i, label in enumerate(model.config.labels) if label in prior]
            known, targets = logits[:, taught], torch.tensor([taught.index(label) for label in labels.tolist()])
            figures = []
            for repeat in range(REPEATS):
                scores = torch.full_like(logits, -torch.inf)
                order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(repeat))
                for held_out in order.chunk(FOLDS):
                    rest = order[~torch.isin(order, held_out)]
                    calibration = methods(len(taught))[name](known[rest], targets[rest])
                    scores[held_out[:, None], torch.tensor(taught)] = calibration(known[held_out])
                log_probs[repeat][head] = scores.log_softmax(-1).float()
                metrics = emotion_metrics(scores.softmax(-1).numpy(), labels.numpy())
                metrics["nll"] = nn.functional.cross_entropy(scores, labels).item()
                figures.append([metrics[key] for key in FIGURES])
            nll, accuracy, error, perfect = np.mean(figures, 0)
            cells += [f"{nll:.3f}", f"{100 * accuracy:.1f}", f"{100 * error:.1f} ({100 * perfect:.1f})"]
        face_labels, voice_labels = (labels.numpy() for _, labels in data.values())
        pairs = [
            evaluate_pairs(model, each["face"], face_labels, each["voice"], voice_labels, seed)
            for seed, each in enumerate(log_probs)
        ]
        fused, predicted = (100 * np.mean([each[key] for each in pairs]) for key in ("accuracy", "predicted_accuracy"))
        print(f"| {name} | {' | '.join(cells)} | {fused:.1f} ({predicted:.1f}) |", flush=True)


if __name__ == "__main__":
    main()
