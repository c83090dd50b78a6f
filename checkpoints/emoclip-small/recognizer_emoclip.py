"""From pictures and sound to posteriors: the one place that prepares faces and windows of speech, scores and fuses.

    recognizer = Recognizer(model, processor)
    observation = recognizer.observe(image="photo.jpg", audio="recording.wav")    # read, faces and speech found
    [result] = recognizer.score([observation])                                    # an EmotionResult

The pipeline, videos, Live and "why" are built on it; the single steps serve those who have a stream of frames and
sound. Readers and detectors stand in `media_emoclip.py`.

Shapes: N faces or windows, B rows, C classes, T samples. Units as in `results_emoclip.py`.
"""

import copy
import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

try:
    from .baseline_emoclip import Baseline, fingerprint
    from .configuration_emoclip import Prior, Reading
    from .media_emoclip import (
        AudioSource,
        Box,
        FaceDetector,
        ImageSource,
        InputError,
        SpeechDetector,
        check_box,
        clip_box,
        crop_face,
        is_silent,
        load_audio,
        load_image,
        scale_box,
    )
    from .results_emoclip import Emotion, EmotionResult, FaceResult, OtherFace, VoiceResult
    from .runtime_emoclip import Head, Runtime, Towers
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from baseline_emoclip import Baseline, fingerprint
    from configuration_emoclip import Prior, Reading
    from media_emoclip import (
        AudioSource,
        Box,
        FaceDetector,
        ImageSource,
        InputError,
        SpeechDetector,
        check_box,
        clip_box,
        crop_face,
        is_silent,
        load_audio,
        load_image,
        scale_box,
    )
    from results_emoclip import Emotion, EmotionResult, FaceResult, OtherFace, VoiceResult
    from runtime_emoclip import Head, Runtime, Towers

WINDOW_HOP_SECONDS = 1.5
#: Of speech in a window for it to be scored. Of CREMA-D's validation voices cut to 0.5 s in a silent window 31 % are
#: right, of those cut to 1.0 s 48 %, to 1.5 s 59 %, and 66 % of whole ones (n 600).
MIN_SPEECH_SECONDS = 1.0
#: How a picture lies that so many quarters counter-clockwise put upright.
TURNED = {1: "lies on its right side", 2: "stands on its head", 3: "lies on its left side"}
ROWS_PER_FORWARD = 32  # faces or windows that enter the model together: bounds the memory of a 10-minute recording


@dataclass
class Faces:
    """Faces of one picture, largest first.

    `squares` are what the model is shown; they may reach beyond the picture, and `boxes`, in whole pixels, are their
    parts inside it. `detector` says what found them, as in `FaceResult`. `crops` are the squares cut out, each (S, S,
    3) uint8. `log_probs` (N, C) is None until they are scored. All are in pixels of the picture turned by `turns`
    quarters counter-clockwise, which is none but for a photo that lay on its side or stood on its head.
    """

    squares: list[Box]
    boxes: list[Box]
    detector: str
    crops: list[np.ndarray]
    log_probs: torch.Tensor | None = None
    turns: int = 0


@dataclass
class Voice:
    """The speech of one recording.

    `segments` are the (start, end) of speech in seconds, `starts` the seconds at which the windows start that hold
    enough of it, and `windows` what the audio tower is shown of these: (N, 1, bands, frames) or (N, 1, T), None where
    there are none. `log_probs` (N, C) is None until they are scored.
    """

    segments: list[tuple[float, float]]
    starts: list[float]
    windows: torch.Tensor | None
    log_probs: torch.Tensor | None = None


@dataclass
class Observation:
    """What was found in a photo and a recording: `faces` or `voice` is None where there is none, or none was given,
    and `messages` are sentences about it for the user."""

    faces: Faces | None = None
    voice: Voice | None = None
    messages: list[str] = field(default_factory=list)

    def decisive(self, result: EmotionResult) -> "Observation":
        """Of a scored observation, what its `result` rests on most: the largest face, and the window that speaks most
        for the voice's label. Some 100 KB, whatever the recording's length."""
        faces, voice = self.faces, self.voice
        if faces is not None:
            faces = replace(
                faces,
                squares=faces.squares[:1],
                boxes=faces.boxes[:1],
                crops=faces.crops[:1],
                log_probs=faces.log_probs[:1],
            )
        if voice is not None and voice.log_probs is not None:
            column = list(result.voice.scores).index(result.voice.label)
            best = int(voice.log_probs[:, column].argmax())
            here = slice(best, best + 1)
            voice = replace(
                voice, starts=voice.starts[here], windows=voice.windows[here].clone(), log_probs=voice.log_probs[here]
            )
        return Observation(faces, voice)


class Recognizer:
    """A model with its processor, and detectors of faces and of speech.

    Args:
        model: `EmoCLIPForEmotionClassification`, in evaluation mode.
        processor: its `EmoCLIPProcessor`.
        face_detector: YuNet's ONNX file; see `FaceDetector`.
        runtime: what runs the towers; see `Towers`.
        reading: what is answered: how people perceive face and voice, or what was acted.
        baseline: of the person that is looked at and listened to, where it is known, or the file that it was saved in.
        prior: how often each emotion is where it is used; by default as often as in what the heads were taught.
    Raises:
        ImportError: as `Towers`.
        OSError: the baseline's file cannot be read.
        ValueError: as `Towers`; there is no such reading, the baseline is none, or of another model, or the prior is
            none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        face_detector: str | os.PathLike | None = None,
        runtime: Runtime = "auto",
        reading: Reading = "perceived",
        baseline: Baseline | str | os.PathLike | None = None,
        prior: Prior | None = None,
    ):
        self.model, self.processor = model, processor
        self._face_model_file = face_detector
        self._towers = Towers(model, runtime)
        self._origin = None  # the recognizer that this one was adapted from, whose detectors it shares
        self._set(reading, baseline, prior)

    def _set(self, reading: Reading, baseline: Baseline | str | os.PathLike | None, prior: Prior | None) -> None:
        if reading not in get_args(Reading):
            raise ValueError(f"A reading is one of {', '.join(get_args(Reading))}, not {reading!r}.")
        if isinstance(baseline, (str, os.PathLike)):
            baseline = Baseline.load(baseline)
        if baseline is not None and baseline.model != fingerprint(self.model.config):
            raise ValueError("The baseline is of another model: make it anew with this one.")
        self.reading, self.baseline = reading, baseline
        self.prior = None if prior is None else self.model.config.shares(prior)

    def adapted(
        self,
        reading: Reading | None = None,
        baseline: Baseline | str | os.PathLike | None = None,
        prior: Prior | None = None,
    ) -> "Recognizer":
        """The same recognizer with another reading or prior, or a person's baseline; None leaves what it has.

        Raises:
            ValueError: as the class does.
        """
        other = copy.copy(self)
        other._origin = self
        other._set(reading or self.reading, baseline or self.baseline, self.prior if prior is None else prior)
        return other

    def with_own_face_detector(self) -> "Recognizer":
        """The same recognizer with a face detector of its own: one is locked while it works."""
        other = copy.copy(self)
        other._origin = None
        vars(other).pop("face_detector", None)
        return other

    @functools.cached_property
    def face_detector(self) -> FaceDetector:
        """Made when the first picture arrives."""
        return self._origin.face_detector if self._origin else FaceDetector(self._face_model_file)

    @functools.cached_property
    def speech_detector(self) -> SpeechDetector:
        """Made when the first sound arrives."""
        return self._origin.speech_detector if self._origin else SpeechDetector()

    @property
    def labels(self) -> dict[int, str]:
        """Each class's label by its index."""
        return self.model.config.id2label

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def window_seconds(self) -> float:
        """The length of the windows that a recording is cut into."""
        return self.processor.feature_extractor.chunk_length_s

    # Reading and finding

    def observe(
        self,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        face_box: Box | None = None,
    ) -> Observation:
        """Reads a photo, a recording or both, and finds the faces and the speech in them.

        Args:
            image, audio: as `load_image` and `load_audio` take them.
            face_box: x, y, width and height in the upright photo, where no face is to be looked for.
        Raises:
            InputError: nothing was given, or nothing of it can be read. Where one of two can, the other's sentence is
                among the messages; so are "no face", "silence" and "no speech", which are answers.
        """
        if face_box is not None and image is None:
            raise InputError("A face box was given without the photo that it lies in: add the photo.")
        if image is None and audio is None:
            raise InputError("Nothing was given: add a photo, a recording, or both.")
        observation, errors = Observation(), []
        if image is not None:
            try:
                self._observe_faces(observation, image, face_box)
            except InputError as error:
                errors += error.sentences
        if audio is not None:
            try:
                self._observe_voice(observation, audio)
            except InputError as error:
                errors += error.sentences
        if len(errors) == (image is not None) + (audio is not None):
            raise InputError(*errors)
        observation.messages += errors
        return observation

    def _observe_faces(self, observation: Observation, source: ImageSource, box: Box | None) -> None:
        image, notes = load_image(source)
        observation.messages += notes
        pixels = np.asarray(image)  # (H, W, 3)
        if box is not None:
            observation.faces = self.frame_faces(pixels, [check_box(box, *image.size)], "given")
            return
        squares, turns = self.face_detector.find_turned(pixels)
        if not squares:
            observation.messages.append(
                "No face was found in the photo: try one where a face is larger, or better lit."
            )
            return
        observation.faces = self.frame_faces(np.rot90(pixels, turns), squares)
        observation.faces.turns = turns
        if turns:
            observation.messages.append(
                f"The photo {TURNED[turns]}: it was turned, and boxes are in pixels of the turned photo."
            )

    def _observe_voice(self, observation: Observation, source: AudioSource) -> None:
        samples, notes = load_audio(source, SpeechDetector.sampling_rate)
        observation.messages += notes
        if is_silent(samples):
            observation.messages.append("The recording is silent: check the microphone and record again.")
            return
        voice = self.find_voice(samples)
        if voice.starts:
            observation.voice = voice
        else:
            observation.messages.append(
                f"No speech was found in the recording: at least {MIN_SPEECH_SECONDS} s of it is needed."
            )

    def find_faces(
        self,
        pixels: np.ndarray,
        side: int | None = None,
        resample: Image.Resampling = Image.Resampling.BOX,
    ) -> list[Box]:
        """The square of every face in a picture (H, W, 3) uint8, largest first, in its own pixels.

        Args:
            side: faces are looked for in a copy of which the longer side has at most so many pixels.
            resample: how that copy is made.
        """
        height, width = pixels.shape[:2]
        scale = 1.0 if side is None else min(1.0, side / max(width, height))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = np.asarray(Image.fromarray(pixels).resize(size, resample))
        return [scale_box(square, 1 / scale) for square in self.face_detector(pixels)]

    def frame_faces(
        self,
        pixels: np.ndarray,
        squares: list[Box],
        detector: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> Faces:
        """Cuts faces out of a picture.

        Args:
            pixels: (H, W, 3) uint8.
            squares: as `find_faces` gives them, in its pixels.
            detector: what found them; by default, the face detector.
            size: the picture's own width and height, where `pixels` are a copy of another size: the boxes are then in
                the picture's own pixels.
        """
        height, width = pixels.shape[:2]
        factor = 1.0 if size is None else size[0] / width
        own = [scale_box(square, factor) for square in squares]
        return Faces(
            squares=own,
            boxes=[clip_box(square, *(size or (width, height))) for square in own],
            detector=self.face_detector.name if detector is None else detector,
            crops=[crop_face(pixels, square) for square in squares],
        )

    def find_voice(self, samples: np.ndarray, starts: list[float] | None = None) -> Voice:
        """Finds speech, and cuts the windows that hold enough of it to be scored, MIN_SPEECH_SECONDS.

        Args:
            samples: (T,) float32 at 16 kHz.
            starts: where windows start, in seconds; by default every WINDOW_HOP_SECONDS, and the last one ends with
                the recording. What a window lacks at the end is silence.
        """
        rate, window = SpeechDetector.sampling_rate, self.window_seconds
        segments = self.speech_detector(samples)
        if starts is None:
            starts = window_starts(len(samples) / rate, window)
        starts = [start for start in starts if speech_seconds(segments, start, start + window) >= MIN_SPEECH_SECONDS]
        if not starts:
            return Voice(segments, [], None)
        length = round(window * rate)
        pieces = [samples[round(start * rate) : round((start + window) * rate)] for start in starts]
        pieces = [np.pad(piece, (0, max(0, length - len(piece)))) for piece in pieces]
        inputs = self.processor(audio=pieces, sampling_rate=rate, return_tensors="pt")
        return Voice(segments, starts, inputs[self.processor.feature_extractor.input_name])

    # Scoring

    def score(self, observations: Sequence[Observation]) -> list[EmotionResult]:
        """The result of each observation. Their faces, and their windows, enter the model together; the log-posteriors
        are kept in the observations."""
        crops = [crop for seen in observations if seen.faces for crop in seen.faces.crops]
        windows = [seen.voice.windows for seen in observations if seen.voice]
        face_log_probs = self.face_log_probs(crops)
        voice_log_probs = self.voice_log_probs(torch.cat(windows) if windows else None)
        results = []
        for seen in observations:
            if seen.faces:
                count = len(seen.faces.crops)
                seen.faces.log_probs, face_log_probs = face_log_probs[:count], face_log_probs[count:]
            if seen.voice:
                count = len(seen.voice.starts)
                seen.voice.log_probs, voice_log_probs = voice_log_probs[:count], voice_log_probs[count:]
            results.append(self._result(seen))
        return results

    def _result(self, seen: Observation) -> EmotionResult:
        result = EmotionResult(messages=seen.messages)
        face = voice = None
        if seen.faces:
            face, *others = (self.emotion(log_probs, "face") for log_probs in seen.faces.log_probs)
            boxes = seen.faces.boxes
            result.face = FaceResult(
                **vars(face),
                box=boxes[0],
                detector=seen.faces.detector,
                others=[OtherFace(**vars(other), box=box) for other, box in zip(others, boxes[1:])],
            )
            face = seen.faces.log_probs[:1]
        if seen.voice:
            voice = mean_log_probs(seen.voice.log_probs)
            result.voice = VoiceResult(**vars(self.emotion(voice[0], "voice")), segments=seen.voice.segments)
        if face is not None or voice is not None:
            [(result.fused, result.agreement)] = self.fuse(face, voice)
        return result

    @torch.no_grad()
    def face_log_probs(self, crops: Sequence[np.ndarray]) -> torch.Tensor:
        """Log-posteriors (N, C), on the CPU, of square faces, each (S, S, 3) uint8."""
        return self._log_probs("face", self.face_inputs(crops))

    @torch.no_grad()
    def voice_log_probs(self, windows: torch.Tensor | None) -> torch.Tensor:
        """Log-posteriors (N, C), on the CPU, of windows as `find_voice` cuts them; None is no windows."""
        return self._log_probs("voice", windows)

    def face_inputs(self, crops: Sequence[np.ndarray]) -> torch.Tensor | None:
        """Square faces, each (S, S, 3) uint8, as the image tower takes them, (N, 3, H, W); None where there are
        none."""
        return self.processor(images=list(crops), return_tensors="pt")["pixel_values"] if crops else None

    def _log_probs(self, head: Head, rows: torch.Tensor | None) -> torch.Tensor:
        """Log-posteriors (N, C) of a head, for rows (N, ...) of what its tower takes."""
        if rows is None:
            return torch.zeros(0, len(self.labels))
        return self.logits(head, rows).log_softmax(dim=-1).cpu()

    def logits(self, head: Head, rows: torch.Tensor) -> torch.Tensor:
        """A head's calibrated logits (N, C) for rows (N, ...) of what its tower takes, in the reading, relative to the
        baseline, and with the prior."""
        logits = self.model.head(head, self.reading)(self._features(head, rows)).float()
        shift = self.baseline and self.baseline.shift(head, self.model.config, self.reading)
        if shift:
            logits = logits + torch.tensor(shift, device=logits.device)
        return self.model.calibrate(head, logits, self.reading, self.prior)

    def _features(self, head: Head, rows: torch.Tensor) -> torch.Tensor:
        """(N, D), not normalised."""
        batches = rows.split(ROWS_PER_FORWARD)
        return torch.cat([self._towers(head, batch.to(self.device)) for batch in batches])

    def emotion(self, log_probs: torch.Tensor, *heads: Head) -> Emotion:
        """A log-posterior (C,) by label; a class that the head was not taught, -inf, has no score.

        Args:
            heads: of which it is, or of whose fusion. The answer is unsure below the threshold of any of them.
        """
        scores = [None if value == -math.inf else math.exp(value) for value in log_probs.tolist()]
        best = int(log_probs.argmax())
        needed = max(self.model.config.head(head, self.reading).threshold for head in heads)
        return Emotion(
            self.labels[best], {self.labels[i]: score for i, score in enumerate(scores)}, scores[best] < needed
        )

    @torch.no_grad()
    def fuse(
        self,
        face: torch.Tensor | None,
        voice: torch.Tensor | None,
        has_face: torch.Tensor | None = None,
        has_voice: torch.Tensor | None = None,
    ) -> list[tuple[Emotion | None, float | None]]:
        """The fused emotion and the agreement of each row.

        Args:
            face, voice: (B, C) log-posteriors; None where no row has one.
            has_face, has_voice: (B,) bool; None where every row has one.
        Returns:
            The emotion is None where a row has neither, and the agreement unless it has both.
        """
        fused, agreement = self.model.fuse(face, voice, has_face, has_voice, self.reading, self.prior)
        none, every = torch.zeros(len(fused), dtype=torch.bool), torch.ones(len(fused), dtype=torch.bool)
        seen = none if face is None else every if has_face is None else has_face
        heard = none if voice is None else every if has_voice is None else has_voice
        return [
            (
                self.emotion(row, *["face"] * sees, *["voice"] * hears) if sees or hears else None,
                value if sees and hears else None,
            )
            for row, value, sees, hears in zip(fused, agreement.tolist(), seen.tolist(), heard.tolist())
        ]

    @torch.no_grad()
    def baseline_of(self, observation: Observation) -> Baseline:
        """The baseline of a person, observed at rest: the largest face, and the mean over the windows of speech.

        Raises:
            InputError: there is neither a face nor speech.
            ValueError: the model knows no baselines.
        """
        model, config = fingerprint(self.model.config), self.model.config
        faces, voice = observation.faces, observation.voice
        if faces is None and voice is None:
            raise InputError(*observation.messages)
        rows = {
            "face": faces and self.face_inputs(faces.crops[:1]),
            "voice": voice and voice.windows,
        }
        means = dict.fromkeys(("face", "voice"))
        for head, own in rows.items():
            if own is None:
                continue
            features = self._features(head, own)
            for reading in get_args(Reading):
                values = self.model.head(head, reading)(features).float().log_softmax(-1).mean(0).tolist()
                means[config.head_name(head, reading)] = {
                    self.labels[i]: round(value, 4) for i, value in enumerate(values) if value > -math.inf
                }
        return Baseline(**means, model=model)

    # The joint space

    @torch.no_grad()
    def face_embeds(self, faces: Faces) -> torch.Tensor:
        """The faces in the joint space, (N, D), normalised."""
        return normalized(self._features("face", self.face_inputs(faces.crops)))

    @torch.no_grad()
    def voice_embeds(self, voice: Voice) -> torch.Tensor:
        """The windows in the joint space, (N, D), normalised."""
        return normalized(self._features("voice", voice.windows))


def normalized(embeds: torch.Tensor) -> torch.Tensor:
    """(N, D) to length 1, in float32."""
    return F.normalize(embeds.float(), dim=-1)


def mean_log_probs(log_probs: torch.Tensor) -> torch.Tensor:
    """(N, C) log-posteriors to the normalised mean of them, (1, C); -inf, a class not taught, stays -inf."""
    return log_probs.mean(dim=0, keepdim=True).log_softmax(dim=-1)


def window_starts(seconds: float, window: float) -> list[float]:
    """Where the windows of a recording start, in seconds: every WINDOW_HOP_SECONDS, and the last one ends with the
    recording. One that is no longer than a window has one, which is padded."""
    if seconds <= window:
        return [0.0]
    return [*np.arange(0, seconds - window, WINDOW_HOP_SECONDS).tolist(), seconds - window]


def speech_seconds(segments: list[tuple[float, float]], start: float, end: float) -> float:
    """How much of the time from `start` to `end` is speech."""
    return sum(max(0.0, min(last, end) - max(first, start)) for first, last in segments)
