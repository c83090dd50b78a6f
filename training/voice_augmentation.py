"""Augmentation of voices: of another length and pitch, and through another room, microphone and line.

In batches, on whatever device the batch is on. A mel image is changed in decibels below its loudest point, where a
filter is a sum and a room or a noise a sum of powers. What a corpus's recordings have in common, their room, codec and
noise floor, must not decide about an emotion, and nobody else's recording has it.
"""

import math

import torch
import torch.nn.functional as F
import torchaudio

from processing_emoclip import STORED_DB, EmoCLIPFeatureExtractor, VoiceExtractor
from training.augmentation import uniform

SPEECH_SPAN = 60.0  # decibels: of what is within so many of the loudest point, the mean is taken for the voice's level


def augment_voices(extractor: VoiceExtractor, stored: torch.Tensor) -> torch.Tensor:
    """Stored voices (B, *stored_shape) to the model's input (B, 1, ...), as the extractor's `decode` makes it, each
    voice changed at random."""
    if isinstance(extractor, EmoCLIPFeatureExtractor):
        return augment_mels(extractor, stored)
    return augment_waveforms(stored)


def augment_mels(extractor: EmoCLIPFeatureExtractor, stored: torch.Tensor) -> torch.Tensor:
    """Mel images (B, mel bands, frames) uint8 to `input_features`: `warp`, `cut_short`, `through_channel`, and two
    ranges of mel bands and two of frames silenced (SpecAugment, Park et al., 2019)."""
    decibels = cut_short(warp(extractor.to_decibels(stored)))
    images = extractor.to_images(through_channel(decibels, extractor))
    _, _, bands, frames = images.shape
    for axis, size in ((2, bands), (2, bands), (3, frames), (3, frames)):
        # a mask is narrower than `mask_param`: at most 15 % of the image
        mask_param = math.ceil(0.15 * size)
        images = torchaudio.functional.mask_along_axis_iid(images, mask_param, mask_value=0.0, axis=axis)
    return extractor.standardize(images)


def warp(decibels: torch.Tensor) -> torch.Tensor:
    """(B, bands, frames), 0 to -STORED_DB, shifted in time by up to a fifth and stretched by 0.8 to 1.25 (so that
    neither the start nor the length says anything), and moved up or down by up to 4 bands, with silence where nothing
    was."""
    batch, bands, frames = decibels.shape
    device = decibels.device
    stretch = torch.exp(uniform(batch, -0.22, 0.22, device))
    shift_x = uniform(batch, -0.4, 0.4, device)  # the grid is 2 wide
    shift_y = uniform(batch, -8 / bands, 8 / bands, device)
    one, zero = torch.ones_like(stretch), torch.zeros_like(stretch)
    theta = torch.stack([stretch, zero, shift_x, zero, one, shift_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, bands, frames], align_corners=False)
    above_silence = (decibels + STORED_DB)[:, None]
    return F.grid_sample(above_silence, grid, "bilinear", "zeros", align_corners=False)[:, 0] - STORED_DB


def cut_short(decibels: torch.Tensor) -> torch.Tensor:
    """Every eighth voice (B, bands, frames) is silent but for 15 to 60 % of the time: a window of a live recording may
    hold a word or two."""
    batch, _, frames = decibels.shape
    device = decibels.device
    length = uniform(batch, 0.15, 0.6, device) * frames
    start = uniform(batch, 0.0, 1.0, device) * (frames - length)
    time = torch.arange(frames, device=device)
    outside = (time < start[:, None]) | (time >= (start + length)[:, None])
    return torch.where((chosen(batch, 1 / 8, device) & outside)[:, None], -STORED_DB, decibels)


def through_channel(decibels: torch.Tensor, extractor: EmoCLIPFeatureExtractor) -> torch.Tensor:
    """Voices (B, bands, frames) through another channel, in the order in which sound passes it: the room, the
    microphone's response and its noise, a line's band, compression and a noise gate."""
    decibels = reverberate(decibels, extractor.hop_length / extractor.sampling_rate)
    decibels = add_noise(equalise(decibels))
    return gate(compress(limit_band(decibels)))


def chosen(n: int, share: float, device: torch.device) -> torch.Tensor:
    """(n, 1) bool, True in about this share of the rows."""
    return (uniform(n, 0.0, 1.0, device) < share)[:, None]


def curves(n: int, bands: int, decibels: float, device: torch.device) -> torch.Tensor:
    """Smooth random curves over the bands (n, bands): three cosines of random phase, each of an amplitude of about
    `decibels`."""
    band = torch.linspace(0.0, 1.0, bands, device=device)
    waves = [
        decibels
        * torch.randn(n, 1, device=device)
        * torch.cos(math.pi * (count * band + uniform(n, 0.0, 2.0, device)[:, None]))
        for count in (1, 2, 4)
    ]
    return sum(waves)


def equalise(decibels: torch.Tensor) -> torch.Tensor:
    """A microphone's response: a curve of some 2 dB, and a tilt of up to 4 dB from the lowest band to the highest."""
    batch, bands, _ = decibels.shape
    device = decibels.device
    tilt = uniform(batch, -4.0, 4.0, device)[:, None] * torch.linspace(-0.5, 0.5, bands, device=device)
    return decibels + (curves(batch, bands, 2.0, device) + tilt)[:, :, None]


def reverberate(decibels: torch.Tensor, frame_seconds: float) -> torch.Tensor:
    """Every fifth voice gets a room: each frame's power dies away by 60 dB in 0.15 to 0.9 s (exponentially, as in a
    diffuse field), the first reflection 3 to 20 dB below the voice."""
    batch, _, frames = decibels.shape
    device = decibels.device
    decay = 10 ** (-6 * frame_seconds / uniform(batch, 0.15, 0.9, device))[:, None, None]
    level = 10 ** (-uniform(batch, 3.0, 20.0, device) / 10)[:, None, None]
    time = torch.arange(frames, device=device)
    lag = (time - time[:, None])[None]  # (1, from, to)
    response = torch.where(lag > 0, level * decay ** lag.clamp(min=0), (lag == 0).float())
    reverberant = to_decibels(to_power(decibels) @ response)
    return torch.where(chosen(batch, 1 / 5, device)[:, :, None], reverberant, decibels)


def add_noise(decibels: torch.Tensor) -> torch.Tensor:
    """Four of five voices get a stationary noise, 30 to 60 dB below the voice and of any colour."""
    batch, bands, frames = decibels.shape
    device = decibels.device
    level = speech_level(decibels) - uniform(batch, 30.0, 60.0, device)  # (B,)
    tilt = uniform(batch, -15.0, 15.0, device)[:, None] * torch.linspace(-0.5, 0.5, bands, device=device)
    noise = (level[:, None] + tilt + curves(batch, bands, 3.0, device))[:, :, None]
    noise = noise + 2.0 * torch.randn(batch, bands, frames, device=device)
    noisy = to_decibels(to_power(decibels) + to_power(noise))
    return torch.where(chosen(batch, 4 / 5, device)[:, :, None], noisy, decibels)


def limit_band(decibels: torch.Tensor) -> torch.Tensor:
    """Every seventh voice loses its high bands, its low ones or both, as by telephone or at a low bit rate: above the
    65th to 92nd hundredth of the mel scale (2.7 to 6.6 kHz), below the first to twelfth (up to 350 Hz)."""
    batch, bands, _ = decibels.shape
    device = decibels.device
    band = torch.linspace(0.0, 1.0, bands, device=device)
    high = chosen(batch, 2 / 3, device) & (band > uniform(batch, 0.65, 0.92, device)[:, None])
    low = chosen(batch, 1 / 2, device) & (band < uniform(batch, 0.01, 0.12, device)[:, None])
    lost = chosen(batch, 1 / 7, device) & (high | low)
    return torch.where(lost[:, :, None], decibels - STORED_DB, decibels)


def compress(decibels: torch.Tensor) -> torch.Tensor:
    """Levels compressed or expanded by up to 13 %, as by automatic gain."""
    top = decibels.amax((1, 2), keepdim=True)
    return (decibels - top) * uniform(len(decibels), 0.87, 1.13, decibels.device)[:, None, None]


def gate(decibels: torch.Tensor) -> torch.Tensor:
    """Of every tenth voice (B, bands, frames), what is 30 to 55 dB below the loudest point is silenced, as by noise
    suppression."""
    batch, device = len(decibels), decibels.device
    threshold = -uniform(batch, 30.0, 55.0, device)[:, None, None]
    below = decibels - decibels.amax((1, 2), keepdim=True) < threshold
    return torch.where(chosen(batch, 1 / 10, device)[:, :, None] & below, -2 * STORED_DB, decibels)


def speech_level(decibels: torch.Tensor) -> torch.Tensor:
    """The mean power of what is within SPEECH_SPAN of the loudest point, in decibels (B,)."""
    heard = decibels > decibels.amax((1, 2), keepdim=True) - SPEECH_SPAN
    power = (to_power(decibels) * heard).sum((1, 2)) / heard.sum((1, 2))
    return to_decibels(power)


def to_power(decibels: torch.Tensor) -> torch.Tensor:
    return 10 ** (decibels / 10)


def to_decibels(power: torch.Tensor) -> torch.Tensor:
    return 10 * power.clamp(min=1e-20).log10()


def augment_waveforms(stored: torch.Tensor) -> torch.Tensor:
    """Samples (B, T) int16 to `input_values` (B, 1, T): shifted by up to a tenth (zeros come in), louder or softer by
    up to 6 dB, and every fourth with white noise 10 to 40 dB below it."""
    batch, length = stored.shape
    device = stored.device
    shift = (uniform(batch, -0.1, 0.1, device) * length).long()
    source = torch.arange(length, device=device) - shift[:, None]  # (B, T)
    inside = (source >= 0) & (source < length)
    out = stored.float().gather(1, source.clamp(0, length - 1)).masked_fill(~inside, 0.0)
    level = out.square().mean(1, keepdim=True).sqrt() * 10 ** (-uniform(batch, 10, 40, device)[:, None] / 20)
    out = out + torch.randn_like(out) * level * chosen(batch, 1 / 4, device)
    return (out * 10 ** (uniform(batch, -6, 6, device)[:, None] / 20))[:, None]
