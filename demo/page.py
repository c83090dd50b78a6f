"""What belongs to no tab: the theme, the header and the browser's files."""

import hashlib
from pathlib import Path

import gradio as gr
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from demo.emotions import COLOURS, glyph

STATIC = Path(__file__).parent / "static"
PORTRAIT = Path(__file__).parents[1] / "examples" / "talking-portrait.mp4"  # the example in Live's picture
FILES = {file.name: file for file in (*sorted(STATIC.iterdir()), PORTRAIT) if file.is_file()}
VERSION = hashlib.sha256(b"".join(file.read_bytes() for file in FILES.values())).hexdigest()[:12]

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
THEME = gr.themes.Base(  # the visitor's own fonts: nothing is fetched from elsewhere
    primary_hue="indigo", neutral_hue="zinc", radius_size="lg", font=FONT, font_mono=["ui-monospace", "monospace"]
).set(
    body_background_fill="#f7f7fb",
    body_background_fill_dark="#101017",
    block_background_fill="#ffffff",
    block_background_fill_dark="#191922",
    body_text_color_subdued="#5d5d6b",
    body_text_color_subdued_dark="#a7a7b8",
    block_border_width="1px",
    button_primary_background_fill="#4338ca",
    button_primary_background_fill_hover="#3730a3",
    button_primary_background_fill_dark="#5b54e0",
    button_primary_background_fill_hover_dark="#4f48d8",
    button_large_text_size="1.1rem",
)

HEADER = f"""
<header class="hero">
  <div class="parade" aria-hidden="true">{"".join(glyph(label) for label in COLOURS)}</div>
  <h1>EmoCLIP</h1>
  <p>See which emotion your face and your voice show, live</p>
  <label id="details"><input type="checkbox" role="switch"> Details</label>
</header>"""


def script(name: str) -> str:
    """One of the browser's files."""
    return (STATIC / name).read_text()


def asset(name: str) -> str:
    """The address of one of the browser's files, from the page's base. It changes with the files: a browser may keep
    them, and never mixes two versions."""
    return f"look/{VERSION}/{FILES[name].name}"


async def _serve(request: Request) -> Response:
    file = FILES.get(request.path_params["name"])
    if file is None:
        return PlainTextResponse("There is no such file.", 404)
    return FileResponse(file, headers={"Cache-Control": "public, max-age=31536000, immutable"})


def module(name: str) -> str:
    """JavaScript that begins with one of the browser's modules, and the element around what it brings to life."""
    return f'import(new URL("{asset(name)}", document.baseURI)).then((module) => module.start(element))'


ASSETS = Route("/look/{version}/{name}", _serve)


def scroll_to(element: str) -> str:
    """JavaScript that shows an answer where it lies below what it answers, as on a phone."""
    return f"() => innerWidth < 768 && document.getElementById('{element}').scrollIntoView({{behavior: 'smooth'}})"
