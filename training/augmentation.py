"""Augmentation, in batches, on whatever device the batch is on."""

import torch
import torch.nn.functional as F


def uniform(n: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    """(n,) draws between `low` and `high`."""
    return torch.empty(n, device=device).uniform_(low, high)


def augment_faces(faces: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 48, 48) uint8 faces to (B, 1, size, size) in 0..1: flipped, turned up to 10 degrees, shifted up to 8 %,
    scaled by 0.9 to 1.1, with another brightness and contrast, and with a grey rectangle in every third."""
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
    height_share: tuple[float, float] = (1.0, 1.0),
    width_share: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """(n, height, width) bool, True in a rectangle at random, whose sides are between these shares of the image's."""
    masks = []
    for side, share in ((height, height_share), (width, width_share)):
        length = uniform(n, *share, device) * side
        start = uniform(n, 0, 1, device) * (side - length)
        position = torch.arange(side, device=device) + 0.5
        masks.append((position >= start[:, None]) & (position < (start + length)[:, None]))
    return masks[0][:, :, None] & masks[1][:, None, :]


def mix(
    values: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, alpha: float, cut: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup (Zhang et al., 2018): each row's input and target with those of another, the larger part its own. Or
    CutMix (Yun et al., 2019): a rectangle of the other's image, at most half of it, and as much of its target.

    Args:
        values: (B, ...) inputs, (B, C, H, W) where some are cut.
        targets: (B, L) probabilities.
        mask: (B,) bool, on the CPU, False where the row has none: such a row is nobody's partner.
        alpha: mixup's larger part is that of a draw from Beta(alpha, alpha); 0 mixes nothing.
        cut: the share of rows that CutMix mixes, in mixup's place.
    """
    rows = mask.nonzero().flatten()
    partners = torch.arange(len(values))
    partners[rows] = rows[torch.randperm(len(rows))]
    own = torch.ones(len(values))
    if alpha:
        own = torch.distributions.Beta(alpha, alpha).sample((len(values),))
    own = torch.maximum(own, 1 - own).to(values.device, non_blocking=True).view(-1, *[1] * (values.ndim - 1))
    if cut:
        height, width = values.shape[-2:]
        pasted = rectangles(len(values), height, width, values.device, (0.2, 0.7), (0.2, 0.7))[:, None]
        is_cut = (uniform(len(values), 0, 1, values.device) < cut).view(-1, 1, 1, 1)
        own = torch.where(is_cut, 1 - pasted.float(), own)
    partners = partners.to(values.device, non_blocking=True)
    return values[partners].lerp(values, own), targets[partners].lerp(targets, own.flatten(1).mean(1, keepdim=True))


def augment_waveforms(waveforms: torch.Tensor) -> torch.Tensor:
    """(B, T) int16 waveforms to (B, 1, T) floats in int16 units: shifted by up to a tenth (zeros come in), louder or
    softer by up to 6 dB, and every fourth with white noise 10 to 40 dB below it."""
    batch, length = waveforms.shape
    device = waveforms.device
    shift = (uniform(batch, -0.1, 0.1, device) * length).long()
    source = torch.arange(length, device=device) - shift[:, None]  # (B, T)
    inside = (source >= 0) & (source < length)
    out = waveforms.float().gather(1, source.clamp(0, length - 1)).masked_fill(~inside, 0.0)
    level = out.square().mean(1, keepdim=True).sqrt() * 10 ** (-uniform(batch, 10, 40, device)[:, None] / 20)
    noisy = uniform(batch, 0, 4, device)[:, None] < 1
    out = out + torch.randn_like(out) * level * noisy
    return (out * 10 ** (uniform(batch, -6, 6, device)[:, None] / 20))[:, None]


def augment_voices(mels: torch.Tensor) -> torch.Tensor:
    """(B, bands, frames) uint8 mel images to (B, 1, bands, frames) in 0..1: shifted in time by up to a
    fifth and stretched by 0.8 to 1.25 (so that neither the start nor the length says anything), moved up or down by
    up to 4 bands, with two stretches of frequency and two of time masked (Park et al., 2019)."""
    batch, bands, frames = mels.shape
    device = mels.device
    stretch = torch.exp(uniform(batch, -0.22, 0.22, device))
    shift_x = uniform(batch, -0.4, 0.4, device)  # the grid is 2 wide
    shift_y = uniform(batch, -8 / bands, 8 / bands, device)
    one, zero = torch.ones_like(stretch), torch.zeros_like(stretch)
    theta = torch.stack([stretch, zero, shift_x, zero, one, shift_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, bands, frames], align_corners=False)
    images = F.grid_sample(mels[:, None].float() / 256, grid, "bilinear", "zeros", align_corners=False)
    for share in ({"height_share": (0, 0.15)}, {"width_share": (0, 0.15)}):
        for _ in range(2):
            images = images.masked_fill(rectangles(batch, bands, frames, device, **share)[:, None], 0.0)
    return images
