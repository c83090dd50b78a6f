"""Augmentation of faces, and mixup."""

import numpy as np
import pytest
import torch
from helpers import face
from transformers import set_seed

from configuration_emoclip import LABELS
from training.augmentation import augment_faces, mix, rectangles


def test_augmented_faces_keep_shape_and_range_and_differ_from_call_to_call():
    faces = torch.tensor(np.stack([face(label, i) for label in LABELS for i in range(4)]))
    set_seed(0)
    first, second = augment_faces(faces, 64), augment_faces(faces, 64)
    assert first.shape == (28, 1, 64, 64) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    assert (first != second).flatten(1).any(1).all()
    set_seed(0)
    assert torch.equal(augment_faces(faces, 64), first)


def test_augmented_faces_still_show_the_face():
    faces = torch.tensor(np.stack([face("angry", i) for i in range(64)]))  # wide stripes from top to bottom
    set_seed(0)
    averages = augment_faces(faces, 48).mean((0, 1, 3)) * 255
    assert np.corrcoef(averages.numpy(), face("angry").mean(1))[0, 1] > 0.9


def test_about_half_of_the_faces_are_flipped():
    bright_left = torch.zeros(400, 48, 48, dtype=torch.uint8)
    bright_left[:, :, :24] = 200
    set_seed(0)
    images = augment_faces(bright_left, 48)[:, 0]
    flipped = images[:, :, 34:].mean((1, 2)) > images[:, :, :14].mean((1, 2))
    assert 0.4 < flipped.float().mean() < 0.6


def test_every_third_face_has_a_grey_rectangle():
    set_seed(0)
    noise = torch.randint(0, 256, (300, 48, 48), dtype=torch.uint8)
    images = augment_faces(noise, 48)[:, 0]
    level = images.flatten(1).mode().values[:, None, None]
    erased = (images == level).float().mean((1, 2))  # in noise, no value is frequent but the rectangle's
    inside = (level.flatten() > 0.2) & (level.flatten() < 0.8)
    assert 0.2 < ((erased > 0.02) & inside).float().mean() < 0.47
    assert erased[inside].max() < 0.25


def test_rectangles_are_as_large_as_said_and_lie_anywhere():
    set_seed(0)
    masks = rectangles(500, 40, 60, torch.device("cpu"), (0.1, 0.4), (0.5, 0.5))
    heights, widths = masks.any(2).sum(1), masks.any(1).sum(1)
    assert (masks.sum((1, 2)) == heights * widths).all()  # rectangles, and one each
    assert heights.min() >= 3 and heights.max() <= 17 and heights.float().std() > 2
    assert ((widths - 30).abs() <= 1).all()
    assert masks.any(0).float().mean() > 0.9
    bands = rectangles(500, 40, 60, torch.device("cpu"), (0.0, 0.2), (1.0, 1.0))
    assert torch.equal(bands.any(2), bands.all(2))  # the whole width


def test_mixup_mixes_input_and_target_alike_and_at_least_half_stays_a_rows_own():
    torch.manual_seed(0)
    values = torch.arange(1.0, 65.0)[:, None].repeat(1, 3)
    targets = torch.eye(64)
    mixed, mixed_targets = mix(values, targets, alpha=0.5)
    assert torch.allclose(mixed, mixed_targets @ values, atol=1e-4)  # whoever the partner and whatever its part
    assert torch.allclose(mixed_targets.sum(-1), torch.ones(64))
    own = mixed_targets.diagonal()
    assert (own >= 0.5).all() and ((own < 0.99).sum() > 20) and (mixed_targets > 0).sum(-1).max() == 2
    others = mixed_targets - own.diag()
    assert ((others > 0).sum(0) <= 1).all()  # every row is a partner once
    assert torch.equal(values, torch.arange(1.0, 65.0)[:, None].repeat(1, 3))  # the originals stay
    assert torch.equal(targets, torch.eye(64))


def test_a_rows_own_part_is_the_larger_of_a_beta_draw_and_the_rest():
    torch.manual_seed(0)
    _, targets = mix(torch.zeros(4_000, 1), torch.eye(4_000), alpha=0.2)
    drawn = torch.distributions.Beta(0.2, 0.2).sample((4_000,))
    for share in (0.1, 0.25, 0.5):
        given = targets.diagonal().quantile(share)
        assert given.item() == pytest.approx(torch.maximum(drawn, 1 - drawn).quantile(share).item(), abs=0.03)
