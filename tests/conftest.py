"""Fixtures that every test file shares."""

import os
from pathlib import Path

import pytest

# Both are read when packages are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models as small as the tests' lose by sharing a step among threads, and pytest's workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import soundfile
import torch
from helpers import ASTRONAUT, CHROMIUM, DESKTOP, READING, ROOT, SWITCHES, open_tab, playing
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast
from transformers.pipelines import PIPELINE_REGISTRY

from configuration_emoclip import EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import TASK
from processing_emoclip import EmoCLIPFeatureExtractor, EmoCLIPImageProcessor, EmoCLIPProcessor

#: The files that take longest. The workers begin with them, so that none is left with one of them at the end.
SLOWEST = (
    "test_hub",
    "test_app_browser",
    "test_app_live_browser",
    "test_train",
    "test_app_video_browser",
    "test_pipeline",
    "test_export",
    "test_web",
)


def pytest_collection_modifyitems(items: list[pytest.Item]):
    rank = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def remote_code_of_its_own(tmp_path_factory):
    """Where transformers copies a checkpoint's code: two workers that write the same files would trip over each other,
    and what an older run left there would be taken for the checkpoint's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(autouse=True)
def pipeline_of_this_tree():
    """A checkpoint's own code registers its pipeline in the place of this tree's: for the rest of the test alone."""
    tasks = PIPELINE_REGISTRY.supported_tasks
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks, TASK, tasks[TASK])
        yield


@pytest.fixture(scope="session")
def app(checkpoint, tmp_path_factory):
    """The demo's module, on the checkpoint, with uploads in a folder of its own: whoever runs another demo on this
    machine deletes what it takes for its own visitors' files."""
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("uploads"))
    os.environ["EMOCLIP_MODEL"] = str(checkpoint)
    import app

    app.pipe = app.load()
    return app


@pytest.fixture(scope="session")
def server(app):
    """The address of the running demo."""
    _, url, _ = app.demo.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True)
    yield url
    app.demo.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The folder of a saved model and processor: the embedded one, or an untrained one where that is not there."""
    embedded = ROOT / "checkpoints" / "emoclip-small"
    if (embedded / "model.safetensors").is_file():
        return embedded
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    EmoCLIPForEmotionClassification(EmoCLIPConfig()).save_pretrained(folder)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["a happy face", "a sad voice"], vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=32
    )
    EmoCLIPProcessor(EmoCLIPImageProcessor(), EmoCLIPFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chromium():
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        yield lambda *switches: playwright.chromium.launch(executable_path=CHROMIUM, args=[*SWITCHES, *switches])


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory):
    """With a face before the webcam, and a reader before the microphone."""
    samples, rate = soundfile.read(READING, dtype="float32")
    browser = chromium(*playing(tmp_path_factory.mktemp("devices"), Image.open(ASTRONAUT), samples, rate))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    from firefox import Firefox

    with Firefox(tmp_path_factory.mktemp("firefox")) as firefox:
        yield firefox


@pytest.fixture
def open_page(browser, server):
    """Opens one of the demo's tabs: open_page(tab, viewport=..., color_scheme=..., browser=...) -> page."""
    contexts = []

    def open_page(tab: str = "Photo and voice", browser=browser, address: str = server, **options):
        options = {"viewport": DESKTOP, "permissions": ["camera", "microphone"], **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.goto(address)
        open_tab(page, tab)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def screenshots(tmp_path) -> Path:
    folder = Path(os.environ.get("EMOCLIP_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
