"""What the demo's pages say, as HTML: verdicts, boxes, spectrogram, words, figures, and "why"."""

import base64
import io
import re

import numpy as np
import pytest
from helpers import ASTRONAUT, LABELS, READING, SHORT_READING
from PIL import Image

import demo.photo
import demo.words
from configuration_emoclip import EmoCLIPConfig
from demo.about import charts, figures
from demo.emotions import COLOURS, GLYPHS, adjective
from demo.spectrogram import spectrogram_view
from demo.views import messages
from demo.why import Answered, why_view
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPFeatureExtractor, EmoCLIPProcessor, EmoCLIPWaveformExtractor
from recognizer_emoclip import Recognizer


@pytest.fixture(scope="module")
def recognizer(app) -> Recognizer:
    return app.pipe.recognizer


@pytest.fixture(scope="module")
def of_waveforms(recognizer) -> Recognizer:
    """One whose audio tower reads waveforms, as AudioCLIP's does; untrained."""
    config = EmoCLIPConfig(audio_config={"tower": "esresnext_fbsp", "layers": [1, 1, 1, 1], "width": 8, "groups": 2})
    parts = recognizer.processor
    processor = EmoCLIPProcessor(parts.image_processor, EmoCLIPWaveformExtractor(), parts.tokenizer)
    return Recognizer(EmoCLIPForEmotionClassification(config).eval(), processor)


def answered(recognizer: Recognizer, image=None, audio=None) -> Answered | None:
    return demo.photo.answer(recognizer, image and str(image), audio and str(audio))[3]


def pictures(html: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    ]


def test_a_photo_on_its_side_is_shown_as_it_was_turned(recognizer, tmp_path):
    upright = Image.open(ASTRONAUT).convert("RGB")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png")
    result, observation, photo = demo.photo.recognise(recognizer, str(tmp_path / "side.png"), None)
    assert observation.faces.turns and any("turned" in message for message in result.messages)
    assert np.array_equal(np.asarray(photo), np.asarray(upright))
    expected = demo.photo.recognise(recognizer, str(ASTRONAUT), None)[0].face
    assert result.face.box == pytest.approx(expected.box, abs=3) and result.face.label == expected.label


def test_several_faces_stand_side_by_side(app, recognizer, tmp_path):
    photo = Image.open(ASTRONAUT)
    both = Image.new("RGB", (2 * photo.width, photo.height))
    both.paste(photo, (0, 0))
    both.paste(photo, (photo.width, 0))
    both.save(tmp_path / "both.jpg")
    faces = len(app.pipe(image=tmp_path / "both.jpg").face.others) + 1
    assert faces >= 2
    assert demo.photo.answer(recognizer, str(tmp_path / "both.jpg"), None)[0].count('<li style="--colour') == faces
    assert '<ul class="faces"' not in demo.photo.answer(recognizer, str(ASTRONAUT), None)[0]


def test_the_spectrogram_marks_the_speech(app, recognizer):
    page = demo.photo.answer(recognizer, None, str(READING))[0]
    marks = page[page.index('class="speech"') : page.index('class="ticks"')].count("<i style")
    assert marks == len(app.pipe(audio=READING).voice.segments) > 0
    assert "spectrogram" not in demo.photo.answer(recognizer, str(ASTRONAUT), None)[0]


def test_words_outside_the_training_are_marked(app):
    page = demo.words.answer(app.pipe, "", "joyful, zorbled", str(ASTRONAUT), None)
    assert page.count("Not among the words it was trained on") == 1


def test_charts_show_whatever_entries_there_are():
    results = {"robust": {"noise_10_db": {"n": 100, "accuracy": 0.5}}, "face": {"n": 4, "fast_accuracy": 0.25}}
    names = [figure["name"] for figure in figures(results)]
    assert names == ["robust · noise 10 db", "face · fast"]
    assert all(name in charts(results, {"face": 7, "voice": 6}) for name in names)
    assert figures({}) == [] and charts({}, {"face": 7, "voice": 6}) == ""


def test_what_is_said_of_a_file_is_escaped(app):
    assert "<script>" not in demo.words.answer(app.pipe, "", "<script>", str(ASTRONAUT), None)
    assert "<script>" not in messages(["<script>alert(1)</script>"])


def test_every_emotion_has_a_colour_and_a_face(app):
    assert set(COLOURS) == set(GLYPHS) == set(LABELS) == set(app.pipe.model.config.id2label.values())
    assert len(set(COLOURS.values())) == len(LABELS)


def test_the_spectrogram_is_what_the_models_own_extractor_makes(recognizer):
    [picture] = pictures(demo.photo.answer(recognizer, None, str(READING))[0])
    assert picture.shape[0] == recognizer.processor.feature_extractor.n_mels
    html = spectrogram_view(str(READING), EmoCLIPFeatureExtractor(n_mels=64), [])
    assert pictures(html)[0].shape[0] == 64 and "as the network sees it" in html


def test_a_model_of_waveforms_does_not_claim_to_see_the_spectrogram(of_waveforms):
    page = demo.photo.answer(of_waveforms, None, str(SHORT_READING))[0]
    assert "as the network sees it" not in page and "this network reads its waveform instead" in page
    assert pictures(page)[0].shape[0] == EmoCLIPFeatureExtractor().n_mels


# --- Why


def test_it_is_asked_why_only_of_an_answer_and_of_what_was_answered(recognizer):
    page, ask, reasons, answered = demo.photo.answer(recognizer, None, str(READING))
    assert ask["visible"] and reasons == "" and answered.face is None and answered.result.voice
    assert demo.photo.answer(recognizer, None, None)[1]["visible"] is False
    html = why_view(recognizer, answered)
    assert "spoke for" in html and "in the face" not in html


def test_it_shows_a_map_of_each_source_and_says_whose_method_it_is(recognizer, monkeypatch):
    monkeypatch.setitem(COLOURS, "neutral", "#00CC00")  # grey would not be told from grey
    html = why_view(recognizer, answered(recognizer, ASTRONAUT, SHORT_READING))
    face, voice = pictures(html)
    assert face.shape == (320, 320, 3) and voice.shape[1] > voice.shape[0]
    for picture in (face.astype(int), voice.astype(int)):
        coloured = (picture.max(-1) - picture.min(-1)) > 40
        assert 0.01 < coloured.mean() < 0.6  # marked somewhere, grey elsewhere
    assert "Sundararajan" in html and html.count("spoke for <b>") == 2


def test_it_shows_what_there_is(recognizer, tmp_path):
    for given in ((ASTRONAUT, None), (None, SHORT_READING)):
        assert len(pictures(why_view(recognizer, answered(recognizer, *given)))) == 1
    (tmp_path / "photo.jpg").write_bytes(b"none")
    assert why_view(recognizer, answered(recognizer, tmp_path / "photo.jpg")) == ""
    assert why_view(recognizer, answered(recognizer)) == ""


def test_it_explains_the_answer_and_looks_for_nothing_again(recognizer, monkeypatch, tmp_path):
    """The uploads may be gone by then, and no detector is asked again."""
    photo, recording = tmp_path / "photo.jpg", tmp_path / "voice.flac"
    photo.write_bytes(ASTRONAUT.read_bytes())
    recording.write_bytes(READING.read_bytes())
    kept = answered(recognizer, photo, recording)
    photo.unlink()
    recording.unlink()

    def refuse(*_):
        raise AssertionError("it was looked for again")

    monkeypatch.setattr(recognizer, "face_detector", refuse)
    monkeypatch.setattr(recognizer, "speech_detector", refuse)
    html = why_view(recognizer, kept)
    for source in (kept.result.face, kept.result.voice):
        assert f"spoke for <b>{adjective(source.label)}</b>" in html
    [start] = kept.observation.voice.starts
    assert f"The sound from {start:.1f} s to {start + 3:.1f} s" in html


def test_what_is_kept_for_it_is_small(recognizer):
    """Of a recording of any length, one window; of a crowd, one face."""
    kept = answered(recognizer, ASTRONAUT, READING).observation
    assert len(kept.faces.crops) == len(kept.voice.windows) == 1
    assert kept.voice.windows.untyped_storage().nbytes() < 150_000


def test_a_model_of_waveforms_has_no_map_of_the_voice_and_says_so(of_waveforms):
    html = why_view(of_waveforms, answered(of_waveforms, audio=SHORT_READING))
    assert pictures(html) == [] and "reads the waveform itself" in html
