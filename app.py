"""The demo: webcam and microphone, a photo, a recording, a video, words, and what the person looks and sounds like.

    python app.py
    EMOCLIP_MODEL=<folder or Hub id> python app.py

Every tab has an endpoint that answers programs with the same as JSON, and assistants over MCP (/gradio_api/mcp/):

    from gradio_client import Client, handle_file
    Client("http://127.0.0.1:7860").predict(handle_file("photo.jpg"), handle_file("voice.wav"), api_name="/analyze")

Each tab is a module in demo/, with its layout, its handlers, its endpoint and its HTML.
"""

import atexit
import contextlib
import gc
import inspect
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

gc.disable()  # what is imported stays: to look for garbage among it would take a fifth of the start
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
# Gradio counts its last 10,000 calls anew after each call, for a page that nobody can open.
os.environ |= {"GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}
# Uploads lie in a folder of this process alone: what is left in it is deleted, and it goes with the process.
if folder := os.environ.get("GRADIO_TEMP_DIR"):
    os.makedirs(folder, exist_ok=True)
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="emoclip-demo-", dir=folder)
if os.environ.get("SPACE_ID"):  # whose proxy tells who asks; it has an address of its network
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "127.0.0.1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16")
os.environ.setdefault("TQDM_POSITION", "-1")  # what is downloaded shows its progress in a Space's log too
try:
    import spaces  # on a Space, before torch: it lends GPUs
except ImportError:
    spaces = None


def without_stubs(thing: object, getfile=inspect.getfile) -> str:
    """`inspect.getfile`, by which Gradio finds where to write stubs of its components, for editors. It would do so at
    every start, which is two fifths of its import."""
    if getattr(thing, "__module__", "").startswith("gradio."):
        raise FileNotFoundError
    return getfile(thing)


with mock.patch.object(inspect, "getfile", without_stubs):
    import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import hub
from demo import limits
from demo.about import about_tab, read_figures
from demo.checkpoint import Checkpoint
from demo.guard import Demo, Guard, lifespan
from demo.head import TITLE, use_own_head
from demo.live import Live, live_tab
from demo.page import ASSETS, HEADER, STATIC, THEME, script
from demo.photo import photo_tab
from demo.preview import Preview
from demo.uploads import PHOTOS, RECORDINGS
from demo.video import video_tab
from demo.why import Answered, why_view
from demo.words import words_tab

if TYPE_CHECKING:
    from pipeline_emoclip import EmotionRecognitionPipeline

MODEL = os.environ.get("EMOCLIP_MODEL") or str(Path(__file__).parent / "checkpoints" / "emoclip-small")
LOCAL = ("localhost", "127.0.0.1")
SERVER_NAME = os.environ.get("GRADIO_SERVER_NAME") or LOCAL[1]
# A demo on this machine alone is asked for by its name: else any website could have itself taken for it, by a name of
# its own that leads to this machine. EMOCLIP_HOSTS has the names under which a proxy before it is known.
HOSTS = [*LOCAL, *filter(None, os.environ.get("EMOCLIP_HOSTS", "").split(","))] if SERVER_NAME in LOCAL else ["*"]


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """What is wrong with a checkpoint ends the program."""
    try:
        yield
    except hub.HubError as error:
        raise SystemExit(f"EMOCLIP_MODEL: {error}") from None


@one_sentence()
def load() -> "EmotionRecognitionPipeline":
    """Loads the pipeline, while the page is shown already."""
    gc.disable()
    pipe = checkpoint.pipe
    threading.Thread(target=warm_up, args=[pipe]).start()
    gc.enable()
    gc.freeze()  # what was made until now is not looked at again
    return pipe


def warm_up(pipe: "EmotionRecognitionPipeline") -> None:
    """Has whatever is loaded or built on first use be so."""
    pipe(image=PHOTOS["astronaut"], audio=RECORDINGS["reading-short"])
    pipe.compare_words(["relieved"], image=PHOTOS["astronaut"])


def leave(*_) -> None:
    """Ends the demo at once, on Ctrl-C while the model is loaded: an exception in the midst of an import may be taken
    for something else, and a visitor who waits for the model would load it first."""
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    os._exit(130)


def why(answered: Answered | None) -> str:
    """What spoke for an answer, as HTML."""
    return why_view(checkpoint.recognizer, answered)


atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
use_own_head()

print(f"Loading {MODEL}", flush=True)
with one_sentence():
    # On ZeroGPU it stays on the CPU, see demo/zero_gpu.py.
    checkpoint = Checkpoint(os.path.expanduser(MODEL), "cpu" if os.environ.get("SPACES_ZERO_GPU") else None)
RESULTS = read_figures(checkpoint.folder / "results.json")
live = Live(checkpoint)
if spaces is not None:
    from demo.zero_gpu import lend  # needs PyTorch, which `spaces` has imported

    why = lend(spaces.GPU, why, checkpoint)

LAUNCH = {
    "theme": THEME,
    "css_paths": STATIC / "demo.css",
    "max_file_size": limits.MAX_UPLOAD,
    "ssr_mode": False,
    "mcp_server": True,
    "app_kwargs": {
        "routes": [live.route, Preview(checkpoint).route, ASSETS],
        "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS), Middleware(Guard)],
        "lifespan": lifespan,
    },
}

with Demo(
    title=TITLE,
    analytics_enabled=False,
    delete_cache=(limits.UPLOADS_CHECKED_SECONDS, limits.UPLOADS_KEPT_SECONDS),
) as demo:
    gr.HTML(HEADER, padding=False, elem_id="header")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Live", id="live"):
            live_tab(live)
        with gr.Tab("Photo and voice", id="photo"):
            photo_tab(checkpoint, why)
        with gr.Tab("Video", id="video"):
            video_tab(checkpoint)
        with gr.Tab("Words", id="words"):
            words_tab(checkpoint, RESULTS)
        with gr.Tab("About", id="about"):
            about_tab(RESULTS)
    for file in ("announce.js", "addresses.js", "no_trimming.js", "plain.js"):
        demo.load(None, js=script(file))

gc.enable()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, leave)
    demo.launch(**LAUNCH, prevent_thread_lock=True)
    load()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    demo.block_thread()
