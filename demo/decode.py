"""A photo from stdin, decoded and upright, to stdout: its mode, width and height, a line feed, its pixels.

`decode_apart` (work.py) runs it as a process of its own, and gives it up where it takes too long.

    python demo/decode.py < photo.avif > pixels
"""

import contextlib
import io
import sys

from PIL import Image, ImageOps

with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()

image = Image.open(io.BytesIO(sys.stdin.buffer.read()))
image.load()
with contextlib.suppress(Exception):  # EXIF is damaged often; the picture itself is whole
    image = ImageOps.exif_transpose(image)
sys.stdout.buffer.write(f"{image.mode} {image.width} {image.height}\n".encode())
sys.stdout.buffer.write(image.tobytes())
