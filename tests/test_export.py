"""Interchange: ONNX in onnxruntime, `torch.export` and `torch.compile` give the model's own numbers."""

import math

import onnxruntime
import pytest
import torch
from helpers import TINY, tiny_parts

import export_onnx
from configuration_emoclip import VOICE_LABELS, EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import save_all

INPUTS = {
    "a face": ("pixel_values",),
    "a voice": ("input_features",),
    "both": ("pixel_values", "input_features"),
    "both with masks": ("pixel_values", "input_features", "face_mask", "voice_mask"),
    "a face and text": ("pixel_values", "input_ids"),
}


def batch(rows: int, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    every = {
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=generator),
        "input_features": torch.randn(rows, 1, 128, 188, generator=generator),
        "input_ids": torch.randint(1, 500, (rows, 8), generator=generator),
        "face_mask": torch.arange(rows) % 3 > 0,
        "voice_mask": torch.arange(rows) % 2 > 0,
        "input_values": 1_000 * torch.randn(rows, 1, 22_050, generator=generator),
    }
    return {name: every[name] for name in names}


@pytest.fixture(scope="module")
def model() -> EmoCLIPForEmotionClassification:
    torch.manual_seed(0)
    config = EmoCLIPConfig(**TINY, face_temperature=0.5, voice_temperature=2.0)
    return EmoCLIPForEmotionClassification(config).eval().requires_grad_(False)


def assert_same(given: dict, expected: dict, tolerance: float = 1e-4):
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(given[name], value, atol=tolerance), name


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What `python export_onnx.py` writes of a checkpoint, and the checkpoint."""
    folder = tmp_path_factory.mktemp("onnx")
    bias = {label: 0.3 * i for i, label in enumerate(VOICE_LABELS)}
    model, processor = tiny_parts(face_temperature=0.5, voice_temperature=2.0, voice_bias=bias)
    save_all(model, processor, folder / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["export_onnx.py", str(folder / "checkpoint"), str(folder / "onnx")])
        export_onnx.main()
    return folder / "onnx", EmoCLIPForEmotionClassification.from_pretrained(folder / "checkpoint")


@pytest.mark.parametrize("path", export_onnx.PATHS)
def test_onnx_gives_the_numbers_of_torch_for_any_number_of_rows(exported, path):
    folder, model = exported
    session = onnxruntime.InferenceSession(folder / f"{path}.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for rows in (1, 2, 5):
        inputs = batch(rows, export_onnx.PATHS[path])
        results = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            expected = model(**inputs)
        assert_same(dict(zip(names, map(torch.from_numpy, results))), dict(expected))


def test_onnx_keeps_the_calibration_and_what_the_voice_was_not_taught(exported):
    folder, model = exported
    session = onnxruntime.InferenceSession(folder / "voice.onnx", providers=["CPUExecutionProvider"])
    inputs = batch(3, ("input_features",))
    (logits,) = session.run(["voice_logits"], {"input_features": inputs["input_features"].numpy()})
    assert (logits[:, 6] == -math.inf).all()
    with torch.no_grad():
        features = model.emoclip.get_audio_features(**inputs).pooler_output
        uncalibrated = model.voice_head(features)[:, :6]
    assert torch.allclose((torch.from_numpy(logits[:, :6]) - 0.3 * torch.arange(6)) * 2.0, uncalibrated, atol=1e-4)


def test_onnx_says_how_far_a_file_is_from_the_model(exported):
    folder, model = exported
    with torch.no_grad():
        model.face_head.classifier.bias += 0.1
        gap = export_onnx.difference(model, batch(2, ("pixel_values",)), folder / "face.onnx")
        model.face_head.classifier.bias -= 0.1
    assert gap > export_onnx.TOLERANCE


@pytest.mark.parametrize("names", INPUTS.values(), ids=INPUTS)
def test_torch_export_takes_every_path_with_any_number_of_rows(model, names):
    rows = torch.export.Dim("batch")
    shapes = {name: {0: rows} for name in names}
    program = torch.export.export(model, (), kwargs=batch(2, names), dynamic_shapes=shapes)
    assert_same(dict(program.module()(**batch(5, names))), dict(model(**batch(5, names))), 1e-5)


@pytest.mark.parametrize("names", INPUTS.values(), ids=INPUTS)
def test_torch_compile_meets_no_graph_break(model, names):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # the graph is the promise, not the kernels
    assert_same(dict(compiled(**batch(3, names))), dict(model(**batch(3, names))), 1e-5)


def test_torch_compile_meets_no_graph_break_in_audioclips_own_audio_tower():
    torch._dynamo.reset()
    audio = {"tower": "esresnext_fbsp", "width": 8, "groups": 4, "layers": [1] * 4, "n_fft": 256}
    audio |= {"win_length": 200, "hop_length": 100}
    config = EmoCLIPConfig(**{**TINY, "audio_config": audio})
    model = EmoCLIPForEmotionClassification(config).eval().requires_grad_(False)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = batch(2, ("pixel_values", "input_values"))
    assert_same(dict(compiled(**inputs)), dict(model(**inputs)), 1e-4)
