"""The configuration: labels, heads and their calibration, older files, and what is refused."""

import json
import math

import pytest
from helpers import TINY
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from configuration_emoclip import FORMAT_VERSION, LABELS, VOICE_LABELS, EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification


def tiny_config(**fields) -> EmoCLIPConfig:
    return EmoCLIPConfig(**{**TINY, **fields})


def assert_one_sentence(text: str):
    assert text and "\n" not in text and text.endswith(".") and len(text) < 600, text


def test_labels_are_the_seven_emotions_in_alphabetical_order():
    config = EmoCLIPConfig()
    assert config.labels == sorted(config.labels) == list(LABELS)
    assert set(LABELS) - set(VOICE_LABELS) == {"surprise"}
    assert config.num_labels == 7


def test_every_config_comes_back_as_it_was_saved(tmp_path):
    for fields in ({}, {"text_config": {**TINY["text_config"], "hidden_size": 512}}, {"projection_dim": 512}):
        config = tiny_config(**fields)
        config.save_pretrained(tmp_path)
        assert EmoCLIPConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_few_fields_of_the_text_tower_leave_the_others_at_the_preset():
    config = EmoCLIPConfig(text_config={"num_hidden_layers": 2})
    assert config.text_config.num_hidden_layers == 2
    assert config.text_config.hidden_size == EmoCLIPConfig().text_config.hidden_size


WRONG_MAPS = {
    "labels of another task": {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}},
    "not each other's inverse": {"label2id": {label: 6 - i for i, label in enumerate(LABELS)}},
    "a gap": {"id2label": {str(i + (i > 2)): label for i, label in enumerate(LABELS)}},
    "a label twice": {"id2label": {str(i): "angry" if i == 6 else label for i, label in enumerate(LABELS)}},
    "a prior of a stranger": {"voice_prior": {"angry": 0.5, "contempt": 0.5}},
    "a prior that sums to 2": {"face_prior": dict.fromkeys(LABELS, 2 / 7)},
    "a prior of zero": {"target_prior": dict.fromkeys(LABELS, 1 / 6) | {"surprise": 0.0}},
    "a prior without one": {"target_prior": dict.fromkeys(VOICE_LABELS, 1 / 6)},
    "an empty prior": {"voice_prior": {}},
    "no number": {"face_prior": dict.fromkeys(LABELS, math.nan)},
}


@pytest.mark.parametrize("name", WRONG_MAPS)
def test_a_wrong_label_map_is_refused_in_one_sentence(tmp_path, name):
    tiny_config().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | WRONG_MAPS[name]))
    with pytest.raises(ValueError) as error:
        EmoCLIPForEmotionClassification.from_pretrained(tmp_path)
    assert_one_sentence(str(error.value))
    assert "`" in str(error.value)  # it names the field


@pytest.mark.parametrize("field", ["face_temperature", "voice_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, {"angry": 1.0}, dict.fromkeys(LABELS, 0.0)])
def test_a_temperature_that_divides_by_nothing_or_leaves_a_class_out_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        tiny_config(**{field: value})


@pytest.mark.parametrize("bias", [{"angry": math.inf}, {"surprise": 0.1}])
def test_a_bias_that_is_no_number_or_of_no_class_of_the_head_is_refused(bias):
    with pytest.raises(ValueError, match="`voice_bias`"):
        tiny_config(voice_bias=bias)


def test_an_older_config_has_one_temperature_and_no_biases_and_is_saved_in_the_newer_format(tmp_path):
    config = {name: value for name, value in tiny_config().to_dict().items() if not name.endswith("_bias")}
    old = {"format_version": 1, "face_temperature": 2.0, "voice_temperature": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(config | old))
    loaded = EmoCLIPConfig.from_pretrained(tmp_path)
    assert loaded.face_temperature == dict.fromkeys(LABELS, 2.0)
    assert loaded.voice_temperature == dict.fromkeys(VOICE_LABELS, 0.5)
    assert set(loaded.face_bias.values()) == {0.0} and list(loaded.voice_bias) == list(loaded.voice_prior)
    loaded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION > 1


def test_what_is_given_beside_a_config_is_filled_in_as_what_stands_in_it(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    given = {"face_temperature": 2.0, "voice_bias": {"angry": 0.5}}
    loaded = EmoCLIPConfig.from_pretrained(tmp_path, **given)
    assert loaded.face_temperature == dict.fromkeys(LABELS, 2.0)
    assert loaded.voice_bias == dict.fromkeys(VOICE_LABELS, 0.0) | {"angry": 0.5}
    with pytest.raises(ValueError, match="`face_temperature`"):
        EmoCLIPConfig.from_pretrained(tmp_path, face_temperature=0.0)


def test_a_tower_that_cannot_be_built_is_refused_in_the_config():
    for field, value in (("width", 3), ("layers", [1, 1]), ("image_size", 16)):
        with pytest.raises(StrictDataclassClassValidationError, match=field):
            tiny_config(vision_config={field: value})
    with pytest.raises(StrictDataclassClassValidationError, match="image_size"):
        tiny_config(audio_config={"image_size": [16, 47]})


CHOICES = {
    "tower of the images": ({"vision_config": {"tower": "x"}}, "tower", ("modified_resnet", "clip_vision_model")),
    "tower of the voices": ({"audio_config": {"tower": "x"}}, "tower", ("shared", "esresnext_fbsp")),
    "loss reduction": ({"loss_reduction": "x"}, "loss_reduction", ("clip", "audioclip")),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are(tmp_path, name):
    fields, field, choices = CHOICES[name]
    tiny_config().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(StrictDataclassFieldValidationError) as made:
        EmoCLIPConfig(**fields)
    with pytest.raises(ValueError) as read:
        EmoCLIPConfig.from_pretrained(tmp_path)
    assert_one_sentence(str(read.value))
    for error in (made, read):
        assert "expected one of" in str(error.value) and str(error.value).rstrip(".").endswith("got x")
        assert all(word in str(error.value) for word in (f"'{field}'", *choices))


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match="must be one of small, audioclip"):
        EmoCLIPConfig.from_preset("large")


def test_a_head_has_its_prior_temperature_and_bias():
    config = tiny_config(face_temperature=1.5, voice_bias={"sad": 0.2})
    face, voice = config.head("face"), config.head("voice")
    assert face.prior == config.face_prior and set(voice.prior) == set(VOICE_LABELS)
    assert face.temperature == dict.fromkeys(LABELS, 1.5) and voice.temperature == dict.fromkeys(VOICE_LABELS, 1.0)
    assert voice.bias == dict.fromkeys(VOICE_LABELS, 0.0) | {"sad": 0.2} and set(face.bias.values()) == {0.0}
    with pytest.raises(KeyError):
        config.head("hand")


def test_a_head_is_calibrated_saved_and_reset(tmp_path):
    config = tiny_config()
    untouched = config.head("face")
    config.calibrate_head("voice", {label: 1.0 + i for i, label in enumerate(VOICE_LABELS)}, {"angry": -0.3})
    assert config.voice_temperature["sad"] == 6.0 and config.voice_bias["angry"] == -0.3
    assert config.head("face") == untouched
    config.save_pretrained(tmp_path)
    assert EmoCLIPConfig.from_pretrained(tmp_path).head("voice") == config.head("voice")
    config.calibrate_head("voice", 1.0, None)
    assert config.head("voice") == tiny_config().head("voice")


@pytest.mark.parametrize("calibration", [(0.0, None), ({"angry": 1.0}, None), (1.0, {"surprise": 0.1})])
def test_a_calibration_that_does_not_fit_the_head_is_refused(calibration):
    with pytest.raises(ValueError, match="`voice_(temperature|bias)`") as error:
        tiny_config().calibrate_head("voice", *calibration)
    assert_one_sentence(str(error.value))
