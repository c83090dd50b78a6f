"""What stands before Gradio: who may ask, how much a request may bring, which headers an answer has, which sessions
are kept, and that nothing of an upload stays, not even its folder. The numbers are in limits.py."""

import asyncio
import contextlib
import shutil
import time
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.components.api_component import Api
from gradio.routes import App
from gradio.state_holder import StateHolder
from gradio.utils import get_upload_folder
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo import limits
from demo.turns import Turns
from demo.uploads import find_upload

MAX_DEPTH = 20  # of lists in lists, of which no endpoint takes any
UPLOAD, HEARTBEAT = "/gradio_api/upload", "/gradio_api/heartbeat/"
# Gradio's page needs inline scripts and eval (js_on_load); Live needs blobs; a Space shows the page in a frame.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self' data: blob: ws: wss:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co",
        ]
    ),
}


class Guard:
    """ASGI middleware: counts what an address sends, before anything is parsed, and adds the headers."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._sent = limits.Allowance(limits.MAX_SENT_BYTES, limits.UPLOADS_KEPT_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["client"]:  # MCP passes calls on to this server, with their headers: they are still the visitor's
            MutableHeaders(scope=scope)["X-Forwarded-For"] = scope["client"][0]
        path = scope["path"].rstrip("/")
        received = self._uploading if path.endswith(UPLOAD) else self._asking
        try:
            with _page(scope["app"], path):
                await self._app(scope, received(scope, receive), send_with_headers)
        except Exception as error:  # of what no client of ours sends; its text may be the visitor's
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"{type(error).__name__} of a request, at {where.filename}:{where.lineno}", flush=True)
            with contextlib.suppress(RuntimeError):  # the answer had begun
                answer = PlainTextResponse("The request cannot be understood: see /gradio_api/info.", 400)
                await answer(scope, receive, send_with_headers)

    def _uploading(self, scope: Scope, receive: Receive) -> Receive:
        who = limits.address(scope)

        async def receive_some() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            if size and not self._sent.spend(who, size):
                raise HTTPException(429, "That is a lot within a few minutes: wait before you upload more.")
            if size and shutil.disk_usage(get_upload_folder()).free < limits.MIN_FREE_DISK_BYTES:
                raise HTTPException(507, "There is no room for uploads just now: try again in a few minutes.")
            return message

        return receive_some

    def _asking(self, scope: Scope, receive: Receive) -> Receive:
        """JSON is parsed on the event loop, where its size is everybody's time: of long texts, as data: URLs are, not
        much; of many numbers or brackets, seconds."""
        who, size, values = limits.address(scope), 0, 0

        async def receive_some() -> Message:
            nonlocal size, values
            message = await receive()
            body = message.get("body", b"")
            size += len(body)
            values += sum(map(body.count, (b",", b"[", b"{")))
            if size > limits.MAX_BODY_BYTES or values > limits.MAX_BODY_VALUES:
                raise HTTPException(413, "The request is too large: upload files, and send their addresses.")
            if body and not self._sent.spend(who, len(body)):
                raise HTTPException(429, "That is a lot within a few minutes: wait before you send more.")
            return message

        return receive_some


@contextlib.contextmanager
def _page(app: App, path: str):
    """A page keeps a request to its heartbeat open for as long as it is there."""
    if HEARTBEAT not in path:
        yield
        return
    session = path.rpartition("/")[2]
    app.state_holder.pages[session] = None
    try:
        yield
    finally:
        app.state_holder.pages.pop(session, None)


class Demo(gr.Blocks):
    """Gradio's page, to which a client can name no files but those that it uploaded, and whose calls take turns.

    Gradio itself would fetch addresses of other servers, of any size, and raise where a path is not one.
    """

    def queue(self, *args: Any, **kwargs: Any) -> "Demo":
        """Gradio calls it. No call goes past the queue, as `api_open` would have it."""
        super().queue(*args, **{**kwargs, "api_open": False})
        self._queue = Turns(
            live_updates=True,
            concurrency_count=self.max_threads,
            update_intervals=1,
            max_size=None,  # `Turns` has its own
            blocks=self,
            default_concurrency_limit=limits.PLACES,
        )
        return self

    async def call_function(
        self,
        block_fn: BlockFunction,
        processed_input: list,
        iterator: AsyncIterator | None,
        requests: gr.Request | None,
        event_id: str | None,
        *args: Any,
    ) -> dict:
        """Keeps the place of a call that is cancelled, until its thread is done."""
        work = asyncio.create_task(
            super().call_function(block_fn, processed_input, iterator, requests, event_id, *args)
        )
        self._queue.keep_place(event_id, work)
        return await asyncio.shield(work)

    async def preprocess_data(self, block_fn: BlockFunction, inputs: list, *args: Any, **kwargs: Any) -> list:
        """Leaves it to the endpoints to say what is wrong with a file; the page itself never sends such."""
        if len(inputs) != len(block_fn.inputs):
            raise gr.Error(f"There must be {len(block_fn.inputs)} values, not {len(inputs)}.", print_exception=False)
        for i, (value, component) in enumerate(zip(inputs, block_fn.inputs)):
            if _is_foreign(value):
                if not isinstance(component, Api):
                    raise gr.Error("The file was not uploaded.", print_exception=False)
                inputs[i] = {"path": value.get("path") if isinstance(value, dict) else None}  # Gradio leaves it alone
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def _is_foreign(value: object, depth: int = 0) -> bool:
    """Whether a value has in it what Gradio takes for a file and is no upload; or may have, for its depth."""
    if isinstance(value, dict):
        path = value.get("path")
        if "meta" in value and path is not None and not (isinstance(path, str) and find_upload(path)):
            return True
        value = list(value.values())
    return isinstance(value, list) and (depth > MAX_DEPTH or any(_is_foreign(each, depth + 1) for each in value))


class Sessions(StateHolder):
    """Gradio's sessions. It keeps 10,000, the last used, and a program's calls are a session each; here the pages that
    are open keep theirs, and of all others only the newest are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, None] = {}  # that are open

    def update(self, session_id: str) -> None:
        """Notes that a session was used, and drops what is more than the limits."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            pages = [each for each in self.session_data if each in self.pages]
            others = [each for each in self.session_data if each not in self.pages]
            for oldest in pages[: -limits.MAX_PAGE_SESSIONS] + others[: -limits.MAX_PROGRAM_SESSIONS]:
                del self.session_data[oldest]
                self.time_last_used.pop(oldest, None)


@contextlib.asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """While the demo runs: its sessions are kept as above, and its folders are cleared."""
    sessions = Sessions()
    sessions.set_blocks(app.get_blocks())
    app.state_holder = sessions
    sweeping = asyncio.create_task(_sweep_regularly())
    try:
        yield
    finally:
        sweeping.cancel()


async def _sweep_regularly() -> None:
    while True:
        await asyncio.sleep(limits.UPLOADS_CHECKED_SECONDS)
        await asyncio.to_thread(sweep, Path(get_upload_folder()), limits.UPLOADS_KEPT_SECONDS)


def sweep(folder: Path, age: float) -> None:
    """Deletes what Gradio leaves behind in its upload folder: the folders of files that it deleted, and the beginnings
    of uploads that broke off, where they are older than so many seconds."""
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # it is not empty, or was deleted meanwhile
            if time.time() - path.stat().st_mtime > age:
                path.rmdir() if path.is_dir() else path.unlink()
