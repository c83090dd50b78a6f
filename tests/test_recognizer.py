"""The recognizer: windows and boxes are made in one place, and what was found is what is scored, kept and fused."""

import math

import numpy as np
import pytest
import silero_vad
import torch
from helpers import ASTRONAUT, LABELS, READING, TWO_PEOPLE
from PIL import Image

from media_emoclip import InputError, SpeechDetector, load_audio
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from recognizer_emoclip import (
    Observation,
    Recognizer,
    mean_log_probs,
    speech_seconds,
    window_starts,
)


@pytest.fixture(scope="module")
def recognizer(checkpoint) -> Recognizer:
    model = EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return Recognizer(model, EmoCLIPProcessor.from_pretrained(checkpoint))


# --- Windows


def test_windows_hop_by_half_and_end_with_the_recording():
    assert window_starts(2.0, 3.0) == [0.0]
    assert window_starts(3.0, 3.0) == [0.0]
    assert window_starts(3.2, 3.0) == pytest.approx([0.0, 0.2])
    assert window_starts(6.0, 3.0) == pytest.approx([0.0, 1.5, 3.0])
    assert window_starts(7.1, 3.0) == pytest.approx([0.0, 1.5, 3.0, 4.1])


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], []),
        ([(0.0, 0.9)], []),
        ([(0.0, 0.6), (1.0, 1.6)], [0.0]),
        ([(2.2, 3.8)], [1.5]),  # 0.8 s in the first and third, 1.6 s in the second
        ([(0.0, 9.0)], [0.0, 1.5, 3.0, 4.5, 6.0]),
    ],
)
def test_a_window_is_scored_where_a_second_of_it_is_speech(recognizer, monkeypatch, segments, expected):
    monkeypatch.setattr(recognizer, "speech_detector", lambda samples: segments)
    samples = np.random.default_rng(0).normal(0, 0.1, 9 * 16_000).astype(np.float32)
    voice = recognizer.find_voice(samples)
    assert voice.starts == expected and voice.segments == segments
    assert (voice.windows is None) if not expected else (len(voice.windows) == len(expected))
    assert recognizer.find_voice(samples, [start for start in expected if start > 2]).starts == [
        start for start in expected if start > 2
    ]


def test_speech_is_counted_within_a_window_only():
    assert speech_seconds([(0.0, 1.0), (2.0, 4.0)], 0.5, 3.0) == pytest.approx(1.5)
    assert speech_seconds([(0.0, 1.0)], 1.0, 4.0) == 0


def test_speech_is_found_as_silero_finds_it_frame_by_frame():
    samples, _ = load_audio(READING)
    sound = np.concatenate([samples, np.zeros(20_000, np.float32), samples, samples])  # longer than a block of frames
    one_by_one = silero_vad.load_silero_vad(onnx=True)
    with torch.inference_mode():
        spans = silero_vad.get_speech_timestamps(torch.from_numpy(sound), one_by_one)
    assert len(spans) > 2
    assert SpeechDetector()(sound) == [(span["start"] / 16_000, span["end"] / 16_000) for span in spans]


def test_the_voice_is_the_normalised_mean_of_its_windows_log_posteriors(recognizer):
    samples, _ = load_audio(READING)
    segments = SpeechDetector()(samples)
    starts = [s for s in window_starts(len(samples) / 16_000, 3.0) if speech_seconds(segments, s, s + 3.0) >= 0.5]
    assert len(starts) == 4
    windows = [samples[round(start * 16_000) : round(start * 16_000) + 48_000] for start in starts]
    features = recognizer.processor(audio=windows, sampling_rate=16_000, return_tensors="pt")["input_features"]
    expected = mean_log_probs(recognizer.voice_log_probs(features))[0].exp()
    [result] = recognizer.score([recognizer.observe(audio=READING)])
    scores = [score or 0.0 for score in result.voice.scores.values()]
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)
    assert mean_log_probs(torch.tensor([[0.0, -math.inf], [0.0, -math.inf]])).exp().tolist() == [[1.0, 0.0]]


def test_a_short_window_is_padded_with_silence(recognizer):
    samples, _ = load_audio(READING)
    part = samples[:32_000]
    padded = np.pad(part, (0, 16_000))
    torch.testing.assert_close(recognizer.find_voice(part).windows, recognizer.find_voice(padded).windows)


# --- Boxes


def test_faces_are_found_in_a_smaller_copy_and_told_in_the_pictures_own_pixels(recognizer):
    pixels = np.asarray(Image.open(TWO_PEOPLE).convert("RGB"))
    whole, small = recognizer.find_faces(pixels), recognizer.find_faces(pixels, side=320)
    assert len(whole) == len(small) == 2
    for a, b in zip(whole, small):
        assert np.abs(np.subtract(a, b)).max() < 0.15 * a[2]


def test_boxes_of_a_scaled_copy_are_in_the_pictures_own_pixels(recognizer):
    faces = recognizer.frame_faces(np.zeros((100, 200, 3), np.uint8), [(10, 20, 30, 30)], size=(400, 200))
    assert faces.boxes == [(20, 40, 60, 60)] and faces.crops[0].shape == (30, 30, 3)
    beyond = recognizer.frame_faces(np.zeros((100, 200, 3), np.uint8), [(-10, 20, 30, 30)])
    assert beyond.squares == [(-10, 20, 30, 30)] and beyond.boxes == [(0, 20, 20, 30)]


# --- Observations and results


def test_several_observations_are_scored_as_each_alone(recognizer):
    sources = [{"image": TWO_PEOPLE, "audio": READING}, {"audio": READING}, {"image": ASTRONAUT}]
    together = recognizer.score([recognizer.observe(**source) for source in sources])
    for source, result in zip(sources, together):
        [alone] = recognizer.score([recognizer.observe(**source)])
        assert (result.face is None) == ("image" not in source) and (result.voice is None) == ("audio" not in source)
        for name in ("face", "voice", "fused"):
            if getattr(alone, name):
                expected = {label: score or 0.0 for label, score in getattr(alone, name).scores.items()}
                scores = {label: score or 0.0 for label, score in getattr(result, name).scores.items()}
                assert scores == pytest.approx(expected, abs=1e-5)


def test_what_decided_is_small_and_gives_the_same_face_and_the_loudest_window(recognizer):
    observation = recognizer.observe(image=TWO_PEOPLE, audio=READING)
    [result] = recognizer.score([observation])
    kept = observation.decisive(result)
    assert len(kept.faces.crops) == len(kept.voice.starts) == len(kept.voice.windows) == 1
    assert kept.voice.windows.untyped_storage().nbytes() < 200_000  # a copy, not a part of the whole
    column = LABELS.index(result.voice.label)
    assert kept.voice.log_probs[0, column] == observation.voice.log_probs[:, column].max()
    assert kept.faces.boxes == [result.face.box]


def test_nothing_to_observe_is_refused_and_nobody_found_is_an_answer(recognizer):
    with pytest.raises(InputError, match="Nothing was given"):
        recognizer.observe()
    with pytest.raises(InputError, match="without the photo"):
        recognizer.observe(audio=READING, face_box=(0, 0, 10, 10))
    seen = recognizer.observe(image=Image.new("RGB", (64, 64)))
    assert seen.faces is None and "No face" in seen.messages[0]
    [result] = recognizer.score([seen])
    assert result.fused is None and result.messages == seen.messages
    assert recognizer.score([]) == [] and recognizer.score([Observation()])[0].fused is None


def test_an_agreement_is_said_of_rows_that_have_both(recognizer):
    face = torch.randn(4, 7).log_softmax(-1)
    voice = torch.cat([torch.randn(4, 6), torch.full((4, 1), -torch.inf)], 1).log_softmax(-1)
    has_face, has_voice = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    rows = recognizer.fuse(face, voice, has_face, has_voice)
    assert [agreement is not None for _, agreement in rows] == [True, False, False, False]
    assert [fused is not None for fused, _ in rows] == [True, True, True, False]
    assert rows[1][0].scores == pytest.approx(recognizer.emotion(face[1], "face").scores)
    assert rows[1][0].label == recognizer.emotion(face[1], "face").label
    assert rows[2][0].scores["surprise"] is None
    assert recognizer.fuse(face[:1], voice[:1])[0] == rows[0]
    assert recognizer.fuse(face[:1], None)[0][1] is None
