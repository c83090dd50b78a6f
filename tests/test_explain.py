"""What spoke for an answer: the map adds up to the answer's evidence, is faithful, and costs the answer nothing."""

import numpy as np
import pytest
import torch
from helpers import ASTRONAUT, LABELS, READING, SHORT_READING
from PIL import Image

from configuration_emoclip import EmoCLIPConfig
from explain_emoclip import explain, integrated_gradients
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor, EmoCLIPWaveformExtractor
from recognizer_emoclip import Observation, Recognizer
from results_emoclip import EmotionResult


@pytest.fixture(scope="module")
def recognizer(checkpoint) -> Recognizer:
    model = EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return Recognizer(model, EmoCLIPProcessor.from_pretrained(checkpoint))


@pytest.fixture(scope="module")
def answered(recognizer) -> tuple[Observation, EmotionResult]:
    """What was found in a photo and a recording, and the answer to it."""
    observation = recognizer.observe(image=ASTRONAUT, audio=READING)
    [result] = recognizer.score([observation])
    return observation, result


def test_the_shares_of_a_linear_score_are_exact():
    weights, inputs = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    shares = integrated_gradients(lambda rows: (rows * weights).sum((1, 2, 3)), inputs, baseline=0.5)
    torch.testing.assert_close(shares, (weights * (inputs - 0.5)).sum(1)[0])


def test_the_shares_of_a_face_add_up_to_the_evidence(recognizer, monkeypatch):
    """Completeness (Sundararajan et al., 2017, proposition 1), in small enough steps and before they are smoothed."""
    monkeypatch.setattr("explain_emoclip.STEPS", 64)
    monkeypatch.setattr("explain_emoclip.smooth", lambda values: values)
    observation = recognizer.observe(image=ASTRONAUT)
    [result] = recognizer.score([observation])
    inputs = recognizer.face_inputs(observation.faces.crops)
    with torch.no_grad():
        logits = recognizer.logits("face", torch.cat([inputs, torch.zeros_like(inputs)]))
    gain = logits.log_softmax(-1)[:, LABELS.index(result.face.label)].diff().neg()
    [face] = explain(recognizer, observation, result)
    assert face.label == result.face.label and face.values.sum() == pytest.approx(gain.item(), rel=0.1)


@pytest.mark.parametrize("kind", ["face", "voice"])
def test_the_marked_tenth_matters_more_than_others(recognizer, answered, kind):
    """Blanking what the map marks lowers the answer's probability more than blanking random patches does."""
    observation, result = answered
    [explanation] = [each for each in explain(recognizer, observation, result) if each.source == kind]
    kept = observation.decisive(result)
    if kind == "face":
        name, inputs, blank = "pixel_values", recognizer.face_inputs(kept.faces.crops), 0.0
    else:
        name, inputs = "input_features", kept.voice.windows
        blank = recognizer.processor.feature_extractor.standardize(0.0)
    values = torch.from_numpy(explanation.values)
    assert values.shape == inputs.shape[-2:]
    noise = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    others = torch.nn.functional.interpolate(noise, values.shape, mode="bilinear")[:, 0]
    masks = [row >= row.flatten().topk(row.numel() // 10).values[-1] for row in (values, *others)]
    rows = torch.cat([inputs, *(inputs.masked_fill(mask, blank) for mask in masks)])
    with torch.no_grad():
        probs = recognizer.model(**{name: rows})[f"{kind}_logits"].softmax(-1)[:, LABELS.index(explanation.label)]
    falls = probs[0] - probs[1:]
    assert falls[0] > falls[1:].mean()


def test_it_shows_what_the_model_was_shown(recognizer, answered):
    face, voice = explain(recognizer, *answered)
    extractor = recognizer.processor.feature_extractor
    assert face.picture.shape == face.values.shape and face.picture.dtype == np.uint8
    [start] = answered[0].decisive(answered[1]).voice.starts
    assert (voice.start, voice.end) == (start, start + 3.0) and face.start is face.end is None
    levels = answered[0].decisive(answered[1]).voice.windows[0, 0] * extractor.std + extractor.mean
    assert np.abs(voice.picture / 255 - levels.numpy()).max() < 0.01
    crop = Image.fromarray(answered[0].faces.crops[0]).convert("L").resize(face.picture.shape)
    assert np.abs(np.asarray(crop).astype(float) - face.picture).mean() < 5


def test_nothing_is_looked_for_again(recognizer, answered, monkeypatch):
    def refuse(*_):
        raise AssertionError("a detector was asked again")

    monkeypatch.setattr(recognizer, "face_detector", refuse)
    monkeypatch.setattr(recognizer, "speech_detector", refuse)
    assert len(explain(recognizer, *answered)) == 2
    kept = answered[0].decisive(answered[1])
    for whole, part in zip(explain(recognizer, *answered), explain(recognizer, kept, answered[1])):
        np.testing.assert_allclose(whole.values, part.values, atol=1e-6)


def test_nothing_is_left_of_the_gradients(recognizer, answered):
    explain(recognizer, *answered)
    assert all(parameter.grad is None for parameter in recognizer.model.parameters())
    [again] = recognizer.score([answered[0]])
    assert again.to_dict() == answered[1].to_dict()


def test_a_tower_of_waveforms_has_no_picture(recognizer):
    config = EmoCLIPConfig(audio_config={"tower": "esresnext_fbsp", "layers": [1, 1, 1, 1], "width": 8, "groups": 2})
    parts = recognizer.processor
    processor = EmoCLIPProcessor(parts.image_processor, EmoCLIPWaveformExtractor(), parts.tokenizer)
    waveforms = Recognizer(EmoCLIPForEmotionClassification(config).eval(), processor)
    observation = waveforms.observe(audio=SHORT_READING)
    [result] = waveforms.score([observation])
    assert result.voice and explain(waveforms, observation, result) == []
