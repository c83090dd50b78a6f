"""What one visitor of the tab Live looks and sounds like now, from frames and pieces of sound as they come."""

import contextlib
import io
import time
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image

from demo import limits, neutral
from demo.neutral import Resting
from demo.verdict import Held, derived, likeliest, tag
from files_emoclip import count_scans
from media_emoclip import SILENCE_PEAK, Box, InputError, SpeechDetector, clip_box
from processing_emoclip import resample
from recognizer_emoclip import Recognizer
from results_emoclip import EmotionResult, FaceResult, PosteriorFilter, VoiceResult
from tracking_emoclip import TRACK_IOU, FaceTracker, iou

HALF_LIFE_SECONDS = 0.5  # of the face's posterior, and of the voice's
STOPPED_SECONDS = 3.0  # without a frame, or without sound, while the other goes on
FACE_KEPT_SECONDS = 0.6  # a detector misses a face now and then: for so long the last one stays
VOICE_HOP_SECONDS = 0.5
SILENT_SECONDS = 2.0  # below SILENCE_PEAK, after which the visitor is told that the microphone is silent
SEARCH_SIDE = 320  # pixels of the longer side of the frame that faces are looked for in
MAX_GAP_SECONDS = 0.5  # between two pieces of sound that still count as contiguous


class OtherFace(TypedDict):
    """A face beside the one that is followed."""

    box: Box
    label: str | None  # None, with no tag, where only the face that is followed is looked at
    tag: str


class LiveAnswer(TypedDict):
    """What the page is told: an `EmotionResult` as a dict, and beside it:"""

    time: float | None  # of the newest frame that was scored, in the page's own seconds
    size: tuple[int, int] | None  # that frame's width and height: the box is in its pixels
    neutral: str | None  # "learning" for five seconds, then "known" where the answers are relative to a baseline
    hearing: str | None  # "speech", "listening" or "silent"; None before there was any sound
    headline: str  # held against flicker
    labels: list[str]  # the emotions that it names, none to two
    line: str  # their numbers, of now
    tag: str  # at the face's box, held, with the number of now
    others: list[OtherFace]  # the faces that are not followed, of now
    valence: float  # derived from `fused`; 0 where there is none
    arousal: float
    likeliest: dict[str, list[str]]  # the emotions to mark in the "face", the "voice" and "fused", held as well
    took: dict[str, float]  # milliseconds: "find" and "recognise" of the frame, "voice" of the last window
    result: dict[str, Any]


class LiveSession:
    """The state of one visitor. Nothing of it outlives the object.

    `add_frame` and `score_window` do the work and may run in a thread; `add_audio` only collects.

    Args:
        recognizer: the session's own: a face detector is locked while it works, so that a shared one would serve one
            visitor at a time.
        sampling_rate: of the visitor's sound, in Hz.
    """

    def __init__(self, recognizer: Recognizer, sampling_rate: int = SpeechDetector.sampling_rate):
        self.recognizer = self._plain = recognizer
        self._resting: Resting | None = None  # while a visitor shows what is neutral
        self._neutral_failed = ""
        self._rate = sampling_rate
        self._sound = np.zeros(0, np.float32)  # the last contiguous seconds, a window at most
        self._sound_end: float | None = None  # in the page's seconds
        self._heard = 0  # samples in all
        self._unscored = 0  # samples since the last window was scored
        self._silent = 0  # samples in a row that were below SILENCE_PEAK
        self._face: FaceResult | None = None
        self._others: list[OtherFace] = []
        self._tracker = FaceTracker()  # of the others
        self._other_filters: dict[int, PosteriorFilter] = {}
        self._face_log_probs: torch.Tensor | None = None  # (C,), smoothed
        self._face_filter = PosteriorFilter(HALF_LIFE_SECONDS)
        self._face_time = -1.0
        self._voice: VoiceResult | None = None
        self._voice_log_probs: torch.Tensor | None = None  # (C,), smoothed
        self._voice_filter = PosteriorFilter(HALF_LIFE_SECONDS)
        self._held = Held()
        self._time: float | None = None  # of the last frame
        self._size: tuple[int, int] | None = None
        self._took: dict[str, float] = {}

    def add_frame(self, jpeg: bytes, time: float, everyone: bool = False) -> None:
        """Finds and scores the face in a frame of a time in the page's seconds; the others' too, for `everyone`.

        Raises:
            ValueError: it is no JPEG, or too large a one.
        """
        pixels = _decode(jpeg)
        height, width = pixels.shape[:2]
        self._time, self._size = time, (width, height)
        with self._timed("find"):
            squares = self.recognizer.find_faces(pixels, SEARCH_SIDE, Image.Resampling.BILINEAR)
            square = self._follow(squares)
        others = [each for each in squares if each is not square]
        looked_at = limits.MAX_OTHER_FACES if everyone else 0
        self._others = self._look_at(pixels, others[:looked_at], time)
        unseen = (clip_box(each, width, height) for each in others[looked_at:])
        self._others += [{"box": box, "label": None, "tag": ""} for box in unseen]
        if square is None:
            if time - self._face_time > FACE_KEPT_SECONDS:
                self._face = self._face_log_probs = None
            return
        with self._timed("recognise"):
            faces = self.recognizer.frame_faces(pixels, [square])
            log_probs = self.recognizer.face_log_probs(faces.crops)[0]
        if (resting := self._resting) is not None:  # the page may drop it meanwhile
            resting.faces = faces
        if self._face is None:
            self._face_filter = PosteriorFilter(HALF_LIFE_SECONDS)
        self._face_time = max(time, self._face_time)
        self._face_log_probs = self._face_filter(log_probs, self._face_time)
        emotion = self.recognizer.emotion(self._face_log_probs, "face")
        self._face = FaceResult(**vars(emotion), box=faces.boxes[0], detector=faces.detector)

    def _look_at(self, pixels: np.ndarray, squares: list[Box], time: float) -> list[OtherFace]:
        """The answers for the other faces of a frame, smoothed while they stay; a visitor's baseline is not theirs."""
        ids = self._tracker(squares, time)
        self._other_filters = {id: self._other_filters.get(id) or PosteriorFilter(HALF_LIFE_SECONDS) for id in ids}
        if not squares:
            return []
        faces, others = self._plain.frame_faces(pixels, squares), []
        for id, box, log_probs in zip(ids, faces.boxes, self._plain.face_log_probs(faces.crops)):
            emotion = self._plain.emotion(self._other_filters[id](log_probs, time), "face")
            others.append({"box": box, "label": likeliest(emotion)[0], "tag": tag(emotion)})
        return others

    def _follow(self, squares: list[Box]) -> Box | None:
        """The face that was there before, if it still is; the largest where there was none."""
        if self._face is None:
            return squares[0] if squares else None
        overlaps = iou(squares, [self._face.box])
        return next((square for square, [overlap] in zip(squares, overlaps) if overlap >= TRACK_IOU), None)

    def add_audio(self, samples: np.ndarray, time: float) -> None:
        """Adds sound (T,) float32, -1..1, that ended at a time in the page's seconds."""
        if not len(samples):
            return
        start = time - len(samples) / self._rate
        if self._sound_end is not None and abs(start - self._sound_end) > MAX_GAP_SECONDS:
            self._sound, self._unscored, self._silent = self._sound[:0], 0, 0
        self._sound_end = time
        window = round(self.recognizer.window_seconds * self._rate)
        self._sound = np.concatenate([self._sound, samples])[-window:]
        if self._resting is not None:
            self._resting.add_audio(samples)
        self._heard += len(samples)
        self._unscored += len(samples)
        self._silent = self._silent + len(samples) if np.ptp(samples) / 2 < SILENCE_PEAK else 0

    @property
    def window_due(self) -> bool:
        """Whether there is sound enough since the last `score_window` for another."""
        return self._unscored >= VOICE_HOP_SECONDS * self._rate

    def score_window(self) -> None:
        """Scores the last seconds of sound: a voice where there is speech enough in them, and none otherwise."""
        sound, seconds, self._unscored = self._sound, self._heard / self._rate, 0
        with self._timed("voice"):
            samples = resample(torch.from_numpy(sound), self._rate, SpeechDetector.sampling_rate).numpy()
            voice = self.recognizer.find_voice(samples, [0.0])
            if not voice.starts:
                self._voice = self._voice_log_probs = None
                return
            if self._voice is None:
                self._voice_filter = PosteriorFilter(HALF_LIFE_SECONDS)
            log_probs = self.recognizer.voice_log_probs(voice.windows)[0]
            self._voice_log_probs = self._voice_filter(log_probs, seconds)
            emotion = self.recognizer.emotion(self._voice_log_probs, "voice")
            self._voice = VoiceResult(**vars(emotion), segments=voice.segments)

    def learn_neutral(self, wanted: bool) -> None:
        """Drops the visitor's baseline; where one is wanted, the next seconds make another."""
        self.recognizer, self._neutral_failed = self._plain, ""
        self._resting = Resting(self._now + neutral.SECONDS, self._rate) if wanted else None

    @property
    def neutral_due(self) -> bool:
        """Whether the seconds that make a baseline are over."""
        resting = self._resting
        return resting is not None and self._now >= resting.end

    def settle_neutral(self) -> None:
        """Makes the baseline: from now on, answers are relative to it, unless it was dropped meanwhile."""
        resting, failed = self._resting, ""
        if resting is None:
            return
        try:
            adapted = resting.adapted(self._plain)
        except InputError as error:
            adapted, failed = self._plain, " ".join(error.sentences)
        if self._resting is resting:
            self.recognizer, self._neutral_failed, self._resting = adapted, failed, None

    @property
    def _now(self) -> float:
        """In the page's seconds."""
        return max(self._time or 0.0, self._sound_end or 0.0)

    def answer(self) -> LiveAnswer:
        """The state, for the page."""
        self._forget_what_stopped()
        result = EmotionResult(face=self._face, voice=self._voice)
        face, voice = (x if x is None else x[None] for x in (self._face_log_probs, self._voice_log_probs))
        headline, line = "Nobody seen or heard", "Look at the camera, or say something."
        if face is not None or voice is not None:
            [(result.fused, result.agreement)] = self.recognizer.fuse(face, voice)
        said = self._held(result, self._now)
        if said.labels:
            headline, line = said.headline, said.line(result)
        valence, arousal = derived(result.fused) if result.fused else (0.0, 0.0)
        hearing = None
        if self._sound_end is not None:
            silent = self._silent >= SILENT_SECONDS * self._rate
            hearing = "speech" if self._voice else "silent" if silent else "listening"
        if self._time is not None and self._face is None:
            result.messages.append("There is no face in the picture: come closer, or turn towards the light.")
        if self._neutral_failed:
            result.messages.append(self._neutral_failed)
        if hearing == "silent":
            result.messages.append("Nothing comes from the microphone: is it muted?")
        return {
            "time": self._time,
            "size": self._size,
            "neutral": "learning" if self._resting else "known" if self.recognizer.baseline else None,
            "hearing": hearing,
            "headline": headline,
            "labels": list(said.labels),
            "line": line,
            "tag": said.tag(result) if said.face else "",
            "others": self._others,
            "valence": valence,
            "arousal": arousal,
            "likeliest": {name: list(getattr(said, name)) for name in ("face", "voice", "fused")},
            "took": self._took,
            "result": result.to_dict(),
        }

    def _forget_what_stopped(self) -> None:
        """A camera or a microphone that went away takes its face or voice with it, though the other goes on."""
        now = self._now
        if self._time is not None and now - self._time > STOPPED_SECONDS:
            self._time = self._face = self._face_log_probs = None
            self._others = []
        if self._sound_end is not None and now - self._sound_end > STOPPED_SECONDS:
            self._sound_end = self._voice = self._voice_log_probs = None

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._took[name] = round(1000 * (time.perf_counter() - start), 1)


def _decode(jpeg: bytes) -> np.ndarray:
    """(H, W, 3) uint8.

    Of a progressive JPEG, twelve bytes may ask for another look at every pixel; browsers send baseline ones.
    """
    try:
        image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
        if max(image.size) > limits.MAX_FRAME_SIDE:
            raise ValueError(f"A frame must be at most {limits.MAX_FRAME_SIDE} pixels wide and high.")
        if "progressive" in image.info or count_scans(io.BytesIO(jpeg)) > limits.MAX_FRAME_SCANS:
            raise ValueError("A frame must be a baseline JPEG.")
        return np.asarray(image.convert("RGB"))
    except ValueError:
        raise
    except Exception:  # what Pillow raises of damaged files has no common class
        raise ValueError("A frame must be a whole JPEG.") from None
