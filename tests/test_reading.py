"""Readings, each with its own calibration; answers that are unsure; and a person's own baseline."""

import copy
import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ASTRONAUT, LABELS, READING
from transformers import pipeline

from baseline_emoclip import WEIGHT, Baseline, fingerprint
from configuration_emoclip import READING_FIELDS, VOICE_LABELS
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline, save_all
from recognizer_emoclip import Recognizer
from results_emoclip import Emotion
from training.arguments import ModelArguments
from training.build import build_model
from video_emoclip import Person, TimelinePoint, VideoResult

NEUTRAL = {"face": dict.fromkeys(LABELS, -2.0), "voice": dict.fromkeys(VOICE_LABELS, -2.0)}


@pytest.fixture
def pipe(checkpoint):
    """A pipeline whose configuration a test may change: people see and hear everybody as neutral."""
    pipe = pipeline("emotion-recognition", model=str(checkpoint), trust_remote_code=True, device="cpu")
    config = pipe.model.config
    config.perceived_heads, config.neutral = False, copy.deepcopy(NEUTRAL)
    config.perceived = copy.deepcopy({field: getattr(config, field) for field in READING_FIELDS})
    for head in ("face", "voice"):
        config.perceived[f"{head}_bias"]["neutral"] += 10.0
    config.check_labels()
    return with_heads(pipe, pipe.model.state_dict())


def with_heads(pipe: EmotionRecognitionPipeline, state: dict[str, torch.Tensor]) -> EmotionRecognitionPipeline:
    """The pipeline with the heads that its configuration says, and their weights of `state`."""
    model = type(pipe.model)(pipe.model.config).eval()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    pipe.model, pipe.recognizer = model, type(pipe.recognizer)(model, pipe.processor)
    return pipe


def scores(emotion: Emotion) -> list[float]:
    return [score for score in emotion.scores.values() if score is not None]


def test_people_are_asked_unless_told_otherwise(pipe):
    given = {"image": str(ASTRONAUT), "audio": str(READING)}
    perceived, acted = pipe(**given), pipe(**given, reading="acted")
    for source in ("face", "voice", "fused"):
        assert getattr(perceived, source).label == "neutral"
        assert scores(getattr(perceived, source)) != pytest.approx(scores(getattr(acted, source)), abs=1e-3)
    assert acted.face.label == "happy"
    assert pipe(**given, reading="perceived").to_dict() == perceived.to_dict()
    assert [result.face.label for result in pipe([given], reading="acted")] == ["happy"]


def test_each_reading_has_its_own_calibration_and_shares(pipe):
    """The same raw logits, two answers; the fusion divides by the reading's own shares."""
    model, inputs = pipe.model, pipe.processor(images=np.asarray(np.full((48, 48), 90, "u1")), return_tensors="pt")
    with torch.no_grad():
        own = model.face_head(model.emoclip.encode(**inputs)["image"])
        logits = {reading: model(**inputs, reading=reading).face_logits for reading in ("acted", "perceived")}
    for reading, calibrated in logits.items():
        head = model.config.head("face", reading)
        temperature, bias = (torch.tensor([each[label] for label in LABELS]) for each in (head.temperature, head.bias))
        assert torch.allclose(calibrated, own / temperature + bias, atol=1e-4)
    config = model.config
    config.perceived["face_prior"] = dict.fromkeys(LABELS, 0.04) | {"neutral": 0.76}
    face, voice = (torch.full((1, 7), -math.log(7)) for _ in range(2))
    acted, perceived = (model.fuse(face, voice, reading=reading)[0].exp()[0] for reading in ("acted", "perceived"))
    neutral = LABELS.index("neutral")
    assert perceived[neutral] < acted[neutral]  # a face no more neutral than others, though most are


def test_a_checkpoint_of_one_reading_answers_as_ever(pipe):
    pipe.model.config.perceived = pipe.model.config.neutral = None
    pipe.model.config.face_threshold = pipe.model.config.voice_threshold = 0.0
    given = {"image": str(ASTRONAUT), "audio": str(READING)}
    result = pipe(**given)
    assert result.to_dict() == pipe(**given, reading="acted").to_dict()
    assert not result.unsure and not result.face.unsure and not result.voice.unsure


def test_an_unknown_reading_is_refused_in_a_sentence(pipe, checkpoint):
    with pytest.raises(ValueError, match="A reading is one of acted, perceived") as error:
        pipe(str(ASTRONAUT), reading="felt")
    assert str(error.value).endswith(".") and ". " not in str(error.value)


@pytest.fixture
def own_heads(pipe):
    """A pipeline whose model has heads for each reading, with the same weights to begin with."""
    trained, config = pipe.model, pipe.model.config
    config.perceived_heads = True
    config.neutral = {name: copy.deepcopy(NEUTRAL[name.partition("_")[0]]) for name in config.heads}
    config.check_labels()
    state = trained.state_dict()
    for name in ("face", "voice"):
        for part in ("weight", "bias"):
            state[f"{name}_perceived_head.classifier.{part}"] = state[f"{name}_head.classifier.{part}"].clone()
    return with_heads(pipe, state)


def test_a_reading_with_heads_of_its_own_is_answered_by_them(own_heads, tmp_path):
    model, given = own_heads.model, {"image": str(ASTRONAUT), "audio": str(READING)}
    before = {reading: own_heads(**given, reading=reading).to_dict() for reading in ("acted", "perceived")}
    with torch.no_grad():
        model.face_perceived_head.classifier.bias[LABELS.index("sad")] += 50.0
    after = {reading: own_heads(**given, reading=reading) for reading in before}
    assert after["acted"].to_dict() == before["acted"]
    assert (
        after["perceived"].face.label == "sad"
        and after["perceived"].to_dict()["voice"] == before["perceived"]["voice"]
    )
    model.save_pretrained(tmp_path)
    loaded = EmoCLIPForEmotionClassification.from_pretrained(tmp_path)
    assert loaded.config.perceived_heads and loaded.state_dict().keys() == model.state_dict().keys()


def test_data_without_votes_leave_a_checkpoint_one_head_for_both_readings(own_heads, tmp_path):
    """Nothing would teach the others, or calibrate them: people would get the answers of before the training."""
    save_all(own_heads.model, own_heads.processor, tmp_path)
    start = ModelArguments(init_from=str(tmp_path))
    for voted in (True, False):
        model = build_model(start, own_heads.processor, [3, 4], [4, 5], voted)
        assert model.config.perceived_heads is voted
        assert (model.head("face", "perceived") is model.head("face", "acted")) is not voted


def test_a_baseline_knows_every_head_and_each_reading_takes_its_own(own_heads, tmp_path):
    model = own_heads.model
    with torch.no_grad():
        model.face_perceived_head.classifier.bias[LABELS.index("sad")] += 1.0
    baseline = own_heads.baseline(image=str(ASTRONAUT))
    assert baseline.voice is None and baseline.voice_perceived is None
    moved = {label: baseline.face_perceived[label] - baseline.face[label] for label in LABELS}
    assert moved["sad"] - moved["happy"] == pytest.approx(1.0, abs=1e-3)
    baseline.save(tmp_path / "me.json")
    assert vars(Baseline.load(tmp_path / "me.json")) == vars(baseline)
    for reading, means in (("acted", baseline.face), ("perceived", baseline.face_perceived)):
        shift = baseline.shift("face", model.config, reading)
        assert shift == pytest.approx([WEIGHT * (-2.0 - means[label]) for label in LABELS])


def test_the_heads_of_the_perceived_reading_learn_from_the_votes(own_heads):
    """Their loss is the cross-entropy with the votes, and no label's; it moves no other head."""
    model = own_heads.model.train()
    model.face_perceived_head.dropout.p = 0.0
    pixels, votes = torch.rand(4, 3, 96, 96), torch.eye(7)[[4, 4, 4, 5]] * 0.7 + 0.3 / 7
    labels = torch.tensor([0, 1, 2, 3])
    outputs = model(pixel_values=pixels, face_labels=labels, face_votes=votes)
    assert outputs.losses.keys() == {"face", "face_perceived"}
    outputs.losses["face_perceived"].backward()
    assert model.face_head.classifier.weight.grad is None
    assert model.face_perceived_head.classifier.weight.grad.abs().max() > 0
    with torch.no_grad():
        for each in (model.face_perceived_head.classifier.weight, model.face_perceived_head.classifier.bias):
            each.zero_()
        uniform = model(pixel_values=pixels, face_labels=labels, face_votes=votes).losses["face_perceived"]
        calibrated = model.calibrate("face", torch.zeros(4, 7), "perceived")
    assert uniform.item() == pytest.approx(-(votes * calibrated.log_softmax(-1)).sum(-1).mean().item(), abs=1e-4)
    assert "face_perceived" not in model(pixel_values=pixels, face_labels=labels).losses  # nobody voted


# --- Unsure


def test_an_answer_below_the_threshold_is_unsure_and_says_so_everywhere(pipe):
    config, given = pipe.model.config, {"image": str(ASTRONAUT), "audio": str(READING), "reading": "acted"}
    config.face_threshold = config.voice_threshold = 0.0
    sure = pipe(**given)
    assert not (sure.unsure or sure.face.unsure or sure.voice.unsure)
    config.face_threshold = sure.face.scores[sure.face.label] + 1e-3
    result = pipe(**given)
    assert result.face.unsure and not result.voice.unsure
    assert result.face.scores == sure.face.scores  # the answer is the same
    data = json.loads(json.dumps(result.to_dict()))
    assert (data["face"]["unsure"], data["voice"]["unsure"]) == (True, False)
    config.face_threshold, config.voice_threshold = 0.0, 1.0
    result = pipe(**given)
    assert result.voice.unsure and result.unsure and result.fused.unsure  # what rests on both needs both
    assert not pipe(str(ASTRONAUT), reading="acted").unsure  # a face alone needs its own


def test_a_timeline_says_which_of_its_answers_are_unsure():
    happy = dict.fromkeys(LABELS, 0.0) | {"happy": 1.0}
    sure, unsure = Emotion("happy", happy, unsure=False), Emotion("happy", happy, unsure=True)
    point = TimelinePoint(0.0, sure, unsure, unsure, 1.0)
    result = VideoResult(0.2, face=sure, voice=unsure, fused=unsure, people=[], timeline=[point])
    [row] = csv.DictReader(io.StringIO(result.to_csv()))
    assert (row["voice_unsure"], row["fused_unsure"]) == ("1", "1") and row["face_unsure"] == ""
    assert result.unsure and result.to_dict()["timeline"][0]["voice"]["unsure"] is True
    person = Person("happy", happy, True, 1, [])
    assert person.unsure


# --- The person's own baseline


def test_half_of_what_is_the_persons_own_is_taken_off(pipe, tmp_path):
    baseline = pipe.baseline(image=str(ASTRONAUT), audio=str(READING))
    assert list(baseline.face) == list(LABELS) and list(baseline.voice) == list(VOICE_LABELS)
    assert sum(map(math.exp, baseline.face.values())) == pytest.approx(1, abs=1e-2)
    plain = pipe(str(ASTRONAUT), reading="acted")
    relative = pipe(str(ASTRONAUT), reading="acted", baseline=baseline)
    temperature = pipe.model.config.face_temperature
    for label in LABELS[1:]:
        moved, before = (math.log(each.face.scores[label] / each.face.scores["angry"]) for each in (relative, plain))
        shift = {name: WEIGHT * (NEUTRAL["face"][name] - baseline.face[name]) / temperature[name] for name in LABELS}
        assert moved - before == pytest.approx(shift[label] - shift["angry"], abs=2e-3)
    assert relative.face.scores["happy"] < plain.face.scores["happy"]  # somebody whose face at rest looks happy


def test_a_baseline_is_of_the_heads_own_logits_whatever_the_reading(pipe):
    """Temperatures differ from class to class, and from reading to reading: none of it is in a baseline."""
    config = pipe.model.config
    for head, labels in (("face", LABELS), ("voice", VOICE_LABELS)):
        config.perceived[f"{head}_temperature"] = {label: 0.5 + 0.3 * i for i, label in enumerate(labels)}
    given = {"image": str(ASTRONAUT), "audio": str(READING)}
    recognizer = pipe.recognizer
    perceived, acted = (
        recognizer.adapted(reading).baseline_of(recognizer.observe(**given)) for reading in ("perceived", "acted")
    )
    assert vars(perceived) == vars(acted)
    [face] = recognizer.observe(str(ASTRONAUT)).faces.crops
    with torch.no_grad():
        features = pipe.model.emoclip.encode(**pipe.processor(images=[face], return_tensors="pt"))["image"]
        own = pipe.model.face_head(features).log_softmax(-1)[0]
    assert list(acted.face.values()) == pytest.approx(own.tolist(), abs=1e-3)


def test_a_baseline_is_kept_as_a_few_numbers_and_comes_back_as_it_was(pipe, tmp_path):
    baseline = pipe.baseline(audio=str(READING))
    assert baseline.face is None
    baseline.save(tmp_path / "me.json")
    assert (tmp_path / "me.json").stat().st_size < 1_000
    assert vars(Baseline.load(tmp_path / "me.json")) == vars(baseline)
    given = {"image": str(ASTRONAUT), "audio": str(READING), "reading": "acted"}
    result, plain = pipe(**given, baseline=tmp_path / "me.json"), pipe(**given)
    assert result.to_dict() == pipe(**given, baseline=baseline).to_dict()
    assert scores(result.face) == pytest.approx(scores(plain.face), abs=1e-6)  # of the face nothing is known
    assert scores(result.voice) != pytest.approx(scores(plain.voice), abs=1e-3)


def test_a_pipeline_may_belong_to_one_person(pipe):
    baseline = pipe.baseline(image=str(ASTRONAUT))
    own = Recognizer(pipe.model, pipe.processor, baseline=baseline)
    [result] = own.score([own.observe(str(ASTRONAUT))])
    assert scores(result.face) == pytest.approx(scores(pipe(str(ASTRONAUT), baseline=baseline).face), abs=1e-6)
    assert vars(own.baseline_of(own.observe(str(ASTRONAUT)))) == vars(
        baseline
    )  # the person's, and not relative to itself


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"face": 3, "voice": null, "model": ""}', '{"face": {"angry": NaN}}']
)
def test_what_is_no_baseline_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "me.json").write_text(text)
    with pytest.raises(ValueError, match="is no baseline") as error:
        Baseline.load(tmp_path / "me.json")
    assert str(error.value).endswith("wrote.")


def test_a_baseline_of_another_model_or_of_nobody_is_refused(pipe, tmp_path):
    baseline = pipe.baseline(image=str(ASTRONAUT))
    with pytest.raises(ValueError, match="of another model"):
        pipe(str(ASTRONAUT), baseline=replace(baseline, model="another"))
    pipe.model.config.neutral = None
    with pytest.raises(ValueError, match="knows no baselines"):
        pipe.baseline(image=str(ASTRONAUT))
    pipe.model.config.neutral = copy.deepcopy(NEUTRAL)
    assert fingerprint(pipe.model.config) == baseline.model
    nobody = np.full((200, 200, 3), 127, "u1")
    with pytest.raises(ValueError, match="No face was found"):
        pipe.baseline(image=nobody)
