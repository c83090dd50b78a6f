"""A prior: how often each emotion is where the model is used."""

import numpy as np
import pytest
from helpers import ASTRONAUT, LABELS, READING, ROOT

from configuration_emoclip import VOICE_LABELS
from hub import load_pipeline

UNIFORM = dict.fromkeys(LABELS, 1 / 7)
MOSTLY_SAD = dict.fromkeys(LABELS, 0.1) | {"sad": 0.4}
CLIP = str(ROOT / "examples" / "talking-portrait.mp4")
BOTH = {"image": str(ASTRONAUT), "audio": str(READING)}


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return load_pipeline(checkpoint, device="cpu")


def normalised(values: dict[str, float]) -> dict[str, float]:
    return {label: value / sum(values.values()) for label, value in values.items()}


def known(scores: dict[str, float | None]) -> dict[str, float]:
    return {label: score for label, score in scores.items() if score is not None}


@pytest.mark.parametrize("reading", ["perceived", "acted"])
@pytest.mark.parametrize("prior, shares", [("uniform", UNIFORM), (MOSTLY_SAD, MOSTLY_SAD)])
def test_bayes_rule_puts_the_prior_in_the_place_of_the_heads_own_shares(pipe, reading, prior, shares):
    plain, result = pipe(**BOTH, reading=reading), pipe(**BOTH, reading=reading, prior=prior)
    for name, taught in (("face", LABELS), ("voice", VOICE_LABELS)):
        own, before = pipe.model.config.head(name, reading).prior, known(getattr(plain, name).scores)
        expected = normalised({label: before[label] / own[label] * shares[label] for label in taught})
        assert known(getattr(result, name).scores) == pytest.approx(expected, abs=1e-5)
    face, voice = result.face.scores, known(result.voice.scores)
    of_voice = normalised({label: shares[label] for label in VOICE_LABELS})
    ratio = {label: voice[label] / of_voice[label] if label in voice else 1.0 for label in LABELS}
    expected = normalised({label: face[label] * ratio[label] for label in LABELS})
    assert result.fused.scores == pytest.approx(expected, abs=1e-5)


def test_without_one_nothing_changes_and_the_models_own_shares_change_nothing(pipe):
    own = pipe.model.config.head("face", "perceived").prior
    plain, result = pipe(str(ASTRONAUT)), pipe(str(ASTRONAUT), prior=own)
    assert result.face.scores == pytest.approx(plain.face.scores, abs=1e-6)
    assert pipe(str(ASTRONAUT)).to_dict() == plain.to_dict()


def test_it_may_be_the_pipelines_and_goes_with_reading_video_and_why(pipe, checkpoint):
    of_calls = pipe(**BOTH, prior=MOSTLY_SAD)
    sad = load_pipeline(checkpoint, device="cpu", prior=MOSTLY_SAD)
    assert sad(**BOTH).to_dict() == of_calls.to_dict()
    assert sad(**BOTH, prior="uniform").to_dict() == pipe(**BOTH, prior="uniform").to_dict()
    assert sad(**BOTH, reading="acted").to_dict() == pipe(**BOTH, reading="acted", prior=MOSTLY_SAD).to_dict()
    plain, clip = pipe(video=CLIP), pipe(video=CLIP, prior=MOSTLY_SAD)
    for name in ("face", "voice", "fused"):
        assert getattr(clip, name).scores["sad"] > getattr(plain, name).scores["sad"]
    [why] = pipe.explain(image=str(ASTRONAUT), prior=dict.fromkeys(LABELS, 1e-6) | {"sad": 1 - 6e-6})
    assert why.label == "sad"


@pytest.mark.parametrize(
    "prior, message",
    [
        ("even", 'A prior is "uniform", or each emotion\'s share'),
        ([1 / 7] * 7, 'A prior is "uniform", or each emotion\'s share'),
        (UNIFORM | {"sad": "often"}, 'A prior is "uniform", or each emotion\'s share'),
        (UNIFORM | {"bored": 0.1}, "The prior speaks of \\['bored'\\]"),
        (UNIFORM | {"sad": 0.0}, "The prior must be positive shares that sum to 1"),
        (UNIFORM | {"sad": np.nan}, "The prior must be positive shares that sum to 1"),
        ({"happy": 0.5, "sad": 0.5}, "The prior must give a share to each of"),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(pipe, prior, message):
    with pytest.raises(ValueError, match=message) as error:
        pipe(str(ASTRONAUT), prior=prior)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
