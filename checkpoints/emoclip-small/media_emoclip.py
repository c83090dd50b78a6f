"""From files and arrays to faces and speech: photos and recordings read, faces found and cut out, speech found.

OpenCV, PyAV, soundfile, silero-vad and pillow-heif are needed only by the inputs that use them.

Units everywhere: pixels of the upright image (after its EXIF rotation), x to the right and y down; seconds from the
start of the recording; natural logarithms.
"""

import contextlib
import functools
import io
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import get_session, hf_hub_download, hf_hub_url
from PIL import Image, ImageOps

try:
    from .processing_emoclip import InputError, check_rate, resample, to_mono
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from processing_emoclip import InputError, check_rate, resample, to_mono
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
    import pillow_heif

    pillow_heif.register_heif_opener()
except ImportError:
    pillow_heif = None
try:
    num_threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(num_threads)  # importing silero_vad sets it to 1
except ImportError:
    silero_vad = None

# Photos
MAX_IMAGE_PIXELS = 64_000_000  # checked before decoding; 192 MB as RGB, more than a 50-megapixel phone makes
MIN_IMAGE_SIDE = 16  # pixels; below it there is no face to see
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 12 of the file

# Recordings
MAX_AUDIO_SECONDS = 600.0
SILENCE_PEAK = 10 ** (-70 / 20)  # of full scale: quieter than any microphone's own noise
# Containers that PyAV may open. Playlists and the like are left out: they name other files, which FFmpeg would open.
AUDIO_CONTAINERS = "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,ogg,flac,wav,aac,aiff,caf,amr,asf,avi,mpegts,flv"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".webm", ".weba", ".aif", ".aiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi")

# Faces
FACE_SIDE = 48  # pixels: FER-2013's resolution; a model that never saw finer detail is not shown any
DETECTION_SIDE = 640  # pixels of the longer side; in larger pictures YuNet starts to miss faces that fill them
SMALLEST_DETECTION_SIDE = 192  # smaller pictures are scaled up to it
HAAR_MIN_FACE = 40  # pixels at that size
HAAR_MIN_NEIGHBORS = 7  # with 5 it finds 3 % more of FER-2013's faces, and a second face in one portrait of four
YUNET_REPO, YUNET_FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
YUNET_VARIABLE = "EMOCLIP_YUNET"  # the environment variable that may name the file
YUNET_SCORE, YUNET_NMS_IOU = 0.7, 0.3
YUNET_DOWNLOAD_SECONDS = 5.0

Box = tuple[float, float, float, float]  # x, y, width, height
ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray
AudioSource = str | os.PathLike | bytes | dict[str, Any]
#: What else than a file each may be, in words.
FORMS = {
    "photo": ", a PIL image or an array",
    "recording": ', or a dict with "array" and "sampling_rate"',
    "video": "",
}


# --------------------------------------------------------------------------------------------------------------------
# Reading photos


def load_image(source: ImageSource) -> tuple[Image.Image, list[str]]:
    """Read a photo, upright and in RGB.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4): uint8, uint16,
            or floats from 0 to 1.
    Returns:
        The image, and sentences about it that the user should see (an animation of which one frame is used).
    Raises:
        InputError: it is not a picture, is damaged, too large or too small.
        ImportError: it is a HEIC photo and pillow-heif is not installed.
    """
    notes = []
    try:
        with contextlib.ExitStack() as files:
            if isinstance(source, np.ndarray):
                image = _image_from_array(source)
            elif isinstance(source, Image.Image):
                image = source
            else:
                image = _open_image(files.enter_context(open_file(source, "photo")))
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise _too_large(f"{width} x {height} pixels")
            if min(width, height) < MIN_IMAGE_SIDE:
                raise InputError(
                    f"The photo is only {width} x {height} pixels: choose one of at least "
                    f"{MIN_IMAGE_SIDE} x {MIN_IMAGE_SIDE}."
                )
            # An MPO is a phone's JPEG with a second picture behind it: several frames, and no animation.
            if image.format in ("GIF", "PNG", "WEBP", "AVIF") and getattr(image, "is_animated", False):
                notes.append("The picture is animated: only its first frame was used.")
            return _to_rgb(_upright(image)), notes
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("too many pixels") from None
    except (InputError, ImportError):
        raise
    except Exception:  # what the decoders raise on damaged data has no common class
        raise InputError("The photo is damaged and cannot be read: choose another one, or save it anew.") from None


def _too_large(what: str) -> InputError:
    return InputError(
        f"The photo is too large ({what}): scale it down to at most {MAX_IMAGE_PIXELS // 10**6} megapixels."
    )


def _open_image(data: io.BufferedIOBase) -> Image.Image:
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


def open_file(source: str | os.PathLike | bytes, what: str) -> io.BufferedIOBase:
    """A readable, seekable stream over a file or its bytes, known not to be empty."""
    if isinstance(source, bytes):
        stream, size = io.BytesIO(source), len(source)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            raise InputError(f"{path.resolve().name} is a folder: give the path of a {what} in it.")
        if not path.is_file():
            raise InputError(f"There is no file {path.name!r}: check the {what}'s path.")
        stream, size = path.open("rb"), path.stat().st_size
    else:
        kind = type(source).__name__
        raise InputError(f"A {what} cannot be read from a {kind}: give a path, a file's bytes{FORMS[what]}.")
    if size == 0:
        raise InputError(f"The {what} is an empty file: choose another one, or save it anew.")
    return stream


def _image_from_array(array: np.ndarray) -> Image.Image:
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
        array = array >> 8
    elif array.dtype != np.uint8:
        raise InputError(f"An image array must be uint8, uint16 or floats from 0 to 1, and this one is {array.dtype}.")
    return Image.fromarray(array.astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is written by anything and damaged often; the picture itself is whole
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits scaled to 8, transparency laid on white, CMYK and palettes converted."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        low, high = np.nanmin(values), np.nanmax(values)
        scaled = np.nan_to_num((values - low) / max(high - low, 1e-9)) * 255
        image = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


# --------------------------------------------------------------------------------------------------------------------
# Reading recordings


def load_audio(source: AudioSource, sampling_rate: int = 16_000) -> tuple[np.ndarray, list[str]]:
    """Read a recording as mono at one sampling rate.

    Args:
        source: a path, the bytes of a file, or a dict with "array" (or "raw") and "sampling_rate": (T,), or two
            dimensions of which the shorter is the channels, signed integers or floats from -1 to 1. Of a video, its
            first sound track.
        sampling_rate: of the answer, in Hz.
    Returns:
        (T,) float32 samples, and sentences about the recording that the user should see.
    Raises:
        InputError: it is no recording, is damaged, empty, too long, or holds values that are not numbers.
        ImportError: the package that reads this format is not installed.
    """
    notes = []
    if isinstance(source, dict):
        samples, rate = _samples_from_dict(source)
    else:
        with open_file(source, "recording") as data:
            samples, rate, whole, is_video = _read_recording(data)
        if is_video:
            notes.append("The recording is a video, of which only the sound was used: give it as a video to be seen.")
        if not whole:
            notes.append(f"The recording is damaged: only its first {len(samples) / rate:.1f} s could be read.")
    if len(samples) == 0:
        raise InputError("The recording is 0 s long: record again, or choose another file.")
    if not np.isfinite(samples).all():
        raise InputError("The recording holds values that are not numbers (NaN or infinity): export it anew.")
    return resample(torch.from_numpy(samples), rate, sampling_rate).numpy(), notes


def _samples_from_dict(source: dict[str, Any]) -> tuple[np.ndarray, int]:
    samples = source.get("array", source.get("raw"))
    if samples is None or source.get("sampling_rate") is None:
        raise InputError('A recording given as a dict needs "array" and "sampling_rate".')
    samples = samples if torch.is_tensor(samples) else np.asarray(samples)
    rate = check_rate(source["sampling_rate"])
    if 0 in samples.shape:
        return np.zeros(0, np.float32), rate
    samples = to_mono(samples.T if samples.ndim == 2 and samples.shape[0] > samples.shape[1] else samples)
    if len(samples) > MAX_AUDIO_SECONDS * rate:
        raise _too_long(len(samples) / rate)
    return samples.numpy(), rate


def _too_long(seconds: float | None = None) -> InputError:
    length = "" if seconds is None else f" ({seconds / 60:.0f} minutes)"
    return InputError(f"The recording is too long{length}: cut it to at most {MAX_AUDIO_SECONDS / 60:.0f} minutes.")


def _read_recording(data: io.BufferedIOBase) -> tuple[np.ndarray, int, bool, bool]:
    """(T,) float32 mono samples at the file's own rate, that rate, whether the file could be read to its end, and
    whether it holds a moving picture too.

    libsndfile reads WAV, FLAC, OGG and MP3; what it does not know (a browser's WebM or MP4) goes to PyAV.
    """
    if soundfile is not None:
        try:
            with soundfile.SoundFile(data) as sound:
                check_rate(sound.samplerate)
                if 0 < sound.frames < 2**62 and sound.frames > MAX_AUDIO_SECONDS * sound.samplerate:
                    raise _too_long(sound.frames / sound.samplerate)
                return *_collect(_read_blocks(sound), sound.samplerate, soundfile.SoundFileError), False
        except soundfile.SoundFileError:
            data.seek(0)
    if av is None:
        packages = "av" if soundfile is not None else "soundfile av"
        raise ImportError(f"Reading this recording needs {packages.replace(' ', ' or ')}: pip install {packages}")
    try:
        options = {"format_whitelist": AUDIO_CONTAINERS, "protocol_whitelist": ""}
        with av.open(data, options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise InputError("The file has no sound track: choose one with sound in it.")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise ValueError("a codec that FFmpeg does not know")
            check_rate(stream.rate or 0)
            if container.duration and container.duration / av.time_base > MAX_AUDIO_SECONDS:
                raise _too_long(container.duration / av.time_base)
            # ValueError: damage made the layout of the channels change on the way
            blocks = _decode_blocks(container, stream)
            is_video = moving_picture(container) is not None
            return *_collect(blocks, stream.rate, (av.FFmpegError, ValueError)), is_video
    except InputError:
        raise
    except (av.FFmpegError, ValueError):
        raise InputError(
            "The recording is not a sound file that can be read: choose a WAV, FLAC, OGG, MP3, WebM or MP4."
        ) from None


def moving_picture(container: Any) -> Any | None:
    """The first picture stream of PyAV's container that is more than a cover or a thumbnail, or None."""
    still = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & still), None)


def _read_blocks(sound: Any) -> Iterator[np.ndarray]:
    frames = max(1, 2**20 // sound.channels)
    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
        yield block.mean(axis=1)  # (T, channels) -> (T,)


def _decode_blocks(container: Any, stream: Any) -> Iterator[np.ndarray]:
    # FFmpeg mixes the channels: a damaged header may claim hundreds, and reading past the eighth plane crashes PyAV.
    resampler = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
    for frame in container.decode(stream):
        for block in resampler.resample(frame):
            yield block.to_ndarray()[0]  # (1, T) -> (T,)


def _collect(
    blocks: Iterator[np.ndarray], rate: int, decode_errors: type | tuple[type, ...]
) -> tuple[np.ndarray, int, bool]:
    """Join mono blocks until they end, break off, or grow past the limit (headers may be silent or lie about it)."""
    collected, length, whole = [], 0, True
    try:
        for block in blocks:
            collected.append(block)
            length += len(block)
            if length > MAX_AUDIO_SECONDS * rate:
                raise _too_long()
    except InputError:
        raise
    except decode_errors:
        if not collected:
            raise
        whole = False
    return np.concatenate(collected) if collected else np.zeros(0, np.float32), rate, whole


# --------------------------------------------------------------------------------------------------------------------
# Faces


# The side of the square that FER-2013 would have cut, over sqrt(width * height) of the detector's box; both have the
# same centre. Measured on FER-2013's validation images (PublicTest), whose frame is that square: scaled up 4 times,
# set in a border of replicated pixels half the frame wide, and searched. YuNet found 3,310 of 3,589: median 1.133,
# quartiles 1.03 and 1.24, centres 0.001 of a side apart in x and in y. Haar found 901 of a random 1,200: median 1.021,
# quartiles 0.97 and 1.10, centres 0.003 apart.
FRAME_SIDE = {"yunet": 1.13, "haar": 1.02}


class FaceDetector:
    """Finds faces and frames them as FER-2013 does. `name` says by what: "yunet" or "haar".

    Args:
        model_file: YuNet's ONNX file. Without it, the one that the environment variable EMOCLIP_YUNET names, else
            the Hub's, else the Haar cascade that OpenCV 4 carries, which sees upright frontal faces only.
    Raises:
        ImportError: OpenCV is not installed, or there is neither YuNet's file nor a Haar cascade.
        FileNotFoundError: the given file is not there.
    """

    def __init__(self, model_file: str | os.PathLike | None = None):
        if cv2 is None:
            raise ImportError("Finding faces needs OpenCV: pip install opencv-python-headless")
        model_file = model_file or os.environ.get(YUNET_VARIABLE) or yunet_from_hub()
        if model_file is None:
            if not hasattr(cv2, "CascadeClassifier"):
                raise ImportError(
                    "OpenCV 5 finds faces with YuNet only, whose file is not at hand: name one with EMOCLIP_YUNET, or "
                    "pip install 'opencv-python-headless<5'"
                )
            self.name = "haar"
            self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
        else:
            if not Path(model_file).is_file():
                raise FileNotFoundError(f"There is no YuNet model at {model_file}.")
            self.name = "yunet"
            self._yunet = cv2.FaceDetectorYN.create(str(model_file), "", (1, 1), YUNET_SCORE, YUNET_NMS_IOU)
        self._lock = threading.Lock()  # neither of OpenCV's detectors may run twice at once

    def __call__(self, image: np.ndarray) -> list[Box]:
        """Find the faces in an upright RGB image (H, W, 3) uint8.

        Returns:
            A square for every face, largest first; it may reach beyond the image.
        """
        height, width = image.shape[:2]
        scale = max(min(1.0, DETECTION_SIDE / max(height, width)), SMALLEST_DETECTION_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        # A face that is cut by the picture's edges is found more often with something around it.
        for border in (0, max(size) // 4):
            framed = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REPLICATE)
            with self._lock:
                boxes = self._detect_yunet(framed) if self.name == "yunet" else self._detect_haar(framed)
            if len(boxes):
                break
        squares = [self._frame(box, border, scale) for box in boxes.tolist()]
        return sorted(squares, key=lambda square: -square[2])

    def _frame(self, box: Box, border: int, scale: float) -> Box:
        """The square around a detector's box, in pixels of the image that was searched."""
        x, y, width, height = box
        side = FRAME_SIDE[self.name] * math.sqrt(width * height)
        left, top = x + (width - side) / 2 - border, y + (height - side) / 2 - border
        return scale_box((left, top, side, side), 1 / scale)

    def _detect_yunet(self, image: np.ndarray) -> np.ndarray:
        self._yunet.setInputSize(image.shape[1::-1])
        faces = self._yunet.detect(np.ascontiguousarray(image[..., ::-1]))[1]  # (N, 15): box, 5 landmarks, score
        return np.zeros((0, 4)) if faces is None else faces[:, :4]

    def _detect_haar(self, image: np.ndarray) -> np.ndarray:
        grey = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        faces = self._cascade.detectMultiScale(grey, 1.1, HAAR_MIN_NEIGHBORS, minSize=(HAAR_MIN_FACE,) * 2)
        return np.reshape(faces, (-1, 4))


@functools.cache
def yunet_from_hub() -> str | None:
    """YuNet's file in the Hub's cache, downloaded if the Hub answers at once; None otherwise. Decided once."""
    try:
        return hf_hub_download(YUNET_REPO, YUNET_FILE, local_files_only=True)
    except OSError:
        pass
    found = []

    def download() -> None:
        try:
            # hf_hub_download itself retries for half a minute where there is no network
            get_session().head(hf_hub_url(YUNET_REPO, YUNET_FILE), timeout=2)
            found.append(hf_hub_download(YUNET_REPO, YUNET_FILE))
        except Exception:  # whatever stands in the way, the answer is the same: it is not to be had
            pass

    # In a thread, because no timeout of the HTTP client covers a name server that does not answer.
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(YUNET_DOWNLOAD_SECONDS)
    return found[0] if found else None


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
    except (TypeError, ValueError):  # letters, rows of different lengths, complex numbers
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
    """Finds speech in 16 kHz mono sound (Silero VAD).

    Raises:
        ImportError: silero-vad or onnxruntime is not installed.
    """

    sampling_rate = 16_000

    def __init__(self):
        try:
            self._model = silero_vad.load_silero_vad(onnx=True)
        except (AttributeError, ImportError):  # silero_vad is None, or its onnxruntime is missing
            raise ImportError("Finding speech needs silero-vad: pip install silero-vad onnxruntime") from None
        self._lock = threading.Lock()  # the model keeps state from one block of samples to the next

    def __call__(self, samples: np.ndarray) -> list[tuple[float, float]]:
        """The (start, end) of every stretch of speech in samples (T,) float32, in seconds."""
        with self._lock, torch.inference_mode():
            spans = silero_vad.get_speech_timestamps(torch.from_numpy(samples), self._model)
        return [(span["start"] / self.sampling_rate, span["end"] / self.sampling_rate) for span in spans]
