"""README and docs: a README of a page, links that lead somewhere, figures that are the checkpoint's, and examples and
commands that work.

Every Python example is run, and prints what stands below it. A command may take hours: its program is started and must
accept its arguments, and the test file that `RUN_BY` names runs the program to the end.
"""

import argparse
import ast
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.commands.launch import launch_command_parser
from helpers import ROOT
from loopback_hub import LoopbackHub
from transformers import HfArgumentParser

from training.report import markdown_table

CHECKPOINT = ROOT / "checkpoints" / "emoclip-small"
README, IN_YOUR_CODE, DEMO, AUDIOCLIP = (
    ROOT / name for name in ("README.md", "docs/in-your-code.md", "docs/demo-and-api.md", "docs/audioclip.md")
)
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MAX_README_BYTES = 10_000
FOLDERS_OF_YOURS = {"fer2013/", "cremad_mel/", "voice_samples/", "test/"}  # with data
START_SECONDS = 120  # for the demo, on a busy machine

#: The test file that runs a program to the end. None: it measures, with real data or on an idle machine.
RUN_BY = {
    "app.py": "test_readme.py",
    "train_hf.py": "test_train.py",
    "evaluate_hf.py": "test_evaluate.py",
    "predict_hf.py": "test_predict.py",
    "convert_audioclip.py": "test_audioclip.py",
    "export_onnx.py": "test_export.py",
    "build_web.py": "test_web.py",
    "make_word_vectors.py": "test_words.py",
    "train_words.py": "test_train.py",
    "experiments/recipe_search.py": "test_recipes.py",
    "experiments/baseline.py": None,
    "experiments/calibration.py": None,
    "experiments/explain_deletion.py": None,
    "experiments/word_sentences.py": None,
    "benchmarks/audioclip_speed.py": None,
    "benchmarks/live_speed.py": None,
    "benchmarks/load.py": None,
    "benchmarks/neighbours.py": None,
    "benchmarks/peer_speed.py": None,
    "benchmarks/predict_speed.py": None,
    "benchmarks/runtime_speed.py": None,
    "benchmarks/start_speed.py": None,
    "benchmarks/train_speed.py": None,
    "benchmarks/video_speed.py": None,
    "benchmarks/web_speed.py": None,
}


@dataclass
class Block:
    """A fenced block of a page, and the output that stands below it."""

    text: str
    output: str | None


def blocks(page: Path, language: str) -> list[Block]:
    pattern = rf"^ *```{language}\n(.*?)^ *```$(?:\n\n```text\n(.*?)^```$)?"
    found = re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(text, output or None) for text, output in found]


def commands(page: Path) -> list[str]:
    """The console commands of a page: of its bash blocks, and those that stand within a sentence."""
    text = "\n".join(block.text for block in blocks(page, "bash")).replace("\\\n", " ")
    lines = [" ".join(re.sub(r"\s#.*", "", part).split()) for line in text.splitlines() for part in line.split(" && ")]
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    programs = ("python ", "torchrun ", "pytest ", "hf ", "bash ", "cp ")
    return [line for line in lines if line] + [span for span in spans if span.startswith(programs) and ".py" in span]


# --- Pages


def test_the_readme_is_a_page():
    assert len(README.read_bytes()) <= MAX_README_BYTES


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", page.read_text())
    for link in ("".join(pair) for pair in links):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for name in set(re.findall(r"`([a-z.][\w./-]*(?:\.py|/))`", prose)) - FOLDERS_OF_YOURS:
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_page_can_be_reached_from_the_readme():
    linked = {(ROOT / path).name for path in re.findall(r"\]\((docs/[\w-]+\.md)", README.read_text())}
    assert linked == {page.name for page in PAGES[1:]}


def imported(file: Path) -> set[str]:
    """The first names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_imports_go_the_way_that_the_page_says():
    """Travelling modules in the order of docs/development.md, then hub, then the three folders, then the commands."""
    row = re.search(r"^\| 1\. (.*)\(all", (ROOT / "docs" / "development.md").read_text(), re.MULTILINE)[1]
    travelling = [f"{name}_emoclip" for name in re.findall(r"`(\w+)`", row)]
    assert {file.stem for file in ROOT.glob("*_emoclip.py")} == set(travelling)
    folders = {"training", "demo", "prediction"}
    commands = {file.stem for file in ROOT.glob("*.py")} - {*travelling, "hub"} | {"experiments", "benchmarks"}
    for rank, name in enumerate(travelling):
        upwards = {*travelling[rank:], "hub", *folders, *commands}
        assert not imported(ROOT / f"{name}.py") & upwards, name
    assert not imported(ROOT / "hub.py") & {*folders, *commands}
    for folder in folders:
        for file in (ROOT / folder).glob("*.py"):
            assert not imported(file) & (folders - {folder} | commands), file.name


# --- Figures


def test_the_tables_are_the_checkpoints_figures():
    table = markdown_table(json.loads((CHECKPOINT / "results.json").read_text()))
    assert f"<!-- results -->\n{table}\n<!-- /results -->" in (ROOT / "docs" / "results.md").read_text()


def test_the_readmes_ten_rows_are_the_checkpoints_figures():
    table = markdown_table(json.loads((CHECKPOINT / "results.json").read_text()))
    short = re.search(r"^## Results\n\n(.*?)\n\n", README.read_text(), re.DOTALL | re.MULTILINE)[1].splitlines()
    columns = short[0].count("|")
    whole = ["|".join(line.split("|")[:columns]) + "|" for line in table.split("\n\n")[0].splitlines()]
    assert len(short) == 2 + 10 and set(short) <= set(whole)


# --- Python


def test_every_python_example_is_run_by_a_test_below():
    assert {page for page in PAGES if blocks(page, "python")} == {README, IN_YOUR_CODE, DEMO, AUDIOCLIP}


def test_examples_in_your_own_code_print_what_they_say(tmp_path):
    """In one fresh process, which knows no Hub but one on loopback: the README's example in the project's folder, the
    others in a folder that holds nothing of the project's but the inputs."""
    for name in ("astronaut.jpg", "reading.flac", "talking-portrait.mp4"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    pages = [(ROOT, blocks(README, "python")), (tmp_path, blocks(IN_YOUR_CODE, "python"))]
    code = """if True:
        import contextlib, io, json, os, sys
        printed = []
        for folder, blocks in json.loads(sys.argv[1]):
            os.chdir(folder)
            names = {}
            for block in blocks:
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(compile(block, "page", "exec"), names)
                printed.append(output.getvalue())
        print(json.dumps(printed))
    """
    hub = LoopbackHub()
    hub.add("models", "me/emoclip", {file.name: file.read_bytes() for file in CHECKPOINT.iterdir() if file.is_file()})
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EMOCLIP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([(str(where), [b.text for b in page]) for where, page in pages])],
        cwd=tmp_path,
        env=kept | hub.environment(tmp_path, token=None),
        capture_output=True,
        text=True,
        timeout=300,
    )
    hub.close()
    assert done.returncode == 0, done.stderr[-5_000:]
    expected = [block.output for _, page in pages for block in page]
    assert len(pages[0][1]) == 1 and len(pages[1][1]) >= 4 and all(expected)
    assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """`python app.py`: its address and what it has printed by the time that it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("demo")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EMOCLIP_")}
    own = {"GRADIO_SERVER_PORT": url.rpartition(":")[2], "GRADIO_TEMP_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=kept | own, stdout=log, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + START_SECONDS
    while "Running on" not in (folder / "log").read_text():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.2)
    urllib.request.urlopen(url).close()
    yield url, (folder / "log").read_text()
    process.terminate()
    process.wait()


def test_the_demo_prints_its_address(demo):
    url, printed = demo
    said = re.search(r"```text\n(\* Running on .*?)\n```", README.read_text())[1]
    assert said.replace("http://127.0.0.1:7860", url) in printed


def test_the_client_prints_what_it_says(demo, monkeypatch, capsys):
    (example,) = blocks(DEMO, "python")
    monkeypatch.chdir(ROOT)
    exec(example.text.replace("http://127.0.0.1:7860", demo[0]), {})
    printed = capsys.readouterr().out
    printed = printed[printed.index(example.output.split()[0]) :]  # the client itself tells of its connection first
    number = r"-?\d+\.\d+"
    assert re.sub(number, "", printed) == re.sub(number, "", example.output)
    # with either face detector
    assert list(map(float, re.findall(number, printed))) == pytest.approx(
        list(map(float, re.findall(number, example.output))), abs=0.15
    )


def test_the_examples_on_audioclip_run(tmp_path, monkeypatch, capsys):
    """With a checkpoint of its architecture, but small."""
    from configuration_emoclip import PRESETS, EmoCLIPConfig
    from convert_audioclip import clip_processor
    from modeling_emoclip import EmoCLIPModel

    small = {
        "vision_config": {"width": 4, "layers": (1, 1, 1, 1), "image_size": 64},
        "audio_config": {"n_fft": 64, "win_length": 40, "hop_length": 20, "width": 4, "groups": 2, "layers": [1] * 4},
        "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    }
    preset = PRESETS["audioclip"]
    config = EmoCLIPConfig.from_preset(
        "audioclip", projection_dim=16, **{name: preset[name] | fields for name, fields in small.items()}
    )
    torch.manual_seed(0)
    EmoCLIPModel(config).save_pretrained(tmp_path / "checkpoints" / "audioclip")
    clip_processor(config).save_pretrained(tmp_path / "checkpoints" / "audioclip")
    soundfile.write(tmp_path / "sound.wav", np.random.default_rng(0).normal(0, 0.1, 44_100), 44_100)
    monkeypatch.chdir(tmp_path)
    loaded, zero_shot = blocks(AUDIOCLIP, "python")
    names = {}
    exec(loaded.text, names)
    assert f"# {capsys.readouterr().out.strip()}\n" in loaded.text
    last = zero_shot.text.strip().splitlines()[-2]
    exec(zero_shot.text.replace(last, f"scores = {last}"), names)
    assert sorted(names["scores"]) == ["clapping hands", "dog", "rain"]
    assert list(names["scores"].values()) == sorted(names["scores"].values(), reverse=True)
    assert sum(names["scores"].values()) == pytest.approx(1)


# --- Commands


class Accepted(BaseException):
    """Raised where a program has read its arguments; no program catches it."""


def assert_accepted(words: list[str], monkeypatch):
    """The program accepts its arguments, files of the project among them are there, and a test runs it to the end."""
    program, *arguments = words
    for word in arguments:
        if word.startswith(("experiments/", "checkpoints/emoclip-small", "docs/")):
            assert (ROOT / word).exists(), word
    tested = RUN_BY[program]
    assert tested is None or Path(program).stem in (ROOT / "tests" / tested).read_text()
    if program == "app.py":
        return
    read = argparse.ArgumentParser.parse_known_args

    def accept(parser, *args, **kwargs):
        raise Accepted(*read(parser, *args, **kwargs))

    with monkeypatch.context() as patch, pytest.raises(Accepted) as accepted:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", accept)
        patch.setattr("sys.argv", words)
        patch.syspath_prepend(str((ROOT / program).parent))
        runpy.run_path(str(ROOT / program), run_name="__main__")
    namespace, unknown = accepted.value.args
    if getattr(namespace, "protocol", None) == "cremad-5fold":  # the rest is for the training of each fold
        return assert_accepted(["train_hf.py", *unknown], monkeypatch)
    assert not unknown
    if program == "train_hf.py":
        from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments

        parser = HfArgumentParser((ModelArguments, DataArguments, EmoCLIPTrainingArguments))
        parser.parse_args_into_dataclasses([word for word in arguments if word not in ("--help", "recipe.json")])


@pytest.mark.parametrize("command", dict.fromkeys(command for page in PAGES for command in commands(page)))
def test_commands_work(command, monkeypatch):
    words = [word for word in shlex.split(command) if not word.startswith(("EMOCLIP_", "GRADIO_"))]
    words = ["512" if word == "ROWS" else word for word in words]
    match words:
        case ["python", "train_hf.py", "recipe.json"] | ["python", _, "--help"]:
            assert_accepted(words[1:2], monkeypatch)
        case ["python", *program]:
            assert_accepted(program, monkeypatch)
        case ["torchrun", "--nproc_per_node", "2", *program]:
            assert_accepted(program, monkeypatch)
        case ["accelerate", "launch", *arguments]:
            launched = launch_command_parser().parse_args(arguments)
            assert_accepted([launched.training_script, *launched.training_script_args], monkeypatch)
        case ["pip", "install", "-r", file]:
            assert (ROOT / file).is_file()
        case ["pip", "install", package, *_]:
            assert re.search(rf"^{package}==", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
        case ["pytest"]:
            pass
        case ["pytest", file, "-k", word, "-n", "0"]:
            assert re.search(rf"def test_\w*{word}", (ROOT / file).read_text())
        case ["ruff", *_] | ["bash", ".ci/run"]:
            assert command == "bash .ci/run" or command in (ROOT / ".ci" / "run").read_text()
        case ["cp", pattern, folder]:
            assert {file.name for file in ROOT.glob(pattern)} <= {file.name for file in (ROOT / folder).iterdir()}
        case ["hf", "upload" | "download" | "auth", *_]:
            assert f'"{words[1]}"' in (ROOT / "tests" / "test_hub.py").read_text() or words[1] == "auth"
        case _:
            pytest.fail(f"No test knows what to do with: {command}")
