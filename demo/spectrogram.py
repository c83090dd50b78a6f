"""A recording as a mel spectrogram, with its speech underlined."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from demo.views import clock, embedded
from media_emoclip import InputError, load_audio
from processing_emoclip import EmoCLIPFeatureExtractor, EmoCLIPWaveformExtractor

COLUMNS = 900  # pixels of the picture's width, at most
# Silence to loud, as RGB: dark to bright, so that it can be read without its colours.
HEAT = [(13, 12, 29), (54, 20, 103), (124, 35, 119), (200, 62, 92), (246, 129, 61), (252, 231, 145)]


def spectrogram_view(
    source: str, extractor: EmoCLIPFeatureExtractor | EmoCLIPWaveformExtractor, segments: list[tuple[float, float]]
) -> str:
    """The figure, as HTML; nothing where the recording cannot be read.

    Args:
        extractor: the model's own, whose mel recipe is shown. A model that reads waveforms has none: what is shown for
            it is EmoCLIP's, and the caption says that the network does not see it.
        segments: the (start, end) of speech, in seconds.
    """
    seen = extractor.input_name == "input_features"
    mel_extractor = extractor if seen else EmoCLIPFeatureExtractor()
    try:
        samples = load_audio(source, mel_extractor.sampling_rate)[0]
    except InputError:
        return ""
    seconds = len(samples) / mel_extractor.sampling_rate
    picture = embedded(draw_mel(mel_extractor.spectrogram(torch.from_numpy(samples)[None])))
    marks = "".join(
        f'<i style="left:{100 * start / seconds:.2f}%;width:{100 * (min(end, seconds) - start) / seconds:.2f}%"></i>'
        for start, end in segments
    )
    ticks = "".join(f"<span>{clock(seconds * part / 4)}</span>" for part in range(5))
    speech = f"{sum(end - start for start, end in segments):.1f} s of speech, underlined" if segments else "no speech"
    title = "The sound as the network sees it" if seen else "The sound (this network reads its waveform instead)"
    return (
        f'<figure class="spectrogram expert"><img src="{picture}" '
        f'alt="Mel spectrogram of the recording, {seconds:.1f} seconds: {speech}"><div class="speech">{marks}</div>'
        f'<div class="ticks" aria-hidden="true">{ticks}</div><figcaption>{title}: low tones '
        f"below, loud ones bright; {speech}</figcaption></figure>"
    )


def draw_mel(mel: torch.Tensor) -> Image.Image:
    """A log-mel image (1, 1, bands, frames), 0..1, in colours, low tones below."""
    mel = F.adaptive_avg_pool2d(mel, (mel.shape[2], min(mel.shape[3], COLUMNS)))[0, 0]
    levels = np.flipud(mel.numpy())
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(levels, stops, channel) for channel in np.transpose(HEAT)], axis=-1)
    return Image.fromarray(colours.astype(np.uint8))
