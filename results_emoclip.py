"""What is said of a person: results as plain dataclasses, and a posterior smoothed in time.

Units everywhere: pixels of the upright image (after its EXIF rotation), x to the right and y down; seconds from the
start of the recording; natural logarithms.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the demo's page is there before it
    import torch

Box = tuple[float, float, float, float]  # x, y, width, height
#: Of the agreement: face and voice conflict where they are half as likely together as apart, or less.
CONFLICT = -math.log(2)


@dataclass
class Emotion:
    """One posterior. `scores` has every label; None stands for one that this source was never taught. `unsure` says
    that the answer is not to be relied on: its score is one at which too many validation answers were wrong."""

    label: str
    scores: dict[str, float | None]
    unsure: bool


@dataclass
class OtherFace(Emotion):
    """A face beside the largest. `box` as in `FaceResult`."""

    box: Box


@dataclass
class FaceResult(Emotion):
    """The largest face.

    `box` is the part inside the picture of the square that the model saw: x, y, width, height in pixels of the
    upright image; of a photo that lay on its side or stood on its head, which a message says, of the photo turned.
    `detector` is "yunet", or "given" for the caller's own box. `others` are the remaining faces, largest first.
    """

    box: Box
    detector: str
    others: list[OtherFace] = field(default_factory=list)


@dataclass
class VoiceResult(Emotion):
    """The voice. `segments` are the (start, end) of speech, in seconds from the start of the recording."""

    segments: list[tuple[float, float]]


class FusedResult:
    """What every result with `face`, `voice` and `agreement` has in common."""

    @property
    def conflict(self) -> bool:
        """True where one may say "looks happy, sounds sad": the evidence clearly conflicts, the top labels differ, and
        neither is unsure."""
        if self.agreement is None or self.agreement > CONFLICT or self.face.label == self.voice.label:
            return False
        return not self.face.unsure and not self.voice.unsure

    @property
    def unsure(self) -> bool:
        """Whether what is said of the person is not to be relied on; False where nothing is said."""
        return self.fused is not None and self.fused.unsure

    def to_dict(self) -> dict[str, Any]:
        """The result as plain dicts, lists, strings and numbers, ready for `json.dumps`."""
        return plain(asdict(self))


@dataclass
class EmotionResult(FusedResult):
    """What a person looks like, sounds like, and both.

    A source that was not given, or in which nobody was found, is None, and `messages` says why. `fused` is what there
    is: the face's or the voice's evidence alone where the other is missing. `agreement` is the logarithm of how much
    likelier this face and this voice are together than apart: above 0 they agree, near 0 one of them says little,
    below 0 they conflict; None unless both are there.
    """

    face: FaceResult | None = None
    voice: VoiceResult | None = None
    fused: Emotion | None = None
    agreement: float | None = None
    messages: list[str] = field(default_factory=list)


def plain(value: Any) -> Any:
    """Dicts, lists, strings and numbers only, as JSON has them: tuples become lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass
class WordCloseness:
    """How close a word is to a face and a voice: cosines of their embeddings, None where there is no such source.

    `trained` is True for a word that the text tower was trained on. `emotion` and `emotional` are the word's own, read
    alone: `TextResult`'s label and mark.
    """

    word: str
    trained: bool
    emotion: str
    emotional: bool | None
    face: float | None
    voice: float | None


@dataclass
class TextResult:
    """What a word or a sentence means by itself. `emotional` is False where that seems to be no emotion ("table"), and
    the scores then say nothing; None for a text tower that was taught no such words."""

    text: str
    label: str
    scores: dict[str, float]
    emotional: bool | None


@dataclass
class WordsResult:
    """Words against a face and a voice. `words` in the order given; `emotions` are, for scale, the labels with all the
    words that each was trained on together; `messages` as in `EmotionResult`."""

    words: list[WordCloseness] = field(default_factory=list)
    emotions: list[WordCloseness] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain dicts, lists, strings and numbers, ready for `json.dumps`."""
        return asdict(self)


class PosteriorFilter:
    """Smooths a posterior in time: the weight of what was seen halves every `half_life` seconds, at any frame rate."""

    def __init__(self, half_life: float):
        self.half_life = half_life
        self._probs, self._time = None, -math.inf

    def __call__(self, log_probs: "torch.Tensor", time: float) -> "torch.Tensor":
        """Adds the log-posterior (C,) of a time in seconds, no earlier than the last; gives the smoothed one (C,)."""
        keep = 0.0 if self._probs is None else 0.5 ** ((time - self._time) / self.half_life)
        self._probs = log_probs.exp() if self._probs is None else self._probs.lerp(log_probs.exp(), 1 - keep)
        self._time = time
        return self._probs.log()
