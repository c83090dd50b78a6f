"""The processor: the mel recipe on any recording, pictures of any kind, text, and saving."""

import copy
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from PIL import Image
from transformers import AutoProcessor

from configuration_emoclip import EmoCLIPConfig
from processing_emoclip import (
    VOICE_EXTRACTORS,
    EmoCLIPFeatureExtractor,
    EmoCLIPImageProcessor,
    EmoCLIPProcessor,
    EmoCLIPWaveformExtractor,
)
from training.prompts import train_tokenizer

RATE = 16_000


@pytest.fixture(scope="module")
def extractor() -> EmoCLIPFeatureExtractor:
    return EmoCLIPFeatureExtractor()


@pytest.fixture(scope="module")
def images() -> EmoCLIPImageProcessor:
    return EmoCLIPImageProcessor()


@pytest.fixture(scope="module")
def processor() -> EmoCLIPProcessor:
    sentences = ["a happy face", "a sad voice", "someone who sounds furious"]
    return EmoCLIPProcessor(EmoCLIPImageProcessor(), EmoCLIPFeatureExtractor(), train_tokenizer(sentences, 300, 12))


def chirp(rate: int = RATE, seconds: float = 2.0, loudness: float = 0.5) -> np.ndarray:
    """A tone that rises from 100 Hz, over a steady one of 900 Hz: never beyond 3.3 kHz, so that 8 kHz holds it."""
    t = np.arange(round(seconds * rate)) / rate
    return (loudness * (0.7 * np.sin(2 * np.pi * (100 + 700 * t) * t) + 0.3 * np.sin(1800 * np.pi * t))).astype("f4")


def mel_level(extractor: EmoCLIPFeatureExtractor, audio, rate: int = RATE) -> np.ndarray:
    """The mel image (128, 188) of one recording in levels of 256, as the data's bytes are."""
    features = extractor(audio, sampling_rate=rate, return_tensors="np")["input_features"]
    assert features.shape == (1, 1, 128, 188) and features.dtype == np.float32
    return (features[0, 0] * extractor.std + extractor.mean) * 256


# --- The mel recipe


def recipe(samples: np.ndarray) -> np.ndarray:
    """The recipe in plain numpy: (T,) at 16 kHz to (128, 188) in 0..1."""
    n_fft, hop, bands = 1024, 256, 128
    samples = np.pad(samples.astype(np.float64)[: 3 * RATE], (0, max(0, 3 * RATE - len(samples))))
    padded = np.pad(samples, n_fft // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.stack([padded[i : i + n_fft] * window for i in range(0, len(samples) + 1, hop)])
    power = np.abs(np.fft.rfft(frames)) ** 2  # (188, 513)

    def to_mel(hertz):  # Slaney's scale: linear to 1 kHz, logarithmic above
        hertz = np.asarray(hertz, dtype=np.float64)
        return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1) / 1000) * 27 / np.log(6.4))

    def to_hertz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    edges = to_hertz(np.linspace(to_mel(0), to_mel(RATE / 2), bands + 2))
    hertz = np.linspace(0, RATE / 2, n_fft // 2 + 1)
    filters = np.zeros((bands, len(hertz)))
    for i, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:])):
        rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
        filters[i] = np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low)  # Slaney's norm: equal areas
    decibels = 10 * np.log10(np.maximum(filters @ power.T, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    return (decibels - decibels.min()) / (decibels.max() - decibels.min())


@pytest.mark.parametrize("seconds", [0.7, 2.0, 4.0])
def test_the_mel_image_is_the_recipe(extractor, seconds):
    noise = np.random.default_rng(0).normal(0, 0.01, round(seconds * RATE)).astype("f4")
    samples = chirp(seconds=seconds) + noise
    difference = np.abs(mel_level(extractor, samples) - 256 * recipe(samples))
    assert difference.mean() < 0.05 and difference.max() < 1


def test_the_mel_image_of_real_recordings_is_that_of_the_data(extractor):
    folder = Path(os.environ.get("EMOCLIP_DATA", "")) / "voice_samples"
    if not os.environ.get("EMOCLIP_DATA"):
        pytest.skip("EMOCLIP_DATA does not say where the recordings are")
    expected = np.load(folder / "mel_u8.npz")
    assert len(expected["names"]) == 14
    differences = []
    for name, image in zip(expected["names"], expected["mel_u8"]):
        samples, rate = soundfile.read(folder / Path(str(name)).with_suffix(".wav").name, dtype="float32")
        level = np.minimum(np.floor(mel_level(extractor, samples, rate) + 1e-3), 255)
        differences.append(np.abs(level - image).mean())
    assert max(differences) < 1, dict(zip(expected["names"], differences))


def test_loudness_is_gone_and_row_zero_is_the_lowest_band(extractor):
    quiet = mel_level(extractor, chirp(loudness=0.02))
    assert np.abs(quiet - mel_level(extractor, chirp(loudness=0.9))).mean() < 1
    tone = np.sin(2 * np.pi * 150 * np.arange(RATE) / RATE).astype("f4")
    assert mel_level(extractor, tone)[:, 20].argmax() < 10


def test_int16_is_float(extractor):
    samples = (chirp() * 2**15).astype(np.int16)
    assert np.array_equal(mel_level(extractor, samples), mel_level(extractor, samples.astype("f4") / 2**15))


@pytest.mark.parametrize("kind", [np.float64, np.float16, torch.float32, list])
def test_arrays_tensors_and_lists_are_heard_alike(extractor, kind):
    samples = chirp(seconds=0.5)
    if kind is torch.float32:
        given = torch.tensor(samples)
    else:
        given = samples.tolist() if kind is list else samples.astype(kind)
    difference = np.abs(mel_level(extractor, given) - mel_level(extractor, samples))
    assert difference.mean() < (8 if kind is np.float16 else 1e-3)  # float16's own noise is above the floor


def test_stereo_becomes_the_mean_of_its_channels(extractor):
    left, right = chirp(), np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype("f4")
    expected = mel_level(extractor, (left + right) / 2)
    assert np.allclose(mel_level(extractor, np.stack([left, right])), expected, atol=0.1)
    assert np.allclose(mel_level(extractor, torch.tensor(np.stack([left, right]))), expected, atol=0.1)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_any_rate_is_resampled(extractor, rate):
    expected, level = mel_level(extractor, chirp()), mel_level(extractor, chirp(rate), rate)
    loud = expected > 128  # resampling filters differ in what is 40 dB down
    assert np.abs(level - expected)[loud].mean() < 2
    assert extractor.to_waveform(chirp(rate), rate).shape == (3 * RATE,)


def test_shorter_is_padded_at_the_end_and_longer_cut(extractor):
    short = chirp(seconds=1.0)
    waveform = extractor.to_waveform(short, RATE).numpy()
    assert np.array_equal(waveform[:RATE], short) and not waveform[RATE:].any()
    assert not mel_level(extractor, short)[:, 70:].any()
    long = chirp(seconds=7.0)
    assert np.array_equal(mel_level(extractor, long), mel_level(extractor, long[: 3 * RATE]))
    for rate in (8_000, 44_100):  # cut before resampling, and never within the three seconds
        whole, cut = chirp(rate, 7.0), chirp(rate, 7.0)[: round(3.2 * rate)]
        assert np.allclose(extractor.to_waveform(whole, rate), extractor.to_waveform(cut, rate), atol=1e-4)
        assert extractor.to_waveform(whole, rate)[-100:].abs().max() > 0.05


def test_recordings_of_different_lengths_make_one_batch(extractor):
    recordings = [chirp(seconds=0.5), chirp(seconds=3.0), np.stack([chirp(), chirp()])]
    features = extractor(recordings, sampling_rate=RATE, return_tensors="pt")["input_features"]
    assert features.shape == (3, 1, 128, 188)
    for row, recording in zip(features, recordings):
        alone = extractor(recording, sampling_rate=RATE, return_tensors="pt")["input_features"]
        assert torch.allclose(row, alone[0], atol=1e-4)


@pytest.mark.parametrize("silence", [np.zeros(RATE, "f4"), np.zeros(RATE, np.int16), np.zeros(1, "f4")])
def test_silence_gives_finite_numbers_at_the_floor(extractor, silence):
    level = mel_level(extractor, silence)
    assert np.isfinite(level).all() and np.abs(level).max() < 1e-3


def test_a_missing_rate_is_an_error(extractor, processor):
    for call in (extractor, lambda audio: processor(audio=audio)):
        with pytest.raises(ValueError, match="sampling_rate") as error:
            call(chirp())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        (np.array([], "f4"), "at least one"),
        (np.zeros((2, 0), "f4"), "at least one"),
        (np.zeros((1, 2, 99), "f4"), r"\(1, 2, 99\)"),
        (np.zeros((99, 2), "f4"), "more channels than samples"),
        (np.float32(1), r"shape \(\)"),
        (np.full(99, np.nan, "f4"), "not finite"),
        (np.array([0.0, np.inf], "f4"), "not finite"),
        (np.zeros(99, np.uint8), "uint8"),
        (np.zeros(99, bool), "bool"),
        (np.full(99, 3_000.0), "full scale"),
        (np.array(["a", "b"]), "signed integers or floats"),
        (np.zeros(99, np.complex64), "complex"),
    ],
    ids=str,
)
def test_what_is_no_recording_is_refused_in_one_sentence(extractor, recording, expected):
    with pytest.raises(ValueError, match=expected) as error:
        extractor(recording, sampling_rate=RATE)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("rate", [0, -16_000, 16, "16000", math.nan])
def test_a_rate_that_is_none_is_refused(extractor, rate):
    with pytest.raises(ValueError, match="samples a second"):
        extractor(chirp(), sampling_rate=rate)


def test_every_kind_of_sample_gives_the_same_image(extractor):
    samples = torch.from_numpy(chirp())
    expected = extractor(samples, sampling_rate=RATE)["input_features"]
    for same in (samples.requires_grad_(), samples.tolist(), (samples.detach() * 2**31).to(torch.int32)):
        given = extractor([same] if isinstance(same, list) else same, sampling_rate=float(RATE))["input_features"]
        assert torch.allclose(given, expected, atol=1e-3)
    coarse = extractor(samples.detach().bfloat16(), sampling_rate=RATE)["input_features"]
    assert (coarse - expected).abs().mean() < 0.3  # three digits of a sample are few, and no error


def test_no_recording_in_the_list_is_refused(extractor):
    with pytest.raises(ValueError):
        extractor([], sampling_rate=RATE)


def test_the_transform_is_made_once_and_saved_nowhere(extractor, monkeypatch):
    made = []
    transform = torchaudio.transforms.MelSpectrogram
    monkeypatch.setattr(torchaudio.transforms, "MelSpectrogram", lambda *a, **k: made.append(a) or transform(*a, **k))
    other = EmoCLIPFeatureExtractor(hop_length=250)  # no other test's recipe
    before = other.to_json_string()
    images = [copied(chirp(), RATE)["input_features"] for copied in (other, other, copy.deepcopy(other))]
    images.append(pickle.loads(pickle.dumps(other))(chirp(), RATE)["input_features"])
    assert len(made) == 1 and all(torch.equal(image, images[0]) for image in images)
    assert other.to_json_string() == before and images[0].shape[-1] == 1 + 3 * RATE // 250
    other.hop_length = extractor.hop_length  # what is changed is followed
    assert torch.equal(other(chirp(), RATE)["input_features"], extractor(chirp(), RATE)["input_features"])


def test_a_spectrogram_made_in_inference_mode_does_not_spoil_those_of_training():
    extractor = EmoCLIPFeatureExtractor(hop_length=251)
    waveforms = torch.from_numpy(chirp(seconds=3.0))[None]
    with torch.inference_mode():
        expected = extractor.spectrogram(waveforms)
    waveforms = waveforms.clone().requires_grad_()
    image = extractor.spectrogram(waveforms)
    image.sum().backward()
    assert torch.equal(image, expected) and waveforms.grad.any()


# --- The stored form


def recordings() -> list[np.ndarray]:
    noise = np.random.default_rng(0).normal(0, 0.05, (2, RATE)).astype("f4")
    return [chirp(seconds=1.0), chirp(seconds=3.5), noise]


@pytest.mark.parametrize("kind", VOICE_EXTRACTORS.values())
def test_a_stored_voice_gives_the_models_input_to_the_precision_of_its_numbers(kind):
    extractor = kind()
    stored = extractor.encode(recordings(), RATE)
    assert stored.shape == (3, *extractor.stored_shape) and stored.dtype == extractor.stored_dtype
    assert torch.equal(extractor.encode(recordings()[2], RATE), stored[2:])
    decoded, (name,) = extractor.decode(stored), extractor.model_input_names
    expected = extractor(recordings(), sampling_rate=RATE)[name][..., : decoded.shape[-1]]
    assert (
        extractor.input_name == name and decoded.dtype == torch.float32 and decoded.shape == (3, *expected.shape[1:])
    )
    half = 0.5 / 256 / extractor.std if name == "input_features" else 0.5
    assert (decoded - expected).abs().max() < 1.01 * half
    if name == "input_features":  # the middle of a level, neither its floor nor its ceiling
        assert abs((decoded - expected)[expected > expected.min()].mean()) < half / 10
    with pytest.raises(ValueError, match="sampling_rate"):
        extractor.encode(chirp(), None)


def test_a_stored_waveform_is_cut_padded_and_clipped():
    extractor = EmoCLIPWaveformExtractor(sampling_rate=RATE)
    loud = np.full(4 * RATE, 1.5, "f4")
    stored = extractor.encode([loud, -loud, chirp(seconds=1.0)], RATE)
    assert stored.shape == (3, 3 * RATE)
    assert stored[0].unique().tolist() == [2**15 - 1] and stored[1].unique().tolist() == [-(2**15)]
    assert not stored[2, RATE:].any()


@pytest.mark.parametrize("top_db", [80.0, 45.0])
def test_the_image_reaches_as_far_below_the_loudest_point_as_its_config_says(top_db):
    """A tone that gets softer by 60 dB: the soft half is there with a range of 80 dB and black with one of 45."""
    time = np.arange(3 * RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 440 * time) * 10 ** (-60 * (time > 1.5) / 20)).astype("f4")
    extractor = EmoCLIPFeatureExtractor(top_db=top_db, mean=0.0, std=1.0)
    [image] = extractor(tone, RATE, return_tensors="pt").input_features[:, 0]
    loud, soft = image[:, 20:80].amax(), image[:, 110:170].amax(0).median()
    assert loud == pytest.approx(1.0, abs=0.01) and soft == pytest.approx(max(0.0, (top_db - 60) / top_db), abs=0.02)


def test_a_stored_voice_serves_every_range():
    stored = EmoCLIPFeatureExtractor().encode(recordings(), RATE)
    for top_db in (80.0, 60.0, 35.0):
        extractor = EmoCLIPFeatureExtractor(top_db=top_db, mean=0.0, std=1.0)
        assert torch.equal(extractor.encode(recordings(), RATE), stored)
        heard = extractor(recordings(), RATE, return_tensors="pt").input_features
        assert (extractor.decode(stored) - heard).abs().max() < 80 / 256 / top_db + 1e-3  # a level of the stored ones


def test_the_images_of_a_training_get_mean_0_and_deviation_1():
    extractor = EmoCLIPFeatureExtractor(top_db=50.0)
    stored = extractor.encode(recordings(), RATE)
    extractor.standardize_by(stored)
    images = extractor.decode(stored)
    assert images.mean().item() == pytest.approx(0, abs=1e-3) and images.std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("top_db", [0.0, 90.0])
def test_a_range_that_no_stored_voice_has_is_refused(top_db):
    with pytest.raises(ValueError, match="`top_db`"):
        EmoCLIPFeatureExtractor(top_db=top_db)


# --- Pictures


def grey_face(side: int = 48) -> np.ndarray:
    y, x = np.mgrid[:side, :side] * (255 / side)
    return ((x + 255 - y) / 2).astype(np.uint8)


def pixel_values(images: EmoCLIPImageProcessor, picture) -> torch.Tensor:
    values = images(picture, return_tensors="pt")["pixel_values"]
    side = images.size["height"]
    assert values.shape[1:] == (3, side, side) and values.dtype == torch.float32
    return values


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((48, 48), np.uint16), "uint16"),
        (np.zeros((48, 48), bool), "bool"),
        (torch.zeros(48, 48, dtype=torch.int64), "int64"),
        (Image.new("I;16", (48, 48)), "I;16"),
        (Image.new("F", (48, 48)), "mode F"),
        (np.zeros((0, 48), np.uint8), "empty"),
        (np.full((48, 48), 2.0), r"0\.\.1"),
        ("face.png", "str"),
        ([], "at least one"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_what_is_no_picture_is_refused_in_one_sentence(picture, words):
    with pytest.raises(ValueError, match=words) as error:
        EmoCLIPImageProcessor()(picture, return_tensors="pt")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "kind",
    ["PIL grey", "PIL colour", "PIL with alpha", "PIL palette", "numpy (H, W, 3)", "numpy (3, H, W)",
     "numpy (1, H, W)", "torch (H, W)", "torch (1, H, W)", "torch (3, H, W)",
     "float numpy", "float torch", "float64 numpy"],
)  # fmt: skip
def test_a_picture_of_any_kind_gives_the_same_pixels(images, kind):
    grey = grey_face()
    colour = np.repeat(grey[..., None], 3, axis=2)
    picture = {
        "PIL grey": Image.fromarray(grey),
        "PIL colour": Image.fromarray(colour),
        "PIL with alpha": Image.fromarray(colour).convert("RGBA"),
        "PIL palette": Image.fromarray(grey).convert("P"),
        "numpy (H, W, 3)": colour,
        "numpy (3, H, W)": colour.transpose(2, 0, 1),
        "numpy (1, H, W)": grey[None],
        "torch (H, W)": torch.tensor(grey),
        "torch (1, H, W)": torch.tensor(grey)[None],
        "torch (3, H, W)": torch.tensor(colour).permute(2, 0, 1),
        "float numpy": (colour / 255).astype("f4"),
        "float torch": torch.tensor(grey) / 255,
        "float64 numpy": grey / 255,
    }[kind]
    values, expected = pixel_values(images, picture), pixel_values(images, grey)
    assert values.shape == expected.shape
    assert torch.allclose(values, expected, atol=0.05)  # of a spread of 4: a rounding of bytes


def test_pixels_are_standardised_grey(images):
    for level in (0, 128, 255):
        values = pixel_values(images, np.full((48, 48), level, np.uint8))
        expected = (level / 255 - images.image_mean[0]) / images.image_std[0]
        assert torch.allclose(values, torch.tensor(expected), atol=1e-4)
    colour = np.zeros((48, 48, 3), np.uint8)
    colour[..., 1] = 200  # green is most of what is seen
    values = pixel_values(images, colour)
    assert torch.equal(values[:, 0], values[:, 1]) and torch.equal(values[:, 0], values[:, 2])
    assert values.mean().item() == pytest.approx((0.587 * 200 / 255 - 0.5077) / 0.255, abs=0.02)


def test_the_default_side_of_a_face_is_that_of_the_default_model(images):
    assert images.side == EmoCLIPConfig().vision_config.image_size


def test_training_and_inference_see_the_same_pixels(images):
    """What augmentation leaves unchanged is standardised as a photo is."""
    side = images.size["height"]
    face = grey_face(side)
    assert torch.allclose(
        images.standardize(torch.tensor(face)[None, None] / 255), pixel_values(images, face), atol=1e-5
    )


def test_a_batch_of_pictures_is_each_of_them(images):
    pictures = [grey_face(), Image.fromarray(grey_face(90).T), torch.tensor(grey_face(30))]
    values = pixel_values(images, pictures)
    assert len(values) == 3
    for row, picture in zip(values, pictures):
        assert torch.allclose(row, pixel_values(images, picture)[0], atol=1e-5)
    stack = torch.tensor(np.stack([grey_face(), grey_face().T]))[:, None]
    assert torch.allclose(pixel_values(images, stack), pixel_values(images, list(stack)))


@pytest.mark.parametrize("picture", [grey_face() * 1.0, grey_face() / -255.0, np.full((48, 48), np.nan)])
def test_floats_outside_0_to_1_are_refused(images, picture):
    with pytest.raises(ValueError, match=r"0\.\.1") as error:
        images(picture, return_tensors="pt")
    assert "\n" not in str(error.value)


# --- Text, and everything at once


def test_text_is_padded_together_and_cut_at_the_towers_length(processor):
    tokenizer = processor.tokenizer
    inputs = processor(text=["a happy face", "someone who sounds furious " * 9, "sad"], return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    ids = inputs["input_ids"]
    assert ids.shape == (3, 12)
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert ((ids == tokenizer.eos_token_id).sum(-1) == 1).all()  # a cut sentence keeps its end
    assert ids[1, -1] == tokenizer.eos_token_id
    assert torch.equal(inputs["attention_mask"], (ids != tokenizer.pad_token_id).long())
    assert processor(text="sad", return_tensors="pt")["input_ids"].shape[0] == 1
    assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == "a happy face"


def test_any_text_can_be_tokenized(processor):
    for text in ("", "émoi 🙂 悲しい", "<|endoftext|>", "A HAPPY FACE"):
        ids = processor(text=[text], return_tensors="pt")["input_ids"]
        assert ids.min() >= 0 and ids.max() < 300


def test_one_call_takes_every_modality(processor):
    inputs = processor(
        images=[grey_face()] * 2, audio=[chirp()] * 2, text=["happy", "sad"], sampling_rate=RATE, return_tensors="pt"
    )
    assert set(inputs) == {"pixel_values", "input_features", "input_ids", "attention_mask"}
    assert set(inputs) <= set(processor.model_input_names)
    assert {len(value) for value in inputs.values()} == {2}
    with pytest.raises(ValueError, match="at least one"):
        processor()
    assert isinstance(processor(images=grey_face(), return_tensors="np")["pixel_values"], np.ndarray)


def everything(processor) -> dict[str, torch.Tensor]:
    return dict(
        processor(
            images=grey_face(90), audio=chirp(22_050), text="a sad voice", sampling_rate=22_050, return_tensors="pt"
        )
    )


def test_a_saved_processor_comes_back_the_same(processor, tmp_path):
    other = EmoCLIPProcessor(
        EmoCLIPImageProcessor(size={"height": 40, "width": 40}, image_mean=[0.4] * 3),
        EmoCLIPFeatureExtractor(mean=0.3, top_db=60.0),
        processor.tokenizer,
    )
    for original in (processor, other):
        original.save_pretrained(tmp_path)
        loaded = EmoCLIPProcessor.from_pretrained(tmp_path)
        expected = everything(original)
        assert everything(loaded).keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in everything(loaded).items())
    assert everything(loaded)["pixel_values"].shape == (1, 3, 40, 40)


def test_auto_processor_loads_by_the_folders_own_code(processor, tmp_path):
    """test_hub.py has it do so where the project's modules cannot be imported."""
    processor.save_pretrained(tmp_path / "processor")
    loaded = AutoProcessor.from_pretrained(tmp_path / "processor", trust_remote_code=True)
    assert type(loaded).__name__ == "EmoCLIPProcessor"
    parts = (loaded, loaded.image_processor, loaded.feature_extractor)
    assert all(type(part).__module__.startswith("transformers_modules.") for part in parts)
    inputs, expected = everything(loaded), everything(processor)
    assert all(torch.allclose(value, expected[name]) for name, value in inputs.items())
    assert inputs.keys() == expected.keys()
