"""What visitors send: how large it may be, how long it stays, and which files count as theirs."""

from pathlib import Path

from gradio.utils import get_upload_folder

from media_emoclip import InputError

MAX_UPLOAD = "256mb"  # a few minutes of a phone's video
UPLOADS_CHECKED_SECONDS, UPLOADS_KEPT_SECONDS = 60, 300


def uploaded_path(file: dict | None) -> str | None:
    """The path of an upload. Clients send paths, and may send any: only those in the upload folder are theirs."""
    if file is None:
        return None
    path = Path(str(file.get("path"))).resolve() if isinstance(file, dict) else Path()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise InputError("The file was not uploaded: send it with gradio_client's handle_file.")
    return str(path)
