"""The demo's server: what /analyze answers, that bad input costs it nothing, and that uploads do not stay."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from test_pipeline import ASTRONAUT, LABELS, READING, broken_photos, broken_recordings

import app_uploads
import app_views


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server, verbose=False)


def analyze(client: Client, image: Path | None = None, audio: Path | None = None) -> dict:
    return client.predict(image and handle_file(image), audio and handle_file(audio), api_name="/analyze")


def test_photo_and_recording(client):
    result = analyze(client, ASTRONAUT, READING)
    assert list(result) == ["face", "voice", "fused", "agreement", "messages"]
    assert list(result["fused"]["scores"]) == LABELS
    assert len(result["face"]["box"]) == 4 and result["face"]["detector"] in ("yunet", "haar")
    assert result["voice"]["segments"] and result["voice"]["scores"]["surprise"] is None
    assert isinstance(result["agreement"], float)
    assert result["messages"] == []


def test_photo_alone_and_recording_alone(client):
    face, voice = analyze(client, image=ASTRONAUT), analyze(client, audio=READING)
    assert face["face"] and face["fused"] and face["voice"] is None and face["agreement"] is None
    assert voice["voice"] and voice["fused"] and voice["face"] is None and voice["agreement"] is None


def test_it_answers_what_the_pipeline_does(client, app):
    assert analyze(client, ASTRONAUT, READING) == app.pipe(image=ASTRONAUT, audio=READING).to_dict()


def test_nothing_given_says_so(client):
    result = analyze(client)
    assert result["face"] is result["voice"] is result["fused"] is None
    assert result["messages"] == ["Nothing was given: add a photo, a recording, or both."]


@pytest.mark.parametrize("name", broken_photos())
def test_a_broken_photo_is_told_and_the_voice_answered(client, tmp_path, name):
    data, expected = broken_photos()[name]
    file = tmp_path / "photo.jpg"
    file.write_bytes(data)
    alone, together = analyze(client, image=file), analyze(client, file, READING)
    assert alone["fused"] is None and together["fused"] and together["voice"] and together["face"] is None
    assert alone["messages"] == together["messages"] and len(alone["messages"]) == 1
    assert expected in alone["messages"][0]


@pytest.mark.parametrize("name", broken_recordings())
def test_a_broken_recording_is_told_and_the_face_answered(client, tmp_path, name):
    data, expected = broken_recordings()[name]
    file = tmp_path / "voice.mp3"
    file.write_bytes(data)
    alone, together = analyze(client, audio=file), analyze(client, ASTRONAUT, file)
    assert alone["fused"] is None and together["fused"] and together["face"] and together["voice"] is None
    assert alone["messages"] == together["messages"] and len(alone["messages"]) == 1
    assert expected in alone["messages"][0]


def test_both_broken_gives_both_sentences(client, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"neither")
    assert len(analyze(client, file, file)["messages"]) == 2


def test_only_uploads_are_opened(server):
    """A client may put any path into a request: the server's own files are not read for it."""
    for path in (str(ASTRONAUT), "/etc/hostname", "../../etc/hostname"):
        for file in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}, path, [path]):
            call = httpx.post(f"{server}gradio_api/call/analyze", json={"data": [file, None]})
            answer = httpx.get(f"{server}gradio_api/call/analyze/{call.json()['event_id']}", timeout=60).text
            if "event: complete" in answer:
                result = json.loads(answer.split("data: ", 1)[1])[0]
                assert result["face"] is None and "was not uploaded" in result["messages"][0]
            else:
                assert "event: error" in answer


def test_several_visitors_are_answered_at_once(client):
    with ThreadPoolExecutor(6) as visitors:
        results = list(visitors.map(lambda _: analyze(client, ASTRONAUT, READING), range(6)))
    assert all(result == results[0] for result in results)


def test_the_endpoint_is_typed_and_described_and_the_only_public_one(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/analyze"]
    assert [parameter["parameter_name"] for parameter in endpoints["/analyze"]["parameters"]] == ["image", "audio"]
    assert "face" in endpoints["/analyze"]["description"]


def test_nothing_is_sent_out_and_uploads_are_limited(app):
    assert not app.demo.analytics_enabled
    assert not app.demo.share
    assert app.demo.max_file_size == 256 * 1024**2
    assert app.THEME._stylesheets == []


def test_uploads_are_deleted_within_minutes(app, monkeypatch):
    assert app.demo.delete_cache == (app_uploads.UPLOADS_CHECKED_SECONDS, app_uploads.UPLOADS_KEPT_SECONDS)
    assert sum(app.demo.delete_cache) <= 600


def test_an_upload_is_gone_after_its_time(app, checkpoint, tmp_path, monkeypatch):
    """The same settings with a second for a minute, on a server of its own."""
    import gradio as gr

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks(analytics_enabled=False, delete_cache=(1, 1)) as short_lived:
        gr.api(app.analyze, api_name="analyze")
    _, url, _ = short_lived.launch(prevent_thread_lock=True, quiet=True)
    try:
        assert analyze(Client(url, verbose=False), ASTRONAUT)["face"]
        deadline = time.monotonic() + 30
        while uploads(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert uploads(tmp_path) == []
    finally:
        short_lived.close()


def uploads(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- What the page says


def test_conflict_is_worded_only_by_the_rule(app):
    def result(face: str, voice: str, agreement: float):
        result = app.pipe(image=ASTRONAUT, audio=READING)
        result.face.label, result.voice.label, result.agreement = face, voice, agreement
        return result

    assert "Looks happy, sounds sad" in app_views.verdict(result("happy", "sad", -0.4))
    assert "Looks happy, sounds sad" not in app_views.verdict(result("happy", "sad", 0.4))
    assert "Looks and sounds happy" in app_views.verdict(result("happy", "happy", 0.4))


def test_what_is_said_of_a_file_is_escaped(app):
    assert "<script>" not in app_views.messages(["<script>alert(1)</script>"])


def test_every_emotion_has_a_colour_and_a_face(app):
    assert (
        set(app_views.COLOURS) == set(app_views.GLYPHS) == set(LABELS) == set(app.pipe.model.config.id2label.values())
    )
    assert len(set(app_views.COLOURS.values())) == len(LABELS)


def test_examples_are_small_and_credited(app):
    credits = (Path(app.__file__).parent / "examples" / "README.md").read_text()
    files = [Path(file) for file in (*app.PHOTOS.values(), *app.RECORDINGS.values())]
    assert all(f"`{file.name}`" in credits for file in files)
    assert sum(file.stat().st_size for file in files) < 600_000
