"""EmoCLIP's processor: from pictures, sound and words to what the model takes.

    from processing_emoclip import EmoCLIPProcessor
    processor = EmoCLIPProcessor.from_pretrained("checkpoints/emoclip-small")
    inputs = processor(images=face, audio=voice, sampling_rate=16_000, text="a happy face", return_tensors="pt")

The mel recipe stands in `EmoCLIPFeatureExtractor` alone, and so does the form in which training stores its images.
"""

import logging
import math
from abc import ABC, abstractmethod
from functools import cache
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from PIL import Image
from transformers import FeatureExtractionMixin, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.models.clip import CLIPImageProcessor

try:
    from .files_emoclip import InputError
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from files_emoclip import InputError

MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 4_000, 768_000  # hertz, of recordings
RESAMPLED_AT_ONCE = 2**18  # samples
CANCELLED = 0.1  # of the loudest channel's power: what equal channels have left in their mean at a correlation of -0.8
MAX_PEAK = 10.0  # of full scale: floats may overshoot it, but beyond this they must have been integers

STORED_DB = 80.0  # decibels from the darkest to the brightest level of a stored mel image

logger = logging.getLogger("emoclip")


class EmoCLIPImageProcessor(CLIPImageProcessor):
    """Square face crops, of any size, grey or colour, to `pixel_values` (B, 3, H, W).

    FER-2013 is grey, so faces are made grey; the three channels that the tower expects are then equal. Mean and
    standard deviation are those of FER-2013's training faces.
    """

    model_input_names = ["pixel_values"]
    resample = PILImageResampling.BICUBIC
    size = {"height": 96, "width": 96}
    default_to_square = True
    do_center_crop = False
    do_grayscale = True
    image_mean = [0.5077] * 3
    image_std = [0.2550] * 3

    def __call__(self, images, *args, **kwargs) -> BatchFeature:
        """One or a list of PIL images, or arrays or tensors (H, W), (H, W, 3) or (3, H, W): bytes, or floats in 0..1.

        Raises:
            InputError: no image, an empty one, numbers of another type, or floats outside 0..1.
        """
        several = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
        images = list(images) if several else [images]
        if not images:
            raise InputError("There must be at least one image.")
        for image in images:
            if isinstance(image, Image.Image):
                known, kind = image.mode not in ("F", "I") and not image.mode.startswith("I;"), f"mode {image.mode}"
            elif isinstance(image, np.ndarray):
                known, kind = image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating), image.dtype
            elif torch.is_tensor(image):
                known, kind = image.dtype == torch.uint8 or image.is_floating_point(), image.dtype
            else:
                raise InputError(f"An image must be a PIL image, an array or a tensor, got {type(image).__name__}.")
            if not known:
                raise InputError(f"An image must hold bytes, or floats in 0..1, got {kind}; convert it first.")
            if 0 in getattr(image, "shape", image.size if isinstance(image, Image.Image) else ()):
                raise InputError("The image is empty.")
        # transformers takes two dimensions for a list of rows
        images = [image[None] if getattr(image, "ndim", 0) == 2 else image for image in images]
        return super().__call__(images, *args, **kwargs)

    def process_image(self, image, **kwargs) -> torch.Tensor:
        """One picture to (3, H, W) in 0..255; see the base class."""
        image = super().process_image(image, **kwargs)
        if image.is_floating_point():
            if not (image.min() >= 0 and image.max() <= 1):
                raise InputError("An image of floating-point numbers must lie in 0..1; scale it, or pass bytes.")
            image = image * 255
        return self.to_grayscale(image) if self.do_grayscale else image

    @staticmethod
    def to_grayscale(image: torch.Tensor) -> torch.Tensor:
        """(..., 3, H, W) to its luma (ITU-R BT.601) in every channel, of the same dtype."""
        weights = torch.tensor([0.299, 0.587, 0.114], device=image.device).view(3, 1, 1)
        luma = (image * weights).sum(-3, keepdim=True)
        luma = luma.round() if not image.is_floating_point() else luma
        return luma.to(image.dtype).expand_as(image)

    @property
    def side(self) -> int:
        """Pixels of the square that enters the tower."""
        return self.crop_size["height"] if self.do_center_crop else self.size["height"]

    def standardize(self, faces: torch.Tensor) -> torch.Tensor:
        """Grey faces (B, 1, H, W) in 0..1 of the tower's size, such as augmentation makes, to `pixel_values`."""
        mean, std = faces.new_tensor([self.image_mean, self.image_std]).view(2, 3, 1, 1)
        return (faces - mean) / std


def check_rate(rate) -> int:
    """A recording's sampling rate as a whole number of hertz.

    Raises:
        InputError: it is none, or one that no recording has.
    """
    if not isinstance(rate, Real) or not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise InputError(
            f"The recording has {rate!r} samples a second: it must be a number between {MIN_SAMPLING_RATE} and "
            f"{MAX_SAMPLING_RATE}."
        )
    return round(rate)


def to_array(recording) -> np.ndarray:
    """An array, tensor or list of samples as an array; InputError where its channels differ in length."""
    if torch.is_tensor(recording):
        recording = recording.detach().cpu()
        if recording.is_floating_point():
            recording = recording.float()  # NumPy has no bfloat16
    try:
        return np.asarray(recording)
    except (TypeError, ValueError):
        raise InputError("The channels of a recording must have the same length.") from None


def to_channels(recording) -> np.ndarray:
    """One recording, checked, to (channels, T) float32 in -1..1.

    Whole numbers of up to 16 bits are divided by their type's full scale. In wider ones a recording's numbers may fill
    16 bits (a list of them), or 32 (what soundfile reads): numbers within 16 bits are taken for 16-bit ones, for as
    32-bit ones nobody would hear them; larger ones for 32-bit ones; and what may be 24 bits or a faint recording of 32
    is refused.

    Args:
        recording: an array, tensor or list of samples (T,) or (channels, T), signed integers or floats in -1..1.
    Raises:
        InputError: one sentence that says what it is instead.
    """
    samples = to_array(recording)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InputError(
            f"A recording must be samples (T,) or (channels, T), at least one; got shape {samples.shape}."
        )
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise InputError(f"A recording of shape {samples.shape} has more channels than samples; pass (channels, T).")
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = np.divide(samples, full_scale(samples), dtype=np.float32, casting="unsafe")
    elif not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"Samples must be signed integers or floats, got {samples.dtype}; convert them first.")
    if not np.isfinite(samples).all():
        raise InputError("The recording has samples that are not finite numbers (NaN or infinity): export it anew.")
    if np.abs(samples).max() > MAX_PEAK:
        raise InputError("Samples that are floats must lie in -1..1: divide these by their full scale.")
    return np.atleast_2d(np.ascontiguousarray(samples, dtype=np.float32))


def full_scale(samples: np.ndarray) -> float:
    """Of signed whole numbers, see `to_channels`."""
    bits = 8 * samples.dtype.itemsize
    if bits <= 16:
        return 2.0 ** (bits - 1)
    peak = max(-int(samples.min()), int(samples.max()))
    if peak <= 2**15:
        return 2.0**15
    if 2**23 < peak <= 2**31:
        return 2.0**31
    raise InputError(
        f"Samples of {samples.dtype} with a peak of {peak} may have 24 bits or 32: divide them by their full scale, "
        "such as 2**23, and pass floats in -1..1."
    )


class Downmix:
    """Channels to one, block by block: their mean, and what is known afterwards of whether it is fit to be used.

    Two channels of opposite sign cancel each other out; a voice on one channel of many is drowned by the rest.
    """

    def __init__(self):
        self._count, self._sums, self._squares = 0, 0.0, 0.0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(channels, T) to (T,)."""
        mean = block.mean(axis=0)
        if len(block) > 1:
            rows = (*block, mean)
            self._count += block.shape[1]
            self._sums = self._sums + np.array([row.sum(dtype=np.float64) for row in rows])
            self._squares = self._squares + np.array([np.square(row, dtype=np.float64).sum() for row in rows])
        return mean

    @property
    def loudest(self) -> int | None:
        """The channel to use in place of the mean, where the mean has less than CANCELLED of its power; else None."""
        if not self._count:
            return None
        power = self._squares / self._count - np.square(self._sums / self._count)  # without any constant
        best = int(power[:-1].argmax())
        return best if power[-1] < CANCELLED * power[best] else None


def mix_down(channels: np.ndarray) -> tuple[np.ndarray, int | None]:
    """(channels, T) to (T,): the mean, or the loudest channel where the mean loses most of the sound, and then its
    number too, counted from 0."""
    downmix = Downmix()
    length = 2**20  # samples at a time
    blocks = [downmix(channels[:, start : start + length]) for start in range(0, channels.shape[1], length)]
    loudest = downmix.loudest
    return np.concatenate(blocks) if loudest is None else channels[loudest], loudest


def one_channel_sentence(number: int) -> str:
    """What a user is told where `mix_down` took one channel, counted from 0."""
    return f"Of the sound's channels only number {number + 1} was used: in their mean, most of it cancels out."


def to_mono(recording) -> torch.Tensor:
    """One recording, as `to_channels` takes it, to (T,) float32 mono in -1..1, on the CPU; see `mix_down`."""
    mono, loudest = mix_down(to_channels(recording))
    if loudest is not None:
        logger.warning(one_channel_sentence(loudest))
    return torch.from_numpy(mono)


def resample(waveform: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """(..., T) at `rate` hertz, 4,000 or more, to (..., T * new_rate / rate)."""
    return torchaudio.functional.resample(waveform, round_rate(rate), new_rate)


def round_rate(rate: int) -> int:
    """A rate that `resample` can bear: its filter bank grows with both rates over their common divisor, and would take
    gigabytes for 44,099 Hz. Rounding shifts the pitch by 0.3 % at the very most."""
    step = 25 if rate <= 64_000 else 200 if rate <= 128_000 else 400  # hertz; the usual rates are multiples of it
    return round(rate / step) * step


class BlockResampler:
    """`resample`, block by block, so that a recording's memory goes by its length and not by its rate.

    The answer is that of the whole: a block is resampled with as much before and after it as the filter sees.
    """

    def __init__(self, rate: int, new_rate: int):
        self._rates = rate, new_rate
        common = math.gcd(round_rate(rate), new_rate)
        self._old, self._new = round_rate(rate) // common, new_rate // common  # so many samples become so many
        # torchaudio's filter reaches over 6 zero crossings, of a cutoff at 0.99 of the lower rate's half
        reach = math.ceil(6 * self._old / (0.99 * min(self._old, self._new)))
        self._margin = self._old * math.ceil(reach / self._old)
        self._held: list[np.ndarray] = []
        self._before = 0  # samples at the beginning of what is held that are there for the filter alone

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """The next samples (T,) float32, to those of the answer that they make certain."""
        self._held.append(block)
        length = sum(map(len, self._held))
        if self._old == self._new:
            return self.finish()
        if length < RESAMPLED_AT_ONCE + 2 * self._margin:
            return block[:0]
        samples = np.concatenate(self._held)
        certain = (length - self._margin) // self._old * self._old
        answer = self._resample(samples[: certain + self._margin], certain)
        self._held, self._before = [samples[certain - self._margin :].copy()], self._margin
        return answer

    def finish(self) -> np.ndarray:
        """The rest of the answer."""
        if not self._held:
            return np.zeros(0, np.float32)
        samples, self._held = np.concatenate(self._held), []
        return self._resample(samples)

    def _resample(self, samples: np.ndarray, until: int | None = None) -> np.ndarray:
        first, last = (None if n is None else n // self._old * self._new for n in (self._before, until))
        return resample(torch.from_numpy(samples), *self._rates).numpy()[first:last]


def fit_length(waveform: torch.Tensor, length: int) -> torch.Tensor:
    """(T,) to (length,), cut or zero-padded at the end."""
    return F.pad(waveform[:length], (0, max(0, length - len(waveform))))


class VoiceExtractor(FeatureExtractionMixin, ABC):
    """Recordings to what an audio tower takes, and to the form in which training holds them.

    Training stores a voice as whole numbers of a fixed shape: `encode` makes them of a recording, and `decode` makes
    the model's input of them.

    Args:
        sampling_rate: in hertz, of what is extracted from; recordings of another rate are resampled.
        chunk_length_s: seconds of a stored voice, and of the windows that the pipeline cuts.
    """

    #: Type of the stored numbers.
    stored_dtype: torch.dtype

    def __init__(self, sampling_rate: int, chunk_length_s: float, **kwargs):
        super().__init__(**kwargs)
        self.sampling_rate = sampling_rate
        self.chunk_length_s = chunk_length_s

    @property
    def input_name(self) -> str:
        """The model's argument that takes what is extracted."""
        return self.model_input_names[0]

    @property
    def num_samples(self) -> int:
        """Samples of a stored voice, and of a window."""
        return round(self.chunk_length_s * self.sampling_rate)

    @property
    @abstractmethod
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one stored voice."""

    @abstractmethod
    def to_waveform(self, recording, sampling_rate: int) -> torch.Tensor:
        """One recording, as `to_mono` takes it, to (T,) float32 mono at the extractor's rate."""

    @abstractmethod
    def extract(self, waveforms: list[torch.Tensor]) -> torch.Tensor:
        """Waveforms of `to_waveform` to the model's input (B, 1, ...)."""

    @abstractmethod
    def encode(self, audio, sampling_rate: int) -> torch.Tensor:
        """Recordings, as `__call__` takes them, to their stored form (n, *stored_shape)."""

    @abstractmethod
    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        """Stored voices (B, *stored_shape), on any device, to the model's input (B, 1, ...)."""

    def __call__(self, audio, sampling_rate: int | None = None, return_tensors: str | None = None) -> BatchFeature:
        """
        Args:
            audio: one recording or a list of them, each as `to_mono` takes it.
            sampling_rate: theirs, in hertz.
            return_tensors: "pt" or "np".
        Raises:
            InputError: no sampling rate, or none that a recording has; no recording, or not as `to_mono` takes it.
        """
        inputs = self.extract(self.to_waveforms(audio, sampling_rate))
        return BatchFeature({self.input_name: inputs}, tensor_type=return_tensors)

    def to_waveforms(self, audio, sampling_rate: int | None) -> list[torch.Tensor]:
        """One recording or several, as `__call__` takes them, each as `to_waveform` gives it."""
        if sampling_rate is None:
            raise InputError("EmoCLIP needs to know the recording's rate: pass sampling_rate= in hertz.")
        sampling_rate = check_rate(sampling_rate)
        if isinstance(audio, (list, tuple)) and not audio:
            raise InputError("There must be at least one recording.")
        recordings = audio if isinstance(audio, (list, tuple)) and np.ndim(audio[0]) > 0 else [audio]
        return [self.to_waveform(recording, sampling_rate) for recording in recordings]


def check_range(top_db: float) -> float:
    """A mel image's range in decibels; ValueError where stored voices have none such."""
    if not 0 < top_db <= STORED_DB:
        raise ValueError(f"`top_db` must be above 0 and at most {STORED_DB:.0f} decibels, not {top_db}.")
    return top_db


@cache
def mel_spectrogram(
    sampling_rate: int, n_fft: int, hop_length: int, n_mels: int, device: torch.device
) -> torchaudio.transforms.MelSpectrogram:
    """The transform of `EmoCLIPFeatureExtractor`, made once for each recipe and device.

    It is kept here and not in the extractor, which is saved as JSON.
    """
    with torch.inference_mode(False):  # tensors made in inference mode could not take part in training later
        return torchaudio.transforms.MelSpectrogram(
            sampling_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            power=2.0,
            norm="slaney",
            mel_scale="slaney",
            pad_mode="constant",
        ).to(device)


class EmoCLIPFeatureExtractor(VoiceExtractor):
    """Recordings to `input_features` (B, 1, mel bands, frames): one log-mel image of the first 3 s a row.

    Mono, 16 kHz, cut or zero-padded at the end; power spectrogram (Hann, centred with zero padding), Slaney mel
    bands with Slaney norm, decibels relative to the recording's maximum with a floor, scaled to 0..1 and then
    standardised with the mean and deviation of CREMA-D's training voices. Absolute loudness is gone.

    A voice is stored as the 0..1 image of a range of STORED_DB in 256 levels, bytes (mel bands, frames), whatever
    range the model is shown.

    Args:
        sampling_rate: in hertz, of the spectrogram; recordings of another rate are resampled.
        chunk_length_s: seconds a row.
        n_fft, hop_length: samples. n_mels: bands.
        top_db: decibels between maximum and floor, at most STORED_DB. What lies deep below the loudest point is the
            room and the codec rather than the voice.
        mean, std: of the 0..1 image.
    """

    model_input_names = ["input_features"]
    stored_dtype = torch.uint8

    def __init__(
        self,
        sampling_rate: int = 16_000,
        chunk_length_s: float = 3.0,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 128,
        top_db: float = 80.0,
        mean: float = 0.2945,
        std: float = 0.2223,
        **kwargs,
    ):
        super().__init__(sampling_rate, chunk_length_s, **kwargs)
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.top_db = check_range(top_db)
        self.mean = mean
        self.std = std

    @property
    def num_frames(self) -> int:
        """Spectrogram frames a row."""
        return 1 + self.num_samples // self.hop_length

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Mel bands, frames."""
        return self.n_mels, self.num_frames

    def to_waveform(self, recording, sampling_rate: int) -> torch.Tensor:
        """One recording to (num_samples,) float32 mono at the extractor's rate, cut or zero-padded at the end."""
        waveform = to_mono(recording)
        # Samples beyond the row are dropped before resampling: it is the costly step.
        waveform = waveform[: int(self.chunk_length_s * sampling_rate) + sampling_rate // 10]
        return fit_length(resample(waveform, sampling_rate, self.sampling_rate), self.num_samples)

    def extract(self, waveforms: list[torch.Tensor]) -> torch.Tensor:
        return self.standardize(self.spectrogram(torch.stack(waveforms)))

    def spectrogram(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, num_samples) to the log-mel image (B, 1, mel bands, frames), 0..1; a silent row is all 0."""
        return self.to_images(self._mel_decibels(waveforms))

    def _mel_decibels(self, waveforms: torch.Tensor) -> torch.Tensor:
        transform = mel_spectrogram(self.sampling_rate, self.n_fft, self.hop_length, self.n_mels, waveforms.device)
        return 10 * transform(waveforms).clamp(min=1e-10).log10()

    def to_images(self, decibels: torch.Tensor, span: float | None = None) -> torch.Tensor:
        """Decibels (B, mel bands, frames) to 0..1, (B, 1, mel bands, frames): from `span` below the loudest point, by
        default `top_db`, or from the softest where that is nearer, up to the loudest."""
        low, high = decibels.amin((-2, -1), keepdim=True), decibels.amax((-2, -1), keepdim=True)
        low = torch.maximum(low, high - (span or self.top_db))
        return ((decibels - low).clamp(min=0) / (high - low).clamp(min=1e-6)).unsqueeze(1)

    def standardize(self, images: torch.Tensor) -> torch.Tensor:
        """Log-mel images in 0..1, of any shape, to mean 0 and deviation 1 over CREMA-D's training voices."""
        return (images - self.mean) / self.std

    def standardize_by(self, stored: torch.Tensor) -> None:
        """Makes `mean` and `std` those of the images of these voices (n, mel bands, frames) uint8."""
        self.mean, self.std = 0.0, 1.0
        counts = torch.bincount(stored.flatten().int(), minlength=256).double()
        levels = self.decode(torch.arange(256, dtype=torch.uint8).view(1, 1, 256)).flatten().double()
        mean = (counts * levels).sum() / counts.sum()
        deviation = ((counts * (levels - mean).square()).sum() / counts.sum()).sqrt()
        self.mean, self.std = round(mean.item(), 4), round(deviation.item(), 4)

    def encode(self, audio, sampling_rate: int) -> torch.Tensor:
        """Recordings, as `__call__` takes them, to images of STORED_DB in 256 levels (n, mel bands, frames) uint8."""
        decibels = self._mel_decibels(torch.stack(self.to_waveforms(audio, sampling_rate)))
        return (self.to_images(decibels, STORED_DB)[:, 0] * 256).clamp(max=255).to(torch.uint8)

    def to_decibels(self, stored: torch.Tensor) -> torch.Tensor:
        """Bytes (B, mel bands, frames) to decibels below the loudest point, at the middles of their levels; too low
        ones where the softest point of a recording without a pause was nearer than STORED_DB."""
        return STORED_DB * ((stored.float() + 0.5) / 256 - 1)

    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        """Bytes (B, mel bands, frames) to `input_features` (B, 1, mel bands, frames)."""
        images = ((self.to_decibels(stored) + self.top_db) / self.top_db).clamp(min=0)
        return self.standardize(images[:, None])


class EmoCLIPWaveformExtractor(VoiceExtractor):
    """Recordings to `input_values` (B, 1, T), what AudioCLIP's own audio tower takes.

    Mono, 44.1 kHz, float32 in int16 units (-32768 to 32767). Recordings pass whole; the shorter ones of a call are
    zero-padded at the end to the length of the longest.

    A voice is stored as its first 3 s, int16 samples.

    Args:
        sampling_rate: in hertz, of the result; recordings of another rate are resampled.
        chunk_length_s: seconds of the windows that the pipeline cuts, and of a stored voice.
    """

    model_input_names = ["input_values"]
    stored_dtype = torch.int16

    def __init__(self, sampling_rate: int = 44_100, chunk_length_s: float = 3.0, **kwargs):
        super().__init__(sampling_rate, chunk_length_s, **kwargs)

    @property
    def stored_shape(self) -> tuple[int]:
        """Samples."""
        return (self.num_samples,)

    def to_waveform(self, recording, sampling_rate: int) -> torch.Tensor:
        """One recording to (T,) float32 mono at the extractor's rate, in int16 units."""
        return resample(to_mono(recording), sampling_rate, self.sampling_rate) * 2**15

    def extract(self, waveforms: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)[:, None]

    def encode(self, audio, sampling_rate: int) -> torch.Tensor:
        """Recordings, as `__call__` takes them, to their first samples (n, num_samples) int16."""
        waveforms = self.to_waveforms(audio, sampling_rate)
        stored = torch.stack([fit_length(waveform, self.num_samples) for waveform in waveforms])
        return stored.round().clamp(-(2**15), 2**15 - 1).to(torch.int16)

    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        """Samples (B, T) int16 to `input_values` (B, 1, T)."""
        return stored[:, None].float()


#: The extractor of what each audio tower takes, by `config.audio_config.tower`.
VOICE_EXTRACTORS: dict[str, type[VoiceExtractor]] = {
    "shared": EmoCLIPFeatureExtractor,
    "esresnext_fbsp": EmoCLIPWaveformExtractor,
}


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    text: str | list[str] | list[list[str]],
    return_tensors: str | None = None,
) -> BatchFeature:
    """`input_ids` and `attention_mask` (B, L) of one or several texts; of a list of entities, joined with ", ".

    CLIP's tokenizer has no padding token: rows are then filled with 0 to its full length, as CLIP was trained.

    Raises:
        InputError: no text.
    """
    if not isinstance(text, str) and not text:
        raise InputError("There must be at least one text.")
    if isinstance(text, (list, tuple)):
        text = [item if isinstance(item, str) else ", ".join(item) for item in text]
    if tokenizer.pad_token is not None:
        return tokenizer(text, padding=True, truncation=True, return_tensors=return_tensors)
    rows = tokenizer([text] if isinstance(text, str) else text, truncation=True)
    missing = [tokenizer.model_max_length - len(ids) for ids in rows["input_ids"]]
    filled = {
        name: [[*row, *[0] * count] for row, count in zip(rows[name], missing)]
        for name in ("input_ids", "attention_mask")
    }
    return BatchFeature(filled, tensor_type=return_tensors)


class EmoCLIPProcessor(ProcessorMixin):
    """One call for every modality: `images`, `audio` with its `sampling_rate`, and `text`, each where it is given."""

    def __init__(self, image_processor, feature_extractor, tokenizer, **kwargs):
        super().__init__(image_processor, feature_extractor, tokenizer, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "EmoCLIPProcessor":
        """From a folder or a Hub id. The parts are loaded by the classes of this very module: the Auto classes would
        ask whether to trust code that has been imported already."""
        kwargs.pop("trust_remote_code", None)
        saved, _ = VoiceExtractor.get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        extractors = {extractor.__name__: extractor for extractor in VOICE_EXTRACTORS.values()}
        feature_extractor = extractors.get(saved.get("feature_extractor_type"), EmoCLIPFeatureExtractor)
        parts = (EmoCLIPImageProcessor, feature_extractor, PreTrainedTokenizerFast)
        return cls(*(part.from_pretrained(pretrained_model_name_or_path, **kwargs) for part in parts))

    def __call__(
        self,
        images=None,
        text: str | list[str] | list[list[str]] | None = None,
        audio=None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            images: one or a list of PIL images, arrays or tensors of square face crops.
            text: one or a list of sentences or words; padded together, cut at the text tower's length. An item that
                is itself a list, AudioCLIP's entities, is joined with ", ".
            audio, sampling_rate: as the feature extractor takes them.
            return_tensors: "pt" or "np".
        Returns:
            `pixel_values` (B, 3, H, W), `input_features` (B, 1, mel bands, frames) or `input_values` (B, 1, T),
            `input_ids` and `attention_mask` (B, L), each where its modality is given.
        Raises:
            InputError: nothing is given, or one of them is not as described.
        """
        if images is None and audio is None and text is None:
            raise InputError("EmoCLIP needs at least one of images=, audio= and text=.")
        data = {}
        if images is not None:
            data |= self.image_processor(images, return_tensors=return_tensors)
        if audio is not None:
            data |= self.feature_extractor(audio, sampling_rate=sampling_rate, return_tensors=return_tensors)
        if text is not None:
            data |= tokenize(self.tokenizer, text, return_tensors)
        return BatchFeature(data)

    @property
    def model_input_names(self) -> list[str]:
        parts = (self.image_processor, self.feature_extractor, self.tokenizer)
        return [name for part in parts for name in part.model_input_names]


EmoCLIPImageProcessor.register_for_auto_class("AutoImageProcessor")
EmoCLIPFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
EmoCLIPWaveformExtractor.register_for_auto_class("AutoFeatureExtractor")
EmoCLIPProcessor.register_for_auto_class("AutoProcessor")
