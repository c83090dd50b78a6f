"""The demo's start, in a process of its own: its page is there before its model, and what is asked meanwhile waits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import ASTRONAUT, READING, ROOT, assert_close
from test_configuration import assert_one_sentence

#: The model is loaded when everything has been asked for.
ASKED_EARLY = """
    import json, sys, threading, time
    import httpx
    from gradio_client import Client, handle_file
    from websockets.sync.client import connect
    import app, hub

    asked, load_pipeline = threading.Event(), hub.load_pipeline
    hub.load_pipeline = lambda *args, **kwargs: asked.wait() and load_pipeline(*args, **kwargs)
    _, url, _ = app.demo.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True)
    threading.Thread(target=app.load).start()
    assert "EmoCLIP" in httpx.get(url).text
    face, voice, client = *map(handle_file, sys.argv[1:]), Client(url, verbose=False)
    calls = [client.submit(face, voice, api_name="/analyze")]
    calls += [client.submit(["joyful"], face, None, api_name="/compare_words")]
    while {call.status().code.name for call in calls} != {"PROCESSING"}:
        time.sleep(0.02)
    with connect(url.replace("http", "ws") + "live") as socket:
        socket.send('{"sampling_rate": 16000}')
        busy = client.predict(api_name="/live")  # waits for no model
        imported = sorted({"torch", "transformers"} & sys.modules.keys())
        asked.set()
        live = json.loads(socket.recv(timeout=60))
    preview = httpx.get(url + "look/preview.json", timeout=60).json()
    print(json.dumps([imported, busy["places"], live["type"], len(preview) > 1, *(call.result(60) for call in calls)]))
"""


def run(*arguments: str, model: Path, uploads: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "EMOCLIP_MODEL": str(model), "GRADIO_TEMP_DIR": str(uploads)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_page_is_there_before_the_model_and_what_is_asked_meanwhile_is_answered(app, checkpoint, tmp_path):
    code = textwrap.dedent(ASKED_EARLY)
    done = run("-c", code, str(ASTRONAUT), str(READING), model=checkpoint, uploads=tmp_path)
    assert done.returncode == 0, done.stderr[-5_000:]
    imported, places, live, previewed, analyzed, words = json.loads(done.stdout.splitlines()[-1])
    assert imported == [] and places > 0
    assert live == "ready" and previewed
    assert_close(analyzed, app.pipe(image=ASTRONAUT, audio=READING).to_dict())
    assert words["words"][0]["word"] == "joyful" and words["messages"] == []


def test_ctrl_c_while_the_model_is_loaded_ends_the_demo_at_once(checkpoint, tmp_path):
    environment = {**os.environ, "EMOCLIP_MODEL": str(checkpoint), "GRADIO_TEMP_DIR": str(tmp_path / "uploads")}
    command = [sys.executable, "-u", "app.py"]
    with (tmp_path / "errors").open("w+") as errors:
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors) as process:
            while b"Running on" not in process.stdout.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
        errors.seek(0)
        assert process.returncode == 130 and "Traceback" not in errors.read()
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("file, content", [("model.safetensors", b"cut off"), ("config.json", b"[]")])
def test_a_model_that_cannot_be_loaded_ends_the_demo_with_one_sentence(checkpoint, tmp_path, file, content):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / file).write_bytes(content)
    done = run("app.py", model=folder, uploads=tmp_path)
    assert done.returncode == 1
    assert "Running on" in done.stdout and "Traceback" not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith(f"EMOCLIP_MODEL: {folder} cannot be loaded")
    assert_one_sentence(sentence)
