"""How much work a photo or a video is, told before it is decoded; and work that is given up after its time.

Every scan of a JPEG may go over all of its pixels, and twelve bytes are a scan: half a megabyte can ask for 40,000
looks at a picture. Progressive photos have about ten. Of a video, what counts is every frame that is coded.
"""

import io
import time
from collections.abc import Generator
from typing import BinaryIO, TypeVar

from PIL import Image

from demo import limits
from files_emoclip import DECODE_ERRORS, moving_picture, open_container, open_file
from media_emoclip import InputError

START_OF_SCAN = b"\xff\xda"  # in the data of a scan, no 255 stands before a number other than 0
BLOCK_BYTES = 2**20
TILE_WIDTH, TILE_LENGTH, ROWS_PER_STRIP = 322, 323, 278  # TIFF's tags
LEAST_FRAME_PIXELS = 640 * 360  # what a frame costs beside its decoding, as pixels

T = TypeVar("T")


def check_photo(source: str | bytes) -> None:
    """Refuses a photo of which the pixels would have to be gone over too often: a JPEG, or one in an MPO or a TIFF.

    Other pictures are gone over once, and what cannot be read at all is left to `load_image`.

    Raises:
        InputError: it is more than MAX_SCANNED_PIXELS.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as data:
            image = Image.open(data, formats=["JPEG", "TIFF"])
            work = _scanned_pixels(image) * count_scans(data)
    except Exception:  # what Pillow raises of damaged files has no common class
        return
    if work > limits.MAX_SCANNED_PIXELS:
        raise InputError(
            "The photo would take too long to read, for its pixels are coded in too many steps: save it anew, as a "
            "JPEG that is not progressive."
        )


def count_scans(data: BinaryIO) -> int:
    """How many scans there are in all JPEGs of a file, thumbnails among them."""
    data.seek(0)
    count, last = 0, b""
    while block := data.read(BLOCK_BYTES):
        count += (last + block).count(START_OF_SCAN)
        last = block[-1:]
    return count


def _scanned_pixels(image: Image.Image) -> int:
    """Of one scan."""
    width, height = image.size
    if image.format != "TIFF":  # but JPEG or MPO
        return width * height
    if "jpeg" not in image.info.get("compression", ""):
        return 0
    tags = image.tag_v2
    if TILE_WIDTH in tags:
        return tags[TILE_WIDTH] * tags[TILE_LENGTH]
    return width * min(height, tags.get(ROWS_PER_STRIP, height))


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
                if picture is None:
                    return
                most = limits.MAX_VIDEO_WORK_PIXELS // max(picture.width * picture.height, LEAST_FRAME_PIXELS)
                for packet in container.demux(picture):
                    frames += packet.size > 0
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
