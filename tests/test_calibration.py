"""Calibration: what is fitted, and that it stays finite."""

import pytest
import torch
import torch.nn.functional as F

from training.calibration import fit_calibration

BIAS = torch.tensor([0.5, -0.3, 0.2, 0.0, -0.6, 0.3, -0.1])  # of mean 0: only differences show


def draw(
    logits: torch.Tensor, temperature: torch.Tensor, bias: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Labels (n,) of which `logits` (n, C), calibrated so, are the log-probabilities."""
    return torch.multinomial((logits / temperature + bias).softmax(-1), 1, generator=generator).flatten()


def test_the_fitted_calibration_is_the_one_that_labels_were_drawn_with():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 7, generator=generator)
    for scale in (0.5, 1.0, 2.0):
        temperature = scale * torch.linspace(0.7, 1.3, 7)
        labels = draw(logits, temperature, BIAS, generator)
        fitted_temperature, fitted_bias = fit_calibration(logits, labels)
        assert fitted_temperature == pytest.approx(temperature.tolist(), rel=0.1)
        assert fitted_bias == pytest.approx(BIAS.tolist(), abs=0.1)


def test_calibrated_posteriors_are_the_class_shares_on_average():
    """What the fusion divides by."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 7, generator=generator)
    labels = draw(logits, torch.linspace(1, 2, 7), BIAS, generator)
    temperature, bias = map(torch.tensor, fit_calibration(logits, labels))
    means = (logits / temperature + bias).softmax(-1).mean(0)
    assert means.tolist() == pytest.approx((torch.bincount(labels) / len(labels)).tolist(), abs=1e-3)


def test_a_class_that_was_not_taught_does_not_disturb_the_calibration():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5_000, 7, generator=generator)
    logits[:, 6] = -torch.inf
    labels = draw(logits, torch.full((7,), 2.0), torch.zeros(7), generator)
    temperature, bias = fit_calibration(logits, labels)
    assert temperature == pytest.approx([2] * 6 + [1], rel=0.2) and bias == pytest.approx([0] * 7, abs=0.15)
    assert (temperature[6], bias[6]) == (1, 0)


@pytest.mark.parametrize("count", [3, 100])
def test_calibration_never_worsens_the_likelihood_and_stays_finite(count):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(count, 7, generator=generator), torch.randint(0, 7, (count,), generator=generator)
    for values in (logits, F.one_hot(labels, 7).float()):  # pure noise, and labels that nothing contradicts
        temperature, bias = map(torch.tensor, fit_calibration(values, labels))
        assert temperature.min() > 0.05 and temperature.max() < 20 and bias.abs().max() < 5  # no more than labels tell
        calibrated = values / temperature + bias
        assert F.cross_entropy(calibrated, labels) <= F.cross_entropy(values, labels)
