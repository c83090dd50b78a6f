"""Whose turn it is: an address has one place of each kind of work, and where calls wait, the addresses take turns."""

import threading
import time
from collections.abc import Callable

import gradio as gr
import httpx
import pytest

from demo import limits
from demo.guard import Demo
from demo.turns import RECORDING


class Work:
    """Calls that go on until they are let go, in a demo of their own."""

    def __init__(self, demo: Demo, url: str, begun: list[str], done: dict[str, threading.Event]):
        self.demo, self.url, self.begun, self._done = demo, url, begun, done
        self.sessions = {}  # of each call

    def call(self, name: str, recording: str | None = "recording") -> int:
        """Calls as whoever the name begins with; the status of the answer."""
        self._done[name] = threading.Event()
        self.sessions[name] = {"session_hash": name, "fn_index": 0}
        body = {**self.sessions[name], "data": [name, recording]}
        answer = httpx.post(f"{self.url}gradio_api/queue/join", json=body, headers=address_of(name))
        if answer.is_success:
            self.sessions[name]["event_id"] = answer.json()["event_id"]
        else:
            assert "try again" in answer.json()["detail"]
        return answer.status_code

    def cancel(self, name: str) -> None:
        httpx.post(f"{self.url}gradio_api/cancel", json=self.sessions[name]).raise_for_status()

    def let_go(self, *names: str) -> None:
        for name in names:
            self._done[name].set()

    def let_all_go(self) -> None:
        self.let_go(*self._done)


def address_of(name: str) -> dict[str, str]:
    return {"X-Forwarded-For": f"192.0.2.{ord(name[0])}"}


@pytest.fixture
def work():
    begun, done = [], {}

    def hold(name: str, recording: str | None) -> str:
        begun.append(name)
        done[name].wait(30)
        return name

    with Demo(analytics_enabled=False) as demo:
        gr.api(hold, api_name="hold", concurrency_id=RECORDING)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    work = Work(demo, url, begun, done)
    yield work
    work.let_all_go()
    demo.close()


def comes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_an_address_has_one_place_and_leaves_the_other_to_a_neighbour(work):
    for number in range(4):
        work.call(f"a{number}")
    work.call("b0")
    assert comes(lambda: "b0" in work.begun) and work.begun == ["a0", "b0"]


def test_photos_do_not_wait_for_recordings(work):
    for name in ("a0", "b0", "c0"):
        work.call(name)
    work.call("d0", recording=None)
    assert comes(lambda: "d0" in work.begun) and sorted(work.begun) == ["a0", "b0", "d0"]


def test_addresses_take_turns(work):
    for name in ("a0", "b0", "a1", "a2", "a3", "b1", "c0", "c1", "d0"):  # the first two begin
        work.call(name)
    assert comes(lambda: len(work.begun) == 2)
    expected = ["a0", "b0", "a1", "c0", "d0", "a2", "b1", "c1", "a3"]
    for number, name in enumerate(expected, start=3):
        work.let_go(name)
        assert comes(lambda: len(work.begun) == min(number, len(expected)))
    assert sorted(work.begun) == sorted(expected)
    assert work.begun.index("d0") < work.begun.index("a2") < work.begun.index("a3")


def test_an_address_may_have_so_many_calls_wait_and_others_still_may(work, monkeypatch):
    monkeypatch.setattr(limits, "MAX_QUEUE_PER_ADDRESS", 3)
    work.call("a0")
    assert comes(lambda: work.begun)
    assert [work.call(f"a{number}") for number in range(1, 6)] == [200, 200, 200, 503, 503]
    assert work.call("b0") == 200
    monkeypatch.setattr(limits, "MAX_QUEUE", 3)
    assert work.call("c0") == 503


def test_a_call_that_is_cancelled_keeps_its_place_until_its_thread_is_done(work):
    """Or who calls and cancels, over and over, has as many at work as he likes."""
    work.call("a0")
    assert comes(lambda: work.begun)
    work.cancel("a0")
    work.call("a1")
    work.call("b0")
    assert comes(lambda: "b0" in work.begun) and "a1" not in work.begun
    work.let_go("a0")
    assert comes(lambda: "a1" in work.begun)


def test_who_waits_is_answered_however_many_come_and_go_meanwhile(work, monkeypatch):
    """Gradio keeps what it has to tell to the last 2,000 sessions."""
    monkeypatch.setattr(limits, "MAX_ANSWERED_SESSIONS", 5)
    work.call("a0")
    assert comes(lambda: work.begun == ["a0"])
    for number in range(20):
        work.call(f"b{number}")
        work.let_go(f"b{number}")
        assert comes(lambda: len(work.begun) == number + 2)
    queue = work.demo._queue
    assert comes(lambda: len(queue.event_ids_to_events) == 1)
    work.call("b20")
    assert len(queue.pending_messages_per_session) <= 8 and len(queue.pending_event_ids_session) <= 8
    work.let_go("a0")
    with httpx.stream("GET", f"{work.url}gradio_api/queue/data", params={"session_hash": "a0"}) as answer:
        assert any("process_completed" in line for line in answer.iter_lines())


def test_nobody_goes_past_the_queue(work):
    for path in ("run", "api"):
        assert httpx.post(f"{work.url}gradio_api/{path}/hold", json={"data": ["a0", None]}).status_code == 404
    assert work.begun == []
