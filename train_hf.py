"""Fine-tunes EmoCLIP on FER-2013 faces and CREMA-D voices with the Hugging Face Trainer.

    python train_hf.py                                        # the Hub's copies of both, by the recipe
    python train_hf.py --faces data/fer2013 --voices data/cremad --output_dir outputs/mine
    python train_hf.py --push_to_hub --hub_model_id me/emoclip
    python train_hf.py --push_only outputs/mine --hub_model_id me/emoclip   # what is trained already
    torchrun --nproc_per_node 2 train_hf.py                   # several GPUs
    python train_hf.py --init_from checkpoints/audioclip --learning_rate 1e-3 --backbone_learning_rate 1e-5 \\
        --freeze text --per_device_train_batch_size 64        # from AudioCLIP, see convert_audioclip.py
    python train_hf.py --init_from outputs/mine --num_train_epochs 0 --output_dir outputs/calibrated   # the heads only
    python train_hf.py --vision_model openai/clip-vit-base-patch16
    python train_hf.py recipe.json                            # every argument from a file

An interrupted run goes on from its last checkpoint when the same command is given again.
"""

import json
import logging
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import (
    CLIPVisionModel,
    EarlyStoppingCallback,
    EvalPrediction,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from configuration_emoclip import DEFAULT_LOSS_WEIGHTS, LABELS, VOICE_LABELS, EmoCLIPConfig
from data_emoclip import (
    FACES_HUB_ID,
    TEMPLATES,
    VOICES_HUB_ID,
    Corpus,
    FaceVoiceDataset,
    as_batch,
    augment_faces,
    augment_voices,
    augment_waveforms,
    fill_templates,
    load_faces,
    load_voices,
    mix,
    relabel_by_votes,
    split_voices,
    split_words,
    tokenize_prompts,
)
from evaluate_hf import emotion_metrics, evaluate_split, markdown_table, prepare, write_card, write_results
from hub import HubError, UnfinishedError, fetch, open_repository, publish
from media_emoclip import FaceDetector, SpeechDetector
from modeling_emoclip import CheckpointError, EmoCLIPForEmotionClassification, EmoCLIPModel
from pipeline_emoclip import save_all
from processing_emoclip import (
    EmoCLIPFeatureExtractor,
    EmoCLIPImageProcessor,
    EmoCLIPProcessor,
    EmoCLIPWaveformExtractor,
)

logger = logging.getLogger("emoclip")

GPU_HAS_BF16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()


@dataclass
class ModelArguments:
    init_from: str | None = field(
        default=None,
        metadata={"help": "an EmoCLIP or converted AudioCLIP to go on from, folder or Hub id; by default untrained"},
    )
    vision_model: str | None = field(
        default=None,
        metadata={"help": "a CLIP ViT that the image tower starts from, folder or Hub id"},
    )
    freeze: list[str] = field(
        default_factory=list, metadata={"help": "towers that keep their weights: any of image, audio, text"}
    )
    config: dict | str | None = field(
        default=None,
        metadata={"help": 'fields of EmoCLIPConfig that differ from the preset, as JSON: {"projection_dim": 128}'},
    )

    def __post_init__(self):
        self.config = json.loads(self.config) if isinstance(self.config, str) else self.config or {}
        if not isinstance(self.config, dict):
            raise ValueError("--config must be a JSON object, fields and their values.")


@dataclass
class DataArguments:
    faces: str = field(default=FACES_HUB_ID, metadata={"help": "FER-2013: a folder or a Hub id"})
    voices: str = field(default=VOICES_HUB_ID, metadata={"help": "CREMA-D: a folder or a Hub id"})
    face_labels: Literal["fer2013", "ferplus"] = field(
        default="fer2013", metadata={"help": "FER-2013's own labels, or what most FER+ taggers chose"}
    )
    fold: int = field(default=0, metadata={"help": "CREMA-D fold to test on; the next chooses, the others train"})
    voices_per_epoch: int | None = field(
        default=None, metadata={"help": "rows that carry a voice; by default each voice once"}
    )
    votes: list[float] = field(
        default_factory=lambda: [0.3],
        metadata={
            "help": "weight of what people voted, FER+'s and CREMA-D's, beside the label, 0 to 1: of both, or of the "
            "face's and of the voice's"
        },
    )
    mixup: float = field(
        default=0.2,
        metadata={"help": "alpha of the Beta distribution by which faces, and voices, are mixed; 0 is not"},
    )
    cutmix: float = field(
        default=0.0, metadata={"help": "share of the faces that get a rectangle of another instead of being mixed"}
    )
    train_share: float = field(
        default=1.0, metadata={"help": "share of the training faces, and voices, that is used, drawn by --seed"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "at most so many faces, and voices"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "at most so many faces, and voices"})

    def __post_init__(self):
        votes = self.votes if isinstance(self.votes, list) else [self.votes]  # a file may give one number as it is
        if len(votes) not in (1, 2) or not all(0 <= weight <= 1 for weight in votes):
            raise ValueError("--votes takes one number from 0 to 1, or the face's and the voice's.")
        self.votes = votes * 2 if len(votes) == 1 else votes
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"--cutmix must be from 0 to 1, not {self.cutmix}.")


@dataclass
class EmoCLIPTrainingArguments(TrainingArguments):
    output_dir: str = "outputs/emoclip-small"
    num_train_epochs: float = 64
    per_device_train_batch_size: int = 512
    per_device_eval_batch_size: int = 256
    learning_rate: float = 2e-3
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "of everything but the heads; by default --learning_rate"}
    )
    weight_decay: float = 0.05
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.1
    max_grad_norm: float = 1.0
    bf16: bool = field(default=GPU_HAS_BF16, metadata={"help": "by default where the GPU can; on a CPU on request"})
    eval_strategy: str = "steps"
    eval_steps: float = 0.125  # of the whole training
    save_strategy: str = "steps"
    save_steps: float = 0.125
    save_total_limit: int = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str = "eval_accuracy"
    early_stopping_patience: int = field(default=10, metadata={"help": "evaluations without a better accuracy"})
    ema_decay: float = field(
        default=0.99, metadata={"help": "of the running average of the weights, which is what is kept; 0 is none"}
    )
    teachers: list[str] = field(
        default_factory=list, metadata={"help": "EmoCLIPs, folders or Hub ids, whose mean answer is taught too"}
    )
    teachers_weight: float = field(default=0.5, metadata={"help": "of the teachers' answer beside the label, 0 to 1"})
    logging_steps: float = 50
    logging_nan_inf_filter: bool = False  # it would wait for the GPU after every step
    seed: int = 0
    push_only: str | None = field(
        default=None, metadata={"help": "a finished folder: upload it to --hub_model_id, and do nothing else"}
    )

    def __post_init__(self):
        self.fp16 = self.fp16 or (torch.cuda.is_available() and not GPU_HAS_BF16 and not self.use_cpu)
        self.bf16 = self.bf16 and not self.fp16
        if self.torch_compile or self.torch_compile_mode or self.torch_compile_backend:
            raise ValueError(
                "--torch_compile is not for EmoCLIP: its batches differ in how many faces and voices they hold, and "
                "compiling for that takes minutes. Leave it out; larger batches keep a GPU busy."
            )
        self.dataloader_pin_memory = False  # what can be pinned is on the GPU already
        self.remove_unused_columns = False  # FaceVoiceDataset gives exactly what is used
        self.label_names = ["face_labels", "voice_labels", "face_mask", "voice_mask"]
        super().__post_init__()


class EmoCLIPTrainer(Trainer):
    """Trainer whose batches are bytes: they are augmented, or just processed, on the device.

    With `ema_decay`, a running average of the weights is what is evaluated, chosen among, and saved; the weights
    that the optimizer moves lie beside it in a checkpoint, so that training can go on.
    """

    live_weights = "live.safetensors"

    def __init__(
        self,
        *args,
        processor: EmoCLIPProcessor,
        votes: Sequence[float] = (0.0, 0.0),
        mixup: float = 0.0,
        cutmix: float = 0.0,
        **kwargs,
    ):
        super().__init__(*args, processing_class=processor, data_collator=as_batch, **kwargs)
        self.processor, self.votes = processor, dict(zip(("face", "voice"), votes))
        self.mixup, self.cutmix = mixup, {"face": cutmix, "voice": 0.0}
        self.parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.teachers = [
            EmoCLIPForEmotionClassification.from_pretrained(name).to(
                self.args.device, memory_format=torch.channels_last
            )
            for name in self.args.teachers
        ]
        self.average = None
        if self.args.ema_decay:
            self.average = AveragedModel(self.model, multi_avg_fn=self.average_tensors, use_buffers=True)
            self.add_callback(AverageWeights(self))

    def to_model_inputs(self, batch: dict[str, torch.Tensor], train: bool) -> dict[str, torch.Tensor]:
        """A batch of `FaceVoiceDataset` to the arguments of the model's forward."""
        batch = dict(batch)
        faces, mels, waveforms = batch.pop("faces"), batch.pop("mels", None), batch.pop("waveforms", None)
        votes = {name: batch.pop(f"{name}_votes") for name in ("face", "voice")}
        if not train:
            inputs = prepare(self.processor, faces, mels, waveforms)
            return batch | {k: v.to(faces.device) for k, v in inputs.items()}
        image_processor = self.processor.image_processor
        inputs = {"face": ("pixel_values", image_processor.standardize(augment_faces(faces, image_processor.side)))}
        if waveforms is not None:
            inputs["voice"] = "input_values", augment_waveforms(waveforms)
        else:
            inputs["voice"] = "input_features", self.processor.feature_extractor.standardize(augment_voices(mels))
        for name, (key, values) in inputs.items():
            labels, mask = batch[f"{name}_labels"], batch[f"{name}_mask"]
            targets = nn.functional.one_hot(labels, len(LABELS)).float().lerp(votes[name], self.votes[name])
            if self.mixup or self.cutmix[name]:
                values, targets = mix(values, targets, mask, self.mixup, self.cutmix[name])
            batch[key], batch[f"{name}_labels"] = values, targets
        if self.teachers:
            self.teach(batch)
        return batch

    @torch.no_grad()
    def teach(self, batch: dict[str, torch.Tensor]):
        """Mixes the teachers' mean answer to this very batch into its labels. Cross-entropy with the mixture is
        that with the label and, at temperature 1, the distillation of Hinton et al. (2015)."""
        for name, keys in (("face", ("pixel_values",)), ("voice", ("input_features", "input_values"))):
            rows = batch[f"{name}_mask"].nonzero().flatten().to(self.args.device, non_blocking=True)
            if not len(rows):
                continue
            inputs = {key: batch[key][rows] for key in keys if key in batch}
            with self.compute_loss_context_manager():
                answers = [teacher(**inputs)[f"{name}_logits"].float().softmax(-1) for teacher in self.teachers]
            labels = batch[f"{name}_labels"]
            mixed = labels[rows].lerp(torch.stack(answers).mean(0), self.args.teachers_weight)
            batch[f"{name}_labels"] = labels.index_copy(0, rows, mixed)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The dataset's batches as they are: on the device already, but for the masks, which the CPU wants to see."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            sampler=self._get_train_sampler(),  # rows are shuffled by the dataset, every epoch anew
            collate_fn=self.data_collator,
            drop_last=self.args.dataloader_drop_last,
        )
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masks = {name: inputs[name] for name in ("face_mask", "voice_mask")}
        return super()._prepare_inputs(inputs) | (masks if self.model.training else {})

    def average_tensors(self, averaged: list[torch.Tensor], current: list[torch.Tensor], _):
        """Moves the averages; at the start by more, as the weights move far from where they were made."""
        decay = min(self.args.ema_decay, (1 + self.state.global_step) / (10 + self.state.global_step))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:
            torch._foreach_copy_(averaged, current)

    @contextmanager
    def averaged(self):
        """The model with the averaged weights, where there are any."""
        if self.average is None:
            yield
            return
        live = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(live)

    def train(self, *args, **kwargs) -> TrainOutput:
        result = super().train(*args, **kwargs)
        if self.average is not None and not self.args.load_best_model_at_end:
            self.model.load_state_dict(self.average.module.state_dict())
        return result

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self.averaged():
            return super().evaluate(*args, **kwargs)

    def _save(self, output_dir: str, state_dict: dict | None = None):
        if self.average is None:
            return super()._save(output_dir, state_dict)
        super()._save(output_dir, self.average.module.state_dict())
        live = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(live, Path(output_dir) / self.live_weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args, **kwargs):
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)
            self.model.load_state_dict(load_file(Path(resume_from_checkpoint) / self.live_weights))

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """Trainer's, with the backbone's parameters in groups of their own where its learning rate is another."""
        optimizer, rate = super().create_optimizer(*args, **kwargs), self.args.backbone_learning_rate
        if rate is not None:
            heads = {id(p) for name, p in self.model.named_parameters() if "_head." in name}
            groups = []
            for group in optimizer.param_groups:
                for of_heads, group_rate in ((True, group["lr"]), (False, rate)):
                    params = [p for p in group["params"] if (id(p) in heads) == of_heads]
                    groups.append(group | {"params": params, "lr": group_rate})
            optimizer.param_groups[:] = groups
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        if model.training:  # a frozen tower keeps its batch-norm statistics too
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase) and not module.weight.requires_grad:
                    module.eval()
        outputs = model(**self.to_model_inputs(inputs, model.training))
        for name, value in outputs.losses.items():
            self.parts[f"{name}_loss" if model.training else f"eval_{name}_loss"].append(value.detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], *args, **kwargs):
        """Adds each part of the loss, its mean since the last log."""
        prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
        for name in [name for name in self.parts if name.startswith("eval_") == bool(prefix)]:
            logs[name] = round(torch.stack(self.parts.pop(name)).mean().item(), 4)
        super().log(logs, *args, **kwargs)

    def _get_train_sampler(self, *args) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # shuffled by the dataset, every epoch anew

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices and filters decay; norms, biases, embeddings of positions and scales do not."""
        return [n for n, p in model.named_parameters() if p.ndim >= 2 and "position" not in n]


class AverageWeights(TrainerCallback):
    """Takes the weights into the trainer's running average after every step."""

    def __init__(self, trainer: EmoCLIPTrainer):
        self.trainer = trainer

    def on_step_end(self, *args, **kwargs):
        self.trainer.average.update_parameters(self.trainer.model)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, mean recall, macro F1 and calibration error of the face, the voice and the pairs; `accuracy`, the mean
    of the face's and the voice's, is what checkpoints are chosen by."""
    fused, face, voice = (torch.as_tensor(x).float().softmax(-1).numpy() for x in prediction.predictions)
    face_labels, voice_labels, has_face, has_voice = prediction.label_ids
    sources = (
        ("face", face, face_labels, has_face),
        ("voice", voice, voice_labels, has_voice),
        ("fused", fused, face_labels, has_face & has_voice),
    )
    metrics = {
        f"{name}_{metric}": value
        for name, probs, labels, rows in sources
        if rows.any()
        for metric, value in emotion_metrics(probs[rows], labels[rows]).items()
        if metric != "expected_if_calibrated"
    }
    alone = [metrics[f"{name}_accuracy"] for name in ("face", "voice") if f"{name}_accuracy" in metrics]
    return metrics | {"accuracy": sum(alone) / len(alone)}


def likeliest(
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """The parameters, of the shape of `weights`, under which `labels` (n,) are likeliest given the logits
    `apply(parameters, logits)` (n, C), with a normal prior of variance 1 / weight about 0 for each."""
    parameters = torch.zeros_like(weights, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(apply(parameters, logits), labels)
        loss = loss + (weights * parameters.square()).sum() / (2 * len(labels))
        loss.backward()
        return loss

    optimizer.step(closure)
    return parameters.detach()


def fit_calibration(logits: torch.Tensor, labels: torch.Tensor) -> tuple[list[float], list[float]]:
    """The temperatures (C,) and the biases (C,) under which `labels` (n,) are likeliest, given `logits` (n, C), as
    `EmoCLIPForEmotionClassification.calibrate` applies them. A class not taught, of logit -inf, has
    temperature 1 and bias 0.

    One standard normal prior for each bias and logarithm of a temperature, beside n labels, keeps them finite where a
    few labels would not.
    """
    logits = logits.double().clamp(min=-1e4)  # a gradient does not survive the -inf of a class not taught
    weights = torch.ones(2, logits.shape[1], dtype=torch.float64)
    log_temperature, bias = likeliest(lambda p, z: z / p[0].exp() + p[1], weights, logits, labels)
    return tuple([round(value, 4) for value in values.tolist()] for values in (log_temperature.exp(), bias))


def train_tokenizer(sentences: list[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the prompts. As in CLIP, start and end are the largest ids; id 0 pads.

    Raises:
        ValueError: the vocabulary has no place for the 256 bytes and the three special tokens.
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
    # A small corpus fills fewer places than there are: unused ones keep start and end at the very end.
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


def limit(dataset: Dataset, most: int | None, seed: int, share: float = 1.0) -> Dataset:
    """This share of the rows, and at most so many, drawn at random.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--train_share must be above 0 and at most 1, not {share}.")
    count = min(round(share * len(dataset)), len(dataset) if most is None else most)
    return dataset if count == len(dataset) else dataset.shuffle(seed).select(range(count))


def calibrate(model: EmoCLIPForEmotionClassification, prediction: EvalPrediction):
    """Fits the calibration of each head, which must have none so far, on the validation data that chose the
    checkpoint."""
    _, *logits = (torch.as_tensor(x).float() for x in prediction.predictions)
    *labels, has_face, has_voice = (torch.as_tensor(x) for x in prediction.label_ids)
    for head, head_logits, head_labels, rows in zip(("face", "voice"), logits, labels, (has_face, has_voice)):
        taught = getattr(model.config, f"{head}_prior")
        for what, values in zip(("temperature", "bias"), fit_calibration(head_logits[rows], head_labels[rows])):
            by_name = {name: value for name, value in zip(LABELS, values) if name in taught}
            setattr(model.config, f"{head}_{what}", by_name)


def describe_training(
    model_args: ModelArguments, args: EmoCLIPTrainingArguments, metrics: dict, n: dict, base_model: str | None
) -> list[dict]:
    """How the weights came about, for `training.json` and the model card: this training, after that of `init_from`."""
    before = []
    if model_args.init_from and (Path(model_args.init_from) / "training.json").is_file():
        before = json.loads((Path(model_args.init_from) / "training.json").read_text())
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return [
        *before,
        {
            "command": " ".join(["python", "train_hf.py", *map(shlex.quote, sys.argv[1:])]),
            "base_model": base_model,
            "rows": n,
            "seed": args.seed,
            "epochs": round(metrics["epoch"], 2),
            "seconds": round(metrics["train_runtime"]),
            "device": f"{args.world_size} x {device}",
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
            "versions": {package: version(package) for package in ("torch", "transformers", "datasets")},
        },
    ]


def push(args: EmoCLIPTrainingArguments, folder: str):
    """Publishes a finished folder, or says why that failed and how to do it again."""
    name = args.hub_model_id or Path(folder).resolve().name
    try:
        logger.info("Published: %s", publish(folder, name, args.hub_token, args.hub_private_repo))
    except UnfinishedError as error:
        sys.exit(f"train_hf.py: {error}")
    except HubError as error:
        again = f"python train_hf.py --push_only {shlex.quote(folder)} --hub_model_id {name}"
        again += " --hub_private_repo true" if args.hub_private_repo else ""
        sys.exit(f"train_hf.py: {error} {folder} is as it was; to publish it alone: {again}")


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


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, EmoCLIPTrainingArguments))
    try:
        if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
            model_args, data_args, args = parser.parse_json_file(sys.argv[1])
        else:
            model_args, data_args, args = parser.parse_args_into_dataclasses()
        if args.hub_revision:
            raise ValueError("--hub_revision is not for EmoCLIP: it is published on the repository's main branch.")
    except (OSError, ValueError) as error:
        sys.exit(f"train_hf.py: {error}")
    logging.basicConfig(level=logging.WARNING if args.process_index == 0 else logging.ERROR, format="%(message)s")
    logger.setLevel(logging.INFO if args.process_index == 0 else logging.ERROR)
    if args.push_only:
        return push(args, args.push_only)
    publishes, args.push_to_hub = args.push_to_hub, False  # Trainer itself would upload what is not finished
    set_seed(args.seed)
    try:
        if args.process_index == 0:  # what would fail at the end, fails before the training
            FaceDetector()  # for the card's example, as the next
            SpeechDetector()
            if publishes:
                name = args.hub_model_id or Path(args.output_dir).resolve().name
                open_repository(name, args.hub_token, args.hub_private_repo)
        base_model = (model_args.vision_model or model_args.init_from or "").partition("@")[0]
        if Path(base_model).is_dir():
            base_model = None  # nobody else knows it; so is no name at all
        if model_args.init_from:
            model_args.init_from = str(fetch(model_args.init_from))
        args.teachers = [str(fetch(name)) for name in args.teachers]
        trainer, faces, voices = make_trainer(model_args, data_args, args)
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        sys.exit(f"train_hf.py: {error}")

    resume = args.resume_from_checkpoint
    if resume is None and Path(args.output_dir).is_dir():
        resume = get_last_checkpoint(args.output_dir)
        if resume:
            logger.info("Going on from %s; give another --output_dir to start afresh.", resume)
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.log_metrics("train", result.metrics)
    prediction = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    trainer.log_metrics("eval", prediction.metrics)
    calibrate(trainer.model, prediction)
    if not trainer.is_world_process_zero():
        return
    folder, model, processor = Path(args.output_dir), trainer.model, trainer.processor
    save_all(model, processor, folder)
    data = trainer.train_dataset
    rows = {"faces": len(data.face_labels), "voices": len(data.voice_labels)}
    training = describe_training(model_args, args, result.metrics, rows, base_model)
    (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    # The test split is touched on request only, once a recipe is final.
    split = "test" if args.do_predict else "validation"
    figures = evaluate_split(model, processor, faces, voices, split, data_args.max_eval_samples)
    write_results(figures, folder / "results.json")
    write_card(folder, figures)
    logger.info("\n%s\n\nSaved to %s", markdown_table(figures), folder)
    if publishes:
        push(args, args.output_dir)


if __name__ == "__main__":
    main()
