"""The towers by ONNX Runtime: PyTorch's answers for any number of rows, and PyTorch wherever there is no graph."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import ASTRONAUT, READING, TINY, assert_close, tiny_parts

import runtime_emoclip
from configuration_emoclip import EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline
from processing_emoclip import EmoCLIPProcessor
from runtime_emoclip import MODALITIES, Towers

WAVEFORMS = {"tower": "esresnext_fbsp", "width": 8, "groups": 4, "layers": [1] * 4, "n_fft": 256}
WAVEFORMS |= {"win_length": 200, "hop_length": 100}
TRANSFORMER = {"tower": "clip_vision_model"}


@pytest.fixture(autouse=True)
def graphs(monkeypatch) -> list[str]:
    """The modalities of the graphs that a test makes."""
    made, to_onnx = [], runtime_emoclip.tower_to_onnx

    def noted(tower, modality, shape):
        made.append(modality)
        return to_onnx(tower, modality, shape)

    monkeypatch.setattr(runtime_emoclip, "tower_to_onnx", noted)
    return made


def rows(model: EmoCLIPForEmotionClassification, head: str, count: int) -> torch.Tensor:
    side = model.config.vision_config.image_size
    shape = (3, side, side) if head == "face" else (1, 128, 188)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module", params=["tiny", "the checkpoint"])
def model(request, checkpoint) -> EmoCLIPForEmotionClassification:
    if request.param == "tiny":
        model, _ = tiny_parts()
        for module in model.modules():  # as if it had been trained: untrained, its blocks do nothing
            if isinstance(module, torch.nn.BatchNorm2d):
                for values in (module.weight, module.bias, module.running_mean, module.running_var):
                    torch.nn.init.uniform_(values, 0.5, 1.5)
        torch.nn.init.normal_(model.emoclip.vision_model.attnpool.c_proj.weight)
        return model
    return EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.mark.parametrize("head", MODALITIES)
@torch.no_grad()
def test_the_features_are_those_of_torch_for_any_number_of_rows(model, graphs, head):
    by_torch, by_onnx = Towers(model, "torch"), Towers(model, "onnx")
    for count in (1, 2, 7):
        given = rows(model, head, count)
        expected = by_torch(head, given)
        assert expected.std() > 0.01
        assert torch.allclose(by_onnx(head, given), expected, rtol=0, atol=1e-4)
    assert graphs == [MODALITIES[head]]  # one for all


def test_the_pipeline_answers_the_same(checkpoint):
    model = EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32)
    processor = EmoCLIPProcessor.from_pretrained(checkpoint)
    by_torch, by_onnx, by_default = (
        EmotionRecognitionPipeline(model=model, processor=processor, **options)
        for options in ({"runtime": "torch"}, {"runtime": "onnx"}, {})
    )
    for given in ({"image": ASTRONAUT}, {"audio": READING}, {"image": ASTRONAUT, "audio": READING}):
        expected = by_torch(**given).to_dict()
        assert_close(by_onnx(**given).to_dict(), expected)
        assert_close(by_default(**given).to_dict(), expected)
    words = [
        pipe.compare_words(["relieved"], image=ASTRONAUT, audio=READING).to_dict() for pipe in (by_torch, by_onnx)
    ]
    assert_close(*words)


@torch.no_grad()
def test_changed_weights_are_noticed(graphs):
    model, _ = tiny_parts()
    towers, given = Towers(model), rows(model, "face", 2)
    before = towers("face", given)
    model.emoclip.vision_model.attnpool.c_proj.bias += 1
    assert torch.allclose(towers("face", given), before + 1, atol=1e-4)
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    assert not towers("face", given).any()
    assert graphs == 3 * ["image"]


def test_rows_of_another_size_get_a_graph_of_their_own(graphs):
    model, _ = tiny_parts()
    towers, large = Towers(model), torch.randn(1, 3, 48, 40)
    with torch.no_grad():
        for given in (rows(model, "face", 1), large):
            expected = model.emoclip.get_image_features(given).pooler_output
            assert torch.allclose(towers("face", given), expected, atol=1e-4)
    assert len(graphs) == 2


def test_gradients_training_and_half_precision_are_torchs(graphs):
    model, _ = tiny_parts()
    towers, given = Towers(model), rows(model, "face", 2)
    given.requires_grad_()
    towers("face", given).sum().backward()
    assert given.grad.any()
    with torch.no_grad():
        model.train()
        assert torch.equal(towers("face", given), model.emoclip.get_image_features(given).pooler_output)
        model.eval().to(torch.bfloat16)
        assert towers("face", given.detach().bfloat16()).dtype == torch.bfloat16
    assert not graphs


@pytest.mark.parametrize(
    ("parts", "head", "sentence"),
    [
        ({"audio_config": WAVEFORMS}, "voice", "the audio tower esresnext_fbsp has no graph"),
        ({"vision_config": TRANSFORMER}, "face", "the image tower clip_vision_model has no graph"),
    ],
)
def test_a_tower_without_a_graph_is_left_to_torch(graphs, parts, head, sentence):
    model = EmoCLIPForEmotionClassification(EmoCLIPConfig(**{**TINY, **parts})).eval()
    given = rows(model, head, 1) if head == "face" else 1_000 * torch.randn(1, 1, 22_050)
    with torch.no_grad():
        assert torch.equal(Towers(model)(head, given), Towers(model, "torch")(head, given))
    assert not graphs
    with pytest.raises(ValueError, match=f"The runtime onnx cannot be had: {sentence}. Leave runtime at auto."):
        Towers(model, "onnx")


def test_without_the_packages_torch_does_it(graphs, monkeypatch):
    monkeypatch.setattr(runtime_emoclip, "onnx", None)
    model, _ = tiny_parts()
    with torch.no_grad():
        Towers(model)("face", rows(model, "face", 1))
    assert not graphs
    with pytest.raises(ImportError, match="pip install onnx onnxruntime"):
        Towers(model, "onnx")


def test_an_unknown_runtime_is_refused():
    model, processor = tiny_parts()
    with pytest.raises(ValueError, match="A runtime is one of auto, torch, onnx, not 'tensorrt'."):
        EmotionRecognitionPipeline(model=model, processor=processor, runtime="tensorrt")


def test_many_threads_share_one_graph(graphs):
    model, _ = tiny_parts()
    towers, given = Towers(model), [rows(model, "voice", count) for count in (1, 2, 3, 4)]

    def features(index: int) -> torch.Tensor:
        with torch.no_grad():  # is each thread's own
            return towers("voice", given[index])

    with torch.no_grad():
        expected = [model.emoclip.get_audio_features(each).pooler_output for each in given]
    with ThreadPoolExecutor(4) as threads:
        for index, answer in enumerate(threads.map(features, 5 * [0, 1, 2, 3])):
            assert torch.allclose(answer, expected[index % 4], atol=1e-4)
    assert graphs == ["audio"]


def test_a_pickle_is_made_anew(graphs):
    model, _ = tiny_parts()
    towers, given = Towers(model, "onnx"), rows(model, "face", 1)
    with torch.no_grad():
        copied = pickle.loads(pickle.dumps(towers))
        assert torch.equal(copied("face", given), towers("face", given))
    assert len(graphs) == 2
