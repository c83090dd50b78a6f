"""The answer to "Why this answer?": the face and the spectrogram, coloured where they spoke for their labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from demo.emotions import COLOURS, adjective
from demo.views import clock, embedded
from results_emoclip import Box, EmotionResult

if TYPE_CHECKING:
    from recognizer_emoclip import Observation, Recognizer

FACE_SIZE, VOICE_SIZE = (320, 320), (560, 320)  # width and height in pixels
ALPHA = 0.85  # of the colour where it is strongest
NOTE = (
    "Coloured: what raised the probability of that answer, by integrated gradients (Sundararajan et al., 2017). "
    "It shows what the network used, not what the person felt."
)
NO_VOICE_MAP = "Of the voice there is no such picture: this model reads the waveform itself."


@dataclass
class Answered:
    """An answer, with what its explanation needs: nothing is looked for again.

    `observation` is what was decisive, see `Observation.decisive`; `face` is the largest face as the photo shows it,
    which is in more detail than the network's picture of it.
    """

    result: EmotionResult
    observation: "Observation"
    face: Image.Image | None


def close_up(photo: Image.Image, square: Box) -> Image.Image:
    """A face cut out of a photo, grey, in the size in which it is shown."""
    x, y, width, height = square
    face = photo.crop((round(x), round(y), round(x + width), round(y + height)))
    return face.convert("L").resize(FACE_SIZE, Image.Resampling.BICUBIC)


def why_view(recognizer: "Recognizer", answered: Answered | None) -> str:
    """What in the face and in the voice spoke for their labels, as HTML; empty where there was no answer."""
    if answered is None:
        return ""
    from explain_emoclip import explain

    explanations = explain(recognizer, answered.observation, answered.result)
    cards = ""
    for explanation in explanations:
        source, label, shape = explanation.source, explanation.label, ""
        if source == "face":
            caption = "The largest face"
            address = _picture(answered.face, explanation.values, label)
        else:
            caption = f"The sound from {clock(explanation.start)} to {clock(explanation.end)}, low tones below"
            shape, grey = "wide", Image.fromarray(np.flipud(explanation.picture))
            address = _picture(grey.resize(VOICE_SIZE, Image.Resampling.BICUBIC), np.flipud(explanation.values), label)
        word = adjective(label)
        cards += (
            f'<figure class="{shape}" style="--colour:{COLOURS[label]}">'
            f"<figcaption>What in the {source} spoke for <b>{word}</b></figcaption>"
            f'<img src="{address}" alt="{caption}, coloured where it spoke for {word}"><small>{caption}</small>'
            "</figure>"
        )
    if answered.result.voice and "voice" not in [explanation.source for explanation in explanations]:
        cards += f'<p class="note">{NO_VOICE_MAP}</p>'
    return f'<div class="answer"><div class="why">{cards}</div><p class="note">{NOTE}</p></div>' if cards else ""


def _picture(grey: Image.Image, values: np.ndarray, label: str) -> str:
    """A grey picture, in the label's colour where `values` (H, W) are above 0: the address of an <img>."""
    ground = np.asarray(grey, np.float32)[..., None] * 0.75  # (h, w, 1)
    strength = np.clip(values / max(np.quantile(values, 0.99), 1e-9), 0, 1)
    alpha = np.asarray(Image.fromarray(np.float32(strength)).resize(grey.size, Image.Resampling.BICUBIC)).clip(0, 1)
    alpha = ALPHA * alpha[..., None] ** 0.8  # (h, w, 1)
    colour = np.array(list(bytes.fromhex(COLOURS[label][1:])), np.float32)
    return embedded(Image.fromarray((ground * (1 - alpha) + colour * alpha).astype(np.uint8)))
