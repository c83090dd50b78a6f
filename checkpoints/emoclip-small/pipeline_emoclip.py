"""From a photo, a recording, or both, to the emotion a person shows: the pipeline "emotion-recognition".

    from transformers import pipeline

    pipe = pipeline("emotion-recognition", model="<folder or Hub id>", trust_remote_code=True)
    result = pipe(image="photo.jpg", audio="recording.wav")
    print(result.fused.label, result.agreement, result.to_dict())

photo -> faces found, squared as FER-2013 frames them -> face posterior of each; the largest goes on
recording -> 16 kHz mono -> speech found -> 3 s windows that hold speech -> voice posterior, the windows' mean
both -> fused posterior and agreement

The steps are plain functions and small classes on arrays (`FaceDetector`, `crop_face`, `SpeechDetector`,
`window_starts`, `scored_windows`, `mean_log_probs`), so that a stream of frames and sound can use them one by one.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import get_session, hf_hub_download, hf_hub_url
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from transformers import AutoModel, Pipeline, PreTrainedModel, ProcessorMixin
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

try:
    from .processing_emoclip import resample
except ImportError:
    from processing_emoclip import resample
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

TASK = "emotion-recognition"

# Photos
MAX_IMAGE_PIXELS = 64_000_000  # checked before decoding; 192 MB as RGB, more than a 50-megapixel phone makes
MIN_IMAGE_SIDE = 16  # pixels; below it there is no face to see
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 12 of the file

# Recordings
MAX_AUDIO_SECONDS = 600.0
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 4_000, 768_000  # Hz
SILENCE_PEAK = 10 ** (-70 / 20)  # of full scale: quieter than any microphone's own noise
# Containers that PyAV may open. Playlists and the like are left out: they name other files, which FFmpeg would open.
AUDIO_CONTAINERS = "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,ogg,flac,wav,aac,aiff,caf,amr,asf,avi,mpegts,flv"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".webm", ".weba", ".aif", ".aiff")

# Speech
WINDOW_HOP_SECONDS = 1.5
MIN_SPEECH_SECONDS = 0.5  # of speech in a window for it to be scored

# Faces
FACE_SIDE = 48  # pixels: FER-2013's resolution; a model that never saw finer detail is not shown any
DETECTION_SIDE = 640  # pixels of the longer side; in larger pictures YuNet starts to miss faces that fill them
SMALLEST_DETECTION_SIDE = 192  # smaller pictures are scaled up to it
HAAR_MIN_FACE = 40  # pixels at that size
YUNET_REPO, YUNET_FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
YUNET_VARIABLE = "EMOCLIP_YUNET"  # the environment variable that may name the file
YUNET_SCORE, YUNET_NMS_IOU = 0.7, 0.3
YUNET_DOWNLOAD_SECONDS = 5.0

ROWS_PER_FORWARD = 32  # faces or windows that enter the model together: bounds the memory of a 10-minute recording

Box = tuple[float, float, float, float]  # x, y, width, height
ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray
AudioSource = str | os.PathLike | bytes | dict[str, Any]


class InputError(ValueError):
    """A photo or recording that cannot be used: in `sentences`, one for each, what is wrong and what to do."""

    def __init__(self, *sentences: str):
        super().__init__(" ".join(sentences))
        self.sentences = list(sentences)


# --------------------------------------------------------------------------------------------------------------------
# Results


@dataclass
class Emotion:
    """One posterior. `scores` has every label; None stands for one that this source was never taught."""

    label: str
    scores: dict[str, float | None]


@dataclass
class OtherFace(Emotion):
    """A face beside the largest. `box` as in `FaceResult`."""

    box: Box


@dataclass
class FaceResult(Emotion):
    """The largest face.

    `box` is the part inside the picture of the square that the model saw: x, y, width, height in pixels of the
    upright image. `detector` is "yunet", "haar", or "given" for the caller's own box. `others` are the remaining
    faces, largest first.
    """

    box: Box
    detector: str
    others: list[OtherFace] = field(default_factory=list)


@dataclass
class VoiceResult(Emotion):
    """The voice. `segments` are the (start, end) of speech, in seconds from the start of the recording."""

    segments: list[tuple[float, float]]


@dataclass
class EmotionResult:
    """What a person looks like, sounds like, and both.

    A source that was not given, or in which nobody was found, is None, and `messages` says why. `fused` is what there
    is: the face's or the voice's evidence alone where the other is missing. `agreement` is the logarithm of how much
    likelier this face and this voice are together than apart: above 0 they agree, near 0 one of them says little,
    below 0 they conflict; None unless both are there.
    """

    face: FaceResult | None = None
    voice: VoiceResult | None = None
    fused: Emotion | None = None
    agreement: float | None = None
    messages: list[str] = field(default_factory=list)

    @property
    def conflict(self) -> bool:
        """True where one may say "looks happy, sounds sad": the evidence conflicts and the top labels differ."""
        return self.agreement is not None and self.agreement < 0 and self.face.label != self.voice.label

    def to_dict(self) -> dict[str, Any]:
        """The result as plain dicts, lists, strings and numbers, ready for `json.dumps`."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


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
                image = _open_image(files.enter_context(_open_file(source, "photo")))
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


def _open_file(source: str | os.PathLike | bytes, what: str) -> io.BufferedIOBase:
    """A readable, seekable stream over a file or its bytes, known not to be empty."""
    if isinstance(source, bytes):
        stream, size = io.BytesIO(source), len(source)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"There is no file {path.name!r}: check the {what}'s path.")
        stream, size = path.open("rb"), path.stat().st_size
    else:
        raise InputError(f"A {what} cannot be read from a {type(source).__name__}: give a path or a file's bytes.")
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
            dimensions of which the shorter is the channels, integers or floats. Of a video, its first sound track.
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
        with _open_file(source, "recording") as data:
            samples, rate, whole = _read_recording(data)
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
    samples, rate = np.asarray(samples), source["sampling_rate"]
    _check_rate(rate)
    if samples.ndim == 2:
        samples = samples.mean(axis=int(np.argmin(samples.shape))) / _full_scale(samples.dtype)
    elif samples.ndim == 1:
        samples = samples / _full_scale(samples.dtype)
    else:
        raise InputError(f"An array of samples must have one or two dimensions, and this one is {samples.shape}.")
    if len(samples) > MAX_AUDIO_SECONDS * rate:
        raise _too_long(len(samples) / rate)
    return samples.astype(np.float32), int(rate)


def _full_scale(dtype: np.dtype) -> float:
    return -float(np.iinfo(dtype).min) if np.issubdtype(dtype, np.signedinteger) else 1.0


def _check_rate(rate: float) -> None:
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise InputError(
            f"The recording has {rate} samples a second: it must be between {MIN_SAMPLING_RATE} and "
            f"{MAX_SAMPLING_RATE}."
        )


def _too_long(seconds: float | None = None) -> InputError:
    length = "" if seconds is None else f" ({seconds / 60:.0f} minutes)"
    return InputError(f"The recording is too long{length}: cut it to at most {MAX_AUDIO_SECONDS / 60:.0f} minutes.")


def _read_recording(data: io.BufferedIOBase) -> tuple[np.ndarray, int, bool]:
    """(T,) float32 mono samples at the file's own rate, that rate, and whether the file could be read to its end.

    libsndfile reads WAV, FLAC, OGG and MP3; what it does not know (a browser's WebM or MP4) goes to PyAV.
    """
    if soundfile is not None:
        try:
            with soundfile.SoundFile(data) as sound:
                _check_rate(sound.samplerate)
                if 0 < sound.frames < 2**62 and sound.frames > MAX_AUDIO_SECONDS * sound.samplerate:
                    raise _too_long(sound.frames / sound.samplerate)
                return _collect(_read_blocks(sound), sound.samplerate, soundfile.SoundFileError)
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
            _check_rate(stream.rate or 0)
            if container.duration and container.duration / av.time_base > MAX_AUDIO_SECONDS:
                raise _too_long(container.duration / av.time_base)
            # ValueError: damage made the layout of the channels change on the way
            return _collect(_decode_blocks(container, stream), stream.rate, (av.FFmpegError, ValueError))
    except InputError:
        raise
    except (av.FFmpegError, ValueError):
        raise InputError(
            "The recording is not a sound file that can be read: choose a WAV, FLAC, OGG, MP3, WebM or MP4."
        ) from None


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
            the Hub's, else the Haar cascade that OpenCV carries, which sees upright frontal faces only.
    Raises:
        ImportError: OpenCV is not installed.
        FileNotFoundError: the given file is not there.
    """

    def __init__(self, model_file: str | os.PathLike | None = None):
        if cv2 is None:
            raise ImportError("Finding faces needs OpenCV: pip install opencv-python-headless")
        model_file = model_file or os.environ.get(YUNET_VARIABLE) or yunet_from_hub()
        if model_file is None:
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
        return (left / scale, top / scale, side / scale, side / scale)

    def _detect_yunet(self, image: np.ndarray) -> np.ndarray:
        self._yunet.setInputSize(image.shape[1::-1])
        faces = self._yunet.detect(np.ascontiguousarray(image[..., ::-1]))[1]  # (N, 15): box, 5 landmarks, score
        return np.zeros((0, 4)) if faces is None else faces[:, :4]

    def _detect_haar(self, image: np.ndarray) -> np.ndarray:
        grey = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        faces = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(HAAR_MIN_FACE, HAAR_MIN_FACE))
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


def clip_box(box: Box, width: int, height: int) -> Box:
    """The part of a box inside an image of `width` x `height` pixels, in whole pixels."""
    left, top = (min(max(round(start), 0), limit - 1) for start, limit in zip(box[:2], (width, height)))
    right, bottom = (
        min(max(round(start + size), low + 1), limit)
        for start, size, low, limit in zip(box[:2], box[2:], (left, top), (width, height))
    )
    return (left, top, right - left, bottom - top)


def _check_box(box: Any, width: int, height: int) -> Box:
    values = np.asarray(box, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or values[2] <= 0 or values[3] <= 0:
        raise InputError("A face box must be (x, y, width, height) in pixels, with a width and height above 0.")
    x, y, box_width, box_height = values.tolist()
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        raise InputError(f"The face box lies outside the photo of {width} x {height} pixels.")
    return clip_box((x, y, box_width, box_height), width, height)


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


def window_starts(seconds: float, window: float, hop: float = WINDOW_HOP_SECONDS) -> list[float]:
    """Where the windows of a recording start, in seconds; the last one ends with the recording.

    A recording no longer than one window has one, which the feature extractor pads.
    """
    if seconds <= window:
        return [0.0]
    starts = np.arange(0, seconds - window, hop).tolist()
    return [*starts, seconds - window]


def scored_windows(starts: list[float], window: float, segments: list[tuple[float, float]]) -> list[float]:
    """The starts of those windows that hold at least MIN_SPEECH_SECONDS of speech."""
    return [
        start
        for start in starts
        if sum(max(0.0, min(end, start + window) - max(begin, start)) for begin, end in segments) >= MIN_SPEECH_SECONDS
    ]


def mean_log_probs(log_probs: torch.Tensor) -> torch.Tensor:
    """(N, C) log-posteriors to the normalised mean of them, (1, C); -inf, a class not taught, stays -inf."""
    return log_probs.mean(dim=0, keepdim=True).log_softmax(dim=-1)


# --------------------------------------------------------------------------------------------------------------------
# The pipeline


@dataclass
class _Item:
    """What is known of one input before the model has seen it."""

    boxes: list[Box] = field(default_factory=list)  # largest first
    detector: str = ""
    segments: list[tuple[float, float]] = field(default_factory=list)
    num_windows: int = 0
    messages: list[str] = field(default_factory=list)


class EmotionRecognitionPipeline(Pipeline):
    """Emotion recognition from a face, a voice, or both.

    An input is a photo or recording alone, or a dict with "image", "audio" or both:
    - image: a path, the bytes of a file, a PIL image or an array, as `load_image` takes them. With "face_box"
      (x, y, width, height) beside it, no face is looked for: that square of the upright image is scored.
    - audio: a path, the bytes of a file, or a dict with "array" and "sampling_rate", as `load_audio` takes them.

    Args:
        model, processor: `EmoCLIPForEmotionClassification` and its `EmoCLIPProcessor`.
        face_detector: YuNet's ONNX file; see `FaceDetector`.

    Example:

    ```python
    >>> pipe("photo.jpg").face.label
    >>> pipe(image="photo.jpg", audio="recording.wav").fused.scores
    >>> [result.to_dict() for result in pipe([{"image": "1.jpg"}, {"audio": "2.wav"}], batch_size=2)]
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, face_detector: str | os.PathLike | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("EmotionRecognitionPipeline needs processor=, an EmoCLIPProcessor.")
        self._face_model_file = face_detector
        self.model.eval()

    @functools.cached_property
    def face_detector(self) -> FaceDetector:
        """Made when the first photo without a face box arrives."""
        return FaceDetector(self._face_model_file)

    @functools.cached_property
    def speech_detector(self) -> SpeechDetector:
        """Made when the first recording arrives."""
        return SpeechDetector()

    def __call__(
        self,
        inputs: Any = None,
        *,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        face_box: Box | None = None,
        **kwargs,
    ) -> EmotionResult | list[EmotionResult] | Iterator[EmotionResult]:
        """Recognise the emotion in one input, in a list of them, or in a generator or dataset of them.

        Args:
            inputs: one or several inputs as the class describes them; or `image`, `audio` and `face_box` by name.
            batch_size: how many inputs enter the model together.
        Returns:
            One `EmotionResult`, a list, or an iterator.
        Raises:
            InputError: none of what an input holds can be read. Where one of two can, its result is returned and the
                other's sentence stands in `messages`; so do "no face", "silence" and "no speech", which are answers.
            ImportError: a package that reads the input is not installed.
        """
        if inputs is None:
            inputs = {"image": image, "audio": audio, "face_box": face_box}
        elif image is not None or audio is not None:
            raise TypeError("Give either inputs or image= and audio=, not both.")
        elif face_box is not None:
            inputs = {"image": inputs, "face_box": face_box}
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self) -> tuple[dict, dict, dict]:
        return {}, {}, {}

    def preprocess(self, inputs: Any) -> dict[str, Any]:
        """One input to `pixel_values` (faces, 3, H, W), `voices`, which are what the audio tower takes, (windows, 1,
        bands, frames) or (windows, 1, T), and `items`."""
        given = _as_dict(inputs)
        item, errors = _Item(), []
        prepared = {"pixel_values": None, "voices": None, "items": [item]}
        if given.get("image") is not None:
            try:
                prepared["pixel_values"] = self._prepare_faces(given["image"], given.get("face_box"), item)
            except InputError as error:
                errors += error.sentences
        if given.get("audio") is not None:
            try:
                prepared["voices"] = self._prepare_voice(given["audio"], item)
            except InputError as error:
                errors += error.sentences
        num_given = sum(given.get(name) is not None for name in ("image", "audio"))
        if num_given == 0:
            raise InputError("Nothing was given: add a photo, a recording, or both.")
        if len(errors) == num_given:
            raise InputError(*errors)
        item.messages += errors
        return prepared

    def _prepare_faces(self, source: ImageSource, box: Box | None, item: _Item) -> torch.Tensor | None:
        image, notes = load_image(source)
        item.messages += notes
        if box is not None:
            item.boxes, item.detector = [_check_box(box, *image.size)], "given"
        pixels = np.asarray(image)  # (H, W, 3)
        if box is None:
            item.boxes, item.detector = self.face_detector(pixels), self.face_detector.name
        if not item.boxes:
            item.messages.append("No face was found in the photo: try one where a face is larger, or better lit.")
            return None
        crops = [crop_face(pixels, box) for box in item.boxes]
        item.boxes = [clip_box(box, *image.size) for box in item.boxes]
        return self.processor(images=crops, return_tensors="pt")["pixel_values"]

    def _prepare_voice(self, source: AudioSource, item: _Item) -> torch.Tensor | None:
        rate, window = SpeechDetector.sampling_rate, self.processor.feature_extractor.chunk_length_s
        samples, notes = load_audio(source, rate)
        item.messages += notes
        if np.ptp(samples) / 2 < SILENCE_PEAK:
            item.messages.append("The recording is silent: check the microphone and record again.")
            return None
        item.segments = self.speech_detector(samples)
        starts = scored_windows(window_starts(len(samples) / rate, window), window, item.segments)
        item.num_windows = len(starts)
        if not starts:
            item.messages.append(
                f"No speech was found in the recording: at least {MIN_SPEECH_SECONDS} s of it is needed."
            )
            return None
        pieces = [samples[round(start * rate) : round((start + window) * rate)] for start in starts]
        pieces = [np.pad(piece, (0, max(0, round(window * rate) - len(piece)))) for piece in pieces]
        return self.processor(audio=pieces, sampling_rate=rate, return_tensors="pt")[self.audio_input]

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        faces = self.face_log_probs(prepared["pixel_values"])
        voices = self.voice_log_probs(prepared["voices"])
        outputs = []
        for item in prepared["items"]:
            face, faces = faces[: len(item.boxes)], faces[len(item.boxes) :]
            voice, voices = voices[: item.num_windows], voices[item.num_windows :]
            face = face if len(face) else None  # (faces, C)
            voice = mean_log_probs(voice) if len(voice) else None  # (1, C)
            fused = agreement = None
            if face is not None or voice is not None:
                fused, agreement = self.model.fuse(face if face is None else face[:1], voice)
            outputs.append({"face": face, "voice": voice, "fused": fused, "agreement": agreement})
        return {"items": prepared["items"], "outputs": outputs}

    def face_log_probs(self, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Log-posteriors (N, C) of prepared faces (N, 3, H, W); None is no faces."""
        return self._log_probs("pixel_values", pixel_values, "face_logits")

    @property
    def audio_input(self) -> str:
        """What the model calls the audio: `input_features`, mel images, or `input_values`, waveforms."""
        return self.processor.feature_extractor.model_input_names[0]

    def voice_log_probs(self, voices: torch.Tensor | None) -> torch.Tensor:
        """Log-posteriors (N, C) of prepared windows (N, 1, bands, frames) or (N, 1, T); None is no windows."""
        return self._log_probs(self.audio_input, voices, "voice_logits")

    def _log_probs(self, name: str, rows: torch.Tensor | None, logits: str) -> torch.Tensor:
        if rows is None:
            return torch.zeros(0, self.model.config.num_labels, device=self.device)
        batches = [self.model(**{name: batch})[logits] for batch in rows.split(ROWS_PER_FORWARD)]
        return torch.cat(batches).float().log_softmax(dim=-1)

    @torch.no_grad()
    def zero_shot(
        self,
        labels: list[str],
        *,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        text: str | None = None,
        templates: list[str] | None = None,
    ) -> dict[str, float]:
        """Classify one picture, sound or text among any labels, which need not be emotions and were never taught.

        The whole picture or sound is embedded, without a search for faces or speech, and compared with the labels'
        prompts: the mean of a label's normalised embeddings over the templates (Radford et al., 2021, section 3.1.4).

        Args:
            labels: words or phrases.
            image, audio: as `load_image` and `load_audio` take them; give one of the three.
            templates: sentences with one `{}`, where the label goes; None for the label alone.
        Returns:
            The labels and their probabilities, likeliest first.
        Raises:
            InputError: the picture or sound cannot be read.
            TypeError: not exactly one of image, audio and text.
            ValueError: no labels.
        """
        if sum(source is not None for source in (image, audio, text)) != 1:
            raise TypeError("Give exactly one of image=, audio= and text=.")
        if not labels:
            raise ValueError("Zero-shot classification needs at least one label.")
        backbone = getattr(self.model, "emoclip", self.model)
        prompts = [template.format(label) for label in labels for template in templates or ["{}"]]
        prompt_embeds = self._embed(backbone.get_text_features, text=prompts).unflatten(0, (len(labels), -1))
        classes = torch.nn.functional.normalize(prompt_embeds.mean(1), dim=-1)  # (labels, D)
        if image is not None:
            embeds = self._embed(backbone.get_image_features, images=load_image(image)[0])
            scale = backbone.scale("image_text")
        elif audio is not None:
            rate = self.processor.feature_extractor.sampling_rate
            samples, _ = load_audio(audio, rate)
            embeds = self._embed(backbone.get_audio_features, audio=samples, sampling_rate=rate)
            scale = backbone.scale("audio_text")
        else:  # no scale was learned between texts
            embeds, scale = self._embed(backbone.get_text_features, text=text), backbone.scale("image_text")
        scores = (scale.float() * embeds @ classes.T)[0].softmax(-1).tolist()
        return dict(sorted(zip(labels, scores), key=lambda pair: -pair[1]))

    def _embed(self, tower: Callable, **inputs) -> torch.Tensor:
        """(B, D) normalised float32 embeddings of what the processor makes of `inputs`."""
        prepared = self.processor(**inputs, return_tensors="pt").to(self.device)
        return torch.nn.functional.normalize(tower(**prepared).pooler_output.float(), dim=-1)

    def postprocess(self, outputs: dict[str, Any]) -> list[EmotionResult]:
        """One result for each of the items."""
        return [self._result(item, output) for item, output in zip(outputs["items"], outputs["outputs"])]

    def _result(self, item: _Item, output: dict[str, Any]) -> EmotionResult:
        result = EmotionResult(messages=item.messages)
        if output["face"] is not None:
            others = [OtherFace(**self._emotion(row), box=box) for row, box in zip(output["face"][1:], item.boxes[1:])]
            result.face = FaceResult(
                **self._emotion(output["face"][0]), box=item.boxes[0], detector=item.detector, others=others
            )
        if output["voice"] is not None:
            result.voice = VoiceResult(**self._emotion(output["voice"][0]), segments=item.segments)
        if output["fused"] is not None:
            result.fused = Emotion(**self._emotion(output["fused"][0]))
        if result.face and result.voice:
            result.agreement = output["agreement"].item()
        return result

    def _emotion(self, log_probs: torch.Tensor) -> dict[str, Any]:
        """(C,) log-posterior to the fields of an `Emotion`."""
        labels = self.model.config.id2label
        scores = {
            labels[i]: None if value == -math.inf else math.exp(value) for i, value in enumerate(log_probs.tolist())
        }
        return {"label": labels[int(log_probs.argmax())], "scores": scores}

    # The base class batches tensors of one shape; here every input has its own number of faces and windows.

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params) -> EmotionResult:
        return super().run_single(inputs, preprocess_params, forward_params, postprocess_params)[0]

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[EmotionResult]:
        wrapper = PipelineDataset if hasattr(inputs, "__len__") else PipelineIterator
        loader = DataLoader(
            wrapper(inputs, self.preprocess, preprocess_params),
            num_workers=num_workers,
            batch_size=batch_size,
            collate_fn=_join,
        )
        for prepared in loader:
            yield from self.postprocess(self.forward(prepared, **forward_params), **postprocess_params)


def _join(prepared: list[dict[str, Any]]) -> dict[str, Any]:
    """Several prepared inputs as one: their rows and items one after the other."""
    joined = {"items": [item for each in prepared for item in each["items"]]}
    for name in ("pixel_values", "voices"):
        rows = [each[name] for each in prepared if each[name] is not None]
        joined[name] = torch.cat(rows) if rows else None
    return joined


def _as_dict(inputs: Any) -> dict[str, Any]:
    """An input in any of its forms, as a dict with "image" and "audio"."""
    if isinstance(inputs, dict):
        if "sampling_rate" in inputs:
            return {"audio": inputs}
        unknown = inputs.keys() - {"image", "audio", "face_box"}
        if unknown:
            raise TypeError(f'An input has "image", "audio" and "face_box", and not {sorted(unknown)}.')
        return inputs
    if isinstance(inputs, (Image.Image, np.ndarray)):
        return {"image": inputs}
    if isinstance(inputs, (str, os.PathLike)):
        return {"audio" if Path(inputs).suffix.lower() in AUDIO_SUFFIXES else "image": inputs}
    raise TypeError(f'An input of type {type(inputs).__name__} must be named: {{"image": ...}} or {{"audio": ...}}.')


def save_all(model: PreTrainedModel, processor: ProcessorMixin, directory: str | os.PathLike) -> None:
    """Everything that a folder or Hub repository needs, in one form: weights in half precision (config.json says
    float32, so that is what they are loaded as), config, processor, tokenizer, and the code of all of them."""
    pipe = EmotionRecognitionPipeline(model=model, processor=processor)
    pipe.feature_extractor = pipe.image_processor = None  # the processor's own file holds them
    pipe.save_pretrained(directory)  # the only one that notes the pipeline in config.json and copies its code
    halves = {  # the waveform tower's transform counts in bins up to 1,024, too fine for half precision
        name: x.half() if x.is_floating_point() and ".fbsp." not in name else x
        for name, x in model.state_dict().items()
    }
    model.save_pretrained(directory, state_dict=halves)
    processor.save_pretrained(directory)


PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # importing this file a second time is no reason to warn
PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=EmotionRecognitionPipeline, pt_model=AutoModel, type="multimodal"
)
