"""Augmentation of voices: another length, pitch, room, microphone and line, each effect where it should be."""

import numpy as np
import pytest
import torch
import torchaudio
from torchaudio.functional import mask_along_axis_iid
from transformers import set_seed

import training.voice_augmentation as voice
from processing_emoclip import STORED_DB, VOICE_EXTRACTORS, EmoCLIPFeatureExtractor, EmoCLIPWaveformExtractor

RATE = 16_000
EXTRACTOR = EmoCLIPFeatureExtractor()
N, BANDS, FRAMES = 400, 128, 188
FRAME_SECONDS = EXTRACTOR.hop_length / EXTRACTOR.sampling_rate


@pytest.fixture(autouse=True)
def seeded():
    set_seed(0)


def augmented_images(mels: torch.Tensor) -> torch.Tensor:
    """Augmented mel images, back in 0..1."""
    return voice.augment_voices(EXTRACTOR, mels) * EXTRACTOR.std + EXTRACTOR.mean


def through(monkeypatch, *kept: str):
    """Leaves of the channel's steps only those named; the others pass what they get."""
    for name in ("cut_short", "equalise", "add_noise", "limit_band", "compress", "gate"):
        if name not in kept:
            monkeypatch.setattr(voice, name, lambda decibels: decibels)
    if "reverberate" not in kept:
        monkeypatch.setattr(voice, "reverberate", lambda decibels, frame_seconds: decibels)


def speech(n: int = N) -> torch.Tensor:
    """(n, BANDS, FRAMES) decibels: from frame 40 to 120 a voice, 20 dB softer at the top than at the bottom, and
    silence around it."""
    decibels = torch.full((n, BANDS, FRAMES), -STORED_DB)
    decibels[:, :, 40:120] = torch.linspace(0, -20, BANDS)[:, None]
    return decibels


def changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """(n,) bool: the rows that were changed."""
    return (before != after).flatten(1).any(1)


@pytest.mark.parametrize("kind", VOICE_EXTRACTORS.values())
def test_augmented_voices_are_model_inputs_that_differ_from_call_to_call(kind):
    extractor = kind()
    time = np.arange(RATE * 2) / RATE
    recordings = [(0.3 * np.sin(2 * np.pi * (200 + 300 * time + 50 * i) * time)).astype("f4") for i in range(8)]
    stored = extractor.encode(recordings, RATE)
    torch.manual_seed(0)
    first, second = voice.augment_voices(extractor, stored), voice.augment_voices(extractor, stored)
    decoded = extractor.decode(stored)
    assert first.shape == decoded.shape and first.dtype == decoded.dtype and first.isfinite().all()
    assert (first != second).flatten(1).any(1).all() and (first != decoded).flatten(1).any(1).all()
    torch.manual_seed(0)
    assert torch.equal(voice.augment_voices(extractor, stored), first)


def test_images_stay_in_their_range():
    images = augmented_images(torch.randint(0, 256, (64, BANDS, FRAMES), dtype=torch.uint8))
    assert images.shape == (64, 1, BANDS, FRAMES) and images.min() >= -1e-5 and images.max() <= 1 + 1e-5


def test_voices_are_silent_where_nothing_was(monkeypatch):
    through(monkeypatch)
    images = augmented_images(torch.full((200, BANDS, FRAMES), 255, dtype=torch.uint8))
    silent_bands, silent_frames = ((images[:, 0] < 1e-3).all(axis).sum(1) for axis in (2, 1))
    assert silent_bands.max() <= 4 + 2 * 19 and silent_frames.max() > 188 / 5  # shifted, then two masks of 15 %


def test_a_window_may_hold_little_speech():
    after = voice.cut_short(torch.zeros(N, BANDS, FRAMES))
    heard = (after > -STORED_DB).all(1).sum(1)
    short = heard < FRAMES
    assert 0.07 < short.float().mean() < 0.19
    assert 0.14 * FRAMES < heard[short].min() < 0.3 * FRAMES and 0.45 * FRAMES < heard[short].max() <= 0.61 * FRAMES


def test_an_equalised_voice_has_its_loudest_band_elsewhere():
    before = speech()
    before[:, :, 40:120] = 0.0  # all bands alike
    after = voice.equalise(before)
    response = (after - before)[:, :, 60]
    assert torch.allclose(
        after - before, response[:, :, None].expand_as(after), atol=1e-4
    )  # a filter: one gain a band
    assert len(after[:, :, 60].argmax(1).unique()) > 20
    assert 1.5 < response.std(1).mean() < 6 and response.diff(dim=1).abs().max() < 2  # decibels; smooth


def test_every_fifth_voice_gets_a_room_whose_tail_dies_away():
    before = speech()
    after = voice.reverberate(before, FRAME_SECONDS)
    rows = changed(before.clamp(min=-79), after.clamp(min=-79))
    assert 0.13 < rows.float().mean() < 0.28
    tail = after[rows][:, 0, 120:]  # after the voice has stopped
    assert (tail.diff(dim=1) <= 1e-3).all() and (tail[:, 0] > -40).all()
    assert (after[rows][:, :, :40] < -70).all()  # and nothing before it
    fall = -(tail[:, 1:9] - tail[:, :8]).mean(1) / FRAME_SECONDS  # decibels a second
    assert 60 / 0.95 < fall.min() < 120 and fall.max() < 60 / 0.14


def test_most_voices_get_a_noise_well_below_them():
    before = speech()
    after = voice.add_noise(before)
    rows = changed(before.clamp(min=-79), after.clamp(min=-79))
    assert 0.7 < rows.float().mean() < 0.9
    floor = after[rows][:, :, :40].mean((1, 2))
    level = voice.speech_level(before)[rows]
    below = level - floor
    assert 24 < below.min() < 36 and 52 < below.max() < 72
    assert (after[rows][:, :, 40:120] - before[rows][:, :, 40:120]).abs().mean() < 0.5  # the voice is as it was
    assert len(after[rows][:, :, 20].argmax(1).unique()) > 20  # of many colours


def test_a_line_takes_the_high_bands_or_the_low_ones():
    before = speech()
    after = voice.limit_band(before)
    rows = changed(before, after)
    assert 0.06 < rows.float().mean() < 0.2
    lost = after[rows][:, :, 60] < -STORED_DB + 1
    assert not lost[:, 20:80].any()  # what a telephone passes
    assert lost[:, -5:].all(1).float().mean() > 0.4 and lost[:, :1].all(1).float().mean() > 0.2
    assert (lost[:, -5:].all(1) & lost[:, 0]).any()  # both: a telephone


def test_levels_are_compressed_or_expanded_about_the_loudest_point():
    before = speech()
    ratio = voice.compress(before)[:, -1, 60] / before[:, -1, 60]
    assert 0.87 <= ratio.min() < 0.89 and 1.11 < ratio.max() <= 1.13


def test_a_gate_zeroes_what_is_soft():
    before = speech() / 2  # the silence is at -40
    after = voice.gate(before)
    rows = changed(before, after)
    assert 0.03 < rows.float().mean() < 0.12
    assert (after[rows][:, :, :40] <= -STORED_DB).all()
    assert torch.equal(after[rows][:, :, 40:120], before[rows][:, :, 40:120])


def test_the_loudest_point_is_the_brightest_whatever_the_channel():
    mels = ((speech(64) / STORED_DB + 1) * 255).round().to(torch.uint8)
    extractor = EmoCLIPFeatureExtractor(top_db=45.0, mean=0.0, std=1.0)
    images = voice.augment_voices(extractor, mels)
    assert images.amax((1, 2, 3)).median() == pytest.approx(1.0, abs=0.01)  # a mask may hide it
    assert images.min() == 0


def test_stretches_of_frequency_and_of_time_are_masked(monkeypatch):
    """Each of the four masks does its work: one stretch of either kind less would show."""
    drawn_masks = []

    def record(images, mask_param, mask_value, axis):
        kept = mask_along_axis_iid(torch.ones_like(images), mask_param, 0.0, axis)
        drawn_masks.append(kept[:, 0] == 0)
        return images.masked_fill(kept == 0, mask_value)

    monkeypatch.setattr(torchaudio.functional, "mask_along_axis_iid", record)
    through(monkeypatch)
    images = augmented_images(torch.full((64, 128, 188), 200, dtype=torch.uint8))[:, 0]
    assert len(drawn_masks) == 4
    bands = [mask for mask in drawn_masks if torch.equal(mask.any(2), mask.all(2))]
    times = [mask for mask in drawn_masks if torch.equal(mask.any(1), mask.all(1))]
    assert len(bands) == 2 and len(times) == 2
    for mask in drawn_masks:
        assert mask.any() and (images[mask].abs() < 1e-6).all()
    masked = torch.stack(drawn_masks).any(0)
    centre = torch.zeros_like(masked)
    centre[:, 30:100, 60:120] = True  # far from the edges, which shifting may bring in
    assert (images[centre & ~masked] > 0.7).all()


def test_the_start_and_the_length_of_a_voice_are_moved(monkeypatch):
    mels = torch.zeros(200, 128, 188, dtype=torch.uint8)
    mels[:, 20:108, 60:100] = 250
    through(monkeypatch)
    loud = augmented_images(mels)[:, 0].amax(1) > 0.5
    spans = [(row.nonzero().min().item(), row.nonzero().max().item()) for row in loud if row.any()]
    starts, lengths = np.array([a for a, _ in spans]), np.array([b - a + 1 for a, b in spans])
    assert len(spans) > 190
    assert starts.std() > 10 and starts.min() < 45 and starts.max() > 75
    assert 18 <= np.percentile(lengths, 5) < 36 and 44 < np.percentile(lengths, 95) <= 52


def test_augmented_waveforms_are_shifted_louder_or_softer_and_noisy():
    extractor = EmoCLIPWaveformExtractor(sampling_rate=RATE)
    stored = torch.full((400, 3 * RATE), 1_000, dtype=torch.int16)
    waveforms = voice.augment_voices(extractor, stored)[:, 0]
    noisy = torch.tensor([len(row.unique()) > 2 for row in waveforms])  # the others are zeros and one level
    assert 0.15 < noisy.float().mean() < 0.35
    levels, silent = waveforms[~noisy].amax(1), (waveforms[~noisy] == 0).float().mean(1)
    assert 1_000 * 10 ** (-6 / 20) <= levels.min() < 600 and 1_700 < levels.max() <= 1_000 * 10 ** (6 / 20)
    assert 0.08 < silent.max() <= 0.1 and silent.min() < 0.01
    noise = waveforms[noisy][:, 5_000:-5_000]  # within the shift
    below = 20 * (noise.mean(1) / noise.std(1)).log10()  # decibels
    assert 9 < below.min() < 15 and 35 < below.max() < 41
