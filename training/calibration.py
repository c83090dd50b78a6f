"""Calibration of the heads: vector scaling (Guo et al., 2017), fitted on validation data."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import EvalPrediction

from configuration_emoclip import LABELS
from modeling_emoclip import EmoCLIPForEmotionClassification


def likeliest(
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """The parameters, of the shape of `weights`, under which `labels` (n,) are likeliest given the logits
    `apply(parameters, logits)` (n, C), with a normal prior of variance 1 / weight about 0 for each."""
    parameters = torch.zeros_like(weights, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(apply(parameters, logits), labels)
        loss = loss + (weights * parameters.square()).sum() / (2 * len(labels))
        loss.backward()
        return loss

    optimizer.step(closure)
    return parameters.detach()


def fit_calibration(logits: torch.Tensor, labels: torch.Tensor) -> tuple[list[float], list[float]]:
    """The temperatures (C,) and the biases (C,) under which `labels` (n,) are likeliest, given `logits` (n, C), as
    `EmoCLIPForEmotionClassification.calibrate` applies them. A class not taught, of logit -inf, has
    temperature 1 and bias 0.

    One standard normal prior for each bias and logarithm of a temperature, beside n labels, keeps them finite where a
    few labels would not.
    """
    logits = logits.double().clamp(min=-1e4)  # a gradient does not survive the -inf of a class not taught
    weights = torch.ones(2, logits.shape[1], dtype=torch.float64)
    log_temperature, bias = likeliest(lambda p, z: z / p[0].exp() + p[1], weights, logits, labels)
    return tuple([round(value, 4) for value in values.tolist()] for values in (log_temperature.exp(), bias))


def calibrate(model: EmoCLIPForEmotionClassification, prediction: EvalPrediction):
    """Fits the calibration of each head, which must have none so far, on the validation data that chose the
    checkpoint."""
    _, *logits = (torch.as_tensor(x).float() for x in prediction.predictions)
    *labels, has_face, has_voice = (torch.as_tensor(x) for x in prediction.label_ids)
    for head, head_logits, head_labels, rows in zip(("face", "voice"), logits, labels, (has_face, has_voice)):
        taught = getattr(model.config, f"{head}_prior")
        for what, values in zip(("temperature", "bias"), fit_calibration(head_logits[rows], head_labels[rows])):
            by_name = {name: value for name, value in zip(LABELS, values) if name in taught}
            setattr(model.config, f"{head}_{what}", by_name)
