"""The demo's server: what its endpoints answer, over MCP too, that bad input costs it nothing, that many visitors wait
without an error, and that uploads do not stay."""

import ast
import asyncio
import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from helpers import ASTRONAUT, LABELS, READING, assert_close, broken_photos, broken_recordings
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

import demo.photo
from demo import limits
from demo.page import THEME
from demo.uploads import PHOTOS, RECORDINGS


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server, verbose=False)


def analyze(client: Client, image: Path | None = None, audio: Path | None = None) -> dict:
    return client.predict(image and handle_file(image), audio and handle_file(audio), api_name="/analyze")


def test_photo_and_recording(client):
    result = analyze(client, ASTRONAUT, READING)
    assert list(result) == ["face", "voice", "fused", "agreement", "messages"]
    assert list(result["fused"]["scores"]) == LABELS
    assert len(result["face"]["box"]) == 4 and result["face"]["detector"] == "yunet"
    assert result["voice"]["segments"] and result["voice"]["scores"]["surprise"] is None
    assert isinstance(result["agreement"], float)
    assert result["messages"] == []


def test_photo_alone_and_recording_alone(client):
    face, voice = analyze(client, image=ASTRONAUT), analyze(client, audio=READING)
    assert face["face"] and face["fused"] and face["voice"] is None and face["agreement"] is None
    assert voice["voice"] and voice["fused"] and voice["face"] is None and voice["agreement"] is None


def test_it_answers_what_the_pipeline_does(client, app):
    assert_close(analyze(client, ASTRONAUT, READING), app.pipe(image=ASTRONAUT, audio=READING).to_dict())


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


def test_fifty_visitors_at_once_wait_and_are_answered(server, client):
    """More than the server can do at a time, by far: the queue holds them, and nobody gets an error."""
    expected = analyze(client, ASTRONAUT)
    upload = httpx.post(f"{server}gradio_api/upload", files={"files": ASTRONAUT.read_bytes()}).json()[0]
    file = {"path": upload, "meta": {"_type": "gradio.FileData"}}

    def visit(number: int) -> dict:
        address = {"X-Forwarded-For": f"192.0.2.{number}"}
        call = httpx.post(
            f"{server}gradio_api/call/analyze", json={"data": [file, None]}, headers=address, timeout=120
        )
        answer = httpx.get(f"{server}gradio_api/call/analyze/{call.json()['event_id']}", timeout=120).text
        return json.loads(answer.split("event: complete\ndata: ")[1])[0]

    with ThreadPoolExecutor(50) as visitors:
        assert all(result["face"]["box"] == expected["face"]["box"] for result in visitors.map(visit, range(50)))


def test_every_tab_has_a_typed_and_described_endpoint(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/live", "/analyze", "/analyze_video", "/compare_words", "/about"}
    assert [parameter["parameter_name"] for parameter in endpoints["/analyze"]["parameters"]] == ["image", "audio"]
    for endpoint in endpoints.values():
        assert len(endpoint["description"]) > 80
        answer = endpoint["returns"][0]["type"]
        assert answer.get("properties") or answer["items"]["properties"]
    result = endpoints["/analyze"]["returns"][0]["type"]["properties"]
    assert result["fused"]["oneOf"][1]["properties"]["scores"]["additionalProperties"]["oneOf"][1] == {
        "type": "number"
    }


def test_words_are_compared_with_face_and_voice(client):
    words = ["joyful", "furious", "zorbled"]
    result = client.predict(words, handle_file(ASTRONAUT), handle_file(READING), api_name="/compare_words")
    assert [word["word"] for word in result["words"]] == words
    assert [word["trained"] for word in result["words"]] == [True, True, False]
    assert all(-1 <= word[source] <= 1 for word in result["words"] for source in ("face", "voice"))
    assert [emotion["word"] for emotion in result["emotions"]] == LABELS
    if client.predict(api_name="/about"):  # a trained checkpoint knows a smile
        assert result["words"][0]["face"] > result["words"][1]["face"]


@pytest.mark.parametrize("words", [[], [" "], ["a"] * 13, ["a" * 61]])
def test_words_that_are_none_or_too_many_get_a_sentence(client, words):
    result = client.predict(words, handle_file(ASTRONAUT), None, api_name="/compare_words")
    assert result["words"] == [] and len(result["messages"]) == 1


def test_words_with_nothing_to_compare_them_with_get_a_sentence(client):
    result = client.predict(["happy"], None, None, api_name="/compare_words")
    assert result["messages"] == ["Nothing was given: add a photo, a recording, or both."]


def test_about_gives_the_checkpoints_own_figures(client, checkpoint):
    results = json.loads((checkpoint / "results.json").read_text())
    figures = {figure["name"]: figure for figure in client.predict(api_name="/about")}
    for source in ("face", "voice", "fused"):
        assert (
            figures[source]["accuracy"] == results[source]["accuracy"] and figures[source]["n"] == results[source]["n"]
        )


def test_live_says_how_busy_it_is(client):
    busy = client.predict(api_name="/live")
    assert busy == {"socket": "/live", "places": 4, "streaming": 0, "waiting": 0, "turn_seconds": 120.0}


def test_an_assistant_can_call_analyze(server, app):
    """Over MCP, with a file as a data: URL, and with the address of an upload."""
    upload = httpx.post(f"{server}gradio_api/upload", files={"files": READING.read_bytes()}).json()[0]
    photo = f"data:image/jpeg;base64,{base64.b64encode(ASTRONAUT.read_bytes()).decode()}"

    async def ask() -> tuple[list, dict, dict]:
        async with (
            streamable_http_client(f"{server}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            files = {"image": photo, "audio": f"{server}gradio_api/file={upload}"}
            answers = [
                await session.call_tool("analyze", arguments)
                for arguments in (files, {"image": "http://example.com/photo.jpg", "audio": None})
            ]
            return tools, *(ast.literal_eval(answer.content[0].text) for answer in answers)

    tools, result, refused = asyncio.run(ask())
    tool = next(tool for tool in tools if tool.name == "analyze")
    assert {"analyze", "analyze_video", "compare_words"} <= {tool.name for tool in tools}
    assert "does not know what a person feels" in tool.description
    assert set(tool.inputSchema["properties"]) == {"image", "audio"}
    assert_close(result, app.pipe(image=ASTRONAUT, audio=READING).to_dict())
    assert "was not uploaded" in refused["messages"][0]


def test_nothing_is_sent_out_and_uploads_are_limited(app):
    assert not app.demo.analytics_enabled
    assert not app.demo.share
    assert app.demo.max_file_size == 256 * 1024**2
    assert THEME._stylesheets == []


def test_uploads_are_deleted_within_minutes(app, monkeypatch):
    assert app.demo.delete_cache == (limits.UPLOADS_CHECKED_SECONDS, limits.UPLOADS_KEPT_SECONDS)
    assert sum(app.demo.delete_cache) <= 600


def test_an_upload_is_gone_after_its_time(app, checkpoint, tmp_path, monkeypatch):
    """The same settings with a second for a minute, on a server of its own."""
    import gradio as gr

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks(analytics_enabled=False, delete_cache=(1, 1)) as short_lived:
        gr.api(demo.photo.analyze_endpoint(app.checkpoint), api_name="analyze")
    _, url, _ = short_lived.launch(prevent_thread_lock=True, quiet=True)
    try:
        assert analyze(Client(url, verbose=False), ASTRONAUT)["face"]
        deadline = time.monotonic() + 30
        while uploads(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert uploads(tmp_path) == []
    finally:
        short_lived.close()


def test_the_examples_outlast_the_visitors_files(app):
    copies = {Path(path) for files in app.demo.temp_file_sets for path in files}
    examples = {Path(file).name for file in (*PHOTOS.values(), *RECORDINGS.values())}
    copies = {path for path in copies if path.name in examples and path.exists()}
    assert {path.name for path in copies} == examples
    delete_files_created_by_app(app.demo, age=None)
    assert all(path.exists() for path in copies)


def uploads(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_words_may_come_as_one_string(client):
    result = client.predict("relieved, furious", None, handle_file(READING), api_name="/compare_words")
    assert [word["word"] for word in result["words"]] == ["relieved", "furious"]


def test_examples_are_small_and_credited(app):
    credits = (Path(app.__file__).parent / "examples" / "README.md").read_text()
    files = [Path(file) for file in (*PHOTOS.values(), *RECORDINGS.values())]
    assert all(f"`{file.name}`" in credits for file in files)
    assert sum(file.stat().st_size for file in files) < 600_000
