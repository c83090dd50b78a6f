"""Five seconds in which a visitor of Live shows a resting face and a normal voice, and the baseline that they make."""

import numpy as np
import torch

from media_emoclip import InputError, SpeechDetector
from processing_emoclip import resample
from recognizer_emoclip import Faces, Observation, Recognizer

SECONDS = 5.0


class Resting:
    """What is collected of one visitor, in memory.

    Args:
        end: when it is over, in the page's seconds.
        sampling_rate: of the sound, in Hz.
    """

    def __init__(self, end: float, sampling_rate: int):
        self.end, self._rate = end, sampling_rate
        self.faces: Faces | None = None  # the newest
        self._sound = np.zeros(0, np.float32)

    def add_audio(self, samples: np.ndarray) -> None:
        """Adds sound (T,) float32; what is more than SECONDS is left out."""
        self._sound = np.concatenate([self._sound, samples])[: round(SECONDS * self._rate)]

    def adapted(self, recognizer: Recognizer) -> Recognizer:
        """The recognizer relative to this person.

        Raises:
            InputError: there was neither a face nor speech.
        """
        voice = None
        if len(self._sound):
            sound = resample(torch.from_numpy(self._sound), self._rate, SpeechDetector.sampling_rate)
            voice = recognizer.find_voice(sound.numpy())
        if self.faces is None and not (voice and voice.starts):
            raise InputError("There was neither a face nor speech in those five seconds: try once more.")
        observation = Observation(self.faces, voice if voice and voice.starts else None)
        return recognizer.adapted(baseline=recognizer.baseline_of(observation))
