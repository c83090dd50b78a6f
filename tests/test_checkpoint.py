"""The embedded checkpoint: small, whole, with the code of this very tree, and figures that README and card repeat."""

import json
from pathlib import Path

import pytest
from transformers import AutoModel, AutoProcessor

from configuration_emoclip import EmoCLIPConfig
from hub import CODE
from modeling_emoclip import EmoCLIPForEmotionClassification
from training.build import TOP_DB, WORD_TEXT_CONFIG
from training.prompts import emotion_words
from training.report import markdown_table

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "emoclip-small"


@pytest.fixture(scope="module")
def model() -> EmoCLIPForEmotionClassification:
    return EmoCLIPForEmotionClassification.from_pretrained(CHECKPOINT)


def test_it_is_small(model):
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 30e6
    assert sum(parameter.numel() for parameter in model.parameters()) <= 15e6


def test_it_is_the_default_shape_with_the_text_tower_of_word_vectors(model):
    default = EmoCLIPConfig(text_config=WORD_TEXT_CONFIG)
    for tower in ("vision_config", "audio_config", "text_config"):
        ours, theirs = getattr(model.config, tower).to_dict(), getattr(default, tower).to_dict()
        for name in ("width", "layers", "image_size", "hidden_size", "num_hidden_layers"):
            assert ours.get(name) == theirs.get(name) or list(ours[name]) == list(theirs[name])
    assert model.config.perceived_heads and model.config.word_vector_size == 96
    assert AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True).feature_extractor.top_db == TOP_DB


def test_its_code_is_the_code_of_this_tree():
    ours, theirs = ({file.name: file.read_text() for file in folder.glob(CODE)} for folder in (ROOT, CHECKPOINT))
    assert ours.keys() == theirs.keys()
    for name, text in ours.items():
        assert text == theirs[name], f"copy {name} to {CHECKPOINT}"


def test_it_loads_by_the_auto_classes():
    model = AutoModel.from_pretrained(CHECKPOINT, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True)
    assert model.dtype.is_floating_point and model.dtype.itemsize == 4  # half precision on disk only
    assert processor.feature_extractor.sampling_rate == 16_000


def test_the_card_repeats_its_figures():
    results = json.loads((CHECKPOINT / "results.json").read_text())
    card = (CHECKPOINT / "README.md").read_text()
    assert f"<!-- results -->\n{markdown_table(results)}\n<!-- /results -->" in card
    assert results["splits"] == {"face": "PrivateTest", "voice": "fold 0"}


def test_the_figures_are_those_of_the_whole_test_splits():
    results = json.loads((CHECKPOINT / "results.json").read_text())
    assert (results["face"]["n"], results["voice"]["n"]) == (3589, 1461)
    assert results["fused"]["accuracy"] > max(results["fused"][f"{x}_alone_accuracy"] for x in ("face", "voice"))


def test_the_words_of_training_are_in_the_config(model):
    assert set(model.config.words) == set(model.config.labels)
    assert model.config.words == emotion_words("train")
