"""What visitors put in: the boxes for a photo and a recording, examples in their place, and which files count as
uploads."""

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
from gradio.events import Dependency
from gradio.utils import get_upload_folder
from PIL import Image

from demo.limits import MAX_DATA_URL
from demo.work import decode_apart
from files_emoclip import MAX_AUDIO_SECONDS, InputError

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTOS = {name: str(EXAMPLES / f"{name}.jpg") for name in ("astronaut", "grace-hopper", "two-people")}
RECORDINGS = {name: str(EXAMPLES / f"{name}.flac") for name in ("reading", "reading-short")}


def uploaded(file: dict | str | None) -> str | bytes | None:
    """What a client or assistant sent: the path of an upload, or the bytes of a data: URL.

    Clients send paths, and may send any: only those in the upload folder are theirs. Assistants send the address of an
    upload, or the file itself as a data: URL; no other address is opened, as it may be one that only the server sees.

    Raises:
        InputError: it is none of these.
    """
    if file is None:
        return None
    if isinstance(file, str) and file.startswith("data:"):
        if len(file) > MAX_DATA_URL:
            raise InputError(f"The file is too large for a data: URL: send at most {MAX_DATA_URL // 1024**2} MB.")
        try:
            return base64.b64decode(file.partition(",")[2], validate=True)
        except ValueError:
            raise InputError("The data: URL is not base64: encode the file anew.") from None
    path = file.get("path") if isinstance(file, dict) else file
    if isinstance(path, str) and (upload := find_upload(unquote(path.partition("/file=")[2]) or path)):
        return upload
    raise InputError(
        "The file was not uploaded: send it with gradio_client's handle_file, with the tool upload_file_to_gradio, or "
        "as a base64 data: URL."
    )


def find_upload(path: str) -> str | None:
    """The resolved path of a file in the upload folder; None of any other, and of what is no path."""
    try:
        resolved = Path(path).resolve()
        inside = resolved.is_relative_to(Path(get_upload_folder()).resolve()) and not resolved.is_dir()
    except (OSError, ValueError):  # too long, or with characters that no path has
        return None
    return str(resolved) if inside else None


def read_photo(source: str | bytes | None) -> tuple[Image.Image | None, list[str], list[str]]:
    """A photo, read once for all that is done with it; what should be known of it; and why it cannot be read."""
    if source is None:
        return None, [], []
    from media_emoclip import load_image

    try:
        return *load_image(decode_apart(source)), []
    except InputError as error:
        return None, [], error.sentences


def photo_and_recording(prefix: str = "") -> tuple[gr.Image, gr.Audio]:
    """The boxes that a photo and a recording are put into; the prefix tells one tab's ids from another's."""
    photo = gr.Image(
        label="Photo of a face",
        sources=["upload", "webcam"],
        type="filepath",
        height=270,
        buttons=[],
        elem_id=f"{prefix}photo",
    )
    # gr.Image opens the file, and raises where it is broken. The recognizer alone opens files: it says why.
    photo.preprocess = lambda payload: None if payload is None else payload.path
    recording = gr.Audio(
        label=f"Recording of a voice, up to {MAX_AUDIO_SECONDS / 60:.0f} minutes",
        sources=["upload", "microphone"],
        type="filepath",
        buttons=[],
        elem_id=f"{prefix}recording",
    )
    return photo, recording


def one_click(examples: dict[str, list], inputs: list[gr.Component], elem_id: str | None = None) -> Dependency:
    """Examples by name, each of which is put in by one click. The caller answers it with `then`: Gradio itself would
    run the answer outside the queue in which the visitors' own wait."""
    shown = gr.Examples(
        examples=list(examples.values()),
        example_labels=list(examples),
        inputs=inputs,
        cache_examples=False,
        elem_id=elem_id,
        label="Examples, answered in one click",
        api_visibility="private",
    )
    for component in inputs:  # Gradio counts its copies of recordings among the visitors' files, which are deleted
        component.keep_in_cache |= component.temp_files
    return shown.load_input_event


def taken_back(
    source: gr.Image | gr.Audio | gr.Video,
    empty: Callable[[], object],
    shown: list[gr.Component],
    runs: list[Dependency],
) -> None:
    """What is removed takes its answer along: `shown` is as `empty` gives it, and what still runs is given up."""
    source.clear(None, None, None, cancels=runs, api_visibility="private").then(
        empty, None, shown, api_visibility="private", queue=False
    )
