"""The page around the tabs: its <head>, its own files, its addresses behind a proxy; and what ZeroGPU asks for."""

import os
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser

import httpx
import pytest
import torch
from helpers import ASTRONAUT, ROOT
from PIL import Image

import demo.photo
from demo.head import DESCRIPTION, TITLE
from demo.page import FILES, asset
from demo.why import why_view
from demo.zero_gpu import lend


class Head(HTMLParser):
    """The tags of a page's <head>, by the name that they have."""

    def __init__(self, page: str):
        super().__init__()
        self.meta, self.base, self.title = [], [], ""
        self._in_title = False
        self.feed(page[: page.index("</head>")])

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str]]):
        attributes = dict(attributes)
        if tag == "meta":
            self.meta.append((attributes.get("property") or attributes.get("name"), attributes.get("content")))
        if tag == "base":
            self.base.append(attributes["href"])
        self._in_title = tag == "title"

    def handle_data(self, data: str):
        self.title += data if self._in_title else ""

    def handle_endtag(self, tag: str):
        self._in_title = False


def test_who_shares_the_link_shows_the_demo_and_not_gradio(server):
    head = Head(httpx.get(server).text)
    assert head.title == TITLE
    for name, content in (("og:title", TITLE), ("og:description", DESCRIPTION), ("description", DESCRIPTION)):
        assert [value for key, value in head.meta if key == name] == [content]
    [picture] = [value for key, value in head.meta if key == "og:image"]
    answer = httpx.get(picture)  # an absolute address, as those who fetch it need
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(FILES["preview.jpg"]).size == (1200, 630)
    assert not [value for key, value in head.meta if "gradio" in (value or "").lower()]


@pytest.mark.parametrize(("path", "base"), [("", "/"), ("/emoclip", "/emoclip/"), ("https://a.example/b/c", "/b/c/")])
def test_the_base_is_the_demos_own_folder(server, app, monkeypatch, path, base):
    """Whether the address has a slash at its end, nobody behind a proxy can know."""
    monkeypatch.setattr(app.demo.app, "root_path", path)
    page = httpx.get(server).text
    assert Head(page).base == [base]
    [script] = re.findall(r'<script type="module" crossorigin src="\./([^"]+)"', page)
    assert httpx.get(server + script).status_code == 200


def test_the_browsers_files_may_be_kept_and_no_others_are_served(server):
    answer = httpx.get(server + asset("demo.css"))
    assert answer.text == FILES["demo.css"].read_text() and "immutable" in answer.headers["cache-control"]
    for name in ("app.py", "..%2Fpage.py", "%2Fetc%2Fhostname"):
        assert httpx.get(f"{server}look/0/{name}").status_code == 404


# --- ZeroGPU


class Spaces:
    """What the package `spaces` does on ZeroGPU: it marks functions, and lends a GPU for a call, or refuses."""

    def __init__(self, refuses: bool = False):
        self.marked, self.lent, self.refuses = [], 0, refuses

    def GPU(self, task=None, *, duration=60):
        if task is None:
            return partial(self.GPU, duration=duration)

        def lent(*arguments):
            self.lent += 1
            if self.refuses:
                raise RuntimeError("You have exceeded your GPU quota.")
            return task(*arguments)

        self.marked.append((task, duration))
        return lent


@pytest.mark.parametrize("refuses", [False, True])
def test_why_is_asked_of_a_gpu_that_is_lent_and_answered_where_none_is(app, refuses):
    recognizer, spaces = app.pipe.recognizer, Spaces(refuses)
    answered = demo.photo.answer(recognizer, str(ASTRONAUT), None)[3]
    why = lend(spaces.GPU, partial(why_view, recognizer), app.checkpoint)
    [(_, seconds)] = spaces.marked
    assert 0 < seconds <= 60
    assert why(answered) == why_view(recognizer, answered)
    assert spaces.lent == 1
    assert app.pipe.model.device == torch.device("cpu")


def test_a_space_on_zero_gpu_starts_with_a_marked_function_that_its_page_uses(tmp_path, checkpoint):
    """In a process of its own, with a stand-in for the package, which is nowhere but on a Space."""
    (tmp_path / "spaces.py").write_text(
        "import sys\n"
        "assert 'torch' not in sys.modules\n"
        "marked = []\n"
        "def GPU(task=None, *, duration=60):\n"
        "    if task is None:\n"
        "        return lambda task: GPU(task, duration=duration)\n"
        "    marked.append(task)\n"
        "    return task\n"
    )
    look = (
        "import app, spaces\n"
        "assert len(spaces.marked) == 1\n"
        "asked = [each for each in app.demo.fns.values() if spaces.marked[0] in "
        "[cell.cell_contents for cell in getattr(each.fn, '__closure__', None) or ()]]\n"
        "print(len(asked), app.load().model.device)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "SPACES_ZERO_GPU": "true"}
    environment["EMOCLIP_MODEL"] = str(checkpoint)
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 cpu"
