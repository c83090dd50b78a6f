"""A video drawn anew, with a box around each face and what is seen and heard beside it.

    finish(annotate_video("clip.mp4", result, "annotated.mp4", colours={"happy": "#E69F00", ...}))

`result` is what `pipe(video="clip.mp4")` gives, `finish` is of video_emoclip.py. The demo shows it; it is not part of
what travels with the weights.
"""

import functools
import os
from collections.abc import Generator
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.emotions import ink
from demo.verdict import tag
from threads_emoclip import Helper
from video_emoclip import SAMPLES_PER_SECOND, Resampler, VideoReader, VideoResult, VideoSource, fit

SHOWN_SIDE = 720  # pixels of the longer side
SHOWN_RATE = 15  # frames a second, at most
SOUND_RATE = 48_000  # samples a second


def annotate_video(
    source: VideoSource, result: VideoResult, path: str | os.PathLike, colours: dict[str, str]
) -> Generator[float, None, None]:
    """Write the video anew with a box around each face and what is seen and heard beside it: H.264 and AAC in MP4,
    which every browser plays, at most 720 pixels and 15 frames a second. The generator gives the fraction done; to
    stop in the middle, close it.

    Args:
        source: what `result` is of.
        path: the file to write.
        colours: "#RRGGBB" of every label.
    Raises:
        ValueError: the result is of sound alone.
    """
    if result.width is None:
        raise ValueError("There is no picture to annotate.")
    with (
        VideoReader(source) as video,
        av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out,
        Helper() as write,  # encodes while the next picture is decoded and drawn
    ):
        picture = out.add_stream("h264", rate=SHOWN_RATE, options={"preset": "superfast", "crf": "25"})
        picture.width, picture.height = fit(result.width, result.height, SHOWN_SIDE)
        picture.pix_fmt = "yuv420p"
        picture.codec_context.time_base = Fraction(1, 1000)
        layout = "mono" if video.sound_channels == 1 else "stereo"
        sound = out.add_stream("aac", rate=SOUND_RATE, layout=layout) if video.sound_channels else None
        resample = Resampler(format="fltp", layout=layout, rate=SOUND_RATE)

        def encode(stream: av.stream.Stream, frame: av.VideoFrame | av.AudioFrame | None = None) -> None:
            out.mux(stream.encode(frame))

        next_time, last_pts, sound_end = 0.0, -1, 0  # seconds, milliseconds, samples
        for time, frame in video:
            if isinstance(frame, av.AudioFrame):
                if time * SOUND_RATE - sound_end > SOUND_RATE / 10:  # sound that starts late, or a gap in it
                    sound_end = round(time * SOUND_RATE)
                for block in resample(frame):
                    block.pts, block.time_base = sound_end, Fraction(1, SOUND_RATE)
                    sound_end += block.samples
                    write(encode, sound, block)
            elif time >= next_time:
                pixels = video.pixels(frame, SHOWN_SIDE)
                if pixels.shape[:2] != (picture.height, picture.width):
                    continue  # the size of the picture changed in the middle of the video
                _draw(pixels, result, time, colours)
                last_pts = max(last_pts + 1, round(time * 1000))
                drawn = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                drawn.pts, drawn.time_base = last_pts, Fraction(1, 1000)
                write(encode, picture, drawn)
                next_time = max(next_time + 1 / SHOWN_RATE, time)
            yield video.fraction
        for stream in (picture, sound):
            if stream is not None:
                write(encode, stream)


def _draw(pixels: np.ndarray, result: VideoResult, time: float, colours: dict[str, str]) -> None:
    """Draw boxes and tags into a picture (H, W, 3) uint8."""
    height, width = pixels.shape[:2]
    scale = width / result.width
    size = max(11, round(max(width, height) / 42))  # of the letters, in pixels
    for person in reversed(result.people):  # the main person on top
        face = person.at(time)
        if face is None:
            continue
        left, top, right, bottom = (
            round(value * scale)
            for value in (face.box[0], face.box[1], face.box[0] + face.box[2], face.box[1] + face.box[3])
        )
        thickness = 4 if person.id == 1 else 2
        for inset, edge, colour in ((0, thickness + 2, (0, 0, 0)), (1, thickness, _rgb(colours[face.label]))):
            a, b, c, d = left + inset, top + inset, right - inset, bottom - inset
            for rows, columns in (
                (slice(b, b + edge), slice(a, c)),
                (slice(max(0, d - edge), d), slice(a, c)),
                (slice(b, d), slice(a, a + edge)),
                (slice(b, d), slice(max(0, c - edge), c)),
            ):
                pixels[rows, columns] = colour
        patch = _patch(tag(face), colours[face.label], size)
        above = top - patch.shape[0] - 2
        _paste(pixels, patch, left, above if above >= 0 else min(bottom + 2, height - patch.shape[0] - 2))
    if not result.timeline:
        return
    point = result.timeline[min(round(time * SAMPLES_PER_SECOND), len(result.timeline) - 1)]
    y = height - size // 2
    sources = (("together", point.fused if point.agreement is not None else None), ("voice", point.voice))
    for name, emotion in sources:
        if emotion is not None:
            patch = _patch(f"{name}: {tag(emotion)}", colours[emotion.label], size)
            y -= patch.shape[0] + 3
            _paste(pixels, patch, size // 2, y)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


@functools.lru_cache(maxsize=512)
def _patch(text: str, colour: str, size: int) -> np.ndarray:
    """(h, w, 4) uint8: words on a rounded patch of the colour. Drawn at twice its size, for smooth edges."""
    font = ImageFont.load_default(2 * size)
    left, top, right, bottom = font.getbbox(text)
    above, below = font.getmetrics()
    width, height = round(right - left + 1.5 * size), round(above + below + 0.4 * size)
    patch = Image.new("RGBA", (width, height), (*_rgb(colour), 0))
    draw = ImageDraw.Draw(patch)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), radius=0.7 * size, fill=(*_rgb(colour), 255))
    draw.text((0.75 * size - left, 0.2 * size), text, font=font, fill=_rgb(ink(colour)))
    return np.asarray(patch.resize((width // 2, height // 2), Image.Resampling.LANCZOS))


def _paste(pixels: np.ndarray, patch: np.ndarray, x: int, y: int) -> None:
    """Lay a patch on a picture (H, W, 3) uint8; moved where it would reach beyond it, and cut where it is larger."""
    height, width = pixels.shape[:2]
    x, y = max(0, min(x, width - patch.shape[1])), max(0, min(y, height - patch.shape[0]))
    patch = patch[: height - y, : width - x]
    under = pixels[y : y + patch.shape[0], x : x + patch.shape[1]]
    alpha = patch[..., 3:] / 255.0
    under[:] = (patch[..., :3] * alpha + under * (1 - alpha)).astype(np.uint8)
