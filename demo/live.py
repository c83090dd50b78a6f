"""The tab Live: webcam and microphone, answered as the visitor moves and speaks.

The page sends its pictures and its sound over one WebSocket a visitor, and draws what comes back (live.js). Gradio's
own streaming would write every piece of sound into its cache folder and queue what it cannot answer yet; over a
socket, frames and sound are in memory only, the newest frame takes the place of one that nobody has looked at, and a
visitor's state goes when the connection does. `LiveSession` is what is known of one visitor, `Line` who streams and
who waits, `Live` the connections:

    page -> {"sampling_rate": 16000}                                                   once, first
    page -> b"F" + seconds + JPEG; b"S" + seconds + samples    float64; int16, mono, that ended then; little-endian
    page <- {"type": "waiting", "before": 2}                                           until there is a place
    page <- {"type": "ready"}                                                          from now on it may send
    page <- {"type": "answer", ...}, a `LiveAnswer`                                    after each frame and each window
    page <- {"type": "error", "message": ...}                                          before the connection is closed
"""

import asyncio
import contextlib
import io
import json
import os
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr
import numpy as np
import torch
from PIL import Image
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from demo.views import live_view, wording
from media_emoclip import (
    SILENCE_PEAK,
    Box,
    FaceDetector,
    SpeechDetector,
    clip_box,
    crop_face,
    scored_windows,
)
from pipeline_emoclip import EmotionRecognitionPipeline
from processing_emoclip import resample
from results_emoclip import Emotion, EmotionResult, FaceResult, PosteriorFilter, VoiceResult, emotion_fields
from video_emoclip import TRACK_IOU, iou

PATH = "/live"
HALF_LIFE_SECONDS = 0.5  # of the face's posterior
STOPPED_SECONDS = 3.0  # without a frame, or without sound, while the other goes on
FACE_KEPT_SECONDS = 0.6  # a detector misses a face now and then: so long the last one stands
VOICE_HOP_SECONDS = 0.5
SILENT_SECONDS = 2.0  # of nothing at all from the microphone, after which it is said to be silent
SEARCH_SIDE = 320  # pixels of the longer side of the frame that faces are looked for in
MAX_GAP_SECONDS = 0.5  # between two pieces of sound that still count as contiguous

PLACES = 4  # visitors who stream at once
TURN_SECONDS = 120.0  # after which whoever waits has the place, if anybody does
MAX_LINE = 64
IDLE_SECONDS = 30.0  # without a frame or a sound, after which the place is free
MAX_MESSAGE_BYTES = 512 * 1024
MAX_FRAME_SIDE = 1280  # pixels
SAMPLING_RATES = (8_000, 192_000)  # Hz, lowest and highest that a page may send

# --------------------------------------------------------------------------------------------------------------------
# One visitor


class LiveAnswer(TypedDict):
    """What the page is told: an `EmotionResult` as a dict, and beside it:"""

    time: float | None  # of the newest frame that was looked at, in the page's own seconds
    size: tuple[int, int] | None  # that frame's width and height: the box is in its pixels
    hearing: str | None  # "speech", "listening" or "silent"; None before anything was heard
    headline: str
    line: str
    conflict: bool
    took: dict[str, float]  # milliseconds: "find" and "recognise" of the frame, "voice" of the last window
    result: dict


class LiveSession:
    """What one visitor looks and sounds like now. Nothing of it outlives the object.

    `see` and `listen` do the work and may run in a thread; `hear` only collects.

    Args:
        pipe: the pipeline.
        sampling_rate: of the visitor's sound, in Hz.
    """

    def __init__(self, pipe: EmotionRecognitionPipeline, sampling_rate: int = 16_000):
        self._pipe = pipe
        # Detectors of its own: one that is shared would keep a visitor waiting behind another's long recording.
        self._find_faces, self._find_speech = FaceDetector(), SpeechDetector()
        self._labels = pipe.model.config.id2label
        self._rate = sampling_rate
        self._window = pipe.processor.feature_extractor.chunk_length_s
        self._sound = np.zeros(0, np.float32)  # the last contiguous seconds, a window at most
        self._sound_end = None  # in the page's seconds
        self._unheard = 0  # samples since the last window was looked at
        self._silent = 0  # samples of nothing at all since the last that was something
        self._face: FaceResult | None = None
        self._face_log_probs: torch.Tensor | None = None  # (C,)
        self._filter = PosteriorFilter(HALF_LIFE_SECONDS)
        self._face_time = -1.0
        self._voice: VoiceResult | None = None
        self._voice_log_probs: torch.Tensor | None = None  # (C,)
        self._time: float | None = None
        self._size: tuple[int, int] | None = None
        self._took: dict[str, float] = {}

    @torch.inference_mode()
    def see(self, jpeg: bytes, time: float) -> None:
        """Look at a frame of a moment, in the page's seconds.

        Raises:
            ValueError: it is no JPEG, or too large a one.
        """
        image = _decode(jpeg)
        self._time, self._size = time, image.size
        with self._timed("find"):
            box = self._follow(self._boxes(image))
        if box is None:
            if time - self._face_time > FACE_KEPT_SECONDS:
                self._face = self._face_log_probs = None
            return
        with self._timed("recognise"):
            pixels = self._pipe.processor(images=[crop_face(np.asarray(image), box)], return_tensors="pt")[
                "pixel_values"
            ]
            log_probs = self._pipe.face_log_probs(pixels)[0]
        if self._face is None:
            self._filter = PosteriorFilter(HALF_LIFE_SECONDS)
        self._face_log_probs = self._filter(log_probs, max(time, self._face_time))
        self._face_time = max(time, self._face_time)
        self._face = FaceResult(
            **emotion_fields(self._face_log_probs, self._labels),
            box=clip_box(box, *image.size),
            detector=self._find_faces.name,
        )

    def _boxes(self, image: Image.Image) -> list[Box]:
        scale = max(1.0, max(image.size) / SEARCH_SIDE)
        small = image.resize([max(1, round(side / scale)) for side in image.size], Image.Resampling.BILINEAR)
        return [tuple(scale * value for value in box) for box in self._find_faces(np.asarray(small))]

    def _follow(self, boxes: list[Box]) -> Box | None:
        """The face that was there before, if it still is; otherwise the largest, once the other has been forgotten."""
        if self._face is not None:
            near = [box for box in boxes if iou(box, self._face.box) >= TRACK_IOU]
            return near[0] if near else None
        return boxes[0] if boxes else None

    def hear(self, samples: np.ndarray, time: float) -> None:
        """Take in sound (T,) float32, -1..1, that ended at a moment, in the page's seconds."""
        start = time - len(samples) / self._rate
        if self._sound_end is not None and abs(start - self._sound_end) > MAX_GAP_SECONDS:
            self._sound, self._unheard, self._silent = self._sound[:0], 0, 0
        self._sound_end = time
        self._sound = np.concatenate([self._sound, samples])[-round(self._window * self._rate) :]
        self._unheard += len(samples)
        self._silent = self._silent + len(samples) if np.ptp(samples) / 2 < SILENCE_PEAK else 0

    @property
    def voice_due(self) -> bool:
        """Whether the window has moved far enough for `listen`."""
        return self._unheard >= VOICE_HOP_SECONDS * self._rate

    @torch.inference_mode()
    def listen(self) -> None:
        """Look at the last seconds of sound: a voice where there is speech enough in them, and none otherwise."""
        sound, self._unheard = self._sound, 0
        with self._timed("voice"):
            samples = resample(torch.from_numpy(sound), self._rate, SpeechDetector.sampling_rate).numpy()
            segments = self._find_speech(samples)
            if not scored_windows([0.0], self._window, segments):
                self._voice = self._voice_log_probs = None
                return
            voices = self._pipe.processor(
                audio=[samples], sampling_rate=SpeechDetector.sampling_rate, return_tensors="pt"
            )[self._pipe.audio_input]
            self._voice_log_probs = self._pipe.voice_log_probs(voices)[0]
            self._voice = VoiceResult(**emotion_fields(self._voice_log_probs, self._labels), segments=segments)

    @torch.inference_mode()
    def answer(self) -> LiveAnswer:
        """The state of things, for the page."""
        self._forget_what_stopped()
        result = EmotionResult(face=self._face, voice=self._voice)
        face, voice = (x if x is None else x[None] for x in (self._face_log_probs, self._voice_log_probs))
        headline, line = "Nobody seen or heard", "Look at the camera, or say something."
        if face is not None or voice is not None:
            fused, agreement = self._pipe.model.fuse(face, voice)
            result.fused = Emotion(**emotion_fields(fused[0], self._labels))
            result.agreement = None if face is None or voice is None else agreement.item()
            headline, line = wording(result)
        hearing = None
        if self._sound_end is not None:
            silent = self._silent >= SILENT_SECONDS * self._rate
            hearing = "speech" if self._voice else "silent" if silent else "listening"
        if self._time is not None and self._face is None:
            result.messages.append("There is no face in the picture: come closer, or turn towards the light.")
        if hearing == "silent":
            result.messages.append("Nothing comes from the microphone: is it muted?")
        return {
            "time": self._time,
            "size": self._size,
            "hearing": hearing,
            "headline": headline,
            "line": line,
            "conflict": result.conflict,
            "took": self._took,
            "result": result.to_dict(),
        }

    def _forget_what_stopped(self) -> None:
        """A camera or a microphone that went away takes its face or voice with it, though the other goes on."""
        now = max(self._time or 0.0, self._sound_end or 0.0)
        if self._time is not None and now - self._time > STOPPED_SECONDS:
            self._time = self._face = self._face_log_probs = None
        if self._sound_end is not None and now - self._sound_end > STOPPED_SECONDS:
            self._sound_end = self._voice = self._voice_log_probs = None

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._took[name] = round(1000 * (time.perf_counter() - start), 1)


def _decode(jpeg: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
        if max(image.size) > MAX_FRAME_SIDE:
            raise ValueError(f"A frame must be at most {MAX_FRAME_SIDE} pixels wide and high.")
        return image.convert("RGB")
    except (OSError, SyntaxError):  # what Pillow raises where it is no JPEG, or half of one
        raise ValueError("A frame must be a whole JPEG.") from None


# --------------------------------------------------------------------------------------------------------------------
# Several visitors


class Line:
    """Visitors in the order in which they came: the first `places` of them stream, the others wait.

    Who has streamed for `turn_seconds` goes to the end where anybody waits, so that nobody holds a place for ever.
    """

    def __init__(self, places: int = PLACES, turn_seconds: float = TURN_SECONDS):
        self.places, self.turn_seconds = places, turn_seconds
        self._visitors: list[object] = []

    def __len__(self) -> int:
        return len(self._visitors)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return max(0, len(self) - self.places)

    def join(self, visitor: object) -> None:
        """To the end of the line."""
        self._visitors.append(visitor)

    def leave(self, visitor: object) -> None:
        """Out of the line, from wherever in it."""
        self._visitors.remove(visitor)

    def before(self, visitor: object) -> int | None:
        """How many of those who wait come before this one; None where it has a place."""
        position = self._visitors.index(visitor) - self.places
        return position if position >= 0 else None

    def turn_is_over(self, streamed_seconds: float) -> bool:
        """Whether somebody else should have the place of one who has streamed for so long."""
        return self.waiting > 0 and streamed_seconds > self.turn_seconds


class Live:
    """The connections of the tab Live.

    Args:
        pipe: the pipeline, which all share.
        line: who streams and who waits.
    """

    def __init__(self, pipe: EmotionRecognitionPipeline, line: Line | None = None):
        self.pipe, self.line = pipe, Line() if line is None else line
        # As many threads as cores, each of which works alone: a visitor has one frame or window in work at most, and
        # they take turns. Models as small as these only lose by sharing one forward pass among cores.
        workers = min(self.line.places, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, "live", initializer=torch.set_num_threads, initargs=(1,))
        self.route = WebSocketRoute(PATH, self.connect)

    async def connect(self, socket: WebSocket) -> None:
        """One visitor, from coming to going."""
        await socket.accept()
        visitor = _Visitor(self, socket)
        if len(self.line) >= MAX_LINE:
            await visitor.close("Too many people are here just now: try again in a few minutes.")
            return
        self.line.join(visitor)
        tasks = [asyncio.create_task(visitor.receive()), asyncio.create_task(visitor.serve())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.line.leave(visitor)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        error = next(task.exception() for task in done)
        if isinstance(error, ValueError):
            await visitor.close(str(error))
        elif not isinstance(error, WebSocketDisconnect):
            raise error

    async def run(self, work: Callable, *args: Any) -> Any:
        """Work in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


class _Visitor:
    """One connection: what it sent last, and what it is told."""

    def __init__(self, live: Live, socket: WebSocket):
        self._live, self._socket = live, socket
        self._rate: int | None = None
        self._session: LiveSession | None = None  # while there is a place
        self._frame: tuple[bytes, float] | None = None  # the newest; an older one that nobody looked at is gone
        self._news = asyncio.Event()
        self._greeted = asyncio.Event()

    async def receive(self) -> None:
        """Takes in what the page sends, always at once. Ends with WebSocketDisconnect or ValueError."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            if message.get("text") is not None:
                self._rate = _sampling_rate(message["text"])
                self._greeted.set()
                continue
            data = message["bytes"]
            if not 9 < len(data) <= MAX_MESSAGE_BYTES:
                raise ValueError(f"A message must have 10 to {MAX_MESSAGE_BYTES} bytes.")
            (seconds,) = struct.unpack_from("<d", data, 1)
            if self._session is None or not 0 <= seconds < 1e9:
                continue
            if data[:1] == b"F":
                self._frame = data[9:], seconds
                self._news.set()
            else:
                whole = 9 + (len(data) - 9) // 2 * 2
                self._session.hear(np.frombuffer(data[9:whole], "<i2").astype(np.float32) / 2**15, seconds)
                if self._session.voice_due:
                    self._news.set()

    async def serve(self) -> None:
        """Waits for a place, answers while it lasts, and waits again. Ends with WebSocketDisconnect or ValueError."""
        live = self._live
        await _within_idle(self._greeted.wait())
        while True:
            await self._wait()
            session = self._session = await live.run(LiveSession, live.pipe, self._rate)
            await self._send({"type": "ready"})
            start = time.monotonic()
            while not live.line.turn_is_over(time.monotonic() - start):
                await _within_idle(self._news.wait())
                self._news.clear()
                frame, self._frame = self._frame, None
                if frame:
                    await live.run(session.see, *frame)
                    await self._send({"type": "answer", **session.answer()})
                if session.voice_due:
                    await live.run(session.listen)
                    await self._send({"type": "answer", **session.answer()})
            self._session = self._frame = None
            live.line.leave(self)
            live.line.join(self)

    async def _wait(self) -> None:
        told = None
        while (before := self._live.line.before(self)) is not None:
            if before != told:
                await self._send({"type": "waiting", "before": before})
                told = before
            await asyncio.sleep(0.2)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message))

    async def close(self, sentence: str) -> None:
        """Says why, and closes."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the page was faster
            await self._send({"type": "error", "message": sentence})
            if self._socket.application_state is WebSocketState.CONNECTED:
                await self._socket.close()


async def _within_idle(wait: Awaitable) -> None:
    try:
        await asyncio.wait_for(wait, IDLE_SECONDS)
    except TimeoutError:
        raise ValueError("Nothing was seen or heard for a while, so the place was given on.") from None


def _sampling_rate(text: str) -> int:
    try:
        rate = json.loads(text)["sampling_rate"]
    except (ValueError, KeyError, TypeError):
        raise ValueError('The first message must be {"sampling_rate": ...}.') from None
    if not isinstance(rate, int) or not SAMPLING_RATES[0] <= rate <= SAMPLING_RATES[1]:
        raise ValueError(f"The sampling rate must be between {SAMPLING_RATES[0]} and {SAMPLING_RATES[1]} Hz.")
    return rate


def live_tab() -> None:
    """The tab's content, which its script brings to life."""
    script = (Path(__file__).parent / "static" / "live.js").read_text()
    gr.HTML(live_view(), js_on_load=script, padding=False, elem_id="live")
