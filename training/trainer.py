"""The Trainer: it makes the model's inputs on the device, distils teachers, and averages the weights."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from configuration_emoclip import LABELS
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from training.augmentation import mix
from training.dataset import HEADS, as_batch, to_model_input
from training.metrics import emotion_metrics


class EmoCLIPTrainer(Trainer):
    """Trainer that takes the batches of `FaceVoiceDataset`: stored faces and voices become the model's inputs, in
    training with augmentation and mixup, on the device.

    With `ema_decay`, what is evaluated, chosen among and saved is a moving average of the weights. A checkpoint also
    holds the weights that the optimizer works on, in `live_weights`, so that training can be resumed.

    Args:
        votes: weight of the votes in the targets of faces and of voices; the rest is the label's.
        mixup: alpha of `mix`; 0 for none.
    """

    live_weights = "live.safetensors"

    def __init__(
        self,
        *args,
        processor: EmoCLIPProcessor,
        votes: Sequence[float] = (0.0, 0.0),
        mixup: float = 0.0,
        **kwargs,
    ):
        super().__init__(
            *args, processing_class=processor, data_collator=as_batch, compute_metrics=compute_metrics, **kwargs
        )
        self.processor, self.votes, self.mixup = processor, dict(zip(HEADS, votes)), mixup
        self.loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)  # by the name they are logged by
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
        """A batch of `FaceVoiceDataset` as the arguments of the model's forward.

        In training, `face_targets` and `voice_targets` are mixtures of labels, votes, other rows' targets and the
        teachers' posteriors; `face_labels` and `voice_labels` remain the rows' own classes.
        """
        inputs = {name: batch[name] for name in (*self.label_names, "input_ids") if name in batch}
        for head in HEADS:
            stored = batch[f"{head}s"]
            name, values = to_model_input(self.processor, head, stored, augment=train)
            if train:
                targets = F.one_hot(batch[f"{head}_labels"], len(LABELS)).float()
                targets = targets.lerp(batch[f"{head}_votes"], self.votes[head])
                if self.mixup:
                    values, targets = mix(values, targets, batch[f"{head}_mask"], self.mixup)
                inputs[f"{head}_targets"] = targets
            inputs[name] = values.to(stored.device)
        if train and self.teachers:
            self.distill(inputs)
        return inputs

    @torch.no_grad()
    def distill(self, inputs: dict[str, torch.Tensor]):
        """Mixes the mean of the teachers' posteriors for these very inputs into the targets. Cross-entropy with the
        mixture equals the loss of Hinton et al. (2015) at temperature 1."""
        names = {"face": "pixel_values", "voice": self.processor.feature_extractor.input_name}
        for head, name in names.items():
            rows = inputs[f"{head}_mask"].nonzero().flatten().to(self.args.device, non_blocking=True)
            if not len(rows):
                continue
            with self.compute_loss_context_manager():
                posteriors = [
                    teacher(**{name: inputs[name][rows]})[f"{head}_logits"].float().softmax(-1)
                    for teacher in self.teachers
                ]
            targets = inputs[f"{head}_targets"]
            mixed = targets[rows].lerp(torch.stack(posteriors).mean(0), self.args.teachers_weight)
            inputs[f"{head}_targets"] = targets.index_copy(0, rows, mixed)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The dataset's batches as they are: they lie on the device already, and the masks stay on the CPU."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=self.data_collator,
            drop_last=self.args.dataloader_drop_last,
        )
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch on the device, but in training the masks stay on the CPU: see the model's forward."""
        masks = {name: inputs[name] for name in ("face_mask", "voice_mask")}
        return super()._prepare_inputs(inputs) | (masks if self.model.training else {})

    def average_tensors(self, averaged: list[torch.Tensor], current: list[torch.Tensor], _):
        """Moves the average towards the current weights, by more at the start, while these still change fast."""
        decay = min(self.args.ema_decay, (1 + self.state.global_step) / (10 + self.state.global_step))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:
            torch._foreach_copy_(averaged, current)

    @contextmanager
    def averaged(self):
        """Inside, the model has the averaged weights, if weights are averaged."""
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
        """The Trainer's own, with separate groups for the backbone's parameters if its learning rate differs."""
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
                if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and not module.weight.requires_grad:
                    module.eval()
        outputs = model(**self.to_model_inputs(inputs, model.training))
        for name, value in outputs.losses.items():
            self.loss_parts[f"{name}_loss" if model.training else f"eval_{name}_loss"].append(value.detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], *args, **kwargs):
        """Also logs each part of the loss, as its mean since the last log."""
        prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
        for name in [name for name in self.loss_parts if name.startswith("eval_") == bool(prefix)]:
            logs[name] = round(torch.stack(self.loss_parts.pop(name)).mean().item(), 4)
        super().log(logs, *args, **kwargs)

    def _get_train_sampler(self, *args) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # the dataset shuffles its rows every epoch

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay is for matrices and filters, not for norms, biases, positional embeddings and scales."""
        return [n for n, p in model.named_parameters() if p.ndim >= 2 and "position" not in n]


class AverageWeights(TrainerCallback):
    """Updates the trainer's moving average of the weights after every step."""

    def __init__(self, trainer: EmoCLIPTrainer):
        self.trainer = trainer

    def on_step_end(self, *args, **kwargs):
        self.trainer.average.update_parameters(self.trainer.model)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, mean recall, macro F1 and calibration error for faces, voices and pairs. Checkpoints are chosen by
    `accuracy`, the mean of those of faces and of voices."""
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
    alone = [metrics[f"{name}_accuracy"] for name in HEADS if f"{name}_accuracy" in metrics]
    return metrics | {"accuracy": sum(alone) / len(alone)}
