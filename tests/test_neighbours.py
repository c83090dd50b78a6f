"""One visitor does what he can to stop the demo, and a second one is answered meanwhile.

The two come from two addresses, which the demo believes a proxy on its own machine. An attack would hold the demo for
twenty seconds and more if it were let in; the neighbour's answers must come within two, or within six times what they
take in a quiet demo, where the machine is busy with other things. It may hold him up now and then all the same; an
attack that gets through does so each time, so one try of three must go well.

    pytest tests/test_neighbours.py -n 0 -s           # prints his longest wait during each attack
"""

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from helpers import (
    ASTRONAUT,
    JSON,
    ROOT,
    broken_photos,
    broken_recordings,
    encode_audio,
    reading,
    scan_bomb,
)
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.load import start
from demo import limits
from demo.guard import HEADERS, Guard, sweep

ATTACKER, NEIGHBOUR = ({"X-Forwarded-For": f"192.0.2.{last}"} for last in (1, 2))
WAIT_SECONDS, BUSY_FACTOR, TRIES, VISITS = 2.0, 6, 3, 3
GREETING = json.dumps({"sampling_rate": 16_000})


class Visitor:
    """Somebody with an address of his own."""

    def __init__(self, server: str, headers: dict[str, str]):
        self.client = httpx.Client(base_url=server, headers=headers, timeout=100)
        self.live = server.replace("http", "ws") + "live"
        self.headers = headers

    def upload(self, data: bytes, name: str = "file") -> dict:
        [path] = self.client.post("gradio_api/upload", files={"files": (name, data)}).json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def ask(self, endpoint: str, *data) -> dict:
        call = self.client.post(f"gradio_api/call/{endpoint}", json={"data": data}).json()
        text = self.client.get(f"gradio_api/call/{endpoint}/{call['event_id']}").text
        assert "event: complete" in text, text
        return json.loads(text.rpartition("data: ")[2])[0]

    def connect(self, **options):
        return connect(self.live, additional_headers=self.headers, **options)


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    """A demo in a process of its own: what an attack costs the attacker is not the demo's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOCLIP_MODEL", str(checkpoint))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        process, url = start(ROOT)
    yield url
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def attacker(server) -> Visitor:
    return Visitor(server, ATTACKER)


@pytest.fixture(scope="module")
def neighbour(server) -> Visitor:
    return Visitor(server, NEIGHBOUR)


@pytest.fixture(scope="module")
def visit(neighbour) -> Callable[[], float]:
    """The neighbour opens the page, has a photo answered and is let in to Live; how long the longest of these took."""
    photo = neighbour.upload(ASTRONAUT.read_bytes())

    def live() -> None:
        with neighbour.connect() as socket:
            socket.send(GREETING)
            assert json.loads(socket.recv(timeout=100)) == {"type": "ready"}

    def visit() -> float:
        times = []
        for step in (
            lambda: neighbour.client.get("").raise_for_status(),
            lambda: neighbour.ask("analyze", photo, None)["face"]["label"],
            live,
        ):
            start = time.monotonic()
            step()
            times.append(time.monotonic() - start)
        return max(times)

    return visit


@pytest.fixture(scope="module")
def patience(visit) -> float:
    visit()
    return max(WAIT_SECONDS, BUSY_FACTOR * max(visit() for _ in range(VISITS)))


def is_served(name: str, wait: Callable[[], float], patience: float) -> bool:
    """Whether the neighbour's longest wait is short, in one try of a few."""
    for _ in range(TRIES):
        seconds = wait()
        print(f"{name}: {seconds:.1f} s")
        if seconds < patience:
            return True
    return False


def worst(attack: Callable[[], None], visit: Callable[[], float]) -> float:
    """The neighbour's longest wait while an attack goes on, over and over."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            attack()

    with ThreadPoolExecutor(1) as pool:
        attacking = pool.submit(repeat)
        waits = [visit() for _ in range(VISITS)]
        over.set()
        attacking.result()
    return max(waits)


def at_once(times: int, act: Callable[[], None]) -> None:
    with ThreadPoolExecutor(times) as pool:
        for acting in [pool.submit(act) for _ in range(times)]:
            acting.result()


NUMBERS = '{"sampling_rate": 16000, "data": [' + "1," * 8_300_000 + "1]}"  # a greeting of not quite 16 MB


def send_numbers(attacker: Visitor) -> None:
    def send() -> None:
        with attacker.connect(max_size=None, compression=None) as socket, contextlib.suppress(ConnectionClosed):
            socket.send(GREETING)
            for _ in range(2):
                socket.send(NUMBERS)

    at_once(limits.SOCKETS_PER_ADDRESS, send)


def post_numbers(attacker: Visitor) -> None:
    def post() -> None:
        with contextlib.suppress(httpx.TransportError):  # it is sent away in the middle
            answer = attacker.client.post("gradio_api/call/analyze", content=NUMBERS, headers=JSON)
            assert answer.status_code == 413, answer.text

    at_once(8, post)


def send_scan_bombs(attacker: Visitor) -> None:
    bomb = scan_bomb((1280, 1280), 40_000)
    assert len(bomb) < limits.MAX_MESSAGE_BYTES
    with attacker.connect() as socket:
        socket.send(GREETING)
        while json.loads(socket.recv(timeout=100))["type"] != "ready":
            pass
        socket.send(b"F" + bytes(8) + bomb)
        assert "baseline" in json.loads(socket.recv(timeout=100))["message"]


def ask_scan_bombs(attacker: Visitor) -> None:
    bomb = attacker.upload(scan_bomb())

    def ask() -> None:
        assert "too many steps" in attacker.ask("analyze", bomb, None)["messages"][0]

    at_once(4, ask)


def ask_photos(attacker: Visitor) -> None:
    """More than may wait."""
    photo = attacker.upload(ASTRONAUT.read_bytes())

    def ask() -> None:
        answer = attacker.client.post("gradio_api/call/analyze", json={"data": [photo, None]})
        assert answer.status_code == 200 or "try again" in answer.json()["detail"]

    at_once(2 * limits.MAX_QUEUE_PER_ADDRESS, ask)


def ask_recordings_and_cancel(attacker: Visitor) -> None:
    """Gradio gives the place of a cancelled call to the next, though it is still at work."""
    minute = attacker.upload(encode_audio(np.resize(reading(), 60 * 16_000), 16_000, "FLAC"))
    functions = attacker.client.get("config").json()["dependencies"]
    number = next(function["id"] for function in functions if function["api_name"] == "analyze")

    def ask(session: str) -> None:
        call = {"session_hash": session, "fn_index": number}
        answer = attacker.client.post("gradio_api/queue/join", json={**call, "data": [None, minute]}).json()
        attacker.client.post("gradio_api/cancel", json={**call, "event_id": answer["event_id"]}).raise_for_status()

    for session in range(8):
        ask(str(session))


def ask_broken_files(attacker: Visitor) -> None:
    files = [data for data, _ in (*broken_photos().values(), *broken_recordings().values()) if data]

    def ask(data: bytes) -> None:
        file = attacker.upload(data)
        assert attacker.ask("analyze", file, file)["messages"]

    with ThreadPoolExecutor(4) as pool:
        for asking in [pool.submit(ask, data) for data in files]:
            asking.result()


@pytest.mark.parametrize(
    "attack",
    [
        send_numbers,
        post_numbers,
        send_scan_bombs,
        ask_scan_bombs,
        ask_photos,
        ask_recordings_and_cancel,
        ask_broken_files,
    ],
)
def test_a_neighbour_is_answered_meanwhile(attack, attacker, visit, patience):
    assert is_served(attack.__name__, lambda: worst(lambda: attack(attacker), visit), patience)


def test_sockets_that_never_greet_do_not_shut_live(attacker, visit, patience):
    def wait() -> float:
        with contextlib.ExitStack() as sockets:
            for _ in range(limits.MAX_LINE):
                sockets.enter_context(attacker.connect())
            return visit()

    assert is_served("sockets that never greet", wait, patience)


def test_sockets_that_hold_their_places_leave_one(attacker, visit, patience):
    def wait() -> float:
        with contextlib.ExitStack() as sockets:
            for _ in range(2 * limits.LIVE_PLACES):
                socket = sockets.enter_context(attacker.connect())
                with contextlib.suppress(ConnectionClosed):  # those beyond the first few
                    socket.send(GREETING)
            return visit()

    assert is_served("sockets that hold their places", wait, patience)


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Path:
    """Seconds of 2160p with more pictures than ten minutes of full HD have: one picture, coded once, over and over."""
    path = tmp_path_factory.mktemp("clips") / "endless.mp4"
    width, height = 3840, 2160
    with av.open(str(path), "w") as out:
        stream = out.add_stream("h264", rate=1000, options={"preset": "ultrafast", "x264-params": "keyint=1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
        [packet] = [*stream.encode(frame), *stream.encode(None)]
        data = bytes(packet)
        for i in range(limits.MAX_VIDEO_WORK_PIXELS // (width * height) + 100):
            copy = av.Packet(data)
            copy.stream, copy.pts, copy.dts, copy.is_keyframe = stream, i, i, True
            copy.time_base = packet.time_base
            out.mux(copy)
    return path


def test_a_video_of_endless_frames_is_not_watched(attacker, endless):
    """Nor would it hold up a neighbour: see test_turns.py."""
    video = attacker.upload(endless.read_bytes(), "endless.mp4")
    assert "too much to look at" in attacker.ask("analyze_video", video)["messages"][0]


def test_an_address_may_send_so_much(monkeypatch):
    async def read(request: Request) -> Response:
        return Response(str(len(await request.body())))

    monkeypatch.setattr(limits, "MAX_SENT_BYTES", 1000)
    routes = [Route(path, read, methods=["POST"]) for path in ("/gradio_api/upload", "/gradio_api/call/live")]
    with TestClient(Starlette(routes=routes, middleware=[Middleware(Guard)])) as client:
        for path in ("/gradio_api/upload", "/gradio_api/call/live"):
            assert client.post(path, content=bytes(400)).text == "400"
        for path in ("/gradio_api/upload", "/gradio_api/call/live"):
            answer = client.post(path, content=bytes(400))
            assert answer.status_code == 429 and "wait" in answer.text


def test_what_mcp_passes_on_counts_as_the_visitors():
    """Gradio's MCP calls this server with the visitor's headers: what he forged does not come along."""

    async def tell(request: Request) -> Response:
        return Response(request.headers["X-Forwarded-For"])

    app = Starlette(routes=[Route("/gradio_api/mcp", tell)], middleware=[Middleware(Guard)])
    with TestClient(app, client=("192.0.2.1", 1)) as client:
        assert client.get("/gradio_api/mcp", headers={"X-Forwarded-For": "203.0.113.1"}).text == "192.0.2.1"


@pytest.mark.parametrize("path", ["", "gradio_api/mcp/", "gradio_api/call/live", "config"])
def test_a_local_demo_answers_to_its_own_name_only(server, path):
    """Or a website could have its own name lead here, and read what this machine's browser may."""
    for host, allowed in (("evil.example", False), ("evil.example:80", False), ("localhost:1", True)):
        answer = httpx.post(server + path, json={"data": []}, headers={"Host": host})
        assert (answer.status_code != 400) == allowed or "Invalid host" not in answer.text


def test_every_answer_has_the_headers(server):
    for path in ("", "config", "gradio_api/info", "nowhere"):
        answer = httpx.get(server + path)
        assert HEADERS.items() <= {name: answer.headers.get(name) for name in HEADERS}.items()
    assert "frame-ancestors 'self' https://huggingface.co" in answer.headers["Content-Security-Policy"]


def test_nothing_is_left_of_what_gradio_deletes(tmp_path):
    (tmp_path / "emptied").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "photo.jpg").write_bytes(b"photo")
    (tmp_path / "tmp1234").write_bytes(b"the beginning of an upload")
    sweep(tmp_path, age=300)
    assert len(list(tmp_path.iterdir())) == 3
    sweep(tmp_path, age=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_photo_of_this_size_is_answered(attacker):
    """The limits are no hindrance: a progressive photo of 12 megapixels."""
    file = io.BytesIO()
    Image.open(ASTRONAUT).convert("RGB").resize((4000, 3000)).save(file, "JPEG", progressive=True)
    assert attacker.ask("analyze", attacker.upload(file.getvalue()), None)["face"]
