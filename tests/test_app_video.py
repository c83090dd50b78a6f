"""The endpoint /analyze_video, and that nothing of a video stays on the server."""

import tempfile
import time
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from helpers import ASTRONAUT, LABELS, READING, assert_close, one_person, write_video

import demo.video
from demo.timeline import areas, in_words


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", one_person(), seconds=2)


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server, verbose=False)


def test_it_answers_what_the_pipeline_does(client, app, clip):
    result = client.predict(handle_file(clip), api_name="/analyze_video")
    assert_close(result, app.pipe(video=clip).to_dict())
    assert list(result) == list(demo.video.VideoJSON.__annotations__)
    assert list(result["timeline"][0]) == list(demo.video.TimelinePointJSON.__annotations__)
    assert list(result["people"][0]["track"][0]) == ["label", "scores", "unsure", "time", "box"]
    assert list(result["fused"]["scores"]) == LABELS


def test_what_is_no_video_is_told(client, tmp_path):
    (tmp_path / "video.mp4").write_text("Dear diary")
    for file, expected in ((tmp_path / "video.mp4", "not a video"), (ASTRONAUT, "not a video")):
        result = client.predict(handle_file(file), api_name="/analyze_video")
        assert result["fused"] is None and len(result["messages"]) == 1 and expected in result["messages"][0]
    result = client.predict(handle_file(READING), api_name="/analyze_video")
    assert result["voice"] and "no moving picture" in result["messages"][0]


def test_it_is_typed_and_described(client):
    endpoint = client.view_api(return_format="dict")["named_endpoints"]["/analyze_video"]
    assert [parameter["parameter_name"] for parameter in endpoint["parameters"]] == ["video"]
    assert "second by second" in endpoint["description"] and "timeline" in str(endpoint["returns"])


def test_the_annotated_video_is_deleted_once_it_is_handed_over_or_given_up(app, clip, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    steps = demo.video.watch(app.pipe.recognizer, str(clip))
    for above, player, _ in steps:
        if isinstance(player, dict) and player.get("visible"):
            assert Path(player["value"]).is_file() and "progressbar" not in above
            break
    assert list(tmp_path.rglob("*.mp4"))
    assert next(steps, None) is None  # Gradio has its copy by now
    assert list(tmp_path.iterdir()) == []
    steps = demo.video.watch(app.pipe.recognizer, str(clip))
    while not list(tmp_path.rglob("*.mp4")):
        next(steps)
    steps.close()  # cancelled while it is drawn
    assert list(tmp_path.iterdir()) == []


def test_upload_and_annotated_video_are_gone_after_their_time(app, clip, tmp_path, monkeypatch):
    """The tab's own player in a page of its own, with a second for a minute."""
    import gradio as gr

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def watch(path: str):
        for _, player, _ in demo.video.watch(app.pipe.recognizer, path):
            if player.get("visible"):
                yield player["value"]

    with gr.Blocks(analytics_enabled=False, delete_cache=(1, 1)) as short_lived:
        video, player = gr.Video(include_audio=True), gr.Video(interactive=False)
        gr.Button().click(watch, video, player, api_name="watch")
    _, url, _ = short_lived.launch(prevent_thread_lock=True, quiet=True)
    try:
        assert Client(url, verbose=False).predict(handle_file(clip), api_name="/watch")
        deadline = time.monotonic() + 60
        while uploads(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert uploads(tmp_path) == []
    finally:
        short_lived.close()


def uploads(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_upload_that_is_deleted_meanwhile_is_watched_to_its_end(app, clip, tmp_path):
    """Minutes in a queue and minutes of work may be more than an upload is kept."""
    upload = tmp_path / "upload.mp4"
    upload.write_bytes(clip.read_bytes())
    steps = demo.video.watch(app.pipe.recognizer, str(upload))
    next(steps)
    upload.unlink()
    *_, (above, player, below) = steps
    assert player["visible"] and "strip" in below
    *_, (above, player, below) = demo.video.watch(app.pipe.recognizer, str(upload))
    assert "wait" in above and not player["visible"]


# --- Views


def test_the_time_left_is_told_in_words():
    assert [demo.video.duration(seconds) for seconds in (0.2, 42, 89, 130)] == [
        "about 1 s", "about 42 s", "about 89 s", "about 2 min",
    ]  # fmt: skip


def test_gaps_of_the_timeline_stay_gaps(app, clip):
    result = app.pipe(video=clip)
    for point in result.timeline[3:6]:
        point.face = None
    assert areas([point.face for point in result.timeline]).count("<polygon") == 2 * len(LABELS)
    assert areas([point.fused for point in result.timeline]).count("<polygon") == len(LABELS)
    assert "nothing from 0.6 s" in in_words([(point.time, point.face) for point in result.timeline])
