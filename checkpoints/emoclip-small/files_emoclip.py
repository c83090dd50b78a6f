"""Files as people hand them over: paths, bytes, rows of datasets, open files; what one holds is told by its content.

    with open_file("clip.mov", "video") as data:
        ...
    kind_of("IMG_0001")                                # "image", "audio" or "video"

PyAV, soundfile and pillow-heif are needed only by the inputs that use them.
"""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from PIL import Image

try:
    import av
except ImportError:
    av = None
try:
    import soundfile
except (ImportError, OSError):  # OSError: the package is there, the system's libsndfile is not
    soundfile = None
try:
    import pillow_heif

    pillow_heif.register_heif_opener()
except ImportError:
    pillow_heif = None

IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 12 of the file
# Containers that PyAV may open. Playlists and the like are left out: they name other files, which FFmpeg would open.
CONTAINERS = "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,ogg,flac,wav,w64,aac,aiff,au,caf,amr,asf,avi,mpegts,mpeg,flv"
#: What PyAV raises of damaged files: ValueError where the layout of the channels changes on the way, IndexError where
#: a packet belongs to no stream that the header told of.
DECODE_ERRORS = (ValueError, IndexError) if av is None else (av.FFmpegError, ValueError, IndexError)
SILENCE_PEAK = 10 ** (-70 / 20)  # of full scale: quieter than any microphone's own noise
LFS_POINTER = b"version https://git-lfs"  # what stands in the place of a file that git-lfs has not fetched
MAX_AUDIO_SECONDS, MAX_VIDEO_SECONDS = 600.0, 600.0
MAX_SOUND_TRACKS = 8  # that are looked at, each to its first sound; a film has as many languages
#: Of a JPEG, with one to four components; decoders refuse one of another length.
SCAN_HEADER = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
BLOCK_BYTES = 2**20
TILE_WIDTH, TILE_LENGTH, ROWS_PER_STRIP = 322, 323, 278  # TIFF's tags
SHOWN_NAME = 80  # letters of a path that a sentence repeats

#: For what cannot be told by content, because it is damaged or missing: the suffixes of recordings and of videos.
AUDIO_SUFFIXES = [
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".mp2",
    ".mpga",
    ".m4a",
    ".m4b",
    ".m4r",
    ".aac",
    ".weba",
    ".mka",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
    ".w64",
    ".caf",
    ".amr",
    ".wma",
]
VIDEO_SUFFIXES = [
    ".mp4",
    ".m4v",
    ".mov",
    ".qt",
    ".mkv",
    ".webm",
    ".avi",
    ".3gp",
    ".ts",
    ".mts",
    ".flv",
    ".wmv",
    ".ogv",
    ".mpg",
]
#: What each is called, and what else than a file it may be.
NAMES = {"image": "photo", "audio": "recording", "video": "video"}
FORMS = {
    "photo": ", a PIL image or an array",
    "recording": ', or a dict with "array" and "sampling_rate"',
    "video": "",
}

FileSource = str | os.PathLike | bytes | dict[str, Any] | IO[bytes]


class InputError(ValueError):
    """A photo or recording that cannot be used: in `sentences`, one for each, what is wrong and what to do."""

    def __init__(self, *sentences: str):
        super().__init__(" ".join(sentences))
        self.sentences = list(sentences)


def open_file(source: FileSource, what: str) -> io.BufferedIOBase:
    """A readable, seekable stream over a file, known not to be empty.

    Args:
        source: a path, a file's bytes, a dataset's row {"path", "bytes"}, or an open file, which stays open.
        what: "photo", "recording" or "video", for the sentences.
    Raises:
        InputError: it is none of these, or there is no such file.
    """
    if isinstance(source, dict) and source.keys() & {"bytes", "path"}:
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
        if source is None:
            raise InputError(f"The row of the dataset holds no {what}: it has neither bytes nor a path.")
    if hasattr(source, "read"):
        source = read_all(source, what)
    if isinstance(source, (bytes, bytearray, memoryview)):
        stream, size = io.BytesIO(source), len(source)
    elif isinstance(source, (str, os.PathLike)):
        stream, size = _open_path(Path(source), what)
    else:
        kind = type(source).__name__
        raise InputError(f"A {what} cannot be read from a {kind}: give a path, a file's bytes{FORMS[what]}.")
    if size == 0:
        raise InputError(f"The {what} is an empty file: choose another one, or save it anew.")
    return stream


def _open_path(path: Path, what: str) -> tuple[io.BufferedIOBase, int]:
    name = path.name if len(path.name) <= SHOWN_NAME else path.name[:SHOWN_NAME] + "…"
    try:
        if path.is_dir():
            raise InputError(f"{path.resolve().name} is a folder: give the path of a {what} in it.")
        if path.is_file():
            return path.open("rb"), path.stat().st_size
    except PermissionError:
        raise InputError(f"The file {name!r} may not be read: allow it, or choose another one.") from None
    except OSError:  # the name is longer than the system allows, or the disk is at fault
        pass
    raise InputError(f"There is no file {name!r}: check the {what}'s path.")


def read_all(file: IO[bytes], what: str) -> bytes:
    """All that an open file holds, wherever it stands."""
    try:
        if file.seekable():
            file.seek(0)
        data = file.read()
    except (AttributeError, OSError, ValueError):  # ValueError: it was closed
        raise InputError(f"The {what} cannot be read from the file that was given: open it anew.") from None
    if not isinstance(data, bytes):
        raise InputError(f'The {what} was opened as text: open the file with "rb".')
    return data


def open_image(data: io.BufferedIOBase) -> Image.Image:
    """The picture in a file, not decoded yet.

    Raises:
        InputError: there is none that can be read.
        ImportError: it is a HEIC photo and pillow-heif is not installed.
    """
    head = data.read(12)
    data.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and pillow_heif is None:
        raise ImportError("Reading HEIC photos needs pillow-heif: pip install pillow-heif")
    formats = IMAGE_FORMATS if pillow_heif is None else (*IMAGE_FORMATS, "HEIF")
    Image.init()
    try:
        return Image.open(data, formats=[name for name in formats if name in Image.OPEN])
    except Image.UnidentifiedImageError:
        raise InputError("The photo is not a picture that can be read: choose a JPEG, PNG, WebP or HEIC.") from None


def tile_size(image: Image.Image) -> tuple[int, int]:
    """The width and height, in pixels, of the pieces in which a picture that is not decoded yet will be: of a TIFF,
    its tiles, which may be larger than the picture, or its strips."""
    width, height = image.size
    if image.format != "TIFF":
        return width, height
    tags = image.tag_v2
    if TILE_WIDTH in tags:
        return tags[TILE_WIDTH], tags[TILE_LENGTH]
    return width, min(height, tags.get(ROWS_PER_STRIP, height))


def is_jpeg(image: Image.Image) -> bool:
    """Whether a picture's pixels are coded as a JPEG, alone, in an MPO or in a TIFF."""
    return image.format in ("JPEG", "MPO") or (image.format == "TIFF" and "jpeg" in image.info.get("compression", ""))


def count_scans(data: BinaryIO) -> int:
    """How many scans there are in all JPEGs of a file, thumbnails among them.

    Every scan may go over all of the pixels, and twelve bytes are a scan: half a megabyte can ask for 40,000 looks at
    a picture. Progressive photos have about ten. Only whole headers count: a phone's photo may have a film behind it,
    in which the marker alone stands often.
    """
    position = data.tell()
    data.seek(0)
    count, last = 0, b""
    while block := data.read(BLOCK_BYTES):
        block = last + block
        count += len(SCAN_HEADER.findall(block))
        last = block[-4:]  # less than a header
    data.seek(position)
    return count


def open_container(data: io.BufferedIOBase) -> Any:
    """PyAV's container over a file, from its beginning; it raises DECODE_ERRORS."""
    data.seek(0)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
    return av.open(data, options=options, metadata_errors="replace")


def moving_picture(container: Any) -> Any | None:
    """The first picture stream of PyAV's container that is more than a cover or a thumbnail, or None."""
    still = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & still), None)


def open_sound(data: io.BufferedIOBase) -> tuple[Any, Any | None, str | None]:
    """A container, its sound track, and a sentence that says which where there are several: the first in which
    anything is to be heard. A file without sound has none. It raises DECODE_ERRORS."""
    container = open_container(data)
    count = len(container.streams.audio)
    if count < 2:
        return container, next(iter(container.streams.audio), None), None
    container.close()
    number = next((i for i in range(min(count, MAX_SOUND_TRACKS)) if _is_heard(data, i)), 0)
    container = open_container(data)
    return container, container.streams.audio[number], f"Of {count} sound tracks, number {number + 1} was used."


def _is_heard(data: io.BufferedIOBase, number: int) -> bool:
    """Whether a sound track is more than silence."""
    try:
        with open_container(data) as container:
            stream = container.streams.audio[number]
            return stream.codec_context is not None and any(
                np.ptp(block, axis=1).max() / 2 >= SILENCE_PEAK for block in decode_sound(container, stream)
            )
    except DECODE_ERRORS:
        return False


def decode_sound(container: Any, stream: Any) -> Iterator[np.ndarray]:
    """Blocks (channels, T) float32 of a sound track at its own rate; more than two channels are mixed to two.

    FFmpeg mixes them: a damaged header may claim hundreds, and reading past the eighth plane crashes PyAV.
    """
    layout = "mono" if stream.channels == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=stream.rate)
    for frame in container.decode(stream):
        for block in resampler.resample(frame):
            if block.samples:
                yield block.to_ndarray()


def kind_of(source: FileSource) -> str:
    """What a file holds: "image", "audio" or "video". A video is what has a moving picture.

    Raises:
        InputError: there is no such file.
    """
    path = source.get("path") if isinstance(source, dict) else source
    suffix = Path(path).suffix.lower() if isinstance(path, (str, os.PathLike)) else ""
    kind = "audio" if suffix in AUDIO_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else "image"
    with open_file(source, NAMES[kind]) as data:
        try:
            open_image(data)
            return "image"
        except InputError:
            return _kind_of_sound(data) or kind
        except Exception:  # a picture, though one that cannot be opened; the reader says why
            return "image"


def _kind_of_sound(data: io.BufferedIOBase) -> str | None:
    """ "audio" or "video", or None for what is neither."""
    if av is None:
        if soundfile is None:
            return None
        data.seek(0)
        try:
            soundfile.info(data)
            return "audio"
        except soundfile.SoundFileError:
            return None
    try:
        with open_container(data) as container:
            if moving_picture(container) is not None:
                return "video"
            return "audio" if container.streams.audio else None
    except DECODE_ERRORS:
        return None
