"""Live: what one visitor's session makes of frames and sound, who streams and who waits, and the connection itself."""

import contextlib
import copy
import io
import json
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio.functional as AF
import uvicorn
from helpers import ASTRONAUT, LABELS, READING, TWO_PEOPLE
from PIL import Image, ImageOps
from starlette.applications import Starlette
from websockets.sync.client import connect

from demo import limits
from demo import neutral as resting
from demo.live import Line, Live
from demo.live_session import FACE_KEPT_SECONDS, HALF_LIFE_SECONDS, LiveSession
from demo.verdict import HELD_SECONDS, likeliest, tag
from media_emoclip import load_audio

RATE = 16_000


def jpeg(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return data.getvalue()


@pytest.fixture(scope="module")
def face() -> bytes:
    return jpeg(ImageOps.fit(Image.open(ASTRONAUT).convert("RGB"), (480, 360), centering=(0.5, 0.1)))


@pytest.fixture(scope="module")
def wall() -> bytes:
    return jpeg(Image.new("RGB", (480, 360), "#886"))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(READING, RATE)[0][RATE : 4 * RATE]  # 3 s, spoken throughout


@pytest.fixture
def session(app) -> LiveSession:
    return LiveSession(app.pipe.recognizer)


def say(session: LiveSession, samples: np.ndarray, start: float = 0.0) -> float:
    """Plays sound in quarters of a second, looked at whenever it is due; when it ended."""
    for i in range(0, len(samples), RATE // 4):
        piece = samples[i : i + RATE // 4]
        start += len(piece) / RATE
        session.add_audio(piece, start)
        if session.window_due:
            session.score_window()
    return start


# --- One visitor's session


def test_a_face_is_boxed_and_named(session, face):
    session.add_frame(face, 0.0)
    answer = session.answer()
    seen = answer["result"]["face"]
    x, y, width, height = seen["box"]
    assert answer["size"] == (480, 360) and answer["time"] == 0.0 and answer["hearing"] is None
    assert 0.3 < (x + width / 2) / 480 < 0.7 and (y + height / 2) / 360 < 0.6
    assert list(seen["scores"]) == LABELS and sum(seen["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["result"]["fused"]["scores"] == pytest.approx(seen["scores"], abs=1e-5)
    assert answer["headline"].startswith("Looks ") and answer["result"]["agreement"] is None
    json.dumps(answer)


def test_a_face_that_a_detector_misses_once_stays_and_one_that_left_goes(session, face, wall):
    session.add_frame(face, 0.0)
    session.add_frame(wall, FACE_KEPT_SECONDS / 2)
    assert session.answer()["result"]["face"]
    session.add_frame(wall, FACE_KEPT_SECONDS + 0.1)
    answer = session.answer()
    assert answer["result"]["face"] is None and answer["result"]["fused"] is None
    assert "no face in the picture" in answer["result"]["messages"][0]


@pytest.mark.parametrize("frames", [1, 4, 20])
def test_what_was_seen_halves_in_its_half_life_at_any_frame_rate(session, face, monkeypatch, frames):
    sure = torch.full((2, len(LABELS)), 0.01).scatter_(1, torch.tensor([[0], [3]]), 0.94).log()
    monkeypatch.setattr(session.recognizer, "face_log_probs", lambda crops: sure[:1])
    session.add_frame(face, 0.0)
    monkeypatch.setattr(session.recognizer, "face_log_probs", lambda crops: sure[1:])
    for i in range(1, frames + 1):
        session.add_frame(face, HALF_LIFE_SECONDS * i / frames)
    scores = session.answer()["result"]["face"]["scores"]
    assert scores["angry"] == pytest.approx(scores["happy"], abs=1e-3)


def test_of_two_people_the_one_who_was_there_is_followed(session):
    """The other, who comes later and nearer, does not take over."""
    person = ImageOps.fit(Image.open(ASTRONAUT).convert("RGB"), (320, 320), centering=(0.5, 0))
    crowd = Image.new("RGB", (640, 360), "#886")
    crowd.paste(person, (0, 20))
    session.add_frame(jpeg(crowd), 0.0)
    first = session.answer()["result"]["face"]["box"]
    crowd.paste(person.resize((360, 360)), (280, 0))
    session.add_frame(jpeg(crowd), 0.1)
    second = session.answer()["result"]["face"]["box"]
    assert abs(second[0] - first[0]) < 40
    fresh = LiveSession(session.recognizer)
    fresh.add_frame(jpeg(crowd), 0.0)
    assert fresh.answer()["result"]["face"]["box"][0] > 280  # without a past, the largest counts


@pytest.fixture(scope="module")
def two_people() -> bytes:
    return jpeg(Image.open(TWO_PEOPLE).convert("RGB"))


def test_all_faces_are_answered_where_that_is_asked_for(session, two_people):
    session.add_frame(two_people, 0.0)
    [other] = session.answer()["others"]
    assert other["label"] is None and other["tag"] == ""
    main = session.answer()["result"]["face"]
    session.add_frame(two_people, 0.1, everyone=True)
    answer = session.answer()
    [asked] = answer["others"]
    assert asked["box"] == other["box"] and answer["result"]["face"]["scores"] == pytest.approx(main["scores"])
    recognizer = session.recognizer
    observation = recognizer.observe(image=Image.open(TWO_PEOPLE))
    [result] = recognizer.score([observation])
    [expected] = result.face.others
    assert asked["label"] in likeliest(expected) and asked["tag"] == tag(expected)
    json.dumps(answer)


def test_of_a_crowd_no_more_faces_are_looked_at_than_is_allowed(session, two_people, monkeypatch):
    monkeypatch.setattr(limits, "MAX_OTHER_FACES", 0)
    session.add_frame(two_people, 0.0, everyone=True)
    assert [other["tag"] for other in session.answer()["others"]] == [""]


def test_another_face_is_smoothed_while_it_stays_and_no_baseline_is_its(session, two_people, monkeypatch):
    sure = torch.full((2, len(LABELS)), 0.01).scatter_(1, torch.tensor([[0], [3]]), 0.94).log()
    plain = session.recognizer
    session.recognizer = copy.copy(plain)  # as with a baseline, which is that of the face that is followed
    for seconds, log_probs in ((0.0, sure[:1]), (HALF_LIFE_SECONDS, sure[1:])):
        monkeypatch.setattr(plain, "face_log_probs", lambda crops, now=log_probs: now)
        session.add_frame(two_people, seconds, everyone=True)
    [other] = session.answer()["others"]
    assert other["tag"] == "angry or happy"  # as likely as each other


def test_speech_is_scored_and_silence_fades_to_listening(session, speech):
    end = say(session, speech)
    answer = session.answer()
    assert answer["hearing"] == "speech" and answer["headline"].startswith(("Sounds ", "Hard to tell: "))
    assert answer["result"]["voice"]["scores"]["surprise"] is None
    room = 1e-3 * np.random.default_rng(0).normal(size=4 * RATE).astype(np.float32)
    say(session, room, end)
    answer = session.answer()
    assert answer["hearing"] == "listening" and answer["result"]["voice"] is None


def test_it_is_the_pipelines_own_answer(session, app, speech, face):
    """The voice of the last 3 seconds, and both together."""
    session.add_audio(speech, 3.0)
    session.score_window()
    session.add_frame(face, 3.0)
    result = session.answer()["result"]
    voice = app.pipe(audio={"array": speech, "sampling_rate": RATE}).voice
    assert result["voice"]["scores"] == pytest.approx(voice.scores, abs=1e-4)
    [(fused, agreement)] = app.pipe.recognizer.fuse(session._face_log_probs[None], session._voice_log_probs[None])
    assert result["agreement"] == pytest.approx(agreement)
    assert result["fused"]["scores"] == pytest.approx(fused.scores)


def test_the_voice_is_smoothed_as_the_face_is(session, speech, monkeypatch):
    sure = torch.full((2, len(LABELS)), 0.01).scatter_(1, torch.tensor([[0], [3]]), 0.95).log()
    sure[:, -1] = -torch.inf  # it was never taught to hear surprise
    monkeypatch.setattr(session.recognizer, "voice_log_probs", lambda windows: sure[:1])
    end = say(session, speech)
    monkeypatch.setattr(session.recognizer, "voice_log_probs", lambda windows: sure[1:])
    say(session, speech[: round(HALF_LIFE_SECONDS * RATE)], end)
    scores = session.answer()["result"]["voice"]["scores"]
    assert scores["angry"] == pytest.approx(scores["happy"], abs=1e-3) and scores["surprise"] is None


def test_it_listens_until_there_is_speech_enough(session, speech):
    end = say(session, speech[: RATE // 2])
    answer = session.answer()
    assert answer["hearing"] == "listening" and answer["result"]["voice"] is None
    say(session, speech[RATE // 2 : 2 * RATE], end)
    assert session.answer()["hearing"] == "speech"


def test_words_are_held_against_flicker_and_numbers_are_of_now(session, face, monkeypatch):
    sure = torch.full((2, len(LABELS)), 0.01).scatter_(1, torch.tensor([[0], [3]]), 0.94).log()
    monkeypatch.setattr(session.recognizer, "face_log_probs", lambda crops: sure[:1])
    session.add_frame(face, 0.0)
    assert session.answer()["headline"] == "Looks angry"
    monkeypatch.setattr(session.recognizer, "face_log_probs", lambda crops: sure[1:])
    monkeypatch.setattr("demo.live_session.PosteriorFilter.__call__", lambda self, log_probs, time: log_probs)
    session.add_frame(face, HELD_SECONDS / 2)
    answer = session.answer()
    assert answer["headline"] == "Looks angry" and answer["likeliest"]["face"] == answer["labels"] == ["angry"]
    assert answer["line"] == "Low confidence, 1%" and answer["tag"] == "angry 1%"
    session.add_frame(face, HELD_SECONDS)
    answer = session.answer()
    assert answer["headline"] == "Looks happy" and answer["likeliest"]["face"] == ["happy"]


def test_too_little_speech_is_not_scored(session, speech):
    sound = np.zeros(3 * RATE, np.float32)
    sound[: round(0.3 * RATE)] = speech[: round(0.3 * RATE)]
    say(session, sound)
    assert session.answer()["result"]["voice"] is None


def test_the_window_is_contiguous(session, speech):
    """After a gap, in which the sound stood still, what came before it does not count."""
    say(session, speech[: 2 * RATE])
    session.add_audio(speech[: RATE // 4], 60.0)
    assert len(session._sound) == RATE // 4
    say(session, speech, 60.0)
    assert len(session._sound) == 3 * RATE


def test_a_piece_of_sound_without_a_sample_is_no_news(session, speech):
    session.add_audio(speech, 3.0)
    before = vars(session).copy()
    session.add_audio(speech[:0], 3.0)
    assert vars(session) == before


def test_a_microphone_at_another_rate_is_heard_alike(app, session, speech):
    other = LiveSession(app.pipe.recognizer, 48_000)
    other.add_audio(AF.resample(torch.from_numpy(speech), RATE, 48_000).numpy(), 3.0)
    other.score_window()
    say(session, speech)
    ours, theirs = session.answer()["result"]["voice"], other.answer()["result"]["voice"]
    assert all(abs(ours["scores"][label] - theirs["scores"][label]) < 0.1 for label in LABELS[:-1])


def test_a_visitors_own_neutral_is_learnt_kept_and_dropped(session, face, speech):
    """Five seconds; what it then says of that face and that voice is nearer to neutral."""

    def show(start: float, seconds: float) -> float:
        for i in range(round(4 * seconds)):
            start += 0.25
            piece = np.roll(speech, -i * RATE // 4)[: RATE // 4]
            session.add_audio(piece, start)
            session.add_frame(face, start)
            if session.neutral_due:
                session.settle_neutral()
            if session.window_due:
                session.score_window()
        return start

    def neutral() -> list[float]:
        result = session.answer()["result"]
        return [result[source]["scores"]["neutral"] for source in ("face", "voice")]

    end = show(0.0, 3)
    before = neutral()
    assert session.answer()["neutral"] is None
    session.learn_neutral(wanted=True)
    end = show(end, resting.SECONDS - 0.5)
    assert session.answer()["neutral"] == "learning"
    end = show(end, 3)
    assert session.answer()["neutral"] == "known"
    known = neutral()
    assert all(now > then for now, then in zip(known, before))
    session.learn_neutral(wanted=False)
    show(end, 6)
    assert session.answer()["neutral"] is None and all(now < then for now, then in zip(neutral(), known))


def test_of_nobody_no_neutral_is_learnt(session, wall):
    session.learn_neutral(wanted=True)
    session.add_frame(wall, resting.SECONDS)
    session.settle_neutral()
    answer = session.answer()
    assert answer["neutral"] is None and "neither a face nor speech" in answer["result"]["messages"][1]


def test_a_silent_microphone_is_told(session):
    say(session, np.zeros(3 * RATE, np.float32))
    answer = session.answer()
    assert answer["hearing"] == "silent" and "is it muted?" in answer["result"]["messages"][0]


def test_a_camera_that_stops_takes_its_face_with_it(session, face, speech):
    session.add_frame(face, 0.0)
    say(session, speech, 2.0)
    result = session.answer()["result"]
    assert result["face"] is None and result["voice"]


@pytest.mark.parametrize("data", [b"no picture", jpeg(Image.new("RGB", (64, 64)))[:200], b""])
def test_a_frame_that_is_none_is_refused(session, data):
    with pytest.raises(ValueError, match="whole JPEG"):
        session.add_frame(data, 0.0)


def test_a_frame_of_many_scans_is_refused_before_it_is_decoded(session, face):
    progressive = io.BytesIO()
    Image.open(io.BytesIO(face)).save(progressive, "JPEG", progressive=True)
    scan = face[face.index(b"\xff\xda") :][:14]  # of a baseline JPEG too there may be many
    for frame in (progressive.getvalue(), face[:-2] + 10 * scan + face[-2:]):
        with pytest.raises(ValueError, match="baseline JPEG"):
            session.add_frame(frame, 0.0)


def test_a_frame_of_any_size_is_refused_before_it_is_decoded(session):
    with pytest.raises(ValueError, match="at most 1280"):
        session.add_frame(jpeg(Image.new("L", (4000, 20))), 0.0)


# --- Who streams and who waits


def test_first_come_first_served():
    line = Line(places=2)
    for visitor in "abcd":
        line.join(visitor)
    assert [line.before(visitor) for visitor in "abcd"] == [None, None, 0, 1]
    assert line.waiting == 2
    line.leave("a")
    assert [line.before(visitor) for visitor in "bcd"] == [None, None, 0]


def test_a_turn_ends_only_where_somebody_waits():
    line = Line(places=1, turn_seconds=10)
    line.join("a")
    assert not line.turn_is_over(1000)
    line.join("b")
    assert line.turn_is_over(11) and not line.turn_is_over(9)


# --- The connection


class Page:
    """What the browser does."""

    def __init__(self, socket, rate: int = RATE):
        self.socket = socket
        socket.send(json.dumps({"sampling_rate": rate}))

    def read(self) -> dict:
        return json.loads(self.socket.recv(timeout=30))

    def read_until(self, type: str) -> dict:
        while (message := self.read())["type"] != type:
            pass
        return message

    def show(self, frame: bytes, seconds: float, everyone: bool = False) -> None:
        self.socket.send((b"A" if everyone else b"F") + struct.pack("<d", seconds) + frame)

    def say(self, samples: np.ndarray, seconds: float) -> None:
        self.socket.send(b"S" + struct.pack("<d", seconds) + (samples * 32767).astype("<i2").tobytes())


@pytest.fixture
def small(app):
    """A server with one place, of which a turn lasts half a second where somebody waits."""
    live = Live(app.checkpoint, Line(places=1, turn_seconds=0.5))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=[live.route]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert wait_for(lambda: server.started)
    live.url = f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/live"
    yield live
    server.should_exit = True
    thread.join()


def test_frames_and_sound_are_answered_by_the_demo(server, face, two_people, speech):
    with connect(server.replace("http", "ws") + "live") as socket:
        page = Page(socket)
        assert page.read() == {"type": "ready"}
        page.show(face, 0.1)
        assert page.read_until("answer")["result"]["face"]["label"] in LABELS
        page.show(two_people, 0.2, everyone=True)
        assert page.read_until("answer")["others"][0]["label"] in LABELS
        for i in range(12):
            page.say(speech[i * RATE // 4 : (i + 1) * RATE // 4], (i + 1) / 4)
        while page.read_until("answer")["hearing"] != "speech":
            pass


def test_a_slow_machine_drops_frames_and_is_never_late(small, face, monkeypatch):
    slow = LiveSession.add_frame
    monkeypatch.setattr(LiveSession, "add_frame", lambda *args: (time.sleep(0.2), slow(*args)))
    with connect(small.url) as socket:
        page = Page(socket)
        page.read_until("ready")
        for i in range(20):
            page.show(face, i / 100)
        seen = []
        while not seen or seen[-1] < 0.19:
            seen.append(page.read_until("answer")["time"])
        assert len(seen) < 10


def test_nothing_of_the_last_visit_is_left(small, face, speech):
    with connect(small.url) as socket:
        page = Page(socket)
        page.read_until("ready")
        page.show(face, 0.0)
        page.say(speech, 3.0)
        while page.read_until("answer")["hearing"] != "speech":
            pass
    assert wait_for(lambda: len(small.line) == 0)
    with connect(small.url) as socket:
        page = Page(socket)
        page.read_until("ready")
        page.say(np.zeros(RATE, np.float32), 1.0)
        answer = page.read_until("answer")
        assert answer["result"]["face"] is answer["result"]["voice"] is answer["result"]["fused"] is None


def test_who_waits_is_told_how_long_and_has_a_turn(small, face):
    with connect(small.url) as first, connect(small.url) as second:
        one = Page(first)
        one.read_until("ready")
        two = Page(second)
        assert two.read() == {"type": "waiting", "before": 0}
        start = time.monotonic()
        while (message := next_message(one, face, start))["type"] == "answer":
            pass
        assert message == {"type": "waiting", "before": 0}  # the turn is over, and it is next again
        assert two.read() == {"type": "ready"}
        second.close()
        assert one.read() == {"type": "ready"}


def next_message(page: Page, face: bytes, start: float) -> dict:
    page.show(face, time.monotonic() - start)
    return page.read()


def test_a_tab_closed_in_the_middle_frees_the_place(small, face):
    with connect(small.url) as socket:
        page = Page(socket)
        page.read_until("ready")
        page.show(face, 0.0)
    assert wait_for(lambda: len(small.line) == 0)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (b"F" + struct.pack("<d", 1.0) + b"no picture", "whole JPEG"),
        (b"F", "10 to"),
        (b"S" + bytes(limits.MAX_MESSAGE_BYTES), "10 to"),
        ('{"sampling_rate": 16000}', "first message, and no other"),
    ],
)
def test_what_no_page_would_send_gets_a_sentence_and_an_end(small, message, sentence):
    with connect(small.url) as socket:
        page = Page(socket)
        page.read_until("ready")
        socket.send(message)
        assert sentence in page.read_until("error")["message"]
    assert wait_for(lambda: len(small.line) == 0)


@pytest.mark.parametrize(
    ("greeting", "sentence"),
    [
        ('{"sampling_rate": "fast"}', "between 8000 and"),
        ("hello", "first message"),
        ("[" * 1000, "first message"),
        (json.dumps({"sampling_rate": RATE, "name": "n" * 1024}), "first message"),
        (b"F" + bytes(100), "first message"),
    ],
)
def test_a_greeting_that_is_none_gets_a_sentence_and_an_end(small, greeting, sentence):
    with connect(small.url) as socket:
        socket.send(greeting)
        assert sentence in json.loads(socket.recv(timeout=30))["message"]
    assert len(small.line) == 0


def test_who_does_not_greet_is_not_in_line(small, monkeypatch):
    monkeypatch.setattr(limits, "GREETING_SECONDS", 0.3)
    with connect(small.url) as socket:
        assert len(small.line) == 0
        assert "first message" in json.loads(socket.recv(timeout=30))["message"]


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_other_websites_are_not_answered(small, origin):
    with connect(small.url, origin=origin) as socket:
        assert "own page" in json.loads(socket.recv(timeout=30))["message"]
    with connect(small.url, origin=small.url.replace("ws", "http").removesuffix("/live")) as socket:
        assert Page(socket).read() == {"type": "ready"}


def test_an_address_has_a_few_sockets(small):
    with contextlib.ExitStack() as sockets:
        for _ in range(limits.SOCKETS_PER_ADDRESS):
            Page(sockets.enter_context(connect(small.url))).read()
        with connect(small.url) as socket:
            assert "other windows" in json.loads(socket.recv(timeout=30))["message"]
        other = sockets.enter_context(connect(small.url, additional_headers={"X-Forwarded-For": "192.0.2.7"}))
        assert Page(other).read()["type"] == "waiting"
    assert wait_for(lambda: not small._sockets)
    assert limits.SOCKETS_PER_ADDRESS < limits.LIVE_PLACES  # no address has all places


def test_who_waits_without_end_is_sent_away(small, monkeypatch):
    monkeypatch.setattr(limits, "MAX_WAIT_SECONDS", 0.5)
    with connect(small.url) as first, connect(small.url) as second:
        Page(first).read_until("ready")
        monkeypatch.setattr(small.line, "turn_seconds", 60)
        assert "try again later" in Page(second).read_until("error")["message"]


def test_who_sends_nothing_loses_the_place(small, monkeypatch):
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.3)
    with connect(small.url) as socket:
        page = Page(socket)
        assert "Nothing was seen or heard" in page.read_until("error")["message"]


def test_a_full_house_says_so(small, monkeypatch):
    monkeypatch.setattr(limits, "MAX_LINE", 0)
    with connect(small.url) as socket:
        assert "Too many people" in Page(socket).read()["message"]


def test_neither_frames_nor_sound_are_written_to_disk(server, face, speech):
    from gradio.utils import get_upload_folder

    def files() -> set[Path]:
        return {path for path in Path(get_upload_folder()).rglob("*") if path.is_file()}

    before = files()
    with connect(server.replace("http", "ws") + "live") as socket:
        page = Page(socket)
        page.read_until("ready")
        page.show(face, 0.0)
        page.say(speech, 3.0)
        while page.read_until("answer")["hearing"] != "speech":
            pass
        assert files() <= before


def wait_for(condition, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()
