"""Small files of every format, cut off and with flipped bits: each is read, or refused in one sentence, and soon."""

import io
import time

import numpy as np
import pytest
import soundfile
from helpers import (
    ASTRONAUT,
    SHORT_READING,
    encode_audio,
    encode_image,
    one_person,
    record_like_a_browser,
    write_video,
)
from PIL import Image

from files_emoclip import kind_of
from media_emoclip import InputError, load_audio, load_image
from video_emoclip import VideoReader

DAMAGES = 300  # of all formats together
MAX_SECONDS = 10.0
PHOTOS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
SOUNDS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64")
BROWSERS = (("webm", "libopus"), ("mp4", "aac"), ("flv", "aac"), ("mpegts", "aac"))
VIDEOS = ("mp4", "mkv", "avi", "webm")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[tuple[str, bytes]]:
    """Each format's name and a small file of it."""
    photo = Image.open(ASTRONAUT).convert("RGB").resize((96, 96))
    samples, rate = soundfile.read(SHORT_READING, dtype="float32", frames=16_000)
    folder = tmp_path_factory.mktemp("videos")
    picture = np.ascontiguousarray(one_person()[::4, ::4])
    deep = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) << 4)
    return [
        *((format, encode_image(photo, format)) for format in PHOTOS),
        (
            "PNG of 16 bits",
            encode_image(deep, "PNG"),
        ),
        *((format, encode_audio(np.stack([samples, -samples], 1), rate, format)) for format in SOUNDS),
        *((container, record_like_a_browser(samples, rate, container, codec)) for container, codec in BROWSERS),
        *((suffix, write_video(folder / f"clip.{suffix}", picture, seconds=0.5).read_bytes()) for suffix in VIDEOS),
    ]


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Up to 20 bits flipped, most of them among the first thousand bytes, and two times of three its end cut off."""
    values = np.frombuffer(data, np.uint8).copy()
    for reach in (min(len(data), 1_000), len(data)):
        places = random.integers(0, reach, random.integers(0, 11))
        values[places] ^= 1 << random.integers(0, 8, len(places), dtype=np.uint8)
    end = len(data) if random.integers(3) == 0 else random.integers(1, len(data))
    return values[:end].tobytes()


def read_video(data: bytes) -> None:
    with VideoReader(data) as video:
        for _, frame in video:
            if video.size is not None and hasattr(frame, "rotation"):
                video.pixels(frame, 64)


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_are_read_or_refused_in_a_sentence_and_soon(files, part):
    random = np.random.default_rng(part)
    for number in range(part, DAMAGES, 4):
        format, data = files[number // 4 % len(files)]
        data = damaged(data, random)
        for read in (load_image, load_audio, read_video, lambda data: kind_of(io.BytesIO(data))):
            start = time.monotonic()
            try:
                read(data)
            except InputError as error:
                assert len(error.sentences) == 1 and "\n" not in str(error)
            except Exception as error:
                pytest.fail(f"{number}: {format}: {error!r}")
            assert time.monotonic() - start < MAX_SECONDS, f"{number}: {format}"
