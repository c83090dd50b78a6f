"""From a video to who looked like what and what was heard, second by second.

    result = pipe(video="clip.mp4")                       # `pipe` as in pipeline_emoclip.py
    print(result.fused.label, result.moments)
    open("clip.csv", "w", newline="").write(result.to_csv())

frames, 5 a second -> faces found, tracked, smoothed in time ---\\
sound -> 16 kHz, in blocks -> speech found -> windows of 3 s ----+-> one timeline: face, voice, fused, agreement

The video is read as a stream: what is held is a few frames, half a minute of sound, and the numbers found so far.
While it is decoded, one thread looks at the faces and another listens.

Units as in `results_emoclip.py`; pixels are those of the upright video, after its rotation and with square pixels.
"""

import bisect
import csv
import io
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

try:
    from .files_emoclip import (
        DECODE_ERRORS,
        MAX_VIDEO_SECONDS,
        SILENCE_PEAK,
        FileSource,
        InputError,
        moving_picture,
        open_file,
        open_sound,
    )
    from .media_emoclip import Box, SpeechDetector
    from .processing_emoclip import mix_down, one_channel_sentence
    from .recognizer_emoclip import (
        MIN_SPEECH_SECONDS,
        ROWS_PER_FORWARD,
        WINDOW_HOP_SECONDS,
        Recognizer,
        mean_log_probs,
    )
    from .results_emoclip import Emotion, FusedResult, PosteriorFilter
    from .threads_emoclip import Helper
    from .tracking_emoclip import TRACK_MEMORY, FaceTracker, boxes_between
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from files_emoclip import (
        DECODE_ERRORS,
        MAX_VIDEO_SECONDS,
        SILENCE_PEAK,
        FileSource,
        InputError,
        moving_picture,
        open_file,
        open_sound,
    )
    from media_emoclip import Box, SpeechDetector
    from processing_emoclip import mix_down, one_channel_sentence
    from recognizer_emoclip import MIN_SPEECH_SECONDS, ROWS_PER_FORWARD, WINDOW_HOP_SECONDS, Recognizer, mean_log_probs
    from results_emoclip import Emotion, FusedResult, PosteriorFilter
    from threads_emoclip import Helper
    from tracking_emoclip import TRACK_MEMORY, FaceTracker, boxes_between
try:
    import av
except ImportError:
    av = None

MAX_VIDEO_PIXELS = 4096 * 2304  # of a frame
SAMPLES_PER_SECOND = 5  # of the picture and of the timeline
CROP_SIDE = 640  # pixels of the longer side of the pictures that faces are cut from
SEARCH_SIDE = 400  # pixels of the longer side of the pictures that faces are looked for in
MAX_FACES = 8  # of one picture, largest first
FACE_HALF_LIFE = 0.5  # seconds
TURN_CHECKS, TURN_CHECK_STEP = 5, 10  # pictures that are looked at turned too, and how many lie from one to the next
MIN_FACE_SAMPLES = 3  # fewer are a detector's mistake, or somebody passing
VOICE_BLOCK_SECONDS = 30.0
SOUND_FRAMES = 32  # as many of FFmpeg's as are handed on together
CONFLICT_GAP_SECONDS = 0.6  # conflicts that lie no farther apart are one
MIN_CONFLICT_SECONDS = 1.0

VideoSource = FileSource
#: What of a video is answered.
What = Literal["both", "face", "voice"]


# --------------------------------------------------------------------------------------------------------------------
# Results


@dataclass
class FaceSample(Emotion):
    """A person's face at one time, smoothed over what was seen before. `box` as in `FaceResult`."""

    time: float
    box: Box


@dataclass
class Person(Emotion):
    """Somebody whose face was followed; `label` and `scores` are the mean over the `track`.

    Who leaves the picture for longer than a second, or across a cut, comes back as somebody else.
    """

    id: int
    track: list[FaceSample]

    def at(self, time: float) -> FaceSample | None:
        """The face at a time from the first sample to the last, moved evenly between two; None while out of sight."""
        after = bisect.bisect_left(self.track, time, key=lambda sample: sample.time)
        if after < len(self.track) and self.track[after].time - time < 1e-6:
            return self.track[after]
        if after in (0, len(self.track)):
            return None
        a, b = self.track[after - 1 : after + 1]
        if b.time - a.time > TRACK_MEMORY:
            return None
        part = (time - a.time) / (b.time - a.time)
        box = tuple(start + part * (end - start) for start, end in zip(a.box, b.box))
        return FaceSample(a.label, a.scores, a.unsure, time, box)


@dataclass
class TimelinePoint(FusedResult):
    """What the main person looks like and what is heard, at one time; as in `EmotionResult`."""

    time: float
    face: Emotion | None
    voice: Emotion | None
    fused: Emotion | None
    agreement: float | None


@dataclass
class ConflictMoment:
    """A stretch of time in which the main face and the voice conflict: their labels, and the mean agreement."""

    start: float
    end: float
    face: str
    voice: str
    agreement: float


@dataclass
class VideoResult(FusedResult):
    """A video, second by second.

    `face`, `voice`, `fused` and `agreement` are of the whole video, as in `EmotionResult`: the main person's face and
    everything that was said, whoever said it. The main person, `people[0]`, is the one with the most face on screen.
    `timeline` has a point every 0.2 s. `segments` are the (start, end) of speech. `width` and `height` are None where
    there is no picture.
    """

    seconds: float
    width: int | None = None
    height: int | None = None
    detector: str | None = None
    face: Emotion | None = None
    voice: Emotion | None = None
    fused: Emotion | None = None
    agreement: float | None = None
    moments: list[ConflictMoment] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)
    segments: list[tuple[float, float]] = field(default_factory=list)
    timeline: list[TimelinePoint] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[list[Any]]:
        """A table of all that is in the timeline and the tracks: its header, then a row for each person and time.

        Voice, fused and agreement stand in the main person's rows, and in rows without a person where there is none.
        """
        labels = list(next((point.scores for point in (self.face, self.voice) if point is not None), ()))
        sources = [
            [source, f"{source}_unsure", *(f"{source}_{label}" for label in labels)]
            for source in ("face", "voice", "fused")
        ]
        yield [
            "time",
            "person",
            "x",
            "y",
            "width",
            "height",
            *(name for names in sources for name in names),
            "agreement",
        ]
        for point in self.timeline:
            seen = [(person.id, person.at(point.time)) for person in self.people]
            seen = [(person, face) for person, face in seen if face is not None]
            if not seen or seen[0][0] != self.people[0].id:
                seen.insert(0, (None, None))
            for i, (person, face) in enumerate(seen):
                if i == 0 and face is None and point.fused is None:
                    continue
                cells = [point.time, person, *(map(round, face.box) if face else [None] * 4)]
                for emotion in (face, *((point.voice, point.fused) if i == 0 else (None, None))):
                    if emotion is None:
                        cells += [None] * (2 + len(labels))
                    else:
                        cells += [emotion.label, int(emotion.unsure), *emotion.scores.values()]
                yield [*cells, point.agreement if i == 0 else None]

    def to_csv(self) -> str:
        """The `rows` as comma-separated text; numbers with four decimals, nothing where there is none."""
        text = io.StringIO()
        csv.writer(text).writerows(
            [f"{cell:.4f}".rstrip("0").rstrip(".") if isinstance(cell, float) else cell for cell in row]
            for row in self.rows()
        )
        return text.getvalue()


def finish(steps: Generator[float, None, Any], progress: Callable[[float], None] | None = None) -> Any:
    """Run `analyze_video`, or another such generator, to its end, and return what it returns.

    `progress` is called with the fraction done; what it raises stops the work and closes the files.
    """
    try:
        while True:
            fraction = next(steps)
            if progress is not None:
                progress(fraction)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


# --------------------------------------------------------------------------------------------------------------------
# Reading


class VideoReader:
    """A video as a stream of decoded frames, picture and sound as they come.

    Iterating gives (time, frame): the seconds since the video's start, and PyAV's `VideoFrame` or `AudioFrame`.
    `sound_channels` (0 without sound) and `size` (the upright width and height, None before the first frame) say what
    there is, `fraction` how much is done, `seconds` how far it came, `damaged` whether parts could not be read. Of
    several sound tracks the first that is not silent is read, and `note` says which; it is None where there is one.

    Args:
        source: a path, or a file's bytes.
        what: "face" leaves out the sound, and "voice" the picture.
    Raises:
        InputError: it is no video or sound, or is too long or too large.
        ImportError: PyAV is not installed.
    """

    def __init__(self, source: VideoSource, what: What = "both"):
        if av is None:
            raise ImportError("Reading videos needs PyAV: pip install av")
        self._file = open_file(source, "video")
        try:
            self._bytes = self._file.seek(0, io.SEEK_END)
            self._container, sound, self.note = open_sound(self._file)
            picture = None if what == "voice" else moving_picture(self._container)
            streams = (picture, None if what == "face" else sound)
            usable = [stream for stream in streams if stream is not None and stream.codec_context is not None]
        except DECODE_ERRORS:
            self._file.close()
            raise _unreadable() from None
        self._streams = usable
        self._picture = next((stream for stream in usable if stream.type == "video"), None)
        self.sound_channels = sum(stream.channels for stream in usable if stream.type == "audio")
        self._origin = (self._container.start_time or 0) / av.time_base
        self.duration = (self._container.duration or 0) / av.time_base
        self._reformatter = av.video.reformatter.VideoReformatter()  # one for all frames: setting it up is costly
        self.size = None
        self.seconds, self.fraction, self.damaged = 0.0, 0.0, False
        try:
            if not usable and what != "both":
                raise InputError(
                    f"The video has no {'picture' if what == 'face' else 'sound'}, and only that is asked for."
                )
            self._check()
        except InputError:
            self.close()
            raise

    def _check(self) -> None:
        if not self._streams:
            raise _unreadable()
        if self.duration > MAX_VIDEO_SECONDS:
            raise _too_long(self.duration)
        if self._picture is not None:
            self._picture.thread_type = "AUTO"
            _check_size(self._picture.width, self._picture.height)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except DECODE_ERRORS:
                self.damaged = True  # what follows may be whole again
                continue
            for frame in frames:
                yield self._time(frame), frame
        if self.duration - self.seconds > 1.0 and self.seconds < 0.95 * self.duration:
            self.damaged = True  # it ends before its header says

    def _packets(self) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._streams)
        except DECODE_ERRORS:
            self.damaged = True

    def _time(self, frame: Any) -> float:
        time = self.seconds if frame.time is None else max(0.0, frame.time - self._origin)
        if time > MAX_VIDEO_SECONDS:
            raise _too_long()
        self.seconds = max(self.seconds, time)
        if isinstance(frame, av.VideoFrame):
            _check_size(frame.width, frame.height)
            self.size = self.size or self._upright_size(frame)
        done = self.seconds / self.duration if self.duration else self._file.tell() / self._bytes
        self.fraction = min(1.0, max(self.fraction, done))
        return time

    def _upright_size(self, frame: Any) -> tuple[int, int]:
        width, height = round(frame.width * float(self._picture.sample_aspect_ratio or 1)), frame.height
        return (height, width) if frame.rotation % 180 else (width, height)

    def pixels(self, frame: Any, side: int) -> np.ndarray:
        """A frame upright, in RGB (H, W, 3) uint8, of an even width and height, the longer at most `side` pixels."""
        width, height = fit(*self._upright_size(frame), side)
        turns = round(frame.rotation / 90) % 4
        if turns % 2:
            width, height = height, width
        array = self._reformatter.reformat(frame, width, height, format="rgb24", interpolation="AREA").to_ndarray()
        return np.ascontiguousarray(np.rot90(array, turns))


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """A width and height scaled down so that the longer is at most `side`; both even, as encoders want them."""
    scale = min(1.0, side / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_VIDEO_PIXELS:
        raise InputError(
            f"The video's picture is too large ({width} x {height} pixels): scale it down to 4096 x 2304."
        )


def _too_long(seconds: float | None = None) -> InputError:
    length = "" if seconds is None else f" ({seconds / 60:.0f} minutes)"
    return InputError(f"The video is too long{length}: cut it to at most {MAX_VIDEO_SECONDS / 60:.0f} minutes.")


def _unreadable() -> InputError:
    return InputError("The file is not a video that can be read: choose an MP4, MOV, WebM, MKV or AVI.")


class Resampler:
    """Sound of any layout and rate, which may change on the way, to one."""

    def __init__(self, **options):
        self._options, self._resampler = options, None

    def __call__(self, frame: Any) -> list[Any]:
        try:
            self._resampler = self._resampler or av.AudioResampler(**self._options)
            return self._resampler.resample(frame)
        except ValueError:  # the layout or rate has changed
            self._resampler = av.AudioResampler(**self._options)
            return self._resampler.resample(frame)


# --------------------------------------------------------------------------------------------------------------------
# Faces and voices over time


class FaceTimeline:
    """Everybody's face, from picture to picture of a video."""

    def __init__(self, recognizer: Recognizer):
        self._recognizer, self._tracker = recognizer, FaceTracker()
        self._filters: dict[int, PosteriorFilter] = {}
        self._pending: list[tuple[int, float, Box, np.ndarray]] = []  # id, time, box, crop: not scored yet
        self._tracks: dict[int, list[tuple[float, Box, torch.Tensor]]] = {}  # time, box, smoothed log-posterior (C,)
        self._sums: dict[int, torch.Tensor] = {}  # of log-posteriors (C,)
        self._pictures = self._turned = 0
        self._searched: tuple[float, list[Box]] | None = None  # the last picture that was: its time and its faces
        self._between: tuple[float, np.ndarray, tuple[int, int]] | None = None  # the picture after it

    def add_frame(self, time: float, pixels: np.ndarray, size: tuple[int, int]) -> None:
        """Adds a picture (H, W, 3) uint8 of a time in seconds. `size` is the video's own width and height, in whose
        pixels boxes are given.

        Every other picture waits for the next: only where faces have moved meanwhile is it searched too.
        """
        if self._searched is not None and self._between is None:
            self._between = time, pixels, size
            return
        squares = self._search(pixels)
        if self._between is not None:
            before, faces = self._searched
            part = (self._between[0] - before) / (time - before) if time > before else 0.0
            self._add_between(boxes_between(faces, squares, part))
        self._add(time, pixels, size, squares)
        self._searched = time, squares

    def _search(self, pixels: np.ndarray) -> list[Box]:
        return self._recognizer.find_faces(pixels, SEARCH_SIDE)[:MAX_FACES]

    def _add_between(self, squares: list[Box] | None) -> None:
        """Adds the picture that waits, with its faces; None where it must be searched."""
        time, pixels, size = self._between
        self._add(time, pixels, size, self._search(pixels) if squares is None else squares)
        self._between = None

    def _add(self, time: float, pixels: np.ndarray, size: tuple[int, int], squares: list[Box]) -> None:
        if self._pictures % TURN_CHECK_STEP == 0 and self._pictures < TURN_CHECKS * TURN_CHECK_STEP:
            self._turned += self._recognizer.face_detector.find_turned(pixels)[1] > 0
        self._pictures += 1
        faces = self._recognizer.frame_faces(pixels, squares, size=size)
        for id, box, crop in zip(self._tracker(squares, time), faces.boxes, faces.crops):
            self._pending.append((id, time, box, crop))
        if len(self._pending) >= ROWS_PER_FORWARD:
            self._score()

    @property
    def lies(self) -> bool:
        """Whether most of the pictures that were looked at for it lie on their side or stand on their head."""
        return 2 * self._turned > min(TURN_CHECKS, math.ceil(self._pictures / TURN_CHECK_STEP))

    def _score(self) -> None:
        log_probs = self._recognizer.face_log_probs([crop for *_, crop in self._pending])
        for (id, time, box, _), row in zip(self._pending, log_probs):
            smooth = self._filters.setdefault(id, PosteriorFilter(FACE_HALF_LIFE))
            self._tracks.setdefault(id, []).append((time, box, smooth(row, time)))
            self._sums[id] = self._sums.get(id, 0) + row
        self._pending = []

    def people(self) -> tuple[list[Person], torch.Tensor | None]:
        """Everybody seen for long enough, most face on screen first, and the first's mean log-posterior (1, C)."""
        if self._between is not None:
            self._add_between(None)
        self._score()
        emotion = self._recognizer.emotion
        area = {id: sum(box[2] * box[3] for _, box, _ in track) for id, track in self._tracks.items()}
        ids = sorted(area, key=lambda id: -area[id])
        ids = [id for id in ids if len(self._tracks[id]) >= MIN_FACE_SAMPLES] or ids[:1]
        means = [mean_log_probs(self._sums[id][None] / len(self._tracks[id])) for id in ids]
        people = [
            Person(
                **vars(emotion(mean[0], "face")),
                id=number,
                track=[
                    FaceSample(**vars(emotion(row, "face")), time=time, box=box) for time, box, row in self._tracks[id]
                ],
            )
            for number, (id, mean) in enumerate(zip(ids, means), start=1)
        ]
        return people, means[0] if means else None


class VoiceTimeline:
    """What is said in a video, in windows as the recognizer cuts them, scored while the sound comes in."""

    rate = SpeechDetector.sampling_rate

    def __init__(self, recognizer: Recognizer):
        self._recognizer = recognizer
        self._resample: Resampler | None = None
        self._channels = 0
        self._window = recognizer.window_seconds
        self._blocks: list[np.ndarray] = []  # the sound that is held, (channels, T) each
        self._start = self._end = 0  # its first sample's number, and the number after its last
        self._next = 0  # the number of the next window
        self._judged = 0.0  # seconds up to which speech has been looked for
        self.loud = False
        self.note: str | None = None  # where one channel is used instead of the mean
        self.segments: list[tuple[float, float]] = []
        self.centres: list[float] = []  # of the scored windows
        self.log_probs: list[torch.Tensor] = []  # of the same, (n, C) each

    def add_audio(self, pieces: "list[tuple[float, av.AudioFrame]]") -> None:
        """Adds pieces of sound, each with the time in seconds at which it starts."""
        for time, frame in pieces:
            self._add(time, frame)

    def _add(self, time: float, frame: "av.AudioFrame") -> None:
        if self._resample is None:
            self._channels = 1 if frame.layout.nb_channels == 1 else 2
            layout = "mono" if self._channels == 1 else "stereo"
            self._resample = Resampler(format="fltp", layout=layout, rate=self.rate)
        missing = round(time * self.rate) - self._end
        if missing > self.rate // 10:  # sound that starts late, or a gap in it
            self._append(np.zeros((self._channels, missing), np.float32))
        for block in self._resample(frame):
            self._append(block.to_ndarray())

    def _append(self, samples: np.ndarray) -> None:
        samples = np.nan_to_num(samples, posinf=0.0, neginf=0.0)
        if samples.shape[1] == 0:
            return
        self.loud = self.loud or bool(np.ptp(samples, axis=1).max() / 2 >= SILENCE_PEAK)
        self._blocks.append(samples)
        self._end += samples.shape[1]
        if self._end - self._start >= VOICE_BLOCK_SECONDS * self.rate:
            self._score()

    def _score(self, last: bool = False) -> None:
        """Scores the windows that lie in the sound that is held, and drops what no later window needs.

        Speech near the end of the sound that is held is looked for again, with what follows.
        """
        channels, begin, end = np.concatenate(self._blocks, 1), self._start / self.rate, self._end / self.rate
        samples, loudest = mix_down(channels)
        if loudest is not None:
            self.note = one_channel_sentence(loudest)
        limit = end if last else end - WINDOW_HOP_SECONDS
        starts = []
        while (start := self._next * WINDOW_HOP_SECONDS) + self._window < limit:
            starts.append(start - begin)
            self._next += 1
        if last:
            starts.append(max(0.0, end - self._window) - begin)  # flush with the end
        voice = self._recognizer.find_voice(samples, starts)
        if voice.starts:
            self.log_probs.append(self._recognizer.voice_log_probs(voice.windows))
            self.centres += [begin + start + self._window / 2 for start in voice.starts]
        for a, b in voice.segments:
            a, b = max(begin + a, self._judged), min(begin + b, limit)
            if self.segments and a - self.segments[-1][1] < 1e-3:
                a = self.segments.pop()[0]
            if b > a:
                self.segments.append((a, b))
        self._judged = limit
        # In whole samples and in a copy, so that the rest can be freed.
        keep = min(round(self._next * WINDOW_HOP_SECONDS * self.rate), self._end)
        self._blocks, self._start = [channels[:, keep - self._start :].copy()], keep

    @property
    def has_sound(self) -> bool:
        """Whether there was any sound."""
        return self._end > 0

    def finish(self) -> None:
        """Scores what is left."""
        if self.has_sound:
            self._score(last=True)

    def at(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, C) log-posteriors at times (T,), between the windows around each, and (T,) bool: where there is one.

        A window counts for the time around its centre; log-posteriors change evenly from one to the next.
        """
        if not self.log_probs:
            return torch.zeros(len(times), len(self._recognizer.labels)), torch.zeros(len(times), dtype=torch.bool)
        log_probs = torch.cat(self.log_probs)  # (W, C)
        distance = (times[:, None] - torch.tensor(self.centres, dtype=torch.float64)).abs()  # (T, W)
        weights = (self._window / 2 + 1e-3 - distance).clamp(min=0).float()
        spoken = weights.sum(1) > 0
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        taught = log_probs.isfinite().all(0)  # (C,)
        mixed = torch.full((len(times), log_probs.shape[1]), -torch.inf)
        mixed[:, taught] = weights @ log_probs[:, taught]
        return mixed.log_softmax(-1), spoken


# --------------------------------------------------------------------------------------------------------------------
# Analysis


def analyze_video(
    recognizer: Recognizer, source: VideoSource, what: What = "both"
) -> Generator[float, None, VideoResult]:
    """Recognise the emotions in a video. The generator gives the fraction done, and returns the result; to stop in
    the middle, close it. `finish` runs it to its end.

    Args:
        source: a path, or a file's bytes: up to 10 minutes of MP4, MOV, WebM, MKV, AVI and the like. Where the picture
            or the sound is missing, the other is answered alone.
        what: the faces, the voices, or both.
    Raises:
        InputError: it is not a video, is damaged from the start, too long or too large.
        ImportError: PyAV, OpenCV or silero-vad is not installed.
    """
    with VideoReader(source, what) as video:
        faces, voice = FaceTimeline(recognizer), VoiceTimeline(recognizer)
        next_look, sound = 0.0, []
        with Helper() as look, Helper() as listen:
            for time, frame in video:
                if isinstance(frame, av.AudioFrame):
                    sound.append((time, frame))
                    if len(sound) == SOUND_FRAMES:
                        listen(voice.add_audio, sound)
                        sound = []
                elif time >= next_look:
                    look(faces.add_frame, time, video.pixels(frame, CROP_SIDE), video.size)
                    next_look = (math.floor(time * SAMPLES_PER_SECOND + 1e-3) + 1) / SAMPLES_PER_SECOND - 1e-3
                yield video.fraction
            listen(voice.add_audio, sound)
            listen(voice.finish)
        if video.size is None and not voice.has_sound:
            raise _unreadable()
        return _assemble(recognizer, video, faces, voice, what)


def _assemble(
    recognizer: Recognizer, video: VideoReader, faces: FaceTimeline, voice: VoiceTimeline, what: What
) -> VideoResult:
    people, face_mean = faces.people()
    voice_mean = mean_log_probs(torch.cat(voice.log_probs)) if voice.log_probs else None
    result = VideoResult(video.seconds, *(video.size or (None, None)), people=people, segments=voice.segments)
    result.messages = _messages(video, faces, voice, people, what)
    result.detector = recognizer.face_detector.name if video.size else None
    if face_mean is None and voice_mean is None:
        return result
    result.face = None if face_mean is None else recognizer.emotion(face_mean[0], "face")
    result.voice = None if voice_mean is None else recognizer.emotion(voice_mean[0], "voice")
    [(result.fused, result.agreement)] = recognizer.fuse(face_mean, voice_mean)

    times = torch.arange(math.floor(result.seconds * SAMPLES_PER_SECOND + 1e-6) + 1, dtype=torch.float64)
    times = times / SAMPLES_PER_SECOND  # (T,)
    seen = [people[0].at(time) if people else None for time in times.tolist()]
    has_face = torch.tensor([sample is not None for sample in seen])
    face = torch.full((len(times), len(recognizer.labels)), -math.log(len(recognizer.labels)))  # (T, C)
    for row, sample in zip(face, seen):
        if sample is not None:
            row.copy_(torch.tensor([score or 0.0 for score in sample.scores.values()]).log())
    spoken, has_voice = voice.at(times)
    for i, (fused, agreement) in enumerate(recognizer.fuse(face, spoken, has_face, has_voice)):
        looks = None if seen[i] is None else Emotion(seen[i].label, seen[i].scores, seen[i].unsure)
        sounds = recognizer.emotion(spoken[i], "voice") if has_voice[i] else None
        result.timeline.append(TimelinePoint(times[i].item(), looks, sounds, fused, agreement))
    result.moments = _conflict_moments(recognizer, result.timeline, face, spoken)
    return result


def _conflict_moments(
    recognizer: Recognizer, timeline: list[TimelinePoint], face_log_probs: torch.Tensor, voice_log_probs: torch.Tensor
) -> list[ConflictMoment]:
    """The stretches of a timeline in which its log-posteriors of the face and the voice, (T, C) each, conflict."""
    moments = []
    for first, last in _stretches([point.conflict for point in timeline]):
        here = [i for i in range(first, last + 1) if timeline[i].agreement is not None]
        looks, sounds = (mean_log_probs(log_probs[here]) for log_probs in (face_log_probs, voice_log_probs))
        [(fused, agreement)] = recognizer.fuse(looks, sounds)
        start, end = timeline[first].time, timeline[last].time
        face, voice = recognizer.emotion(looks[0], "face"), recognizer.emotion(sounds[0], "voice")
        if TimelinePoint(start, face, voice, fused, agreement).conflict:
            moments.append(ConflictMoment(start, end, face.label, voice.label, agreement))
    return moments


def _stretches(flags: list[bool]) -> Iterator[tuple[int, int]]:
    """The first and last point of every stretch that is long enough to mean something; short gaps are bridged."""
    first = last = None
    for i, flag in enumerate([*flags, *[False] * SAMPLES_PER_SECOND]):  # the end is a gap like any other
        if flag:
            first, last = i if first is None else first, i
        elif first is not None and i - last > CONFLICT_GAP_SECONDS * SAMPLES_PER_SECOND:
            if last - first >= MIN_CONFLICT_SECONDS * SAMPLES_PER_SECOND:
                yield first, last
            first = None


def _messages(
    video: VideoReader, faces: FaceTimeline, voice: VoiceTimeline, people: list[Person], what: What
) -> list[str]:
    messages = []
    if video.damaged:
        messages.append(f"The video is damaged: only what could be read of its first {video.seconds:.1f} s was used.")
    if what != "voice" and video.size is None:
        messages.append("The file has no moving picture: only its sound was used.")
    elif what != "voice" and not people:
        messages.append("No face was found in the video: try one where a face is larger, or better lit.")
    if faces.lies:
        messages.append("The video lies on its side or stands on its head: turn it upright and give it again.")
    if what == "face":
        return messages
    messages += [note for note in (video.note, voice.note) if note is not None]
    if not video.sound_channels:
        messages.append("The video has no sound: only the faces in it were used.")
    elif not voice.loud:
        messages.append("The video’s sound is silent: check the microphone and record again.")
    elif not voice.log_probs:
        messages.append(f"No speech was found in the video’s sound: at least {MIN_SPEECH_SECONDS} s of it is needed.")
    return messages
