"""The fusion: its formula and the agreement's, missing modalities, and how forward uses both."""

import copy
import math
import random

import pytest
import torch
from helpers import TINY

from configuration_emoclip import LABELS, VOICE_LABELS, EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification

SHARES = dict(zip(LABELS, (0.14, 0.02, 0.14, 0.25, 0.17, 0.17, 0.11)))


VOICE_SHARES = dict(zip(VOICE_LABELS, (0.18, 0.17, 0.16, 0.17, 0.15, 0.17)))


TARGET = dict(zip(LABELS, (0.1, 0.1, 0.2, 0.1, 0.3, 0.1, 0.1)))


def posterior(labels: tuple[str, ...], seed: int) -> dict[str, float]:
    draw = random.Random(seed)
    values = {label: draw.random() + 0.01 for label in labels}
    return {label: value / sum(values.values()) for label, value in values.items()}


def as_row(probs: dict[str, float]) -> torch.Tensor:
    """(1, 7) log-probabilities; a class without a probability has none."""
    return torch.tensor([[math.log(probs[label]) if label in probs else -math.inf for label in LABELS]])


def fuse_by_hand(face: dict | None, voice: dict | None, target: dict) -> dict[str, float]:
    """p(y|f) / pi_F(y) * p(y|v) / pi_V(y) * pi(y), normalised; 1 for the ratio of a class that was not taught. The
    face or the voice alone is what it is."""
    if face is None or voice is None:
        return {label: (face or voice).get(label, 0.0) for label in LABELS}
    values = dict(target)
    for probs, prior in ((face, SHARES), (voice, VOICE_SHARES)):
        for label in LABELS if probs else ():
            values[label] *= probs[label] / prior[label] if label in prior else 1.0
    return {label: value / sum(values.values()) for label, value in values.items()}


def agreement_by_hand(face: dict, voice: dict, target: dict) -> float:
    """log of p(f, v) / (p(f) p(v)) under the target prior, over the six classes that both were taught."""

    def six(probs: dict) -> dict:
        total = sum(probs[label] for label in VOICE_LABELS)
        return {label: probs[label] / total for label in VOICE_LABELS}

    face, voice, target, face_prior, voice_prior = map(six, (face, voice, target, SHARES, VOICE_SHARES))
    of_face = {y: face[y] / face_prior[y] for y in VOICE_LABELS}  # p(f | y) / p(f)
    of_voice = {y: voice[y] / voice_prior[y] for y in VOICE_LABELS}
    together = sum(target[y] * of_face[y] * of_voice[y] for y in VOICE_LABELS)
    return math.log(
        together
        / sum(target[y] * of_face[y] for y in VOICE_LABELS)
        / sum(target[y] * of_voice[y] for y in VOICE_LABELS)
    )


def tiny_model(**priors) -> EmoCLIPForEmotionClassification:
    torch.manual_seed(0)
    return EmoCLIPForEmotionClassification(EmoCLIPConfig(**TINY, **priors)).eval()


def make_batch(rows: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=generator),
        "input_features": torch.randn(rows, 1, 128, 188, generator=generator),
    }


@pytest.fixture(scope="module")
def fusion() -> EmoCLIPForEmotionClassification:
    return tiny_model(face_prior=SHARES, voice_prior=VOICE_SHARES, target_prior=TARGET)


@pytest.mark.parametrize("seed", range(5))
def test_fused_posterior_and_agreement_are_the_formula(fusion, seed):
    face, voice = posterior(LABELS, seed), posterior(VOICE_LABELS, seed + 100)
    fused, agreement = fusion.fuse(as_row(face), as_row(voice))
    assert fused.exp()[0].tolist() == pytest.approx(list(fuse_by_hand(face, voice, TARGET).values()), abs=1e-5)
    assert agreement.item() == pytest.approx(agreement_by_hand(face, voice, TARGET), abs=1e-4)
    for one, other, hand in ((face, None, (face, None)), (None, voice, (None, voice))):
        fused, agreement = fusion.fuse(one and as_row(one), other and as_row(other))
        assert fused.exp()[0].tolist() == pytest.approx(list(fuse_by_hand(*hand, TARGET).values()), abs=1e-5)
        assert agreement.item() == 0


def test_the_voice_says_nothing_of_a_class_it_was_not_taught(fusion):
    face, voice = posterior(LABELS, 0), posterior(VOICE_LABELS, 1)
    alone, _ = fusion.fuse(as_row(face))
    both, _ = fusion.fuse(as_row(face), as_row(voice))
    ratio = {label: voice[label] / VOICE_SHARES[label] for label in VOICE_LABELS}
    # against surprise, every taught class moves by exactly its own evidence, and the change of the priors
    priors = {label: TARGET[label] / SHARES[label] for label in LABELS}
    for i, label in enumerate(VOICE_LABELS):
        moved = (both[0, i] - both[0, 6]) - (alone[0, i] - alone[0, 6])
        expected = math.log(ratio[label] * priors[label] / priors["surprise"])
        assert moved.item() == pytest.approx(expected, abs=1e-4)


def test_a_missing_modality_is_left_out_row_by_row(fusion):
    face = torch.cat([as_row(posterior(LABELS, i)) for i in range(4)])
    voice = torch.cat([as_row(posterior(VOICE_LABELS, i + 9)) for i in range(4)])
    face_mask, voice_mask = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    voice[1] = math.nan  # whatever an absent row holds
    fused, agreement = fusion.fuse(face, voice, face_mask, voice_mask)
    pair, pair_agreement = fusion.fuse(face[:1], voice[:1])
    assert torch.allclose(fused[:1], pair) and torch.allclose(agreement[:1], pair_agreement)
    assert torch.allclose(fused[1:2], fusion.fuse(face[1:2])[0])
    assert torch.allclose(fused[2:3], fusion.fuse(None, voice[2:3])[0])
    assert fused[3].exp().tolist() == pytest.approx(list(TARGET.values()), abs=1e-6)
    assert (agreement[1:] == 0).all() and agreement[0] != 0
    with pytest.raises(ValueError, match="face, a voice, or both"):
        fusion.fuse()


def test_another_target_prior_shifts_the_posterior_by_the_ratio_of_the_priors(fusion):
    face = as_row(posterior(LABELS, 3))
    same = tiny_model(face_prior=SHARES, voice_prior=VOICE_SHARES)  # no target: the face head's shares
    assert same.config.target_prior == SHARES
    voice = as_row(posterior(VOICE_LABELS, 4))
    shifted = fusion.fuse(face, voice)[0] - same.fuse(face, voice)[0]
    expected = torch.tensor([math.log(TARGET[label] / SHARES[label]) for label in LABELS])
    assert torch.allclose(shifted - shifted.mean(), (expected - expected.mean())[None], atol=1e-5)


def test_one_uninformative_side_neither_agrees_nor_conflicts(fusion):
    silent_face, silent_voice = as_row(SHARES), as_row(VOICE_SHARES)  # no more than was known before
    for seed in range(3):
        voice, face = as_row(posterior(VOICE_LABELS, seed)), as_row(posterior(LABELS, seed))
        assert fusion.fuse(silent_face, voice)[1].item() == pytest.approx(0, abs=1e-5)
        assert fusion.fuse(face, silent_voice)[1].item() == pytest.approx(0, abs=1e-5)


def test_a_happy_face_with_a_happy_voice_agrees_and_with_a_sad_one_conflicts(fusion):
    def sure(labels: tuple[str, ...], label: str) -> torch.Tensor:
        return as_row({other: 0.9 if other == label else 0.1 / (len(labels) - 1) for other in labels})

    face = sure(LABELS, "happy")
    assert fusion.fuse(face, sure(VOICE_LABELS, "happy"))[1] > 0
    assert fusion.fuse(face, sure(VOICE_LABELS, "sad"))[1] < 0


def test_logits_are_the_fusion_of_the_heads_posteriors(fusion):
    batch = make_batch()
    model = copy.deepcopy(fusion)
    model.config.face_temperature = {label: 1 + i for i, label in enumerate(LABELS)}
    model.config.voice_temperature = dict.fromkeys(VOICE_LABELS, 0.5)
    model.config.face_bias = {label: 0.1 * i for i, label in enumerate(LABELS)}
    with torch.no_grad():
        plain, scaled = fusion(**batch), model(**batch)
    assert torch.allclose(
        scaled.face_logits, plain.face_logits / torch.arange(1, 8) + 0.1 * torch.arange(7), atol=1e-6
    )
    assert torch.allclose(scaled.voice_logits[:, :6], plain.voice_logits[:, :6] * 2, atol=1e-6)
    assert torch.isneginf(plain.voice_logits[:, 6]).all()
    fused, agreement = model.fuse(scaled.face_logits.log_softmax(-1), scaled.voice_logits.log_softmax(-1))
    assert torch.allclose(scaled.logits, fused) and torch.allclose(scaled.agreement, agreement)
    assert torch.allclose(scaled.logits.exp().sum(-1), torch.ones(6), atol=1e-5)


def test_either_modality_may_be_absent_altogether(fusion):
    batch = make_batch()
    with torch.no_grad():
        face = fusion(pixel_values=batch["pixel_values"])
        voice = fusion(input_features=batch["input_features"])
    assert face.voice_logits is None and face.audio_embeds is None and face.loss is None
    assert voice.face_logits is None and voice.image_embeds is None
    assert torch.allclose(face.logits, fusion.fuse(face.face_logits.log_softmax(-1))[0])
    assert torch.allclose(voice.logits, fusion.fuse(None, voice.voice_logits.log_softmax(-1))[0])
    assert (face.agreement == 0).all() and (voice.agreement == 0).all()
    with pytest.raises(ValueError) as error:
        fusion(input_ids=torch.ones(6, 8, dtype=torch.long))
    assert str(error.value).startswith("EmoCLIP needs a face") and "\n" not in str(error.value)


def test_batching_does_not_change_a_result(fusion):
    batch = make_batch()
    with torch.no_grad():
        whole = fusion(**batch)
        for i in range(6):
            one = fusion(**{name: value[i : i + 1] for name, value in batch.items()})
            for name in ("logits", "face_logits", "voice_logits", "image_embeds", "audio_embeds", "agreement"):
                assert torch.allclose(one[name][0], whole[name][i], atol=1e-5), name
