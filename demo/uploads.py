"""What visitors send: how large it may be, how long it stays, which files count as theirs, and examples instead."""

import base64
import binascii
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
from gradio.events import Dependency
from gradio.utils import get_upload_folder

from media_emoclip import InputError

MAX_UPLOAD = "256mb"  # a few minutes of a phone's video
MAX_DATA_URL = 32 * 1024**2  # characters
UPLOADS_CHECKED_SECONDS, UPLOADS_KEPT_SECONDS = 60, 300


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
        except binascii.Error:
            raise InputError("The data: URL is not base64: encode the file anew.") from None
    path = str(file.get("path")) if isinstance(file, dict) else file if isinstance(file, str) else ""
    resolved = Path(unquote(path.partition("/file=")[2]) or path).resolve()
    if not resolved.is_relative_to(Path(get_upload_folder()).resolve()):
        raise InputError(
            "The file was not uploaded: send it with gradio_client's handle_file, with the tool "
            "upload_file_to_gradio, or as a base64 data: URL."
        )
    return str(resolved)


def one_click(examples: dict[str, list], inputs: list[gr.Component]) -> Dependency:
    """Examples, named, each of which is put in by one click. What `then` answers it is the caller's: Gradio would run
    it beside the queue in which the visitors' own wait."""
    shown = gr.Examples(
        examples=list(examples.values()),
        example_labels=list(examples),
        inputs=inputs,
        cache_examples=False,
        label="Examples, answered in one click",
        api_visibility="private",
    )
    for component in inputs:  # Gradio counts its copies of recordings among the visitors' files, which are deleted
        component.keep_in_cache |= component.temp_files
    return shown.load_input_event
