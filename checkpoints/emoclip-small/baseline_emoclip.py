"""A person's own normal face and voice, to which what is said of that person can be relative.

    baseline = pipe.baseline(image="resting.jpg", audio="normal_speech.wav")
    pipe(audio="later.wav", baseline=baseline)
    baseline.save("me.json"); Baseline.load("me.json")

Somebody with a grave face looks sad, and somebody with a hard voice sounds angry, to whoever does not know them. How
a head's answer to the person's neutral face or voice differs from its answer to neutral people in general is that
person's own; part of it is taken off.
"""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

try:
    from .configuration_emoclip import EmoCLIPConfig, Reading
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from configuration_emoclip import EmoCLIPConfig, Reading

#: The part of the difference that is taken off. Chosen on Emo-DB's voices, two neutral clips of each speaker.
WEIGHT = 0.5


@dataclass(frozen=True)
class Baseline:
    """What one model's heads make of a person's neutral face and neutral voice; no picture and no sound.

    Args:
        face, voice: by label, the mean log-posterior before calibration; None where there was no face, or no voice.
        model: `fingerprint` of the model, whose heads alone these numbers belong to.
        face_perceived, voice_perceived: of the heads of that reading, where the model has such.
    """

    face: dict[str, float] | None
    voice: dict[str, float] | None
    model: str
    face_perceived: dict[str, float] | None = None
    voice_perceived: dict[str, float] | None = None

    def save(self, path: str | os.PathLike) -> None:
        """Writes it as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Baseline":
        """Reads what `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds something else.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            model = fields.pop("model")
            return cls(model=model, **{head: means and finite(means) for head, means in fields.items()})
        except (AttributeError, LookupError, TypeError, ValueError):
            raise ValueError(f"{path} is no baseline: it must be a file that `Baseline.save` wrote.") from None

    def shift(self, head: Literal["face", "voice"], config: EmoCLIPConfig, reading: Reading) -> list[float] | None:
        """What is added to the own logits (C,) of a reading's head: WEIGHT times what it says of neutral people in
        general, less what it says of this person. None where the person's face, or voice, is not known."""
        name = config.head_name(head, reading)
        own, people = getattr(self, name), config.neutral[name]
        if own is None:
            return None
        return [WEIGHT * (people[label] - own[label]) if label in own else 0.0 for label in config.labels]


def finite(values: dict[str, float]) -> dict[str, float]:
    """The same numbers; ValueError where one is none, or not finite."""
    if not all(map(math.isfinite, values.values())):
        raise ValueError("not finite")
    return values


def fingerprint(config: EmoCLIPConfig) -> str:
    """Of the model: two models never agree in what they make of neutral people, to the last digit.

    Raises:
        ValueError: the model does not know that.
    """
    if config.neutral is None:
        raise ValueError(
            "This model knows no baselines, as it was calibrated by an older version: calibrate it anew with "
            "train_hf.py --init_from FOLDER --num_train_epochs 0."
        )
    return hashlib.sha256(json.dumps(config.neutral, sort_keys=True).encode()).hexdigest()[:16]
