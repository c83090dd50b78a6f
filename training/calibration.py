"""Calibration of the heads: vector scaling (Guo et al., 2017), fitted on validation data."""

from collections.abc import Callable, Collection
from typing import get_args

import torch
from datasets import Dataset
from torch import nn

from configuration_emoclip import LABELS, READING_FIELDS, Reading
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from training.dataset import HEADS, face_tensors, voice_tensors
from training.evaluation import encode, own_logits
from training.labels import clear_majority, votes_for

NEUTRAL = LABELS.index("neutral")
#: Of the answers that are not called unsure, so many are right on validation data. Where people are asked, right is
#: what a clear majority says; where there is none, no answer is.
SURE = 0.8


def fit_map(
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    logits: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Maximum a posteriori estimate of parameters, given labels and a normal prior for each parameter.

    Args:
        apply: parameters and logits (n, C) to the logits (n, C) whose cross-entropy is minimised.
        weights: of the parameters' shape; each has a prior with mean 0 and variance 1 / weight.
        logits: (n, C). targets: labels (n,), or probabilities (n, C).
    """
    parameters = torch.zeros_like(weights, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(apply(parameters, logits), targets)
        loss = loss + (weights * parameters.square()).sum() / (2 * len(targets))
        loss.backward()
        return loss

    optimizer.step(closure)
    return parameters.detach()


def fit_calibration(logits: torch.Tensor, targets: torch.Tensor) -> tuple[list[float], list[float]]:
    """Temperatures (C,) and biases (C,) for `EmoCLIPForEmotionClassification.calibrate`, fitted to logits (n, C) and
    targets: labels (n,), or probabilities (n, C). A class that the head was not taught, whose logit is -inf, gets
    temperature 1 and bias 0.

    Biases and logarithms of temperatures have standard normal priors, which keep them finite on few labels.
    """
    logits = logits.double().clamp(min=-1e4)  # -inf would make every gradient NaN
    targets = targets.double() if targets.is_floating_point() else targets
    weights = torch.ones(2, logits.shape[1], dtype=torch.float64)
    log_temperature, bias = fit_map(lambda p, z: z / p[0].exp() + p[1], weights, logits, targets)
    return tuple([round(value, 4) for value in values.tolist()] for values in (log_temperature.exp(), bias))


def fit_threshold(log_probs: torch.Tensor, answers: torch.Tensor) -> float:
    """The lowest score from which on SURE of the answers of log-posteriors (n, C) are right, by the right answers
    (n,): of all thresholds that keep the promise, the one that keeps most answers (Geifman and El-Yaniv, 2017, without
    their bound). 1 where none does."""
    scores, order = log_probs.max(-1).values.exp().sort(descending=True)
    right = (log_probs.argmax(-1) == answers)[order].double()
    kept = torch.arange(1, len(right) + 1)
    good = (right.cumsum(0) / kept >= SURE).nonzero().flatten()
    return round(scores[good[-1]].item(), 4) if len(good) else 1.0


def calibrate(model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, faces: Dataset, voices: Dataset):
    """Fits what each head's answers mean on the validation data that the checkpoint was chosen by: calibration and
    threshold, by the labels and, for the reading "perceived", by the votes where there are any, whose mean the class
    shares then are; and what neutral people are to it.

    Args:
        model: what it had of all this is replaced. faces, voices: in the one form.
    """
    config, features, neutral = model.config, {}, {}
    stored = face_tensors(faces), voice_tensors(voices, processor.feature_extractor)
    for head, (values, labels) in zip(HEADS, stored):
        features[head] = encode(model, processor, head, values)
        own, taught = own_logits(model, head, features[head]), config.head(head).prior
        config.calibrate_head(head, *(by_label(numbers, taught) for numbers in fit_calibration(own, labels)))
        setattr(config, f"{head}_threshold", fit_threshold(model.calibrate(head, own).log_softmax(-1), labels))
        if (at_rest := features[head][labels == NEUTRAL]).numel():
            for reading in get_args(Reading):
                means = own_logits(model, head, at_rest, reading).log_softmax(-1).mean(0).tolist()
                neutral[config.head_name(head, reading)] = by_label(means, taught)
    config.neutral = neutral if len(neutral) == len(config.heads) else None
    config.perceived = None
    for head, dataset in zip(HEADS, (faces, voices)):
        votes = votes_for(dataset)
        if votes is None or not (voted := votes.sum(-1) > 0).any():
            continue
        taught, own = config.head(head).prior, own_logits(model, head, features[head][voted], "perceived")
        shares = votes[voted] / votes[voted].sum(-1, keepdim=True)
        temperature, bias = fit_calibration(own, shares)
        prior = (shares.sum(0) + 1 / len(taught)) / (len(shares) + 1)  # a class that nobody chose is not impossible
        by_votes = {"prior": prior.tolist(), "temperature": temperature, "bias": bias}
        perceived = config.perceived or {field: getattr(config, field) for field in READING_FIELDS}
        perceived |= {f"{head}_{field}": by_label(numbers, taught) for field, numbers in by_votes.items()}
        if head == "face":  # what is expected: in the voices' corpus, people hear every second one as neutral
            perceived["target_prior"] = perceived["face_prior"]
        config.perceived = perceived
        log_probs = model.calibrate(head, own, "perceived").log_softmax(-1)
        perceived[f"{head}_threshold"] = fit_threshold(log_probs, clear_majority(dataset)[voted])
    config.check_labels()


def by_label(numbers: list[float], taught: Collection[str]) -> dict[str, float]:
    """Numbers of all LABELS (C,), by the label, of those that a head was taught."""
    return {label: round(number, 6) for label, number in zip(LABELS, numbers) if label in taught}
