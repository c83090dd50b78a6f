"""The arguments of train_hf.py and of benchmarks/train_speed.py; the defaults are the recipe."""

import json
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import TrainingArguments

from training.sources import FACES_HUB_ID, VOICES_HUB_ID

GPU_HAS_BF16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()


@dataclass
class ModelArguments:
    init_from: str | None = field(
        default=None,
        metadata={"help": "an EmoCLIP or converted AudioCLIP to start from, folder or Hub id; by default untrained"},
    )
    vision_model: str | None = field(
        default=None,
        metadata={"help": "a CLIP ViT for the image tower to start from, folder or Hub id"},
    )
    word_vectors: str | None = field(
        default=None,
        metadata={"help": "word vectors for the text tower to start from, a folder made by make_word_vectors.py"},
    )
    freeze: list[str] = field(
        default_factory=list, metadata={"help": "towers that are not trained: any of image, audio, text"}
    )
    top_db: float | None = field(
        default=None,
        metadata={
            "help": "decibels from the darkest to the brightest point of a mel image, up to 80; by default 45, or "
            "that of --init_from. A smaller range hides the room and the codec"
        },
    )
    config: dict | str | None = field(
        default=None,
        metadata={"help": 'fields of EmoCLIPConfig that differ from the preset, as JSON: {"projection_dim": 128}'},
    )

    def __post_init__(self):
        self.config = json.loads(self.config) if isinstance(self.config, str) else self.config or {}
        if not isinstance(self.config, dict):
            raise ValueError("--config must be a JSON object, fields and their values.")
        if self.init_from and self.vision_model:
            raise ValueError("--init_from brings an image tower of its own: leave out --vision_model.")


@dataclass
class DataArguments:
    faces: str = field(default=FACES_HUB_ID, metadata={"help": "FER-2013: a folder or a Hub id"})
    voices: str = field(default=VOICES_HUB_ID, metadata={"help": "CREMA-D: a folder or a Hub id"})
    face_labels: Literal["fer2013", "ferplus"] = field(
        default="fer2013", metadata={"help": "FER-2013's own labels, or what most FER+ taggers chose"}
    )
    fold: int = field(default=0, metadata={"help": "CREMA-D fold for testing; the next is for validation"})
    voices_per_epoch: int | None = field(
        default=None, metadata={"help": "rows with a voice; by default every voice once"}
    )
    votes: list[float] = field(
        default_factory=lambda: [0.3],
        metadata={
            "help": "weight of FER+'s and CREMA-D's votes in the targets, 0 to 1, the rest being the label's: one "
            "number for both, or the face's and the voice's"
        },
    )
    mixup: float = field(
        default=0.2,
        metadata={"help": "alpha of mixup's Beta distribution, for faces and for voices; 0 for no mixup"},
    )
    train_share: float = field(
        default=1.0, metadata={"help": "share of the training faces, and of the voices, to use, drawn by --seed"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "at most so many faces, and so many voices"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "at most so many faces, and so many voices"})

    def __post_init__(self):
        votes = self.votes if isinstance(self.votes, list) else [self.votes]  # a recipe file may hold a bare number
        if len(votes) not in (1, 2) or not all(0 <= weight <= 1 for weight in votes):
            raise ValueError("--votes takes one number from 0 to 1, or the face's and the voice's.")
        self.votes = votes * 2 if len(votes) == 1 else votes
        for name in ("voices_per_epoch", "max_train_samples", "max_eval_samples"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"--{name} must be at least 1, not {count}.")


@dataclass
class EmoCLIPTrainingArguments(TrainingArguments):
    output_dir: str = "outputs/emoclip-small"
    num_train_epochs: float = 200
    per_device_train_batch_size: int = 2048
    per_device_eval_batch_size: int = 256
    learning_rate: float = 4e-3
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "of all weights but the heads'; by default --learning_rate"}
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
    ema_decay: float = field(
        default=0.99,
        metadata={"help": "of the moving average of the weights, which is evaluated and saved; 0 for none"},
    )
    teachers: list[str] = field(
        default_factory=list,
        metadata={"help": "EmoCLIPs to distil, folders or Hub ids; their posteriors are averaged"},
    )
    teachers_weight: float = field(default=0.5, metadata={"help": "of the teachers in the targets, 0 to 1"})
    logging_steps: float = 50
    ddp_broadcast_buffers: bool | None = False  # not at every step: see EmoCLIPTrainer.evaluation_loop
    logging_nan_inf_filter: bool = False  # the filter makes the CPU wait for the GPU after every step
    seed: int = 0
    push_only: str | None = field(
        default=None, metadata={"help": "a finished folder to publish as --hub_model_id, without any training"}
    )

    def __post_init__(self):
        self.fp16 = self.fp16 or (torch.cuda.is_available() and not GPU_HAS_BF16 and not self.use_cpu)
        self.bf16 = self.bf16 and not self.fp16
        # Accelerate would compile the whole model, and for evaluation too: EmoCLIPTrainer compiles what pays.
        mode, backend = self.torch_compile_mode, self.torch_compile_backend
        self.compile_regions = None
        if self.torch_compile or mode or backend:
            self.compile_regions = {"mode": mode, "backend": backend or "inductor"}
        self.torch_compile, self.torch_compile_mode, self.torch_compile_backend = False, None, None
        self.dataloader_pin_memory = False  # what can be pinned is on the GPU already
        self.remove_unused_columns = False  # the trainer makes the model's inputs of all that FaceVoiceDataset gives
        self.label_names = ["face_labels", "voice_labels", "face_mask", "voice_mask"]
        super().__post_init__()
        self._n_gpu = min(self.n_gpu, 1)  # without torchrun the Trainer would split each batch among all GPUs
