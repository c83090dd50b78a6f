"""The answer to "Why this answer?": the face and the spectrogram, coloured where they spoke for their labels."""

import numpy as np
from PIL import Image

from demo.emotions import COLOURS
from demo.views import clock, embedded
from explain_emoclip import Explanation, explain
from recognizer_emoclip import Observation, Recognizer
from results_emoclip import EmotionResult

FACE_SIZE, VOICE_SIZE = (320, 320), (560, 320)  # width and height in pixels
ALPHA = 0.85  # of the colour where it is strongest
NOTE = (
    "Coloured: what raised the probability of that answer, by integrated gradients (Sundararajan et al., 2017). "
    "It shows what the network used, not what the person felt."
)
NO_VOICE_MAP = "Of the voice there is no such picture: this model reads the waveform itself."


def why_view(recognizer: Recognizer, observation: Observation, result: EmotionResult) -> str:
    """What in the face and in the voice spoke for their labels, as HTML; empty where there was neither.

    Args:
        observation: scored, the one that `result` is of, or what was decisive in it.
    """
    explanations = explain(recognizer, observation, result)
    cards = "".join(map(_card, explanations))
    if result.voice and not any(explanation.source == "voice" for explanation in explanations):
        cards += f'<p class="note">{NO_VOICE_MAP}</p>'
    return f'<div class="answer"><div class="why">{cards}</div><p class="note">{NOTE}</p></div>' if cards else ""


def _card(explanation: Explanation) -> str:
    source, label = explanation.source, explanation.label
    if source == "face":
        shape, caption = "", "The largest face"
        address = _picture(explanation.picture, explanation.values, label, FACE_SIZE)
    else:
        shape = "wide"
        caption = f"The sound from {clock(explanation.start)} to {clock(explanation.end)}, low tones below"
        address = _picture(np.flipud(explanation.picture), np.flipud(explanation.values), label, VOICE_SIZE)
    return (
        f'<figure class="{shape}" style="--colour:{COLOURS[label]}">'
        f"<figcaption>What in the {source} spoke for <b>{label}</b></figcaption>"
        f'<img src="{address}" alt="{caption}, coloured where it spoke for {label}"><small>{caption}</small></figure>'
    )


def _picture(grey: np.ndarray, values: np.ndarray, label: str, size: tuple[int, int]) -> str:
    """A picture (H, W) uint8, in the label's colour where `values` (H, W) are above 0: the address of an <img>."""
    ground = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC), np.float32)[..., None] * 0.75
    strength = np.clip(values / max(np.quantile(values, 0.99), 1e-9), 0, 1)
    alpha = np.asarray(Image.fromarray(np.float32(strength)).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    alpha = ALPHA * alpha[..., None] ** 0.8  # (h, w, 1)
    colour = np.array(list(bytes.fromhex(COLOURS[label][1:])), np.float32)
    return embedded(Image.fromarray((ground * (1 - alpha) + colour * alpha).astype(np.uint8)))
