"""What may be said of a result: words, drawn faces and bars follow one rule."""

import re

import pytest
from helpers import LABELS

from demo.emotions import adjective, glyph
from demo.verdict import HELD_SECONDS, NOTHING, Held, likeliest, tag, verdict
from demo.views import bars, verdict_view
from results_emoclip import CONFLICT, Emotion, EmotionResult, FaceResult, VoiceResult


def scores(**known: float) -> dict[str, float | None]:
    """What is not named shares the rest."""
    rest = (1 - sum(known.values())) / (len(LABELS) - len(known))
    return {label: known.get(label, rest) for label in LABELS}


def result(face: dict | None = None, voice: dict | None = None, fused: dict | None = None, agreement=None):
    """A result of posteriors; the fused one is the face's or the voice's where none is given."""

    def best(of: dict) -> str:
        return max(of, key=of.get)

    return EmotionResult(
        face=face and FaceResult(best(face), face, False, box=(0, 0, 9, 9), detector="given"),
        voice=voice and VoiceResult(best(voice), voice, False, segments=[]),
        fused=Emotion(best(fused or face or voice), fused or face or voice, unsure=False),
        agreement=agreement,
    )


HAPPY, SAD = scores(happy=0.8), scores(sad=0.7)
TORN = scores(angry=0.40, disgust=0.35)


@pytest.mark.parametrize(
    ("given", "headline"),
    [
        (result(face=HAPPY), "Looks happy"),
        (result(voice=scores(fear=0.9)), "Sounds afraid"),
        (result(HAPPY, HAPPY, HAPPY, 1.0), "Looks and sounds happy"),
        (result(HAPPY, TORN, HAPPY, 0.2), "Most likely happy"),
        (result(HAPPY, scores(happy=0.2), HAPPY, 0.2), "Most likely happy"),  # the voice is not sure of the same
        (result(face=TORN), "Hard to tell: angry or disgusted"),
        (result(HAPPY, SAD, TORN, 0.3), "Hard to tell: angry or disgusted"),
        (result(HAPPY, SAD, HAPPY, -1.0), "Looks happy, sounds sad"),
        (result(HAPPY, SAD, HAPPY, CONFLICT + 0.01), "Most likely happy"),  # not clearly
        (result(scores(happy=0.375), scores(sad=0.375), HAPPY, -0.07), "Most likely happy"),
        (result(TORN, SAD, SAD, -1.0), "Most likely sad"),  # the face is not sure
        (result(HAPPY, TORN, HAPPY, -1.0), "Most likely happy"),  # the voice is not
        (result(HAPPY, HAPPY, HAPPY, -1.0), "Looks and sounds happy"),
    ],
)
def test_the_headline_follows_the_rule(given, headline):
    assert verdict(given).headline == headline
    assert headline in verdict_view(given)


def test_an_unsure_answer_is_hard_to_tell_however_far_ahead_it_is():
    given = result(face=scores(happy=0.4, sad=0.2))
    assert verdict(given).headline == "Looks happy"
    given.face.unsure = given.fused.unsure = True
    assert verdict(given).headline == "Hard to tell: happy or sad" and tag(given.face) == "happy or sad"
    both = result(HAPPY, SAD, HAPPY, -1.0)
    both.voice.unsure = True
    assert verdict(both).headline == "Most likely happy"  # no conflict


@pytest.mark.parametrize("given", [result(face=HAPPY), result(face=TORN), result(HAPPY, SAD, TORN, 0.3)])
def test_words_faces_and_bars_name_the_same(given):
    said, page = verdict(given), verdict_view(given)
    marked = re.findall(r'<li class="top" data-label="(\w+)"', bars("Together", given.fused, "", ""))
    assert sorted(marked) == sorted(said.labels)
    assert page.count('<svg class="glyph"') == len(said.labels) and all(glyph(label) in page for label in said.labels)
    assert all(adjective(label) in said.headline for label in said.labels)


def test_the_line_has_the_numbers_of_what_is_named():
    assert verdict(result(face=HAPPY)).line(result(face=HAPPY)) == "High confidence, 80%"
    assert verdict(result(face=TORN)).line(result(face=TORN)) == "40% against 35%"
    conflict = result(HAPPY, SAD, HAPPY, -1.0)
    assert verdict(conflict).line(conflict) == "Face 80%, voice 70%"
    assert tag(result(face=HAPPY).face) == "happy 80%" and tag(result(face=TORN).face) == "angry or disgusted"


def test_an_emotion_that_was_never_taught_is_never_the_second():
    taught = {**scores(happy=0.5), "surprise": None}
    assert likeliest(Emotion("happy", taught, unsure=False)) == ("happy",)


def test_without_a_result_there_is_nothing_to_go_by():
    assert verdict(EmotionResult()) == NOTHING


def test_other_words_are_shown_once_they_have_held():
    held = Held()
    assert held(result(face=HAPPY), 1.0).headline == "Looks happy"
    assert held(result(face=SAD), 1.3).headline == "Looks happy"
    assert held(result(face=HAPPY), 1.4).headline == "Looks happy"  # it was a flicker
    assert held(result(face=SAD), 1.5).headline == "Looks happy"
    said = held(result(face=SAD), 1.4 + HELD_SECONDS)
    assert said.headline == "Looks sad" and said.face == said.fused == ("sad",)


def test_a_voice_that_comes_is_said_at_once():
    held = Held()
    held(result(face=HAPPY), 0.0)
    assert held(result(HAPPY, SAD, HAPPY, -1.0), 0.1).headline == "Looks happy, sounds sad"
    assert held(result(voice=SAD), 0.2).headline == "Sounds sad"
