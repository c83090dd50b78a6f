"""The Trainer: batches of bytes become the model's inputs on the device; a running average of the weights is kept."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from configuration_emoclip import LABELS
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from training.augmentation import augment_faces, augment_voices, augment_waveforms, mix
from training.dataset import as_batch
from training.evaluation import prepare
from training.metrics import emotion_metrics


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
