"""What a training needs, built in order: the processor, the data for its extractor, the model, the trainer."""

import numpy as np
import torch
from torch import nn
from transformers import CLIPVisionModel, EarlyStoppingCallback
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from configuration_emoclip import DEFAULT_LOSS_WEIGHTS, LABELS, VOICE_LABELS, EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification, EmoCLIPModel
from processing_emoclip import (
    EmoCLIPFeatureExtractor,
    EmoCLIPImageProcessor,
    EmoCLIPProcessor,
    EmoCLIPWaveformExtractor,
)
from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments
from training.dataset import FaceVoiceDataset
from training.prompts import TEMPLATES, fill_templates, split_words, tokenize_prompts, train_tokenizer
from training.sources import load_faces, load_voices
from training.splits import Corpus, limit, relabel_by_votes, split_voices
from training.trainer import EmoCLIPTrainer, compute_metrics


def class_shares(labels: list[int], names: tuple[str, ...]) -> dict[str, float]:
    """Share of each named class among the labels, with one more of each, so that none is 0."""
    counts = np.bincount(labels, minlength=len(LABELS))[[LABELS.index(name) for name in names]] + 1
    return {name: round(float(share), 6) for name, share in zip(names, counts / counts.sum())}


def build(
    model_args: ModelArguments, face_labels: list[int], voice_labels: list[int]
) -> tuple[EmoCLIPForEmotionClassification, EmoCLIPProcessor]:
    """The model, untrained or from a checkpoint, and its processor, for these training labels."""
    overrides = dict(model_args.config)
    face_prior = class_shares(face_labels, LABELS)
    taught = {
        "face_prior": face_prior,
        "voice_prior": class_shares(voice_labels, VOICE_LABELS),
        "target_prior": face_prior,
        "face_temperature": 1.0,
        "voice_temperature": 1.0,
        "face_bias": None,
        "voice_bias": None,
    }
    words, _ = split_words()
    if model_args.init_from and model_args.vision_model:
        raise ValueError("--init_from brings an image tower of its own: leave out --vision_model.")
    if model_args.init_from and is_backbone(model_args.init_from):
        # The labels say which faces, voices and texts belong together: more than AudioCLIP's diagonal does.
        emotions = {"words": words, "prompt_templates": list(TEMPLATES), "loss_reduction": "clip"}
        taught |= {**emotions, "loss_weights": DEFAULT_LOSS_WEIGHTS}
        config = EmoCLIPConfig.from_pretrained(model_args.init_from, **taught | overrides)
        model = EmoCLIPForEmotionClassification(config)
        backbone = EmoCLIPModel.from_pretrained(model_args.init_from, dtype=torch.float32)
        model.emoclip.load_state_dict(backbone.state_dict())
        return model, EmoCLIPProcessor.from_pretrained(model_args.init_from)
    if model_args.init_from:
        model = EmoCLIPForEmotionClassification.from_pretrained(model_args.init_from, **taught | overrides)
        return model, EmoCLIPProcessor.from_pretrained(model_args.init_from)
    clip, image_statistics = None, {}
    if model_args.vision_model:
        clip = CLIPVisionModel.from_pretrained(model_args.vision_model, dtype=torch.float32)
        overrides |= {"vision_config": {"tower": "clip_vision_model", "clip_config": clip.config.to_dict()}}
        image_statistics = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
    config = EmoCLIPConfig(**{**taught, "words": words, "prompt_templates": list(TEMPLATES), **overrides})
    sentences = [s for label in LABELS for s in fill_templates(words[label])]
    text, side = config.text_config, config.vision_config.image_size
    processor = EmoCLIPProcessor(
        EmoCLIPImageProcessor(size={"height": side, "width": side}, **image_statistics),
        EmoCLIPFeatureExtractor() if config.audio_config.tower == "shared" else EmoCLIPWaveformExtractor(),
        train_tokenizer(sentences, text.vocab_size, text.max_position_embeddings),
    )
    for name in ("pad", "bos", "eos"):
        setattr(text, f"{name}_token_id", getattr(processor.tokenizer, f"{name}_token_id"))
    model = EmoCLIPForEmotionClassification(config)
    if clip is not None:
        model.emoclip.vision_model.clip.load_state_dict(clip.state_dict())
    return model, processor


def audio_extractor(model_args: ModelArguments) -> EmoCLIPFeatureExtractor:
    """The feature extractor of the model that `build` will make: what the voices are to be loaded for."""
    if model_args.init_from:
        return EmoCLIPProcessor.from_pretrained(model_args.init_from).feature_extractor
    shared = EmoCLIPConfig(**model_args.config).audio_config.tower == "shared"
    return EmoCLIPFeatureExtractor() if shared else EmoCLIPWaveformExtractor()


def is_backbone(folder: str) -> bool:
    """Whether a folder or Hub repository holds `EmoCLIPModel`, such as a converted AudioCLIP, without heads."""
    return (EmoCLIPConfig.from_pretrained(folder).architectures or [None])[0] == EmoCLIPModel.__name__


def freeze(model: EmoCLIPForEmotionClassification, towers: list[str]):
    """Takes the gradients from towers: `image`, `audio`, `text`.

    Raises:
        ValueError: there is no such tower, or it is the image's.
    """
    emoclip = model.emoclip
    modules = {
        "image": [emoclip.vision_model],
        "audio": [emoclip.audio_model],
        "text": [emoclip.text_model, emoclip.text_projection],
    }
    if unknown := sorted(set(towers) - set(modules)):
        raise ValueError(f"--freeze takes image, audio and text, not {', '.join(unknown)}.")
    if "audio" in towers and emoclip.audio_model is None:
        raise ValueError("This model's audio tower is its image tower: freeze that, or leave both free.")
    for module in (module for tower in towers for module in modules[tower]):
        module.requires_grad_(False)


def make_trainer(
    model_args: ModelArguments, data_args: DataArguments, args: EmoCLIPTrainingArguments
) -> tuple[EmoCLIPTrainer, Corpus, Corpus]:
    """The trainer, its model built and its data loaded, and the faces and voices with all their splits.

    Raises:
        OSError, ValueError: one sentence that says what cannot be read, or does not fit.
    """
    with args.main_process_first(desc="reading the data"):
        faces = load_faces(data_args.faces, seed=args.seed)
        if data_args.face_labels == "ferplus":
            faces = relabel_by_votes(faces)
        voices = split_voices(load_voices(data_args.voices, audio_extractor(model_args)), data_args.fold)
    train_faces, train_voices = (
        limit(corpus.train, data_args.max_train_samples, args.seed, data_args.train_share)
        for corpus in (faces, voices)
    )
    eval_faces, eval_voices = (limit(c.validation, data_args.max_eval_samples, args.seed) for c in (faces, voices))
    model, processor = build(model_args, train_faces["label"], train_voices["label"])
    freeze(model, model_args.freeze)
    if args.world_size > 1 and args.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(memory_format=torch.channels_last)
    prompts = tokenize_prompts(processor.tokenizer, model.config.words)
    # Waveforms may be too many for a GPU's memory; pictures are not.
    held = {"seed": args.seed, "device": args.device if "mel" in train_voices.column_names else "cpu"}
    trainer = EmoCLIPTrainer(
        model,
        args,
        train_dataset=FaceVoiceDataset(
            train_faces, train_voices, prompts, voices_per_epoch=data_args.voices_per_epoch, **held
        ),
        eval_dataset=FaceVoiceDataset(eval_faces, eval_voices, prompts, **held),
        processor=processor,
        votes=data_args.votes,
        mixup=data_args.mixup,
        cutmix=data_args.cutmix,
        compute_metrics=compute_metrics,
        callbacks=[EarlyStoppingCallback(args.early_stopping_patience)],
    )
    return trainer, faces, voices
