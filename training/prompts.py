"""What the text tower learns from: 30 words for each emotion, sentence templates, and a tokenizer for both."""

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
#: 30 words for each emotion. Every fifth is held out of training, to measure the text tower on words it has not seen.
WORDS = {
    "angry": """angry, furious, enraged, irritated, annoyed, mad, outraged, irate, cross, livid, incensed, infuriated,
        hostile, resentful, indignant, seething, fuming, aggravated, exasperated, provoked, heated, wrathful, raging,
        bitter, vexed, offended, aggressive, displeased, hot-headed, ill-tempered""",
    "disgust": """disgusted, revolted, repulsed, sickened, nauseated, appalled, grossed out, repelled, queasy, averse,
        contemptuous, disdainful, scornful, loathing, squeamish, full of disgust, put off, turned off, repugnant,
        full of loathing, nauseous, detesting, despising, disapproving, retching, gagging, sneering, sick, abhorrent,
        full of revulsion""",
    "fear": """afraid, fearful, scared, terrified, frightened, anxious, panicked, alarmed, petrified, nervous, worried,
        uneasy, apprehensive, horrified, spooked, timid, threatened, tense, dreading, panicky, shaken, jittery,
        intimidated, trembling, unnerved, cowering, aghast, wary, insecure, full of fear""",
    "happy": """happy, joyful, cheerful, delighted, glad, pleased, content, smiling, elated, joyous, merry, ecstatic,
        thrilled, overjoyed, blissful, jolly, radiant, amused, grinning, jubilant, satisfied, gleeful, laughing,
        upbeat, sunny, exuberant, relieved, euphoric, beaming, tickled""",
    "neutral": """neutral, calm, expressionless, indifferent, composed, impassive, unemotional, blank, detached,
        placid, unmoved, stoic, even-tempered, matter-of-fact, impartial, deadpan, collected, unexpressive, plain,
        serene, dispassionate, poker-faced, relaxed, unconcerned, cool, level-headed, quiet, uninvolved, ordinary,
        flat""",
    "sad": """sad, unhappy, sorrowful, depressed, gloomy, miserable, heartbroken, down, tearful, melancholy, dejected,
        mournful, grieving, downcast, despondent, crying, hopeless, blue, dismal, disheartened, forlorn, weeping, glum,
        woeful, discouraged, lonely, hurt, desolate, regretful, downhearted""",
    "surprise": """surprised, astonished, amazed, shocked, startled, stunned, astounded, dumbfounded, flabbergasted,
        speechless, taken aback, wide-eyed, bewildered, staggered, dazed, thunderstruck, awestruck, incredulous,
        stupefied, jolted, open-mouthed, unprepared, wonderstruck, floored, gobsmacked, caught off guard, agape,
        disbelieving, dazzled, agog""",
}
WORDS = {label: " ".join(words.split()).split(", ") for label, words in WORDS.items()}


def split_words() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Each emotion's words for training, and its held-out fifth."""
    trained = {label: [word for i, word in enumerate(words) if i % 5 != 4] for label, words in WORDS.items()}
    held_out = {label: words[4::5] for label, words in WORDS.items()}
    return trained, held_out


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
    """For each of LABELS, the token ids (n, L) of its words in every template; L is the same for all."""
    sentences = {label: fill_templates(words[label]) for label in LABELS}
    every = tokenize(tokenizer, [s for label in LABELS for s in sentences[label]], "pt")["input_ids"]
    return list(every.split([len(sentences[label]) for label in LABELS]))
