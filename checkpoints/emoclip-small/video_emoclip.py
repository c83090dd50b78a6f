"""From a video to who looked like what and what was heard, second by second.

    result = pipe(video="clip.mp4")                       # `pipe` as in pipeline_emoclip.py
    print(result.fused.label, result.moments)
    open("clip.csv", "w", newline="").write(result.to_csv())

frames, 5 a second -> faces found, tracked, smoothed in time ---\\
sound -> 16 kHz, in blocks -> speech found -> windows of 3 s ----+-> one timeline: face, voice, fused, agreement

The video is read as a stream: what is held is a frame or two, half a minute of sound, and the numbers found so far.

Units as in `results_emoclip.py`; pixels are those of the upright video, after its rotation and with square pixels.
"""

import bisect
import csv
import io
import math
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

try:
    from .media_emoclip import (
        AUDIO_CONTAINERS,
        MIN_SPEECH_SECONDS,
        SILENCE_PEAK,
        WINDOW_HOP_SECONDS,
        Box,
        InputError,
        SpeechDetector,
        clip_box,
        crop_face,
        moving_picture,
        open_file,
        scored_windows,
    )
    from .results_emoclip import Emotion, FusedResult, PosteriorFilter, emotion_fields, mean_log_probs
except ImportError:
    from media_emoclip import (
        AUDIO_CONTAINERS,
        MIN_SPEECH_SECONDS,
        SILENCE_PEAK,
        WINDOW_HOP_SECONDS,
        Box,
        InputError,
        SpeechDetector,
        clip_box,
        crop_face,
        moving_picture,
        open_file,
        scored_windows,
    )
    from results_emoclip import Emotion, FusedResult, PosteriorFilter, emotion_fields, mean_log_probs
try:
    import av
except ImportError:
    av = None

MAX_VIDEO_SECONDS = 600.0
MAX_VIDEO_PIXELS = 4096 * 2304  # of a frame
SAMPLES_PER_SECOND = 5  # of the picture and of the timeline
CROP_SIDE = 640  # pixels of the longer side of the pictures that faces are cut from
SEARCH_SIDE = 400  # pixels of the longer side of the pictures that faces are looked for in
MAX_FACES = 8  # of one picture, largest first
FACES_PER_FORWARD = 32
FACE_HALF_LIFE = 0.5  # seconds
TRACK_IOU = 0.3  # overlap from which a face is the one that was there before
TRACK_MEMORY = 1.0  # seconds for which a face may be out of sight and keep its id
MIN_FACE_SAMPLES = 3  # fewer are a detector's mistake, or somebody passing
VOICE_BLOCK_SECONDS = 30.0
CONFLICT_GAP_SECONDS = 0.6  # conflicts that lie no farther apart are one
MIN_CONFLICT_SECONDS = 1.0

VideoSource = str | os.PathLike | bytes


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
        return FaceSample(a.label, a.scores, time, box)


@dataclass
class TimelinePoint:
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
        sources = [[source, *(f"{source}_{label}" for label in labels)] for source in ("face", "voice", "fused")]
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
                    cells += (
                        [None] * (1 + len(labels)) if emotion is None else [emotion.label, *emotion.scores.values()]
                    )
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
    there is, `fraction` how much is done, `seconds` how far it came, `damaged` whether parts could not be read.

    Raises:
        InputError: it is no video or sound, or is too long or too large.
        ImportError: PyAV is not installed.
    """

    def __init__(self, source: VideoSource):
        if av is None:
            raise ImportError("Reading videos needs PyAV: pip install av")
        self._file = open_file(source, "video")
        try:
            self._bytes = self._file.seek(0, io.SEEK_END)
            self._file.seek(0)
            options = {"format_whitelist": AUDIO_CONTAINERS, "protocol_whitelist": ""}
            self._container = av.open(self._file, options=options, metadata_errors="replace")
            streams = (moving_picture(self._container), *self._container.streams.audio[:1])
            usable = [stream for stream in streams if stream is not None and stream.codec_context is not None]
        except (av.FFmpegError, ValueError):
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
            except (av.FFmpegError, ValueError):
                self.damaged = True  # what follows may be whole again
                continue
            for frame in frames:
                yield self._time(frame), frame
        if self.duration - self.seconds > 1.0 and self.seconds < 0.95 * self.duration:
            self.damaged = True  # it ends before its header says

    def _packets(self) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._streams)
        except (av.FFmpegError, ValueError):
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


class FaceTracker:
    """Follows faces by overlap alone: a box goes on with the id whose last box it overlaps most, or gets a new one.

    The IOU tracker of Bochinski et al. (2017), matching greedily, with a memory for faces out of sight.
    """

    def __init__(self):
        self._last: dict[int, tuple[float, Box]] = {}
        self._next_id = 1

    def __call__(self, boxes: list[Box], time: float) -> list[int]:
        """The id of each box, at a time no earlier than the last."""
        self._last = {id: last for id, last in self._last.items() if time - last[0] <= TRACK_MEMORY}
        pairs = [(iou(box, last), i, id) for i, box in enumerate(boxes) for id, (_, last) in self._last.items()]
        ids: dict[int, int] = {}
        for overlap, i, id in sorted(pairs, reverse=True):
            if overlap >= TRACK_IOU and i not in ids and id not in ids.values():
                ids[i] = id
        for i, box in enumerate(boxes):
            if i not in ids:
                ids[i], self._next_id = self._next_id, self._next_id + 1
            self._last[ids[i]] = time, box
        return [ids[i] for i in range(len(boxes))]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


class _Faces:
    """Everybody's face, from picture to picture."""

    def __init__(self, pipe: Any):
        self._pipe, self._tracker = pipe, FaceTracker()
        self._filters: dict[int, PosteriorFilter] = {}
        self._pending: list[tuple[int, float, Box, np.ndarray]] = []
        self._tracks: dict[int, list[tuple[float, Box, torch.Tensor]]] = {}
        self._sums: dict[int, torch.Tensor] = {}

    def see(self, time: float, pixels: np.ndarray, size: tuple[int, int]) -> None:
        """Take in a picture (H, W, 3) of a video whose upright `size` is (width, height)."""
        height, width = pixels.shape[:2]
        scale = min(1.0, SEARCH_SIDE / max(width, height))
        searched = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
        boxes = self._pipe.face_detector(np.asarray(searched))[:MAX_FACES]
        boxes = [tuple(value / scale for value in box) for box in boxes]
        for id, box in zip(self._tracker(boxes, time), boxes):
            shown = clip_box(tuple(value * size[0] / width for value in box), *size)
            self._pending.append((id, time, shown, crop_face(pixels, box)))
        if len(self._pending) >= FACES_PER_FORWARD:
            self._score()

    @torch.no_grad()
    def _score(self) -> None:
        if not self._pending:
            return
        crops = [crop for *_, crop in self._pending]
        pixel_values = self._pipe.processor(images=crops, return_tensors="pt")["pixel_values"]
        log_probs = self._pipe.face_log_probs(pixel_values.to(self._pipe.device)).cpu()
        for (id, time, box, _), row in zip(self._pending, log_probs):
            smooth = self._filters.setdefault(id, PosteriorFilter(FACE_HALF_LIFE))
            self._tracks.setdefault(id, []).append((time, box, smooth(row, time)))
            self._sums[id] = self._sums.get(id, 0) + row
        self._pending = []

    def people(self, labels: dict[int, str]) -> tuple[list[Person], torch.Tensor | None]:
        """Everybody seen for long enough, most face on screen first, and the first's mean log-posterior (1, C)."""
        self._score()
        area = {id: sum(box[2] * box[3] for _, box, _ in track) for id, track in self._tracks.items()}
        ids = sorted(area, key=lambda id: -area[id])
        ids = [id for id in ids if len(self._tracks[id]) >= MIN_FACE_SAMPLES] or ids[:1]
        means = [mean_log_probs(self._sums[id][None] / len(self._tracks[id])) for id in ids]
        people = [
            Person(
                **emotion_fields(mean[0], labels),
                id=number,
                track=[
                    FaceSample(**emotion_fields(row, labels), time=time, box=box)
                    for time, box, row in self._tracks[id]
                ],
            )
            for number, (id, mean) in enumerate(zip(ids, means), start=1)
        ]
        return people, means[0] if means else None


class _Voice:
    """What is heard, in windows as the pipeline cuts them, scored as the sound comes in."""

    rate = SpeechDetector.sampling_rate

    def __init__(self, pipe: Any):
        self._pipe = pipe
        self._resample = Resampler(format="flt", layout="mono", rate=self.rate) if av is not None else None
        self._window = pipe.processor.feature_extractor.chunk_length_s
        self._blocks: list[np.ndarray] = []  # what is held of the sound
        self._start = self._end = 0  # its first sample's number, and the number after its last
        self._next = 0  # the number of the next window
        self._judged = 0.0  # seconds up to which speech has been looked for
        self.loud = False
        self.segments: list[tuple[float, float]] = []
        self.centres: list[float] = []  # of the scored windows
        self.log_probs: list[torch.Tensor] = []  # of the same, (n, C) each

    def hear(self, time: float, frame: Any) -> None:
        missing = round(time * self.rate) - self._end
        if missing > self.rate // 10:  # sound that starts late, or a gap in it
            self._append(np.zeros(missing, np.float32))
        for block in self._resample(frame):
            self._append(block.to_ndarray()[0])  # (1, T) -> (T,)

    def _append(self, samples: np.ndarray) -> None:
        samples = np.nan_to_num(samples, posinf=0.0, neginf=0.0)
        self.loud = self.loud or bool(np.ptp(samples) / 2 >= SILENCE_PEAK)
        self._blocks.append(samples)
        self._end += len(samples)
        if self._end - self._start >= VOICE_BLOCK_SECONDS * self.rate:
            self._score()

    @torch.no_grad()
    def _score(self, last: bool = False) -> None:
        """Score the windows that lie in what is held, and let go of what no later window needs.

        Speech near the end of what is held is judged again, with what follows.
        """
        samples, begin, end = np.concatenate(self._blocks), self._start / self.rate, self._end / self.rate
        limit = end if last else end - WINDOW_HOP_SECONDS
        segments = [(begin + a, begin + b) for a, b in self._pipe.speech_detector(samples)]
        starts = []
        while (start := self._next * WINDOW_HOP_SECONDS) + self._window < limit:
            starts.append(start)
            self._next += 1
        if last:
            starts.append(max(0.0, end - self._window))  # flush with the end
        starts = scored_windows(starts, self._window, segments)
        if starts:
            length = round(self._window * self.rate)
            pieces = [samples[round(start * self.rate) - self._start :][:length] for start in starts]
            pieces = [np.pad(piece, (0, length - len(piece))) for piece in pieces]
            voices = self._pipe.processor(audio=pieces, sampling_rate=self.rate, return_tensors="pt")
            voices = voices[self._pipe.audio_input].to(self._pipe.device)
            self.log_probs.append(self._pipe.voice_log_probs(voices).cpu())
            self.centres += [start + self._window / 2 for start in starts]
        for a, b in segments:
            a, b = max(a, self._judged), min(b, limit)
            if self.segments and a - self.segments[-1][1] < 1e-3:
                a = self.segments.pop()[0]
            if b > a:
                self.segments.append((a, b))
        self._judged = limit
        # In whole samples and in a copy, so that the rest can be freed.
        keep = min(round(self._next * WINDOW_HOP_SECONDS * self.rate), self._end)
        self._blocks, self._start = [samples[keep - self._start :].copy()], keep

    @property
    def heard(self) -> bool:
        """Whether there was any sound."""
        return self._end > 0

    def finish(self) -> None:
        if self.heard:
            self._score(last=True)

    def at(self, times: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, C) log-posteriors at times (T,), between the windows around each, and (T,) bool: where there is one.

        A window counts for the time around its centre; log-posteriors change evenly from one to the next.
        """
        log_probs = torch.cat(self.log_probs)  # (W, C)
        distance = (torch.as_tensor(times)[:, None] - torch.tensor(self.centres, dtype=torch.float64)).abs()  # (T, W)
        weights = (self._window / 2 + 1e-3 - distance).clamp(min=0).float()
        heard = weights.sum(1) > 0
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        taught = log_probs.isfinite().all(0)  # (C,)
        mixed = torch.full((len(times), log_probs.shape[1]), -torch.inf)
        mixed[:, taught] = weights @ log_probs[:, taught]
        return mixed.log_softmax(-1), heard


# --------------------------------------------------------------------------------------------------------------------
# Analysis


def analyze_video(pipe: Any, source: VideoSource) -> Generator[float, None, VideoResult]:
    """Recognise the emotions in a video. The generator gives the fraction done, and returns the result; to stop in
    the middle, close it. `finish` runs it to its end.

    Args:
        pipe: the pipeline.
        source: a path, or a file's bytes: up to 10 minutes of MP4, MOV, WebM, MKV, AVI and the like. Where the picture
            or the sound is missing, the other is answered alone.
    Raises:
        InputError: it is not a video, is damaged from the start, too long or too large.
        ImportError: PyAV, OpenCV or silero-vad is not installed.
    """
    with VideoReader(source) as video:
        faces, voice = _Faces(pipe), _Voice(pipe)
        next_look = 0.0
        for time, frame in video:
            if isinstance(frame, av.AudioFrame):
                voice.hear(time, frame)
            elif time >= next_look:
                faces.see(time, video.pixels(frame, CROP_SIDE), video.size)
                next_look = (math.floor(time * SAMPLES_PER_SECOND + 1e-3) + 1) / SAMPLES_PER_SECOND - 1e-3
            yield video.fraction
        voice.finish()
        if video.size is None and not voice.heard:
            raise _unreadable()
        return _assemble(pipe, video, faces, voice)


@torch.no_grad()
def _assemble(pipe: Any, video: VideoReader, faces: _Faces, voice: _Voice) -> VideoResult:
    labels = pipe.model.config.id2label
    people, face_mean = faces.people(labels)
    voice_mean = mean_log_probs(torch.cat(voice.log_probs)) if voice.log_probs else None
    result = VideoResult(video.seconds, *(video.size or (None, None)), people=people, segments=voice.segments)
    result.messages = _messages(video, voice, people)
    result.detector = pipe.face_detector.name if video.size else None
    if face_mean is None and voice_mean is None:
        return result

    def emotion(log_probs: torch.Tensor) -> Emotion:
        return Emotion(**emotion_fields(log_probs, labels))

    fused, agreement = (x.cpu() for x in pipe.model.fuse(face_mean, voice_mean))
    result.face = None if face_mean is None else emotion(face_mean[0])
    result.voice = None if voice_mean is None else emotion(voice_mean[0])
    result.fused = emotion(fused[0])
    result.agreement = agreement.item() if result.face and result.voice else None

    times = np.arange(math.floor(result.seconds * SAMPLES_PER_SECOND + 1e-6) + 1) / SAMPLES_PER_SECOND
    seen = [people[0].at(time) if people else None for time in times.tolist()]
    shown = torch.tensor([face is not None for face in seen])
    face = torch.full((len(times), len(labels)), -math.log(len(labels)))  # (T, C)
    for row, sample in zip(face, seen):
        if sample is not None:
            row.copy_(torch.tensor([score or 0.0 for score in sample.scores.values()]).log())
    spoken, heard = (
        voice.at(times) if voice.log_probs else (torch.zeros_like(face), torch.zeros(len(times), dtype=torch.bool))
    )
    fused, agreement = pipe.model.fuse(face, spoken, shown, heard)
    for i, time in enumerate(times.tolist()):
        result.timeline.append(
            TimelinePoint(
                time,
                Emotion(seen[i].label, seen[i].scores) if shown[i] else None,
                emotion(spoken[i]) if heard[i] else None,
                emotion(fused[i]) if shown[i] or heard[i] else None,
                agreement[i].item() if shown[i] and heard[i] else None,
            )
        )
    both = shown & heard
    for first, last in _stretches((both & (agreement < 0) & (face.argmax(-1) != spoken.argmax(-1))).tolist()):
        here = slice(first, last + 1)
        looks, sounds = (mean_log_probs(log_probs[here][both[here]]) for log_probs in (face, spoken))
        agreement_here = pipe.model.fuse(looks, sounds)[1].item()
        if agreement_here < 0 and looks.argmax() != sounds.argmax():
            result.moments.append(
                ConflictMoment(
                    times[first].item(),
                    times[last].item(),
                    labels[looks.argmax().item()],
                    labels[sounds.argmax().item()],
                    agreement_here,
                )
            )
    return result


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


def _messages(video: VideoReader, voice: _Voice, people: list[Person]) -> list[str]:
    messages = []
    if video.damaged:
        messages.append(f"The video is damaged: only what could be read of its first {video.seconds:.1f} s was used.")
    if video.size is None:
        messages.append("The file has no moving picture: only its sound was used.")
    elif not people:
        messages.append("No face was found in the video: try one where a face is larger, or better lit.")
    if not video.sound_channels:
        messages.append("The video has no sound: only the faces in it were used.")
    elif not voice.loud:
        messages.append("The video’s sound is silent: check the microphone and record again.")
    elif not voice.log_probs:
        messages.append(f"No speech was found in the video’s sound: at least {MIN_SPEECH_SECONDS} s of it is needed.")
    return messages
