"""All that a training needs, made in this order: the processor, the data for its extractor, the model, the trainer."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from configuration_emoclip import DEFAULT_LOSS_WEIGHTS, LABELS, VOICE_LABELS, EmoCLIPConfig
from losses_emoclip import PAIRS
from modeling_emoclip import EmoCLIPForEmotionClassification, EmoCLIPModel
from processing_emoclip import (
    VOICE_EXTRACTORS,
    EmoCLIPFeatureExtractor,
    EmoCLIPImageProcessor,
    EmoCLIPProcessor,
    check_range,
)
from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments
from training.dataset import FaceVoiceDataset, TrainingDataset, voice_tensors
from training.labels import votes_for
from training.prompts import (
    TEMPLATES,
    WORD_VECTORS_FILE,
    emotion_words,
    fill_templates,
    tokenize_prompts,
    train_tokenizer,
)
from training.sources import load_faces, load_voices
from training.splits import Corpus, relabel_by_votes, split_voices, subsample
from training.trainer import EmoCLIPTrainer

#: What the text tower is trained on, as fields of the configuration.
PROMPTS = {"words": emotion_words("train"), "prompt_templates": list(TEMPLATES)}
#: Text tower of word vectors, where `--config` says no other: a larger one gains nothing (docs/words.md).
WORD_TEXT_CONFIG = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
#: Range of a new model's mel images, in decibels.
TOP_DB = 45.0
#: Rows of a process from which batch norm takes statistics of its own rows alone.
MIN_OWN_STATISTICS = 1_024


def class_shares(labels: list[int], names: tuple[str, ...]) -> dict[str, float]:
    """Each named class's share of the labels, with one more label of each class, so that no share is 0."""
    counts = np.bincount(labels, minlength=len(LABELS))[[LABELS.index(name) for name in names]] + 1
    return {name: round(float(share), 6) for name, share in zip(names, counts / counts.sum())}


def untrained_config(model_args: ModelArguments, **fields) -> EmoCLIPConfig:
    """The configuration of a model that starts from no EmoCLIP. `--config` goes before `fields`."""
    overrides = dict(model_args.config)
    if model_args.vision_model:
        clip_config = CLIPVisionConfig.from_pretrained(model_args.vision_model)
        overrides["vision_config"] = {"tower": "clip_vision_model", "clip_config": clip_config.to_dict()}
    if model_args.word_vectors:
        overrides |= word_fields(model_args)
    return EmoCLIPConfig(**{**fields, **PROMPTS, **overrides})


def read_word_vectors(folder: str) -> tuple[PreTrainedTokenizerFast, dict[str, torch.Tensor]]:
    """The tokenizer and the state of `WordVectors` that make_word_vectors.py made.

    Raises:
        FileNotFoundError: there are none.
    """
    path = Path(folder) / WORD_VECTORS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"There are no word vectors in {folder}: make them by make_word_vectors.py {folder}")
    return PreTrainedTokenizerFast.from_pretrained(folder), load_file(path)


def word_fields(model_args: ModelArguments) -> dict:
    """The fields of a configuration whose text tower has the word vectors of `--word_vectors`."""
    tokenizer, table = read_word_vectors(model_args.word_vectors)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    vocabulary, size = table["weight"].shape
    text_config = WORD_TEXT_CONFIG | (model_args.config.get("text_config") or {}) | tokens
    return {"word_vector_size": size, "text_config": text_config | {"vocab_size": vocabulary}}


def build_processor(model_args: ModelArguments) -> EmoCLIPProcessor:
    """The processor: that of `init_from` or one for an untrained model, with the tokenizer of the word vectors and the
    range `top_db` of mel images where these are given.

    Raises:
        ValueError: the range is none, or the voices are no mel images.
        OSError: there are no word vectors.
    """
    processor = EmoCLIPProcessor.from_pretrained(model_args.init_from) if model_args.init_from else None
    processor = processor or untrained_processor(model_args)
    if model_args.init_from and model_args.word_vectors:
        processor.tokenizer, _ = read_word_vectors(model_args.word_vectors)
    if (top_db := new_range(model_args, processor)) is not None:
        processor.feature_extractor.top_db = top_db
    return processor


def new_range(model_args: ModelArguments, processor: EmoCLIPProcessor) -> float | None:
    """The range of mel images that the training sets, in decibels; None where the checkpoint's own stays, or there is
    none.

    Raises:
        ValueError: the range is none, or the voices are no mel images.
    """
    has_range = isinstance(processor.feature_extractor, EmoCLIPFeatureExtractor)
    if model_args.top_db is None:
        return TOP_DB if has_range and not model_args.init_from else None
    if not has_range:
        raise ValueError("This model's audio tower reads recordings, and no mel images: leave out --top_db.")
    return check_range(model_args.top_db)


def untrained_processor(model_args: ModelArguments) -> EmoCLIPProcessor:
    """The processor of a model that starts from no EmoCLIP, with the tokenizer of the word vectors, or one trained
    on the prompts."""
    config = untrained_config(model_args)
    if model_args.word_vectors:
        tokenizer, _ = read_word_vectors(model_args.word_vectors)
    else:
        sentences = [sentence for words in PROMPTS["words"].values() for sentence in fill_templates(words)]
        text = config.text_config
        tokenizer = train_tokenizer(sentences, text.vocab_size, text.max_position_embeddings)
    side = config.vision_config.image_size
    statistics = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD} if model_args.vision_model else {}
    return EmoCLIPProcessor(
        EmoCLIPImageProcessor(size={"height": side, "width": side}, **statistics),
        VOICE_EXTRACTORS[config.audio_config.tower](),
        tokenizer,
    )


def build_model(
    model_args: ModelArguments,
    processor: EmoCLIPProcessor,
    face_labels: list[int],
    voice_labels: list[int],
    voted: bool = False,
) -> EmoCLIPForEmotionClassification:
    """The model, untrained or from a checkpoint, with the priors of these training labels and nothing yet of what
    `calibrate` fits. Where people `voted` on the faces and on the voices, each reading gets heads of its own, if the
    checkpoint has no heads yet; where they did not, a checkpoint's are left out: nothing would teach or calibrate
    them."""
    face_prior = class_shares(face_labels, LABELS)
    heads = {
        "face_prior": face_prior,
        "voice_prior": class_shares(voice_labels, VOICE_LABELS),
        "target_prior": face_prior,
        "face_temperature": 1.0,
        "voice_temperature": 1.0,
        "face_bias": None,
        "voice_bias": None,
        "face_threshold": 0.0,
        "voice_threshold": 0.0,
        "perceived": None,
        "neutral": None,
        "emotion_cosine": None,
        "text_scale": None,
    }
    vectors = model_args.word_vectors
    whole = bool(model_args.init_from) and not is_backbone(model_args.init_from)
    if not (whole and voted):
        heads["perceived_heads"] = voted
    if model_args.init_from:
        if whole and not vectors:
            return EmoCLIPForEmotionClassification.from_pretrained(
                model_args.init_from, **heads | dict(model_args.config)
            )
        fields = dict(heads)
        if not whole:
            # Which faces, voices and texts match is known by their labels, not only by AudioCLIP's diagonal.
            fields |= PROMPTS | {"loss_reduction": "clip", "loss_weights": DEFAULT_LOSS_WEIGHTS}
        config = EmoCLIPConfig.from_pretrained(model_args.init_from, **fields | dict(model_args.config))
        if vectors:
            config = EmoCLIPConfig.from_dict(config.to_dict() | PROMPTS | word_fields(model_args))
        model = EmoCLIPForEmotionClassification(config)
        source = EmoCLIPForEmotionClassification if whole else EmoCLIPModel
        state = source.from_pretrained(model_args.init_from, dtype=torch.float32).state_dict()
        if vectors:
            state = {name: value for name, value in state.items() if ".text_" not in f".{name}"}
        (model if whole else model.emoclip).load_state_dict(state, strict=not vectors)
        return with_word_vectors(model, vectors)
    config = untrained_config(model_args, **heads)
    tokenizer = processor.tokenizer
    config.text_config.pad_token_id = tokenizer.pad_token_id
    config.text_config.bos_token_id = tokenizer.bos_token_id
    config.text_config.eos_token_id = tokenizer.eos_token_id
    model = EmoCLIPForEmotionClassification(config)
    if model_args.vision_model:
        clip = CLIPVisionModel.from_pretrained(model_args.vision_model, dtype=torch.float32)
        model.emoclip.vision_model.clip.load_state_dict(clip.state_dict())
    return with_word_vectors(model, vectors)


def with_word_vectors(model: EmoCLIPForEmotionClassification, folder: str | None) -> EmoCLIPForEmotionClassification:
    """The model, with the word vectors of the folder in its text tower, if there is a folder."""
    if folder:
        _, table = read_word_vectors(folder)
        model.emoclip.text_model.embeddings.token_embedding.load_state_dict(table, strict=False)
    return model


def is_backbone(folder: str) -> bool:
    """Whether a folder or Hub repository holds an `EmoCLIPModel`, such as a converted AudioCLIP, without heads."""
    return (EmoCLIPConfig.from_pretrained(folder).architectures or [None])[0] == EmoCLIPModel.__name__


def freeze(model: EmoCLIPForEmotionClassification, towers: list[str]):
    """Excludes towers from training: `image`, `audio`, `text`.

    Raises:
        ValueError: there is no such tower, or the audio tower is the image tower.
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
    """The trainer with its model and its data, and all splits of the faces and of the voices.

    Raises:
        OSError, ValueError: one sentence that says what cannot be read, or does not fit.
    """
    processor = build_processor(model_args)
    extractor = processor.feature_extractor
    with args.main_process_first(desc="reading the data"):
        faces = load_faces(data_args.faces, seed=args.seed)
        if data_args.face_labels == "ferplus":
            faces = relabel_by_votes(faces)
        voices = split_voices(load_voices(data_args.voices, extractor), data_args.fold)
    for corpus, what in ((faces, "faces"), (voices, "voices")):
        corpus.require(("train", "validation", "test") if args.do_predict else ("train", "validation"), what)
    if new_range(model_args, processor) is not None:
        extractor.standardize_by(voice_tensors(voices.train, extractor)[0])
    train_faces, train_voices = (
        subsample(corpus.train, data_args.max_train_samples, args.seed, data_args.train_share)
        for corpus in (faces, voices)
    )
    eval_faces, eval_voices = (
        subsample(corpus.validation, data_args.max_eval_samples, args.seed) for corpus in (faces, voices)
    )
    voted = all(votes_for(dataset) is not None for dataset in (train_faces, train_voices))
    model = build_model(model_args, processor, train_faces["label"], train_voices["label"], voted)
    freeze(model, model_args.freeze)
    if model.config.loss_reduction == "audioclip":
        raise ValueError("Training draws faces and voices apart: leave `loss_reduction` at `clip`.")
    if args.world_size > 1:
        model.emoclip.even_batches = True
        # Every step uses every parameter, but for those of a loss that is left out.
        args.ddp_find_unused_parameters = not all(
            model.config.loss_weights[part] > 0 for part in (*model.config.heads, *PAIRS)
        )
        if args.device.type == "cuda" and args.per_device_train_batch_size < MIN_OWN_STATISTICS:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    prompts = tokenize_prompts(processor.tokenizer, model.config.words)
    common = {"extractor": extractor, "prompts": prompts, "seed": args.seed, "device": args.device}
    trainer = EmoCLIPTrainer(
        model.to(memory_format=torch.channels_last),
        args,
        train_dataset=TrainingDataset(
            train_faces,
            train_voices,
            batch_size=args.train_batch_size,
            processes=args.world_size,
            voices_per_epoch=data_args.voices_per_epoch,
            **common,
        ),
        eval_dataset=FaceVoiceDataset(eval_faces, eval_voices, **common),
        processor=processor,
        votes=data_args.votes,
        mixup=data_args.mixup,
    )
    return trainer, faces, voices
