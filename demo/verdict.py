"""What may be said of a result, by one rule for the words, the drawn faces and the bars of every tab.

An emotion is said where the answer is not unsure and it is ahead of the second by `AHEAD`; otherwise both are, as hard
to tell. "Looks happy, sounds sad" is said where that holds of the face and of the voice, and the two clearly do not go
together.
"""

from dataclasses import dataclass

from demo.emotions import adjective
from results_emoclip import Emotion, FusedResult

AHEAD = 0.15  # of the probability: 15 points
CONFIDENCE = {0.8: "High", 0.55: "Medium", 0.0: "Low"}  # from which probability on
VALENCE = {"angry": -1, "disgust": -1, "fear": -1, "happy": 1, "neutral": 0, "sad": -1, "surprise": 0}
AROUSAL = {"angry": 1, "disgust": 0, "fear": 1, "happy": 1, "neutral": 0, "sad": -1, "surprise": 1}
HELD_SECONDS = 0.6  # for which other words must be right before they replace those that stand


@dataclass(frozen=True)
class Verdict:
    """`labels` are the emotions that the headline names, whose faces are drawn: none, one, or two. `kind` says how to
    read two: "conflict" is of the face and of the voice, "unsure" the two likeliest. `face`, `voice` and `fused` are
    the emotions that the bars of each mark, none where it is missing."""

    headline: str
    labels: tuple[str, ...]
    kind: str
    face: tuple[str, ...] = ()
    voice: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()

    def line(self, result: FusedResult) -> str:
        """The numbers of a result, of what the headline names."""
        if self.kind == "conflict":
            face, voice = self.labels
            return f"Face {percent(result.face.scores[face])}, voice {percent(result.voice.scores[voice])}"
        scores = [result.fused.scores[label] or 0.0 for label in self.labels]
        if self.kind == "unsure":
            return " against ".join(map(percent, scores))
        word = next(word for least, word in CONFIDENCE.items() if round(scores[0], 2) >= least)
        return f"{word} confidence, {percent(scores[0])}"

    def tag(self, result: FusedResult) -> str:
        """What stands at the face's box."""
        return _tag(self.face, result.face)


NOTHING = Verdict("Nothing to go by", (), "nothing")


def verdict(result: FusedResult) -> Verdict:
    """The verdict on a result; NOTHING where there is neither a face nor a voice."""
    if result.fused is None:
        return NOTHING
    marked = [likeliest(emotion) if emotion else () for emotion in (result.face, result.voice, result.fused)]
    face, voice, both = marked
    if is_conflict(result):
        labels = face + voice
        return Verdict(f"Looks {adjective(labels[0])}, sounds {adjective(labels[1])}", labels, "conflict", *marked)
    if len(both) == 2:
        return Verdict(f"Hard to tell: {' or '.join(map(adjective, both))}", both, "unsure", *marked)
    word = adjective(both[0])
    if not (face and voice):
        headline = f"{'Looks' if face else 'Sounds'} {word}"
    elif face == voice == both:
        headline = f"Looks and sounds {word}"
    else:
        headline = f"Most likely {word}"
    return Verdict(headline, both, "sure", *marked)


def likeliest(emotion: Emotion) -> tuple[str, ...]:
    """The label, with the second where that is close behind, or the answer unsure; two in the data's order, which does
    not change as long as they are the same."""
    first, second = sorted(emotion.scores, key=lambda label: emotion.scores[label] or 0.0, reverse=True)[:2]
    close = (emotion.scores[first] or 0.0) - (emotion.scores[second] or 0.0) < AHEAD
    if not close and not emotion.unsure:
        return (first,)
    return tuple(label for label in emotion.scores if label in (first, second))


def tag(emotion: Emotion) -> str:
    """What stands at a face's box: "happy 96%", or "angry or sad"."""
    return _tag(likeliest(emotion), emotion)


def _tag(labels: tuple[str, ...], emotion: Emotion) -> str:
    words = " or ".join(map(adjective, labels))
    return words if len(labels) == 2 else f"{words} {percent(emotion.scores[labels[0]])}"


def derived(emotion: Emotion) -> tuple[float, float]:
    """Valence and arousal, each -1 to 1: the seven, weighed by where they lie in Russell's circumplex (1980), as far
    as signs go."""
    valence, arousal = (
        sum(signs[label] * (score or 0.0) for label, score in emotion.scores.items()) for signs in (VALENCE, AROUSAL)
    )
    return valence, arousal


def is_conflict(result: FusedResult) -> bool:
    """Whether face and voice each say one thing for sure, and not the same."""
    return result.conflict and len(likeliest(result.face)) == len(likeliest(result.voice)) == 1


class Held:
    """The words of a stream of results, and what its bars mark, held together against flicker: others replace them
    once those that stand have been wrong for HELD_SECONDS, or at once where a face or a voice came or went."""

    def __init__(self) -> None:
        self._shown, self._right = NOTHING, 0.0  # and when that was right last, in seconds

    def __call__(self, result: FusedResult, time: float) -> Verdict:
        """The verdict to show for the result of a time, in seconds."""
        now = verdict(result)
        came_or_went = (bool(now.face), bool(now.voice)) != (bool(self._shown.face), bool(self._shown.voice))
        if now == self._shown:
            self._right = time
        elif came_or_went or time - self._right >= HELD_SECONDS:
            self._shown, self._right = now, time
        return self._shown


def percent(score: float) -> str:
    """A score from 0 to 1: "42%"."""
    return f"{score:.0%}"
