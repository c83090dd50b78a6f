"""What the text tower learns from: words with and without an emotion, sentence templates, and a tokenizer for both."""

import functools
from collections import defaultdict
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from configuration_emoclip import LABELS
from processing_emoclip import tokenize

TEMPLATES = (
    "{}",
    "a {} person",
    "a {} face",
    "a {} voice",
    "a photo of a {} person",
    "a recording of a {} person",
    "someone who looks {}",
    "someone who sounds {}",
    "this person feels {}",
    "a {} expression",
)
#: The word list; its header says how it came about.
WORD_LIST = Path(__file__).with_name("words.tsv")
#: In the folder that make_word_vectors.py makes.
WORD_VECTORS_FILE = "word_vectors.safetensors"
MAX_TOKENS = 32  # of a text, with its start and its end

Split = Literal["train", "validation", "test"]
Meaning = Literal["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise", "thing", "other"]


@functools.cache
def read_words(split: Split) -> dict[Meaning, list[str]]:
    """The words of a split by what they mean: each emotion's, and two kinds without one, things and others."""
    words = defaultdict(list)
    for line in WORD_LIST.read_text().splitlines():
        if not line.startswith("#"):
            meaning, of, family = line.split("\t")
            if of == split:
                words[meaning] += family.split(", ")
    return dict(words)


def emotion_words(split: Split) -> dict[str, list[str]]:
    """The words of a split for each of LABELS."""
    return {label: read_words(split)[label] for label in LABELS}


def fill_templates(words: list[str], templates: tuple[str, ...] | list[str] = TEMPLATES) -> list[str]:
    """Every word in every template, `len(words) * len(templates)` sentences, word by word."""
    return [template.format(word) for word in words for template in templates]


def train_tokenizer(sentences: list[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the sentences. As in CLIP, the start and end tokens have the largest ids;
    id 0 is padding.

    Raises:
        ValueError: the vocabulary has no room for the 256 bytes and the three special tokens.
    """
    if vocab_size < 259:
        raise ValueError(f"The text tower's vocab_size must be at least 259, got {vocab_size}.")
    specials = ["<|startoftext|>", "<|endoftext|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        special_tokens=["<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sorted(sentences), trainer)
    # A small corpus yields fewer tokens than the vocabulary has: placeholders keep start and end at its very end.
    bpe.add_tokens([f"<|unused{i}|>" for i in range(vocab_size - len(specials) - bpe.get_vocab_size())])
    bpe.add_special_tokens(specials)
    start, end = ((token, bpe.token_to_id(token)) for token in specials)
    bpe.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A {end[0]}", special_tokens=[start, end])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        bos_token=start[0],
        eos_token=end[0],
        model_max_length=max_length,
    )


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, words: dict[str, list[str]]) -> list[torch.Tensor]:
    """For each of LABELS, the token ids (n, L) of its words in every template, and then those of the list's words
    without an emotion; L is the same for all."""
    other = read_words("train")["thing"] + read_words("train")["other"]
    sentences = [fill_templates(group) for group in (*(words[label] for label in LABELS), other)]
    every = tokenize(tokenizer, [s for group in sentences for s in group], "pt")["input_ids"]
    return list(every.split([len(group) for group in sentences]))
