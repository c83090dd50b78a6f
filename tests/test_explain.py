"""What spoke for an answer: the map adds up to the answer's evidence, is faithful, and costs the answer nothing."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from helpers import ASTRONAUT, LABELS, READING, SHORT_READING
from PIL import Image

from configuration_emoclip import EmoCLIPConfig
from explain_emoclip import explain_face, explain_voice, integrated_gradients
from media_emoclip import crop_face
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline
from processing_emoclip import EmoCLIPProcessor, EmoCLIPWaveformExtractor


@pytest.fixture(scope="module")
def pipe(checkpoint, yunet) -> EmotionRecognitionPipeline:
    return EmotionRecognitionPipeline(
        model=EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32),
        processor=EmoCLIPProcessor.from_pretrained(checkpoint),
        face_detector=yunet,
    )


@pytest.fixture(scope="module")
def crop(pipe) -> np.ndarray:
    pixels = np.asarray(Image.open(ASTRONAUT).convert("RGB"))
    return crop_face(pixels, pipe.face_detector(pixels)[0])


def test_the_shares_of_a_linear_score_are_exact():
    weights, inputs = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    shares = integrated_gradients(lambda rows: (rows * weights).sum((1, 2, 3)), inputs, baseline=0.5)
    torch.testing.assert_close(shares, (weights * (inputs - 0.5)).sum(1)[0])


def test_the_shares_of_a_face_add_up_to_the_evidence(pipe, crop, monkeypatch):
    """Completeness (Sundararajan et al., 2017, proposition 1), in small enough steps and before they are smoothed."""
    monkeypatch.setattr("explain_emoclip.STEPS", 256)
    monkeypatch.setattr("explain_emoclip.smooth", lambda values: values)
    inputs = pipe.processor(images=[crop], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        gain = (pipe.face_log_probs(inputs) - pipe.face_log_probs(torch.zeros_like(inputs)))[0, LABELS.index("sad")]
    assert explain_face(pipe, crop, "sad").sum() == pytest.approx(gain.item(), rel=0.1)


@pytest.mark.parametrize("kind", ["face", "voice"])
def test_the_marked_tenth_matters_more_than_others(pipe, crop, kind):
    """Blanking what the map marks lowers the answer's probability more than blanking random patches does."""
    if kind == "face":
        inputs, log_probs = pipe.processor(images=[crop], return_tensors="pt")["pixel_values"], pipe.face_log_probs
        blank, explain = 0.0, lambda label: explain_face(pipe, crop, label)
    else:
        inputs, log_probs = pipe.preprocess({"audio": READING})["voices"][:1], pipe.voice_log_probs
        blank = pipe.processor.feature_extractor.standardize(0.0)
        explain = lambda label: explain_voice(pipe, inputs, label)  # noqa: E731
    with torch.no_grad():
        before = log_probs(inputs)[0].exp()
        answer = int(before.argmax())
        values = torch.from_numpy(explain(LABELS[answer]))
        assert values.shape == inputs.shape[-2:]
        noise = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        others = torch.nn.functional.interpolate(noise, values.shape, mode="bilinear")[:, 0]
        masks = [row >= row.flatten().topk(row.numel() // 10).values[-1] for row in (values, *others)]
        rows = torch.cat([inputs.masked_fill(mask, blank) for mask in masks])
        falls = before[answer] - log_probs(rows).exp()[:, answer]
    assert falls[0] > falls[1:].mean()


def test_nothing_is_left_of_the_gradients(pipe, crop):
    before = pipe(image=ASTRONAUT).to_dict()
    explain_face(pipe, crop, "happy")
    assert all(parameter.grad is None for parameter in pipe.model.parameters())
    assert pipe(image=ASTRONAUT).to_dict() == before


def test_a_tower_of_waveforms_has_no_picture(pipe):
    config = EmoCLIPConfig(audio_config={"tower": "esresnext_fbsp", "layers": [1, 1, 1, 1], "width": 8, "groups": 2})
    processor = EmoCLIPProcessor(pipe.processor.image_processor, EmoCLIPWaveformExtractor(), pipe.processor.tokenizer)
    waveforms = EmotionRecognitionPipeline(model=EmoCLIPForEmotionClassification(config), processor=processor)
    assert explain_voice(waveforms, torch.zeros(1, 1, 1000), "sad") is None


# --- On the page


def pictures(html: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    ]


def test_the_page_shows_a_map_of_each_source_and_says_whose_method_it_is(app):
    html = app.why((str(ASTRONAUT), str(SHORT_READING)))
    face, voice = pictures(html)
    assert face.shape == (320, 320, 3) and voice.shape[1] > voice.shape[0]
    for picture in (face.astype(int), voice.astype(int)):
        coloured = (picture.max(-1) - picture.min(-1)) > 40
        assert 0.01 < coloured.mean() < 0.6  # marked somewhere, grey elsewhere
    assert "Sundararajan" in html and html.count("spoke for <b>") == 2


def test_the_page_shows_what_there_is(app, tmp_path):
    assert len(pictures(app.why((str(ASTRONAUT), None)))) == len(pictures(app.why((None, str(SHORT_READING))))) == 1
    (tmp_path / "photo.jpg").write_bytes(b"none")
    assert app.why((str(tmp_path / "photo.jpg"), None)) == app.why((None, None)) == ""
