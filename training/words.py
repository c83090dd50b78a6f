"""What the text tower makes of words that it has not met: its figures, and what the reading of a text alone needs."""

import numpy as np
import torch
import torch.nn.functional as F

from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from training.dataset import Head
from training.prompts import Split, emotion_words, fill_templates, read_words

NO_EMOTION = ("thing", "other")
#: Among which that of a text's cosines is chosen.
TEXT_SCALES = torch.arange(2, 81) / 4


@torch.no_grad()
def word_embeddings(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, words: list[str]
) -> torch.Tensor:
    """Each word's mean embedding in the model's templates, (n, D), on the CPU."""
    templates = model.config.prompt_templates
    parts = []
    for part in torch.tensor_split(torch.arange(len(words)), max(1, len(words) // 32)):
        inputs = processor(text=fill_templates([words[i] for i in part], templates), return_tensors="pt")
        embeds = model.emoclip.get_text_features(**inputs.to(model.device)).pooler_output.float()
        parts.append(F.normalize(embeds, dim=-1).unflatten(0, (len(part), -1)).mean(1).cpu())
    return torch.cat(parts)


def emotion_embeddings(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, words: dict[str, list[str]]
) -> torch.Tensor:
    """For each label the normalised mean embedding of all its words, (C, D)."""
    means = [word_embeddings(model, processor, words[label]).mean(0) for label in model.config.labels]
    return F.normalize(torch.stack(means), dim=-1)


def evaluate_words(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    embeds: dict[Head, tuple[torch.Tensor, np.ndarray]],
    trained: torch.Tensor,
    split: Split,
) -> dict[str, dict]:
    """How often a face or a voice is closest to the words of its own emotion: those of training, and those of `split`.

    Args:
        embeds: of faces and of voices, (n, D), and their labels (n,).
        trained: `emotion_embeddings` of the words of training.
    """
    results = {}
    held_out = emotion_embeddings(model, processor, emotion_words(split))
    for name, texts in (("trained", trained), ("held_out", held_out)):
        for head, (seen, labels) in embeds.items():
            accuracy = float(((seen @ texts.T).argmax(-1).numpy() == labels).mean())
            results[f"{head}_{name}"] = {"n": len(labels), "accuracy": accuracy}
    return results


def text_cosines(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, trained: torch.Tensor, split: Split
) -> dict[str, torch.Tensor]:
    """Cosines (n, C) of a split's words, by what they mean, with each emotion's words of training, `trained`."""
    return {
        meaning: F.normalize(word_embeddings(model, processor, words), dim=-1) @ trained.T
        for meaning, words in read_words(split).items()
    }


def auroc(positives: torch.Tensor, negatives: torch.Tensor) -> float:
    """How often one of the positives (n,) is above one of the negatives (m,)."""
    gaps = positives[:, None] - negatives
    return float((gaps > 0).float().mean() + (gaps == 0).float().mean() / 2)


def evaluate_texts(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, trained: torch.Tensor, split: Split
) -> dict[str, dict]:
    """How well the words of a split are read alone, by their cosines with `trained`, `emotion_embeddings` of the words
    of training.

    Returns:
        `emotion`: how often a word is closest to the words of its own emotion. `thing`, `other`: the area under the
        ROC curve by which the largest cosine tells words with an emotion from such words without one; and where the
        model marks the latter, the shares of them that are `marked` and of the former that are `unmarked`.
    """
    cosines = text_cosines(model, processor, trained, split)
    labels = model.config.labels
    right = torch.cat([cosines[label].argmax(-1) == i for i, label in enumerate(labels)])
    results = {"emotion": {"n": len(right), "accuracy": float(right.float().mean())}}
    closest = torch.cat([cosines[label].amax(-1) for label in labels])
    least = model.config.emotion_cosine
    for meaning in NO_EMOTION:
        others = cosines[meaning].amax(-1)
        results[meaning] = {"n": len(closest) + len(others), "auroc": auroc(closest, others)}
        if least is not None:
            results[meaning] |= {
                "unmarked": float((closest >= least).float().mean()),
                "marked": float((others < least).float().mean()),
            }
    return results


def calibrate_texts(model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor):
    """Fits to the list's validation words what the reading of a text alone needs: `text_scale`, by maximum likelihood;
    and `emotion_cosine`, so that the mean of the shares of words with and without an emotion that are on the right
    side of it is largest."""
    trained = emotion_embeddings(model, processor, model.config.words)
    cosines = text_cosines(model, processor, trained, "validation")
    emotional = [cosines[label] for label in model.config.labels]
    labels = torch.arange(len(emotional)).repeat_interleave(torch.tensor([len(each) for each in emotional]))
    emotional = torch.cat(emotional)
    losses = torch.stack([F.cross_entropy(scale * emotional, labels) for scale in TEXT_SCALES])
    model.config.text_scale = TEXT_SCALES[losses.argmin()].item()
    emotional, others = emotional.amax(-1), torch.cat([cosines[meaning] for meaning in NO_EMOTION]).amax(-1)
    every = torch.cat([emotional, others]).sort().values
    limits = (every[1:] + every[:-1]) / 2
    right = (emotional >= limits[:, None]).float().mean(-1) + (others < limits[:, None]).float().mean(-1)
    model.config.emotion_cosine = round(limits[right.argmax()].item(), 4)
