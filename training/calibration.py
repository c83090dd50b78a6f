"""Calibration of the heads: vector scaling (Guo et al., 2017), fitted on validation data."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import EvalPrediction

from configuration_emoclip import LABELS
from modeling_emoclip import EmoCLIPForEmotionClassification
from training.dataset import HEADS


def fit_map(
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Maximum a posteriori estimate of parameters, given labels and a normal prior for each parameter.

    Args:
        apply: parameters and logits (n, C) to the logits (n, C) whose cross-entropy is minimised.
        weights: of the parameters' shape; each has a prior with mean 0 and variance 1 / weight.
        logits: (n, C). labels: (n,).
    """
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
    """Temperatures (C,) and biases (C,) for `EmoCLIPForEmotionClassification.calibrate`, fitted to logits (n, C) and
    labels (n,). A class that the head was not taught, whose logit is -inf, gets temperature 1 and bias 0.

    Biases and logarithms of temperatures have standard normal priors, which keep them finite on few labels.
    """
    logits = logits.double().clamp(min=-1e4)  # -inf would make every gradient NaN
    weights = torch.ones(2, logits.shape[1], dtype=torch.float64)
    log_temperature, bias = fit_map(lambda p, z: z / p[0].exp() + p[1], weights, logits, labels)
    return tuple([round(value, 4) for value in values.tolist()] for values in (log_temperature.exp(), bias))


def calibrate(model: EmoCLIPForEmotionClassification, prediction: EvalPrediction):
    """Fits each head's calibration on the validation data that the checkpoint was chosen by.

    Args:
        model: without calibration so far.
        prediction: the trainer's, of that model.
    """
    _, *logits = (torch.as_tensor(x).float() for x in prediction.predictions)
    *labels, has_face, has_voice = (torch.as_tensor(x) for x in prediction.label_ids)
    for head, head_logits, head_labels, rows in zip(HEADS, logits, labels, (has_face, has_voice)):
        known = model.config.head(head).prior
        temperature, bias = (
            {label: value for label, value in zip(LABELS, values) if label in known}
            for values in fit_calibration(head_logits[rows], head_labels[rows])
        )
        model.config.calibrate_head(head, temperature, bias)
