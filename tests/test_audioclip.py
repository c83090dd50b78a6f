"""The official AudioCLIP: conversion, parity with the reference, both audio and both image towers, speed's caches."""

import copy
import os
import pickle
import sys
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torchvision import transforms
from transformers import AutoModel, AutoProcessor

import convert_audioclip
import train_hf
from configuration_emoclip import EmoCLIPConfig
from convert_audioclip import clip_processor, read_state_dict, to_model
from modeling_emoclip import EmoCLIPForEmotionClassification, EmoCLIPModel
from processing_emoclip import EmoCLIPProcessor

ROOT = Path(__file__).parent.parent
PARITY = Path(os.environ.get("EMOCLIP_DATA", "")).parent / "parity"
RATE = 44_100  # Hz

TINY_TEXT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "bos_token_id": 98,
    "eos_token_id": 99,
}
TINY_IMAGE_TOWERS = {
    "modified_resnet": {"width": 4, "layers": [1, 1, 1, 1], "image_size": 64},
    "clip_vision_model": {
        "tower": "clip_vision_model",
        "clip_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 32,
        },
    },
}
TINY_AUDIO_TOWERS = {
    "shared": {"image_size": [32, 32]},
    "esresnext_fbsp": {
        "tower": "esresnext_fbsp",
        "n_fft": 64,
        "win_length": 40,
        "hop_length": 20,
        "width": 4,
        "groups": 2,
        "layers": [1, 1, 1, 1],
    },
}


def tiny_config(image: str = "modified_resnet", audio: str = "esresnext_fbsp", **fields) -> EmoCLIPConfig:
    return EmoCLIPConfig(
        vision_config=copy.deepcopy(TINY_IMAGE_TOWERS[image]),
        audio_config=dict(TINY_AUDIO_TOWERS[audio]),
        text_config=dict(TINY_TEXT),
        projection_dim=16,
        **fields,
    )


def tiny_inputs(audio: str = "esresnext_fbsp", batch: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "pixel_values": torch.randn(batch, 3, 64, 64, generator=generator),
        "input_ids": torch.tensor([[98, i + 1, 99, 0] for i in range(batch)]),
    }
    if audio == "shared":
        return inputs | {"input_features": torch.randn(batch, 1, 128, 188, generator=generator)}
    return inputs | {"input_values": 3000 * torch.randn(batch, 1, 2000, generator=generator)}


def tiny_shapes() -> dict[str, tuple[int, ...]]:
    """The keys and shapes of an official checkpoint of the smallest sizes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int, norm: str | None = None, bias: bool = False):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]
        if norm:
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{norm}.{part}"] = shape[:1]
            shapes[f"{norm}.num_batches_tracked"] = ()

    def block(prefix: str, inner: int, outer: int, in_channels: int, per_group: int):
        conv(f"{prefix}.conv1", inner, in_channels, 1, 1, norm=f"{prefix}.bn1")
        conv(f"{prefix}.conv2", inner, per_group, 3, 3, norm=f"{prefix}.bn2")
        conv(f"{prefix}.conv3", outer, inner, 1, 1, norm=f"{prefix}.bn3")
        if in_channels != outer:
            conv(f"{prefix}.downsample.0", outer, in_channels, 1, 1, norm=f"{prefix}.downsample.1")

    for number, shape in enumerate(((2, 3, 3, 3), (2, 2, 3, 3), (4, 2, 3, 3)), 1):
        conv(f"visual.conv{number}", *shape, norm=f"visual.bn{number}")
    conv("audio.conv1", 4, 3, 7, 7, norm="audio.bn1")
    channels = (4, 16, 32, 64, 128)
    for stage, (before, after) in enumerate(zip(channels, channels[1:]), 1):
        block(f"visual.layer{stage}.0", after // 4, after, before, after // 4)
        block(f"visual.layer{stage}.1", after // 4, after, after, after // 4)
        block(f"audio.layer{stage}.0", after // 2, after, before, after // 4)
    for i, kernel in enumerate(((3, 1), (1, 5), (3, 1), (1, 5), (3, 5)), 1):
        before, after = channels[i - 1], channels[min(i, 4)]
        conv(f"audio.att{i}.conv_depth", before, 1, *kernel, bias=True)
        conv(f"audio.att{i}.conv_point", after, before, 1, 1, bias=True, norm=f"audio.att{i}.bn")
    conv("audio.fc", 16, 128, bias=True)
    shapes |= {f"audio.fbsp.{name}": (33,) for name in ("m", "fb", "fc")}
    shapes |= {"audio.fbsp.bias": (0,), "audio.window": (40,), "visual.attnpool.positional_embedding": (5, 128)}
    for name, size in (("q", 128), ("k", 128), ("v", 128), ("c", 16)):
        conv(f"visual.attnpool.{name}_proj", size, 128, bias=True)
    layer = "transformer.resblocks.0"
    shapes |= {f"{layer}.attn.in_proj_weight": (192, 64), f"{layer}.attn.in_proj_bias": (192,)}
    for name, shape in (("attn.out_proj", (64, 64)), ("mlp.c_fc", (128, 64)), ("mlp.c_proj", (64, 128))):
        conv(f"{layer}.{name}", *shape, bias=True)
    for name in (f"{layer}.ln_1", f"{layer}.ln_2", "ln_final"):
        conv(name, 64, bias=True)
    shapes |= {"token_embedding.weight": (49_408, 64), "positional_embedding": (77, 64), "text_projection": (64, 16)}
    return shapes | dict.fromkeys(("logit_scale", "logit_scale_ai", "logit_scale_at"), ())


def tiny_checkpoint() -> dict[str, torch.Tensor]:
    """A state dict in the official format, whose numbers depend on each key's name alone."""

    def fill(key: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        if key.endswith("num_batches_tracked"):
            return np.array(1000)
        if key == "audio.window":
            return np.hanning(shape[0])
        if key == "audio.fbsp.fc":
            return np.arange(shape[0]) + rng.normal(0, 0.05, shape)
        if key.endswith(("running_var", "fbsp.m", "fbsp.fb")) or (key.endswith("weight") and len(shape) == 1):
            return rng.uniform(0.8, 1.2, shape)
        if key.startswith("logit_scale"):
            return np.array(3.0)
        return rng.normal(0, np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.05, shape)

    return {
        key: torch.from_numpy(fill(key, shape)).to(torch.int64 if key.endswith("tracked") else torch.float32)
        for key, shape in tiny_shapes().items()
    }


#: Of the tiny checkpoint, by this project's own code after its parity with the reference was shown.
EXPECTED = {
    "image": [0.132868, -0.317007, 0.111736, 0.319446],
    "audio": [-0.272089, 0.107614, 0.528109, 0.248735],
    "text": [-0.153733, -0.285963, 0.267593, 0.19673],
    "loss": [0.876334],
    "transform": [0.113044],
}


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A tiny checkpoint as a file."""
    file = tmp_path_factory.mktemp("official") / "AudioCLIP-Tiny.pt"
    torch.save(tiny_checkpoint(), file)
    return file


@pytest.fixture(scope="module")
def processor() -> EmoCLIPProcessor:
    try:
        return clip_processor(EmoCLIPConfig.from_preset("audioclip"))
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture
def tiny_model() -> EmoCLIPModel:
    torch.manual_seed(0)
    return EmoCLIPModel(tiny_config()).eval()


def relative_error(a: torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    b = torch.as_tensor(b)
    return ((a - b).norm() / b.norm()).item()


# --- The same numbers as the original


@pytest.mark.skipif(not (PARITY / "golden.npz").is_file(), reason="the reference's outputs are not beside the data")
@torch.no_grad()
def test_the_references_numbers(tmp_path, monkeypatch, processor):
    monkeypatch.syspath_prepend(PARITY)
    import make_checkpoint

    torch.save(make_checkpoint.state_dict(), tmp_path / "official.pt")
    monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / "official.pt"), str(tmp_path / "out")])
    convert_audioclip.main()
    model = EmoCLIPModel.from_pretrained(tmp_path / "out").eval()
    processor = EmoCLIPProcessor.from_pretrained(tmp_path / "out")
    golden, inputs = np.load(PARITY / "golden.npz"), make_checkpoint.inputs()
    text = processor(text=make_checkpoint.TEXTS, return_tensors="pt")
    assert (text["input_ids"].numpy() == golden["input_ids"]).all()
    audio = processor(audio=list(inputs["audio"] / 2**15), sampling_rate=RATE, return_tensors="pt")
    images = torch.from_numpy(inputs["image"])

    def features(model: EmoCLIPModel) -> dict[str, torch.Tensor]:
        return {
            "image": model.get_image_features(images).pooler_output.float(),
            "audio": model.get_audio_features(**audio).pooler_output.float(),
            "text": model.get_text_features(**text).pooler_output.float(),
        }

    exact = features(model)
    for name, value in exact.items():
        assert relative_error(value, golden[f"{name}_embeds"]) < 1e-4, name
    outputs = model(pixel_values=images, **audio, input_ids=text["input_ids"][:2])
    assert relative_error(outputs.logits_image_audio.T, golden["logits_audio_image"]) < 1e-4
    assert relative_error(outputs.logits_audio_text, golden["logits_audio_text"]) < 1e-4
    assert relative_error(outputs.logits_image_text, golden["logits_image_text"]) < 1e-4
    assert outputs.loss.item() == pytest.approx(golden["loss"].item(), abs=1e-5)
    assert outputs.losses["transform"].item() == pytest.approx(golden["loss_ttf"].item(), abs=1e-5)
    for name, value in features(model.to(torch.bfloat16)).items():
        assert torch.cosine_similarity(value, exact[name]).min() > 0.999, name


@torch.no_grad()
def test_the_tiny_checkpoints_numbers(official):
    model, has_audio = to_model(read_state_dict(official))
    assert has_audio
    inputs = tiny_inputs(batch=2)
    inputs["input_ids"] = torch.tensor([[49_406, 320, 49_407], [49_406, 2368, 49_407]])
    outputs = model(**inputs)
    numbers = {name: outputs[f"{name}_embeds"][0, :4] for name in ("image", "audio", "text")}
    numbers |= {"loss": outputs.loss[None], "transform": outputs.losses["transform"][None]}
    for name, value in numbers.items():
        assert value.tolist() == pytest.approx(EXPECTED[name], rel=1e-3, abs=1e-5), name


def test_the_preset_has_audioclips_size():
    with torch.device("meta"):
        model = EmoCLIPModel(EmoCLIPConfig.from_preset("audioclip"))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 134.1


def test_features_are_not_normalised_and_embeds_are(tiny_model):
    with torch.no_grad():
        outputs = tiny_model(**tiny_inputs())
        features = tiny_model.get_audio_features(input_values=tiny_inputs()["input_values"]).pooler_output
    assert not torch.allclose(features.norm(dim=-1), torch.ones(4), atol=1e-3)
    for name in ("image", "audio", "text"):
        assert outputs[f"{name}_embeds"].norm(dim=-1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)


def test_the_loss_is_the_sum_of_both_directions_over_the_factorial_of_the_pairs(tiny_model):
    tiny_model.config.loss_reduction = "audioclip"
    tiny_model.config.loss_weights = dict.fromkeys(tiny_model.config.loss_weights, 1.0)
    inputs = tiny_inputs()

    def both_directions(logits: torch.Tensor) -> torch.Tensor:
        cross_entropy, diagonal = torch.nn.functional.cross_entropy, torch.arange(len(logits))
        return cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)

    for left_out, divisor in ((None, 6), ("input_values", 1), ("pixel_values", 1)):
        with torch.no_grad():
            outputs = tiny_model(**{name: value for name, value in inputs.items() if name != left_out})
        pairs = [outputs.get(f"logits_{pair}") for pair in ("image_audio", "image_text", "audio_text")]
        expected = sum(both_directions(logits) for logits in pairs if logits is not None) / divisor
        if left_out != "input_values":
            expected = expected + tiny_model.audio_model.fbsp.norm_loss()
        assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradients_of_the_transform_are_scaled_in_training(tiny_model):
    reference = copy.deepcopy(tiny_model).eval()
    inputs = {"input_values": tiny_inputs()["input_values"]}
    for model in (tiny_model, reference):
        model.audio_model.fbsp.train(model is tiny_model)  # batch norms stay in evaluation mode
        model.get_audio_features(**inputs).pooler_output.square().sum().backward()
    for name in ("m", "fb", "fc"):
        scaled, plain = (getattr(model.audio_model.fbsp, name).grad for model in (tiny_model, reference))
        assert torch.allclose(scaled, plain / (plain.abs().max() + 1e-8), atol=1e-5)


# --- Inputs


def test_text_is_tokenised_as_clip_does(processor):
    ids = processor(text=[["happy", "smiling"], "A photo of a cat!", "it's  12 "], return_tensors="np")["input_ids"]
    assert ids.shape == (3, 77)
    assert ids[0, :6].tolist() == [49406, 900, 267, 9200, 49407, 0]
    assert ids[1, :9].tolist() == [49406, 320, 1125, 539, 320, 2368, 256, 49407, 0]
    assert ids[2, :7].tolist() == [49406, 585, 568, 272, 273, 49407, 0]
    long = processor(text="word " * 100, return_tensors="np")["input_ids"]
    assert long.shape == (1, 77) and long[0, -1] == 49407


def test_a_recording_becomes_a_waveform_in_int16_units(processor, tmp_path):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (2, RATE // 2)).astype(np.int16)
    soundfile.write(tmp_path / "sound.wav", samples[0], RATE)
    read, rate = soundfile.read(tmp_path / "sound.wav", dtype="float32")
    for audio in (read, samples[0]):
        values = processor(audio=audio, sampling_rate=rate, return_tensors="pt")["input_values"]
        assert values.shape == (1, 1, RATE // 2) and (values[0, 0].numpy() == samples[0]).all()
    several = processor(audio=[read, read[:100]], sampling_rate=rate, return_tensors="pt")["input_values"]
    assert several.shape == (2, 1, RATE // 2) and not several[1, 0, 100:].any()
    assert processor(audio=read, sampling_rate=22_050, return_tensors="pt")["input_values"].shape == (1, 1, RATE)


def test_a_picture_is_resized_cropped_and_normalised_as_clip_does(processor):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC)
    expected = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )(image)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 224, 224)
    assert (pixels - expected).abs().max() < 2 / 255 / 0.26  # a level or so: rounding in between


# --- Conversion


def test_the_command_writes_a_folder_that_everything_loads(official, tmp_path, monkeypatch, capsys, processor):
    monkeypatch.setattr(sys, "argv", ["convert", str(official), str(tmp_path)])
    convert_audioclip.main()
    assert "of AudioCLIP" in capsys.readouterr().out
    state = tiny_checkpoint()
    model = EmoCLIPModel.from_pretrained(tmp_path)
    assert torch.equal(model.audio_model.fbsp.window, state["audio.window"])
    assert torch.equal(model.text_projection.weight, state["text_projection"].T)
    remote = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert all(type(part).__module__.startswith("transformers_modules.") for part in (remote, processor))
    inputs = processor(text="angry", audio=[0.0] * 9000, sampling_rate=44_100, return_tensors="pt")
    assert type(remote).__name__ == "EmoCLIPModel" and remote(**inputs).audio_embeds.shape == (1, 16)


@pytest.mark.parametrize("form", ["state dict", "TorchScript archive"])
def test_clip_gives_image_and_text_and_an_untrained_audio_tower(form, tmp_path, monkeypatch, capsys, processor):
    state = {k: v for k, v in tiny_checkpoint().items() if not k.startswith(("audio.", "logit_scale_"))}
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    if form == "state dict":
        torch.save(state, tmp_path / "RN50.pt")
    else:
        root = torch.nn.Module()
        for key, value in state.items():
            *path, name = key.split(".")
            module = root
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_buffer(name, value)
        root.forward = lambda x: x
        torch.jit.trace(root, torch.ones(1), check_trace=False).save(tmp_path / "RN50.pt")
    monkeypatch.setattr(EmoCLIPConfig, "from_preset", staticmethod(lambda name: tiny_config()))
    monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / "RN50.pt"), str(tmp_path / "out")])
    convert_audioclip.main()
    assert "untrained" in capsys.readouterr().out
    model = EmoCLIPModel.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert torch.equal(model.vision_model.conv1.weight, state["visual.conv1.weight"].float())


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["BOMB"]),))


def test_a_malicious_pickle_is_refused_and_its_code_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    torch.save({"visual.conv1.weight": Bomb()}, tmp_path / "new.pt")
    torch.save({"visual.conv1.weight": Bomb()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("new.pt", "old.pt", "plain.pt"):
        with pytest.raises(ValueError, match="refused"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_what_is_no_such_checkpoint_gets_one_sentence(tmp_path, monkeypatch, official):
    tiny = tiny_checkpoint()
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "short.pt").write_bytes(official.read_bytes()[:10_000])
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "other.pt")
    torch.save({"visual.class_embedding": torch.ones(2)}, tmp_path / "vit.pt")
    torch.save({k: v for k, v in tiny.items() if k != "audio.fc.bias"}, tmp_path / "lacks.pt")
    torch.save(tiny | {"audio.fc.bias": torch.ones(3)}, tmp_path / "shape.pt")
    torch.save(tiny | {"surprise": torch.ones(3)}, tmp_path / "more.pt")
    for file in ("absent", "text", "empty", "short", "list", "other", "vit", "lacks", "shape", "more"):
        monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / f"{file}.pt"), str(tmp_path / "out")])
        with pytest.raises(SystemExit) as error:
            convert_audioclip.main()
        assert isinstance(error.value.code, str) and "\n" not in error.value.code, file
    assert not (tmp_path / "out").exists()


# --- Every combination of towers


@pytest.mark.parametrize("loss_reduction", ["clip", "audioclip"])
@pytest.mark.parametrize("audio", TINY_AUDIO_TOWERS)
@pytest.mark.parametrize("image", TINY_IMAGE_TOWERS)
def test_every_combination_trains_a_step_saves_and_loads(image, audio, loss_reduction, tmp_path):
    torch.manual_seed(0)
    model = EmoCLIPForEmotionClassification(tiny_config(image, audio, loss_reduction=loss_reduction))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    labels = {"face_labels": torch.tensor([0, 1, 2, 3]), "voice_labels": torch.tensor([0, 1, 2, 3])}
    masks = {
        "face_mask": torch.tensor([True, True, False, True]),
        "voice_mask": torch.tensor([True, True, True, False]),
    }
    before = copy.deepcopy(model.state_dict())
    outputs = model.train()(**tiny_inputs(audio), **labels, **masks)
    outputs.loss.backward()
    optimizer.step()
    unmoved = [name for name, p in model.named_parameters() if p.grad is None and "positional" not in name]
    assert unmoved == [] and outputs.loss.isfinite()
    assert ("transform" in outputs.losses) == (audio == "esresnext_fbsp" and loss_reduction == "audioclip")
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval().save_pretrained(tmp_path)
    loaded = EmoCLIPForEmotionClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        one, two = model(**tiny_inputs(audio)), loaded(**tiny_inputs(audio))
    assert torch.allclose(one.logits, two.logits, atol=1e-5)


def test_a_tower_that_is_given_the_other_kind_of_audio_says_so_in_one_sentence(tiny_model):
    with pytest.raises(ValueError, match="reads waveforms.*was given mel images"):
        tiny_model(input_features=torch.randn(1, 1, 128, 188), input_ids=torch.tensor([[98, 99]]))
    shared = EmoCLIPForEmotionClassification(tiny_config(audio="shared"))
    with pytest.raises(ValueError, match="reads log-mel images.*was given waveforms"):
        shared(input_values=torch.randn(1, 1, 2000))
    with pytest.raises(ValueError, match="must be `input_values` \\(B, 1, T\\)"):
        tiny_model.get_audio_features(input_values=torch.randn(1, 2000))


# --- What is kept between calls


@torch.no_grad()
def test_the_transform_follows_its_parameters_whatever_changes_them(tiny_model):
    fbsp = tiny_model.audio_model.fbsp
    other = fbsp.state_dict() | {"m": fbsp.m * 0.9}
    changes = {
        "in place": lambda: fbsp.m.mul_(0.9),
        "through .data": lambda: fbsp.fb.data.mul_(0.9),
        "a new tensor": lambda: setattr(fbsp.fc, "data", fbsp.fc + 0.1),
        "a new parameter": lambda: setattr(fbsp, "fc", torch.nn.Parameter(fbsp.fc + 0.1)),
        "loading": lambda: fbsp.load_state_dict(other),
        "assigning": lambda: fbsp.load_state_dict({k: v * 0.9 for k, v in other.items()}, assign=True),
    }
    for name, change in changes.items():
        before = fbsp.current_filters()
        assert fbsp.current_filters() is before
        change()
        assert torch.equal(fbsp.current_filters(), fbsp.filters()), name
        assert not torch.equal(fbsp.current_filters(), before), name
    assert copy.deepcopy(fbsp)._cached is None


def test_the_transform_stays_in_float32(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    fc = tiny_model.audio_model.fbsp.fc.detach().clone()
    loaded = EmoCLIPModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for model in (loaded, tiny_model.to(torch.bfloat16), tiny_model.half(), tiny_model.float()):
        assert torch.equal(model.audio_model.fbsp.fc, fc)
    assert loaded.audio_model.conv1.weight.dtype == torch.bfloat16


@torch.no_grad()
def test_folded_batch_norms_give_the_same_and_follow_the_weights(tiny_model):
    tower, waveforms = tiny_model.audio_model, tiny_inputs()["input_values"]

    def unfolded() -> torch.Tensor:
        with torch.enable_grad():  # where a gradient is wanted nothing is folded
            return tower(waveforms).detach()

    for change in (
        lambda: None,
        lambda: tower.stages[0][0].conv2.weight.mul_(0.5),
        lambda: tower.bn1.running_mean.add_(0.5),
        lambda: tower.train()(waveforms),
        lambda: tower.load_state_dict({k: v * 1.1 for k, v in tower.state_dict().items()}),
    ):
        change()
        tower.eval()
        assert torch.allclose(tower(waveforms), unfolded(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_any_length_has_an_answer(tiny_model):
    for length in (1, 39, 40, 41, 61, 5000):
        features = tiny_model.get_audio_features(input_values=torch.randn(2, 1, length)).pooler_output
        assert features.shape == (2, 16) and features.isfinite().all()


# --- Fine-tuning and zero-shot


@pytest.fixture(scope="module")
def converted(official, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    model, _ = to_model(read_state_dict(official))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_heads_are_put_on_a_converted_backbone(converted):
    from training.arguments import ModelArguments
    from training.build import build_model, build_processor, freeze

    model_args = ModelArguments(init_from=str(converted))
    processor = build_processor(model_args)
    model = build_model(model_args, processor, [0, 1, 2], [0, 1])
    backbone = EmoCLIPModel.from_pretrained(converted)
    for name, value in backbone.state_dict().items():
        assert torch.equal(model.emoclip.state_dict()[name], value), name
    assert model.emoclip.config is model.config and model.config.loss_reduction == "clip"
    assert processor.feature_extractor.model_input_names == ["input_values"]
    freeze(model, ["audio", "text"])
    trained = {name.split(".")[1] for name, p in model.emoclip.named_parameters(prefix="e") if p.requires_grad}
    assert trained == {"vision_model", "logit_scale", "logit_scale_ai", "logit_scale_at"}
    with pytest.raises(ValueError, match="image, audio and text"):
        freeze(model, ["heads"])


def test_a_clip_vision_transformer_is_the_image_towers_start(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from training.arguments import ModelArguments
    from training.build import build_model, build_processor

    clip = CLIPVisionModel(CLIPVisionConfig(**TINY_IMAGE_TOWERS["clip_vision_model"]["clip_config"]))
    clip.save_pretrained(tmp_path)
    model_args = ModelArguments(vision_model=str(tmp_path))
    processor = build_processor(model_args)
    model = build_model(model_args, processor, [0, 1], [0, 1])
    for name, value in clip.state_dict().items():
        assert torch.equal(model.emoclip.vision_model.clip.state_dict()[name], value), name
    assert processor(images=Image.new("RGB", (48, 48)), return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)


def test_a_converted_checkpoint_is_fine_tuned_from_recordings(converted, tmp_path, monkeypatch):
    """The whole command, on noise: frozen towers do not move, and the backbone learns slower than the heads."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"):
            folder = tmp_path / "faces" / split / label
            folder.mkdir(parents=True)
            for i in range(10):
                Image.fromarray(generator.integers(0, 256, (48, 48), dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "voices" / "AudioWAV").mkdir(parents=True)
    for actor in (1001, 1020, 1040, 1060, 1080):
        for label in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"):
            samples = generator.normal(0, 0.1, 16_000)
            soundfile.write(tmp_path / "voices" / "AudioWAV" / f"{actor}_DFA_{label}_XX.wav", samples, 16_000)
    options = (
        f"--init_from {converted} --faces {tmp_path}/faces --voices {tmp_path}/voices --output_dir {tmp_path}/out"
    )
    options += " --freeze audio text --learning_rate 1e-2 --backbone_learning_rate 1e-6 --num_train_epochs 1"
    options += " --per_device_train_batch_size 16 --use_cpu --lr_scheduler_type constant --warmup_steps 0"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "argv", ["train_hf.py", *options.split()])
    train_hf.main()
    tuned = EmoCLIPForEmotionClassification.from_pretrained(tmp_path / "out")
    before = EmoCLIPModel.from_pretrained(converted).state_dict()
    for name, value in tuned.emoclip.state_dict().items():
        moved = (value - before[name].half().float()).abs().max().item()
        if name.startswith(("audio_model.", "text_")) and ".fbsp." not in name:
            assert moved == 0, name
        elif "running" not in name and "num_batches" not in name and ".fbsp." not in name:
            assert moved < 1e-2, name
    assert torch.equal(tuned.emoclip.audio_model.fbsp.fc, before["audio_model.fbsp.fc"])


def test_any_labels_without_training(converted, tmp_path):
    from transformers import pipeline

    import pipeline_emoclip  # noqa: F401  (registers the task)

    pipe = pipeline(
        "emotion-recognition",
        model=EmoCLIPModel.from_pretrained(converted),
        processor=EmoCLIPProcessor.from_pretrained(converted),
        device="cpu",
    )
    soundfile.write(tmp_path / "sound.wav", np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    labels = ["dog", "rain", "clapping"]
    sources = {"audio": str(tmp_path / "sound.wav"), "image": Image.new("RGB", (60, 40), "red"), "text": "a wet dog"}
    for name, source in sources.items():
        scores = pipe.zero_shot(labels, **{name: source}, templates=["{}", "a recording of {}"])
        assert set(scores) == set(labels) and sum(scores.values()) == pytest.approx(1)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
    model, processor = pipe.model, pipe.processor
    with torch.no_grad():
        prompts = processor(text=["dog", "rain", "clapping"], return_tensors="pt")
        audio = processor(audio=soundfile.read(sources["audio"], dtype="float32")[0], sampling_rate=RATE)
        outputs = model(input_values=torch.as_tensor(audio["input_values"]), **prompts, return_loss=False)
    expected = dict(zip(labels, outputs.logits_audio_text[0].softmax(-1).tolist()))
    assert pipe.zero_shot(labels, audio=sources["audio"]) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(TypeError, match="exactly one"):
        pipe.zero_shot(labels)
