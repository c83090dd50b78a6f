"""The tab Live: webcam and microphone, answered as the visitor moves and speaks; and the endpoint /live.

The page sends its pictures and its sound over one WebSocket a visitor, and draws what comes back (static/live.js).
Gradio's own streaming would write every piece of sound into its cache folder and queue what it cannot answer yet. Over
a socket, frames and sound are in memory only, a newer frame replaces one that is not scored yet, and a visitor's state
is dropped with the connection. `Line` says who streams and who waits, `Live` holds the connections, and `LiveSession`
(live_session.py) is the state of one visitor. What a visitor may cost stands in limits.py. The messages:

    page -> {"sampling_rate": 16000}                                                   once, first, within 5 s
    page -> b"F" + seconds + JPEG; b"S" + seconds + samples    float64; int16, mono, that ended then; little-endian
    page -> b"A" + seconds + JPEG                              a frame of which all faces are to be looked at
    page -> b"N" + seconds + b"\1", or + b"\0"                 five seconds of a neutral person begin; or are dropped
    page <- {"type": "waiting", "before": 2}                                           until there is a place
    page <- {"type": "ready"}                                                          from now on it may send
    page <- {"type": "answer", ...}, a `LiveAnswer`                                    after each frame and each window
    page <- {"type": "error", "message": ...}                                          before the connection is closed
"""

import asyncio
import contextlib
import json
import os
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
from urllib.parse import urlsplit

import gradio as gr
import numpy as np
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from demo import limits
from demo.checkpoint import Checkpoint
from demo.live_page import PROMISE, live_page, web_link
from demo.page import module

if TYPE_CHECKING:
    from demo.live_session import LiveSession

PATH = "/live"
SAMPLING_RATES = (8_000, 192_000)  # Hz, lowest and highest that a page may send
GREETING = 'The first message, and no other, must be {"sampling_rate": ...}.'
IDLE = "Nothing was seen or heard for a while, so the place was given on."

T = TypeVar("T")


class LiveJSON(TypedDict):
    socket: str
    places: int
    streaming: int
    waiting: int
    turn_seconds: float


def live_tab(live: "Live") -> None:
    """The tab's content, which its script brings to life, and its endpoint."""
    content = live_page(live.checkpoint.knows_neutral, PROMISE + web_link(os.environ.get("EMOCLIP_WEB_URL")))
    gr.HTML(content, js_on_load=module("live.js"), padding=False, elem_id="live")

    def live_places() -> LiveJSON:
        """Where webcam and microphone are streamed to, and how busy it is: "socket", the path of the WebSocket (what
        it takes and answers stands at the top of demo/live.py), how many may stream at once, how many do, how many
        wait, and after how many seconds a place is given to whoever waits."""
        line = live.line
        return {
            "socket": PATH,
            "places": line.places,
            "streaming": len(line) - line.waiting,
            "waiting": line.waiting,
            "turn_seconds": line.turn_seconds,
        }

    gr.api(live_places, api_name="live")


class Line:
    """Visitors in the order in which they came: the first `places` of them stream, the others wait.

    Who has streamed for `turn_seconds` goes to the end where anybody waits, so that nobody holds a place for ever.
    """

    def __init__(self, places: int = limits.LIVE_PLACES, turn_seconds: float = limits.TURN_SECONDS):
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
        checkpoint: its model and processor serve all visitors.
        line: who streams and who waits.
    """

    def __init__(self, checkpoint: Checkpoint, line: Line | None = None):
        self.checkpoint, self.line = checkpoint, Line() if line is None else line
        # As many threads as cores, each of which works alone: a visitor has one frame or window in work at most, and
        # they take turns. Models as small as these only lose by sharing one forward pass among cores.
        workers = min(self.line.places, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, "live", initializer=_work_alone)
        self._sockets: Counter[str] = Counter()  # of each address
        self.route = WebSocketRoute(PATH, self.connect)

    async def connect(self, socket: WebSocket) -> None:
        """Serves one visitor until the connection ends."""
        address = limits.address(socket.scope)
        self._sockets[address] += 1
        visitor = _Visitor(self, socket)
        try:
            await socket.accept()
            if not _same_site(socket):
                raise ValueError("Live answers the demo's own page only.")
            if self._sockets[address] > limits.SOCKETS_PER_ADDRESS:
                raise ValueError("Live is open in other windows already: close one of them.")
            await visitor.greet()
            if len(self.line) >= limits.MAX_LINE:
                raise ValueError("Too many people are here just now: try again in a few minutes.")
            await self._serve(visitor)
        except ValueError as error:
            await visitor.close(str(error))
        except WebSocketDisconnect:
            pass
        finally:
            self._sockets[address] -= 1
            if not self._sockets[address]:
                del self._sockets[address]

    async def _serve(self, visitor: "_Visitor") -> None:
        self.line.join(visitor)
        tasks = [asyncio.create_task(visitor.receive()), asyncio.create_task(visitor.serve())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.line.leave(visitor)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await next(iter(done))  # raises what ended it

    def open_session(self, sampling_rate: int) -> "LiveSession":
        """A session for a visitor whose turn has come."""
        recognizer = self.checkpoint.recognizer.with_own_face_detector()
        from demo.live_session import LiveSession

        return LiveSession(recognizer, sampling_rate)

    async def run(self, work: Callable[..., None], *args: object) -> None:
        """Runs work in one of the threads."""
        await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


class _Visitor:
    """One connection: what it sent last, and what it is told."""

    def __init__(self, live: Live, socket: WebSocket):
        self._live, self._socket = live, socket
        self._rate = 0
        self._session: LiveSession | None = None  # while there is a place
        self._frame: tuple[bytes, float, bool] | None = None  # the newest, until it is scored; whether of all faces
        self._news = asyncio.Event()

    async def greet(self) -> None:
        """Receives the first message. Ends with WebSocketDisconnect or ValueError where it is none."""
        text = await _within(limits.GREETING_SECONDS, self._next(), GREETING)
        if not isinstance(text, str) or len(text) > limits.MAX_GREETING_BYTES:
            raise ValueError(GREETING)
        self._rate = _sampling_rate(text)

    async def receive(self) -> None:
        """Receives what the page sends, also while the last is being scored. Ends with WebSocketDisconnect or
        ValueError."""
        messages = limits.Allowance(limits.MESSAGES_AT_ONCE, limits.MESSAGES_AT_ONCE / limits.MESSAGES_PER_SECOND)
        while True:
            data = await self._next()
            if isinstance(data, str):
                raise ValueError(GREETING)
            if not 9 < len(data) <= limits.MAX_MESSAGE_BYTES:
                raise ValueError(f"A message must have 10 to {limits.MAX_MESSAGE_BYTES} bytes.")
            if not messages.spend("", 1):  # the rest waits in the network, which is slow now and then
                await asyncio.sleep(1 / limits.MESSAGES_PER_SECOND)
            (seconds,) = struct.unpack_from("<d", data, 1)
            if self._session is None or not 0 <= seconds < 1e9:
                continue
            if data[:1] in (b"F", b"A"):
                self._frame = data[9:], seconds, data[:1] == b"A"
                self._news.set()
            elif data[:1] == b"N":
                self._session.learn_neutral(wanted=data[9] > 0)
            else:
                whole = 9 + (len(data) - 9) // 2 * 2
                samples = np.frombuffer(data[9:whole], "<i2").astype(np.float32) / 2**15
                self._session.add_audio(samples, seconds)
                if self._session.window_due:
                    self._news.set()

    async def _next(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        return message["bytes"] if message.get("text") is None else message["text"]

    async def serve(self) -> None:
        """Waits for a place, answers while it lasts, and waits again. Ends with WebSocketDisconnect or ValueError."""
        live = self._live
        while True:
            await _within(limits.MAX_WAIT_SECONDS, self._wait(), "Nobody gave up a place for long: try again later.")
            session = self._session = await asyncio.to_thread(live.open_session, self._rate)
            await self._send({"type": "ready"})
            start = time.monotonic()
            while not live.line.turn_is_over(time.monotonic() - start):
                await _within(limits.IDLE_SECONDS, self._news.wait(), IDLE)
                self._news.clear()
                frame, self._frame = self._frame, None
                if frame:
                    await live.run(session.add_frame, *frame)
                    await self._send({"type": "answer", **session.answer()})
                if session.neutral_due:
                    await live.run(session.settle_neutral)
                if session.window_due:
                    await live.run(session.score_window)
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


def _work_alone() -> None:
    import torch

    torch.set_num_threads(1)


async def _within(seconds: float, wait: Awaitable[T], otherwise: str) -> T:
    try:
        return await asyncio.wait_for(wait, seconds)
    except TimeoutError:
        raise ValueError(otherwise) from None


def _same_site(socket: WebSocket) -> bool:
    """Whether a connection was opened by a page of this server, or by a program: only browsers tell the Origin, and
    they let every website open WebSockets to every other."""
    origin = socket.headers.get("origin")
    own = (socket.headers.get("host"), socket.headers.get("x-forwarded-host"))  # no page can set either
    return origin is None or urlsplit(origin).netloc in own


def _sampling_rate(text: str) -> int:
    try:
        rate = json.loads(text)["sampling_rate"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(GREETING) from None
    if not isinstance(rate, int) or not SAMPLING_RATES[0] <= rate <= SAMPLING_RATES[1]:
        raise ValueError(f"The sampling rate must be between {SAMPLING_RATES[0]} and {SAMPLING_RATES[1]} Hz.")
    return rate
