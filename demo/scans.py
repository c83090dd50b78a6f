"""How much work a photo is, told before it is decoded.

Every scan of a JPEG may go over all of its pixels, and twelve bytes are a scan: half a megabyte can ask for 40,000
looks at a picture. Progressive photos have about ten.
"""

import io
from typing import BinaryIO

from PIL import Image

from demo import limits
from media_emoclip import InputError

START_OF_SCAN = b"\xff\xda"  # in the data of a scan, no 255 stands before a number other than 0
BLOCK_BYTES = 2**20
TILE_WIDTH, TILE_LENGTH, ROWS_PER_STRIP = 322, 323, 278  # TIFF's tags


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
