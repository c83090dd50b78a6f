"""Augmentation of faces, and mixup, in batches, on whatever device the batch is on."""

import torch
import torch.nn.functional as F


def uniform(n: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    """(n,) draws between `low` and `high`."""
    return torch.empty(n, device=device).uniform_(low, high)


def augment_faces(faces: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 48, 48) uint8 faces to (B, 1, size, size) in 0..1: half of them flipped, all turned by up to 10 degrees,
    shifted by up to 8 %, scaled by 0.9 to 1.1 and changed in brightness and contrast, and a third of them with a grey
    rectangle (random erasing, Zhong et al., 2017)."""
    batch, device = len(faces), faces.device
    angle = uniform(batch, -10, 10, device).deg2rad()
    scale = uniform(batch, 0.9, 1.1, device)
    flip = torch.where(uniform(batch, 0, 1, device) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    shift_x, shift_y = uniform(2 * batch, -0.16, 0.16, device).view(2, batch)  # the grid is 2 wide
    theta = torch.stack([cos * flip, -sin, shift_x, sin * flip, cos, shift_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    images = F.grid_sample(faces[:, None].float() / 255, grid, "bicubic", "border", align_corners=False)
    mean = images.mean((2, 3), keepdim=True)
    contrast, brightness = (uniform(batch, *limits, device).view(-1, 1, 1, 1) for limits in ((0.8, 1.2), (-0.1, 0.1)))
    images = ((images - mean) * contrast + mean + brightness).clamp(0, 1)
    hole = rectangles(batch, size, size, device, (0.1, 0.4), (0.1, 0.4)) & (uniform(batch, 0, 3, device) < 1).view(
        -1, 1, 1
    )
    return torch.where(hole[:, None], mean, images)


def rectangles(
    n: int,
    height: int,
    width: int,
    device: torch.device,
    height_share: tuple[float, float],
    width_share: tuple[float, float],
) -> torch.Tensor:
    """(n, height, width) bool, True in one random rectangle each, with sides between these shares of the image's."""
    masks = []
    for side, share in ((height, height_share), (width, width_share)):
        length = uniform(n, *share, device) * side
        start = uniform(n, 0, 1, device) * (side - length)
        position = torch.arange(side, device=device) + 0.5
        masks.append((position >= start[:, None]) & (position < (start + length)[:, None]))
    return masks[0][:, :, None] & masks[1][:, None, :]


def mix(values: torch.Tensor, targets: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup (Zhang et al., 2018): each row's input and target mixed with another row's, at least half of both its own.

    Args:
        values: (B, ...) inputs. targets: (B, ..., C) probabilities.
        alpha: a row's own part is the larger of x and 1 - x, x drawn from Beta(alpha, alpha).
    """
    # Beta(alpha, alpha) as a ratio of gammas, which torch.compile takes as it is
    parts = torch._standard_gamma(torch.full((len(values), 2), alpha, device=values.device)) + 1e-30
    own = parts.amax(1) / parts.sum(1)
    partners = torch.rand(len(values), device=values.device).argsort()
    return tuple(each[partners].lerp(each, own.view(-1, *[1] * (each.ndim - 1))) for each in (values, targets))
