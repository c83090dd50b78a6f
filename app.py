"""The demo: webcam and microphone, a photo, a recording, a video, words, and what the person looks and sounds like.

    python app.py
    EMOCLIP_MODEL=<folder or Hub id> python app.py

Every tab has an endpoint that answers programs with the same as JSON, and assistants over MCP (/gradio_api/mcp/):

    from gradio_client import Client, handle_file
    Client("http://127.0.0.1:7860").predict(handle_file("photo.jpg"), handle_file("voice.wav"), api_name="/analyze")

Each tab is a module in demo/, with its layout, its handlers, its endpoint and its HTML.
"""

import atexit
import gc
import os
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

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

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import hub
from demo import limits
from demo.about import about_tab, read_figures
from demo.guard import Demo, Guard, lifespan
from demo.head import TITLE, use_own_head
from demo.live import Live, live_tab
from demo.page import ASSETS, HEADER, STATIC, THEME, script
from demo.photo import photo_tab
from demo.preview import Preview
from demo.uploads import PHOTOS, RECORDINGS
from demo.video import video_tab
from demo.why import why_view
from demo.words import words_tab
from demo.zero_gpu import lend
from pipeline_emoclip import EmotionRecognitionPipeline

MODEL = os.environ.get("EMOCLIP_MODEL") or str(Path(__file__).parent / "checkpoints" / "emoclip-small")
LOCAL = ("localhost", "127.0.0.1")
SERVER_NAME = os.environ.get("GRADIO_SERVER_NAME") or LOCAL[1]
# A demo on this machine alone is asked for by its name: else any website could have itself taken for it, by a name of
# its own that leads to this machine. EMOCLIP_HOSTS has the names under which a proxy before it is known.
HOSTS = [*LOCAL, *filter(None, os.environ.get("EMOCLIP_HOSTS", "").split(","))] if SERVER_NAME in LOCAL else ["*"]


def load(model: str) -> tuple[EmotionRecognitionPipeline, dict[str, Any]]:
    """The pipeline of a checkpoint, a local folder or a Hub id, and its own figures, empty where it has none.

    On ZeroGPU it stays on the CPU, see demo/zero_gpu.py.
    """
    model = os.path.expanduser(model)
    print(f"Loading {model}", flush=True)
    try:
        pipe = hub.load_pipeline(model, device="cpu" if os.environ.get("SPACES_ZERO_GPU") else None)
    except hub.HubError as error:
        raise SystemExit(f"EMOCLIP_MODEL: {error}") from None
    return pipe, read_figures(Path(pipe.model.name_or_path) / "results.json")  # of the folder that it was loaded from


def warm_up(pipe: EmotionRecognitionPipeline) -> None:
    """Has whatever is loaded or built on first use be so, while the page is shown already."""
    pipe(image=PHOTOS["astronaut"], audio=RECORDINGS["reading-short"])
    pipe.compare_words(["relieved"], image=PHOTOS["astronaut"])


atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
use_own_head()

pipe, RESULTS = load(MODEL)
live = Live(pipe.recognizer)
why = partial(why_view, pipe.recognizer)
if spaces is not None:
    why = lend(spaces.GPU, why, pipe.model)
threading.Thread(target=warm_up, args=[pipe]).start()

LAUNCH = {
    "theme": THEME,
    "css_paths": STATIC / "demo.css",
    "max_file_size": limits.MAX_UPLOAD,
    "ssr_mode": False,
    "mcp_server": True,
    "app_kwargs": {
        "routes": [live.route, Preview(pipe.recognizer).route, ASSETS],
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
            photo_tab(pipe.recognizer, why)
        with gr.Tab("Video", id="video"):
            video_tab(pipe.recognizer)
        with gr.Tab("Words", id="words"):
            words_tab(pipe, RESULTS)
        with gr.Tab("About", id="about"):
            about_tab(pipe.model.config, RESULTS)
    for file in ("announce.js", "addresses.js", "no_trimming.js", "plain.js"):
        demo.load(None, js=script(file))

gc.enable()
gc.freeze()  # what was made until now is not looked at again

if __name__ == "__main__":
    demo.launch(**LAUNCH)
