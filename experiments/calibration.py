"""Compares ways to calibrate the heads: cross-validated within the validation data, which none of them may see whole.

    python experiments/calibration.py --model checkpoints/emoclip-small --faces DIR --voices DIR

Five folds, five times over: what is fitted on four of them is scored on the fifth. Prints each head's negative
log-likelihood, accuracy and calibration error, that of a perfectly calibrated model in brackets, and how many of the
synthetic pairs are answered rightly, and what the product rule predicts. The test splits are not read.
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
from training.calibration import fit_calibration, likeliest
from training.dataset import to_tensors, voice_tensors
from training.evaluation import evaluate_pairs, predict
from training.metrics import emotion_metrics
from training.sources import FACE_SIZE, load_faces, load_voices
from training.splits import split_voices

FOLDS, REPEATS = 5, 5
FIGURES = ("nll", "accuracy", "calibration_error", "expected_if_calibrated")
Calibration = Callable[[torch.Tensor], torch.Tensor]  # logits (n, C) to logits (n, C)
Fit = Callable[[torch.Tensor, torch.Tensor], Calibration]  # of logits (n, C) and labels (n,)


def fitting(apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weights: torch.Tensor) -> Fit:
    """The fit of `apply`, which takes parameters and logits; parameters of 0 leave the logits as they are."""

    def fit(logits: torch.Tensor, labels: torch.Tensor) -> Calibration:
        parameters = likeliest(apply, weights, logits, labels)
        return lambda other: apply(parameters, other)

    return fit


def vector_scaling(logits: torch.Tensor, labels: torch.Tensor) -> Calibration:
    """What train_hf.py fits."""
    temperature, bias = (torch.tensor(values, dtype=logits.dtype) for values in fit_calibration(logits, labels))
    return lambda other: other / temperature + bias


def sharpened(logits: torch.Tensor, log_power: torch.Tensor) -> torch.Tensor:
    """Each logit's distance from the largest, to a power: above 1, close answers get closer and others farther."""
    gaps = logits.max(-1, keepdim=True).values - logits
    return -(gaps.clamp(min=1e-9) ** log_power.exp())


def methods(classes: int) -> dict[str, Fit]:
    """Each method's name and fit, for so many classes."""
    ones = torch.ones(1 + classes + classes**2, dtype=torch.float64)
    matrix = ones.clone()
    matrix[1 + classes :] = 30  # a matrix has many parameters for so few labels

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
    parser.add_argument("--fold", type=int, default=0, help="CREMA-D's test fold, which the next one chose for")
    args = parser.parse_args()
    try:
        pipe = load_pipeline(args.model, device="cpu")
        model, processor = pipe.model, pipe.processor
        faces = load_faces(args.faces).validation
        voices = split_voices(load_voices(args.voices, processor.feature_extractor), args.fold).validation
    except (HubError, OSError, ValueError) as error:
        sys.exit(f"calibration.py: {error}")
    pixels, face_labels = to_tensors(faces, "pixels", (FACE_SIZE, FACE_SIZE))
    kind, values, voice_labels = voice_tensors(voices, (128, 188))
    data = {
        head: (
            model.calibrate(head, predict(model, processor, **given)[0], undo=True).double(),
            torch.as_tensor(labels),
        )
        for head, given, labels in (
            ("face", {"pixels": pixels}, face_labels),
            ("voice", {kind: values}, voice_labels),
        )
    }
    print(f"Faces, n {len(faces):,}, and voices of fold {(args.fold + 1) % 5}, n {len(voices):,}:\n")
    columns = [f"{head}{what}" for head in ("face: ", "voice: ") for what in ("NLL", "accuracy %", "ECE %")]
    print(f"| fitted on validation | {' | '.join(columns)} | pairs % (predicted) |")
    print("| --- |" + " --- |" * 7)
    for name in methods(1):
        cells, log_probs = [], [{} for _ in range(REPEATS)]
        for head, (logits, labels) in data.items():
            prior = getattr(model.config, f"{head}_prior")
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
        pairs = [
            evaluate_pairs(model, each["face"], face_labels.numpy(), each["voice"], np.asarray(voice_labels), seed)
            for seed, each in enumerate(log_probs)
        ]
        fused, predicted = (100 * np.mean([each[key] for each in pairs]) for key in ("accuracy", "predicted_accuracy"))
        print(f"| {name} | {' | '.join(cells)} | {fused:.1f} ({predicted:.1f}) |", flush=True)


if __name__ == "__main__":
    main()
