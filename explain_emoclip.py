"""What in a face and in a voice spoke for the answer: integrated gradients (Sundararajan et al., 2017).

    observation = recognizer.observe(image="photo.jpg", audio="recording.wav")
    [result] = recognizer.score([observation])
    for explanation in explain(recognizer, observation, result):
        explanation.values                            # (H, W), in nats of log p(label)

Every pixel gets the average gradient of log p(label) on the straight line from an input without content to the input
itself, times its own change along that line. In small enough steps the values sum up to log p(label | input) -
log p(label | nothing).

The map is faithful: blanking the tenth of the input that it marks lowers the probability of the answer by 39 points in
a face and 38 in a voice, blanking random patches of the same area by 8 and 3 (`experiments/explain_deletion.py`, n =
100 each). In a first trial on 128 validation faces, with a smaller model, this map came to 40 points, as did blanking
patch by patch (39); gradient x input came to 31, LayerCAM to 26 and Grad-CAM to 16, each on the stage of the tower
where it did best, and the last two to 3 at most on the last convolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

try:
    from .recognizer_emoclip import Observation, Recognizer
    from .results_emoclip import EmotionResult
    from .runtime_emoclip import Head
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from recognizer_emoclip import Observation, Recognizer
    from results_emoclip import EmotionResult
    from runtime_emoclip import Head

STEPS = 16
SMOOTHING = 5  # pixels of the box that the values are averaged in, twice: single pixels mean little


@dataclass
class Explanation:
    """What spoke for a label in a face or in a window of speech.

    Args:
        source: of which it is. label: for which it spoke.
        values: (H, W) float32, above 0 where it spoke for the label and below 0 where against.
        picture: (H, W) uint8, what the model was shown: the grey face, or the log-mel image, low frequencies in row 0.
        start, end: of the window, in seconds from the recording's start; None for a face.
    """

    source: Literal["face", "voice"]
    label: str
    values: np.ndarray
    picture: np.ndarray
    start: float | None = None
    end: float | None = None


def explain(recognizer: Recognizer, observation: Observation, result: EmotionResult) -> list[Explanation]:
    """Explains the face's and the voice's label of a result: the largest face, and the window that speaks most for it.

    Args:
        observation: scored, the one that `result` is of. Nothing is looked for in it again.
    Returns:
        One for each of face and voice that there is. An audio tower that reads waveforms has no picture of a voice,
        and so no explanation.
    """
    seen = observation.decisive(result)
    explanations = []
    if result.face:
        inputs, processor = recognizer.face_inputs(seen.faces.crops), recognizer.processor.image_processor
        label = result.face.label
        picture = inputs[0] * torch.tensor(processor.image_std)[:, None, None]
        picture = (picture + torch.tensor(processor.image_mean)[:, None, None])[0]  # its three channels are equal
        values = attribute(recognizer, "face", inputs, 0.0, label)  # nothing there is grey
        explanations.append(Explanation("face", label, values, to_bytes(picture)))
    extractor = recognizer.processor.feature_extractor
    if result.voice and extractor.input_name == "input_features":
        inputs, label = seen.voice.windows, result.voice.label
        silence = extractor.standardize(0.0)
        values = attribute(recognizer, "voice", inputs, silence, label)
        picture = inputs[0, 0] * extractor.std + extractor.mean
        [start] = seen.voice.starts
        end = start + recognizer.window_seconds
        explanations.append(Explanation("voice", label, values, to_bytes(picture), start, end))
    return explanations


def to_bytes(picture: torch.Tensor) -> np.ndarray:
    """(H, W) in 0..1 as uint8."""
    return (picture * 255).clamp(0, 255).numpy().astype(np.uint8)


def attribute(recognizer: Recognizer, head: Head, inputs: torch.Tensor, baseline: float, label: str) -> np.ndarray:
    """Smoothed integrated gradients (H, W) of a head's log p(label) in what its tower takes, one row (1, C, H, W)."""
    column = recognizer.model.config.label2id[label]

    def score(rows: torch.Tensor) -> torch.Tensor:
        return recognizer.logits(head, rows).log_softmax(-1)[:, column]

    return smooth(integrated_gradients(score, inputs.to(recognizer.device), baseline)).cpu().numpy()


def integrated_gradients(
    score: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, baseline: float
) -> torch.Tensor:
    """The share (H, W) that every pixel of the inputs (1, C, H, W) has in score(inputs) - score(baseline).

    Args:
        score: (B, C, H, W) to (B,).
        baseline: the value of every pixel of an input without content.
    """
    parts = (torch.arange(STEPS, device=inputs.device) + 0.5) / STEPS  # the midpoint rule
    path = baseline + parts.view(-1, 1, 1, 1) * (inputs - baseline)
    with torch.enable_grad():
        path.requires_grad_()
        (gradients,) = torch.autograd.grad(score(path).sum(), path)
    return ((inputs - baseline)[0] * gradients.mean(0)).sum(0)


def smooth(values: torch.Tensor) -> torch.Tensor:
    """(H, W) averaged over the neighbourhood."""
    for _ in range(2):
        values = F.avg_pool2d(values[None], SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)[0]
    return values
