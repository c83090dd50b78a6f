"""The text tower that knows words by vectors of others: its table, its losses, its list of words and its marks."""

import math

import pytest
import torch

from modeling_emoclip import EmoCLIPForEmotionClassification
from tests.helpers import TINY, tiny_parts

TOKENS = torch.tensor([[508, 7, 9, 509, 0], [508, 8, 509, 0, 0]])


@pytest.fixture
def model():
    text = TINY["text_config"] | {"vocab_size": 510, "bos_token_id": 508, "eos_token_id": 509}
    model, _ = tiny_parts(word_vector_size=6, text_config=text)
    vectors = model.emoclip.text_model.embeddings.token_embedding
    vectors.weight.copy_(torch.randint(-127, 128, vectors.weight.shape))
    vectors.scale.copy_(torch.rand(510, 1))
    return model


def text_features(model: EmoCLIPForEmotionClassification) -> torch.Tensor:
    with torch.no_grad():
        return model.emoclip.get_text_features(TOKENS).pooler_output


def test_word_vectors_are_saved_in_eight_bits_and_loaded_as_they_were(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = EmoCLIPForEmotionClassification.from_pretrained(tmp_path).eval()
    assert loaded.emoclip.text_model.embeddings.token_embedding.weight.dtype == torch.int8
    assert torch.equal(text_features(loaded), text_features(model))


def test_word_vectors_are_not_trained_but_their_projection_is(model):
    vectors = model.emoclip.text_model.embeddings.token_embedding
    model.emoclip.get_text_features(TOKENS).pooler_output.sum().backward()
    assert {name for name, _ in vectors.named_parameters()} == {"projection.weight", "projection.bias"}
    assert vectors.projection.weight.grad.abs().sum() > 0


def test_texts_work_in_half_precision(model):
    half = text_features(model.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_a_text_without_an_emotion_matches_no_face_but_stands_against_those_that_do(model):
    model.emoclip.logit_scale.data.zero_()  # similarities are cosines
    faces, texts = torch.eye(4, 8)[:2], torch.eye(4, 8)
    embeds, labels = {"image": faces, "text": texts[:2]}, torch.tensor([0, 3])
    alone = model.emoclip.contrastive_losses(embeds, labels, None, None, None)["image_text"]
    embeds["text"] = texts[:3]
    with_other = model.emoclip.contrastive_losses(embeds, labels, None, None, None, torch.tensor([0, 3, -1]))[
        "image_text"
    ]
    of_faces = math.log(math.e + 2) - 1  # of three texts, one is right
    of_texts = math.log(math.e + 1) - 1
    assert with_other.item() == pytest.approx((of_faces + of_texts) / 2)
    assert alone.item() == pytest.approx(of_texts)
