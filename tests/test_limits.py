"""What one visitor may cost: photos of many scans, words of any type, paths of any kind, and what is counted."""

import functools
import io
import json
import time
import zlib

import av
import httpx
import numpy as np
import pytest
from gradio.utils import get_upload_folder
from helpers import ASTRONAUT, JSON, scan_bomb
from PIL import Image

import demo.words
from demo import limits
from demo.about import charts, read_figures
from demo.uploads import read_photo, uploaded
from demo.work import LEAST_FRAME_PIXELS, check_video
from files_emoclip import count_scans
from media_emoclip import InputError, load_image


def encoded(format: str, size: tuple[int, int] = (640, 480), **options) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(file, format, **options)
    return file.getvalue()


def tiff_of(data: bytes, size: tuple[int, int], tile: tuple[int, int] | None = None) -> bytes:
    """A TIFF, in grey, whose one strip is a JPEG, or whose one tile is deflated."""
    width, height = size
    tags = [(256, width), (257, height), (258, 8), (259, 8 if tile else 7), (262, 1)]
    if tile:
        tags += [(277, 1), (322, tile[0]), (323, tile[1]), (324, 8), (325, len(data))]
    else:
        tags += [(273, 8), (277, 1), (278, height), (279, len(data))]
    start = 8 + len(data) + len(data) % 2
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0" + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in tags
    )
    header = b"II*\0" + start.to_bytes(4, "little") + data + bytes(len(data) % 2)
    return header + len(tags).to_bytes(2, "little") + entries + bytes(4)


@pytest.mark.parametrize(
    "bomb",
    [
        scan_bomb(),
        scan_bomb() + encoded("JPEG"),  # as in an MPO, whose second picture stands behind the first
        tiff_of(scan_bomb(), (4000, 4000)),
    ],
)
def test_a_photo_of_thousands_of_scans_is_refused(bomb, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(bomb)
    for source in (bomb, str(tmp_path / "photo.jpg")):
        with pytest.raises(InputError, match="too many steps"):
            load_image(source)


def test_a_photo_with_tiles_larger_than_a_photo_may_be_is_refused():
    """Two megabytes that are deflated may be two gigabytes, in a tile of a picture of 64 x 64 pixels."""
    assert load_image(tiff_of(zlib.compress(bytes(64 * 64)), (64, 64), tile=(64, 64)))[0].size == (64, 64)
    with pytest.raises(InputError, match="24000 x 28000 pixels at once"):
        load_image(tiff_of(zlib.compress(b""), (64, 64), tile=(24_000, 28_000)))


@pytest.mark.parametrize(
    "photo",
    [
        encoded("JPEG", (4000, 3000), quality=30),
        encoded("JPEG", (4000, 3000), quality=30, progressive=True),
        encoded("TIFF", (2000, 2000), compression="jpeg"),
        encoded("TIFF", (2000, 2000), compression="tiff_lzw"),
        encoded("PNG"),
        encoded("WEBP"),
    ],
)
def test_what_cameras_and_programs_make_is_not(photo):
    load_image(photo)


def test_scans_are_counted_across_blocks(monkeypatch):
    monkeypatch.setattr("files_emoclip.BLOCK_BYTES", 3)
    header = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    assert count_scans(io.BytesIO(b"..\xff\xda." * 9 + (header + b"\xff") * 10)) == 10


@pytest.mark.parametrize("words", [5, True, 1.5, {"happy": 1}, [1], [None], ["happy", {}], ["\ud800"], "\udfff"])
def test_words_of_the_wrong_type_get_a_sentence(app, words):
    ask = demo.words.compare_words_endpoint(app.checkpoint)
    assert "The words" in ask(words, None, None)["messages"][0]


def test_null_words_are_none(app):
    assert "No words were given" in demo.words.compare_words_endpoint(app.checkpoint)(None)["messages"][0]


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "a/" * 3000, "\ud800", "/file=%00", "", 5, None, [], {}])
def test_paths_of_any_kind_get_a_sentence(app, path):
    for file in ({"path": path}, path if path is not None else {}, [path], {"path": f"{get_upload_folder()}/{path}"}):
        try:
            assert uploaded(file).startswith(get_upload_folder())
        except InputError as error:
            assert "not uploaded" in str(error)


@pytest.mark.parametrize("url", ["data:", "data:,é", "data:;base64,\ud800", "data:;base64,a"])
def test_data_urls_of_any_kind_get_a_sentence(url):
    try:
        assert uploaded(url) == b""
    except InputError as error:
        assert "base64" in str(error)


def test_an_address_is_a_household():
    assert limits.address({"client": ("192.0.2.1", 5)}) == "192.0.2.1"
    assert limits.address({"client": ("2001:db8::1", 5)}) == limits.address({"client": ("2001:db8::2", 5)})
    assert limits.address({"client": None}) == ""


def test_an_allowance_comes_back_with_time(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    allowance = limits.Allowance(100, seconds=10)
    assert allowance.spend("a", 100) and not allowance.spend("a", 1) and allowance.spend("b", 100)
    now = 5.0
    assert allowance.spend("a", 40) and not allowance.spend("a", 20)


def test_photos_are_read_by_the_demo_as_before(app):
    photo = demo.words.closeness(app.pipe, ["happy"], str(ASTRONAUT), None)
    assert photo.words[0].face == pytest.approx(app.pipe.compare_words(["happy"], image=ASTRONAUT).words[0].face)


NESTED = functools.reduce(lambda inner, _: [inner], range(300), 1)


@pytest.mark.parametrize(
    ("endpoint", "data", "sentence"),
    [
        ("compare_words", [5, None, None], "The words must be"),
        ("compare_words", ["\ud800", None, None], "half a character"),
        ("compare_words", [NESTED, None, None], "The words must be"),
        ("analyze", [NESTED, None], "was not uploaded"),
        *(
            ("analyze", [{"path": path, "meta": {"_type": "gradio.FileData"}}, None], "was not uploaded")
            for path in ("a\0b", "a" * 5000, "\ud800", "/etc/passwd", "http://192.0.2.1/endless", "file:///x", "", 5)
        ),
        ("analyze", [], "There must be 2 values"),
        ("analyze_video", [None], "No video was given"),
        ("analyze_video", [[1]], "was not uploaded"),
    ],
)
def test_values_of_the_wrong_type_get_a_sentence_and_no_traceback(server, capfd, endpoint, data, sentence):
    call = httpx.post(f"{server}gradio_api/call/{endpoint}", content=json.dumps({"data": data}), headers=JSON)
    answer = httpx.get(f"{server}gradio_api/call/{endpoint}/{call.json()['event_id']}", timeout=60).text
    assert sentence in answer
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("path", "body"),
    [("call/nothing", b'{"data": []}'), ("call/analyze", b"\xff"), ("queue/join", b'{"data": [], "fn_index": 9999}')],
)
def test_requests_that_are_none_get_a_sentence_and_no_traceback(server, capfd, path, body):
    for headers in (JSON, {}):
        assert 400 <= httpx.post(f"{server}gradio_api/{path}", content=body, headers=headers).status_code < 500
    assert "Traceback" not in "".join(capfd.readouterr())


def test_figures_of_another_form_are_left_out_and_told(tmp_path, capsys):
    file = tmp_path / "results.json"
    good = {"n": 8, "accuracy": 0.25}
    for odd in ([], 5, {"n": "8", "accuracy": 0.5}, {"n": 8, "accuracy": "high"}, {**good, "confusion": [[1]]}, None):
        file.write_text(json.dumps({"face": good, "voice": odd, "splits": odd}))
        assert read_figures(file)["face"] == good and "voice" not in read_figures(file)
        assert "left out: " in capsys.readouterr().out
        assert charts(read_figures(file), {"face": 7, "voice": 6})
    for text in ("", "[]", "5", "{", "[" * 100_000, "\0"):
        file.write_text(text)
        assert read_figures(file) == {} and "no figures" in capsys.readouterr().out
    assert read_figures(tmp_path / "none.json") == {}


def test_sessions_are_few_and_those_of_open_pages_stay(app, server, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PROGRAM_SESSIONS", 5)
    sessions = app.demo.app.state_holder

    def call() -> None:
        event = httpx.post(f"{server}gradio_api/call/live", json={"data": []}).json()["event_id"]
        assert "complete" in httpx.get(f"{server}gradio_api/call/live/{event}").text

    with httpx.stream("GET", f"{server}gradio_api/heartbeat/page") as heartbeat:
        beats = heartbeat.iter_raw()
        next(beats)
        page = sessions["page"]
        for _ in range(10):
            call()
        assert len(sessions.session_data.keys() - sessions.pages.keys()) == 5 and sessions["page"] is page
    deadline = time.monotonic() + 10
    while "page" in sessions.pages and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(10):
        call()
    assert "page" not in sessions.session_data and sessions.time_last_used.keys() == sessions.session_data.keys()


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_films_of_one_picture_are_read_as_ever(format):
    """In a process of their own."""
    file, on_its_side = io.BytesIO(), Image.Exif()
    on_its_side[0x0112] = 6
    Image.open(ASTRONAUT).convert("RGB").resize((300, 200)).save(file, format, exif=on_its_side)
    (photo, notes, errors), expected = read_photo(file.getvalue()), load_image(file.getvalue())[0]
    assert not notes and not errors
    assert photo.size == expected.size and photo.tobytes() == expected.tobytes()


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_decoding_is_given_up_after_its_time(format, monkeypatch):
    monkeypatch.setattr(limits, "MAX_DECODE_SECONDS", 0.001)
    photo, _, errors = read_photo(encoded(format))
    assert photo is None and "took too long" in errors[0]


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_films_of_one_picture_that_are_damaged_or_huge_get_a_sentence(format, monkeypatch):
    file = encoded(format)
    broken = file[: len(file) // 2]
    with pytest.raises(InputError) as error:
        load_image(broken)
    assert read_photo(broken)[2] == error.value.sentences
    monkeypatch.setattr("media_emoclip.MAX_IMAGE_PIXELS", 1000)
    assert "640 x 480" in read_photo(file)[2][0]


def test_frames_that_are_never_shown_count_too(monkeypatch):
    """AV1 codes some pictures of every film only for others to be told from; a packet may hold any number of them."""
    file, picture = io.BytesIO(), np.random.default_rng(0).integers(0, 255, (128, 192, 3), np.uint8)
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("libsvtav1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for i in range(50):
            pixels = np.ascontiguousarray(picture[:, i : i + 128])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    check_video(file.getvalue())
    monkeypatch.setattr(limits, "MAX_VIDEO_WORK_PIXELS", 60 * LEAST_FRAME_PIXELS)
    with pytest.raises(InputError, match="too much to look at"):
        check_video(file.getvalue())
