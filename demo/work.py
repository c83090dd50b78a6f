"""How much work a video is, told before it is decoded; and work that is given up after its time."""

import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import av
from PIL import Image

from demo import limits
from files_emoclip import DECODE_ERRORS, InputError, moving_picture, open_container, open_file, open_image

DECODE = [sys.executable, str(Path(__file__).with_name("decode.py"))]
#: Of codecs in which a packet may hold many frames that are never shown: what takes it apart.
SPLITTERS = {"av1": "av1_frame_split", "vp9": "vp9_superframe_split"}
LEAST_FRAME_PIXELS = 640 * 360  # what a frame costs beside its decoding, as pixels

T = TypeVar("T")


def decode_apart(source: str | bytes) -> str | bytes | Image.Image:
    """The source of a photo; of an AVIF or a HEIC, the picture itself, upright.

    These are films of one picture. How long their decoding takes cannot be told from their size, for pictures that are
    never shown may come before it; and while an AVIF is decoded in this process, all other threads stand still.

    Raises:
        InputError: it is damaged, or takes longer than MAX_DECODE_SECONDS.
    """
    from media_emoclip import DAMAGED_PHOTO, check_size

    with open_file(source, "photo") as data:
        if data.read(8)[4:] != b"ftyp":
            return source
        data.seek(0)
        try:
            check_size(open_image(data))
        except Exception:  # what Pillow raises of damaged files has no common class; `load_image` says why
            return source
        data.seek(0)
        file = data.read()
    try:
        decoded = subprocess.run(
            DECODE, input=file, capture_output=True, timeout=limits.MAX_DECODE_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        raise InputError("The photo took too long to read and was given up: save it as a JPEG.") from None
    except subprocess.CalledProcessError:
        raise InputError(DAMAGED_PHOTO) from None
    head = decoded.stdout.index(b"\n")
    mode, width, height = decoded.stdout[:head].decode().split()
    return Image.frombytes(mode, (int(width), int(height)), memoryview(decoded.stdout)[head + 1 :])


def check_video(source: str | bytes) -> None:
    """Refuses a video of more frames, of its size, than a visitor may have looked at. What is no video is left to
    `analyze_video`.

    Raises:
        InputError: it is more than MAX_VIDEO_WORK_PIXELS, or there is no such file.
    """
    frames, most = 0, 0
    with open_file(source, "video") as data:
        try:
            with open_container(data) as container:
                picture = moving_picture(container)
                if picture is None or picture.codec_context is None:
                    return
                most = limits.MAX_VIDEO_WORK_PIXELS // max(picture.width * picture.height, LEAST_FRAME_PIXELS)
                split = SPLITTERS.get(picture.codec.canonical_name)
                split = av.BitStreamFilterContext(split, picture).filter if split else lambda packet: [packet]
                for packet in container.demux(picture):
                    try:
                        frames += len(split(packet)) if packet.size else 0
                    except DECODE_ERRORS:  # what follows may be whole again
                        frames += 1
                    if frames > most:
                        break
        except DECODE_ERRORS:
            pass  # of a damaged one, what there is before that counts
    if frames > most:
        raise InputError(
            f"The video has more than {most} pictures of that size, which is too much to look at: export it at 30 a "
            "second, in full HD (1080p) or less, or cut it."
        )


def for_at_most(seconds: float, steps: Generator[float, None, T]) -> Generator[float, None, T]:
    """The steps of a video's analysis, given up after so many seconds.

    Raises:
        InputError: it takes longer.
    """
    end = time.monotonic() + seconds
    try:
        while True:
            fraction = next(steps)
            if time.monotonic() > end:
                raise InputError(f"The video took longer than {seconds / 60:.0f} minutes and was given up: cut it.")
            yield fraction
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()
