"""The Trainer: it makes the model's inputs on the device, distils teachers, and averages the weights."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from configuration_emoclip import LABELS
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from training.augmentation import mix
from training.dataset import HEADS, as_batch, to_model_input
from training.metrics import emotion_metrics

TEXT_INPUTS = ("input_ids", "text_labels")


class EmoCLIPTrainer(Trainer):
    """Trainer that takes the batches of `TrainingDataset`, and in evaluation those of `FaceVoiceDataset`: stored faces
    and voices become the model's inputs, in training with augmentation and mixup, on the device.

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
        self.accelerator.ddp_handler.gradient_as_bucket_view = True  # no copies back
        if self.args.compile_regions:
            self.add_callback(NewStep())
        self.average = None
        if self.args.ema_decay:
            self.average = copy.deepcopy(self.model).requires_grad_(False)
            self.averaged_and_current = [  # listed once, since that takes milliseconds
                [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
                for model in (self.average, self.model)
            ]
            self.add_callback(AverageWeights(self))

    @contextmanager
    def compiled(self):
        """Inside, with `--torch_compile`, what a step spends its time in is compiled: its shapes never change.

        Regions are methods, so that state_dict, checkpoints and the average are those of the model itself. The text
        tower is left as it is: compiled, the gradient of its embeddings adds up in an order that changes from run to
        run, and a resumed training would end with other weights.
        """
        regions = []
        if self.args.compile_regions:
            regions = [(self.model.emoclip, "_image_tower"), (self.model.emoclip, "_audio_tower")]
            regions += [(self, "augment"), (self, "posteriors"), (self.model, "losses")]
        for owner, name in regions:
            setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False, **self.args.compile_regions))
        try:
            # Not cut at DDP's buckets: the towers have weights in common, whose gradients come when both are done.
            with torch._dynamo.config.patch(optimize_ddp=False):
                yield
        finally:
            for owner, name in regions:
                delattr(owner, name)

    def to_model_inputs(self, batch: dict[str, torch.Tensor], train: bool) -> dict[str, torch.Tensor]:
        """A batch of `TrainingDataset`, or of `FaceVoiceDataset`, as the arguments of the model's forward.

        In training, `face_targets` and `voice_targets` are mixtures of labels, votes, other rows' targets and the
        teachers' posteriors, and so are `face_votes` and `voice_votes`, without the labels; `face_labels` and
        `voice_labels` remain the rows' own classes.
        """
        inputs = {name: batch[name] for name in (*self.label_names, *TEXT_INPUTS) if name in batch}
        if train:
            inputs |= self.augment({name: value for name, value in batch.items() if name not in TEXT_INPUTS})
            return inputs | (self.distilled(inputs) if self.teachers else {})
        for head in HEADS:
            name, values = to_model_input(self.processor, head, batch[f"{head}s"])
            inputs[name] = values.to(batch[f"{head}s"].device)
        return inputs

    def augment(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Augmented and mixed faces and voices, and their targets, as the model takes them."""
        inputs = {}
        for head in HEADS:
            name, values = to_model_input(self.processor, head, batch[f"{head}s"], augment=True)
            votes, targets = batch[f"{head}_votes"], F.one_hot(batch[f"{head}_labels"], len(LABELS)).float()
            targets = torch.stack([targets.lerp(votes, self.votes[head]), votes], dim=1)  # (B, 2, C)
            if self.mixup:
                values, targets = mix(values, targets, self.mixup)
            inputs |= {name: values, f"{head}_targets": targets[:, 0]}
            if self.model.config.perceived_heads:
                inputs[f"{head}_votes"] = targets[:, 1]
        return inputs

    @torch.no_grad()
    def distilled(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The targets mixed with the mean of the teachers' posteriors for these very inputs. Cross-entropy with the
        mixture equals the loss of Hinton et al. (2015) at temperature 1."""
        names = {"pixel_values", self.processor.feature_extractor.input_name}
        taken = {name: inputs[name] for name in names}
        with self.accelerator.autocast():
            answers = [self.posteriors(teacher, taken) for teacher in self.teachers]
        return {
            name: inputs[name].lerp(torch.stack([each[name] for each in answers]).mean(0), self.args.teachers_weight)
            for name in answers[0]
            if name in inputs
        }

    def posteriors(
        self, teacher: EmoCLIPForEmotionClassification, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """A teacher's posteriors, by the names of the targets that they are mixed into: for the faces (F, C) and for
        the voices (V, C), as acted and as perceived."""
        features = teacher.emoclip.encode(**inputs)
        return {
            f"{head}_{target}": teacher.answer(head, features[name], reading).float().softmax(-1)
            for head, name in zip(HEADS, ("image", "audio"))
            for target, reading in (("targets", "acted"), ("votes", "perceived"))
        }

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The dataset's batches as they are: they lie on the device already."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=self.data_collator,
            drop_last=True,
        )
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    @torch.no_grad()
    def update_average(self):
        """Moves the average towards the current weights."""
        decay = averaging_decay(self.args.ema_decay, self.state.global_step)
        torch._foreach_lerp_(*self.averaged_and_current, 1 - decay)

    @contextmanager
    def averaged(self):
        """Inside, the model has the averaged weights, if weights are averaged."""
        if self.average is None:
            yield
            return
        live = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(live)

    def train(self, *args, **kwargs) -> TrainOutput:
        with self.compiled():
            result = super().train(*args, **kwargs)
        if self.average is not None and not self.args.load_best_model_at_end:
            self.model.load_state_dict(self.average.state_dict())
        return result

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self.averaged():
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        """The Trainer's own, with nothing compiled: evaluation's batches have other sizes than training's.

        Every process takes batch norm's statistics of the first, which are saved; in training each keeps its own.
        """
        if self.args.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        with torch.compiler.set_stance("force_eager"):
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str, state_dict: dict | None = None):
        if self.average is None:
            return super()._save(output_dir, state_dict)
        super()._save(output_dir, self.average.state_dict())
        if not self.args.should_save:  # the Trainer asks every process, of which one writes
            return
        live = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(live, Path(output_dir) / self.live_weights)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args, **kwargs):
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
        if self.average is not None:
            self.average.load_state_dict(self.model.state_dict())
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
            self.loss_parts[f"{name}_loss" if model.training else f"eval_{name}_loss"].append(value.detach().clone())
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
        return [name for name, parameter in model.named_parameters() if decays(name, parameter)]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay is for matrices and filters, not for norms, biases, positional embeddings and scales."""
    return parameter.ndim >= 2 and "position" not in name


def averaging_decay(most: float, steps: int) -> float:
    """Of the moving average of the weights after so many steps: less at the start, while these still change fast."""
    return min(most, (1 + steps) / (10 + steps))


class NewStep(TrainerCallback):
    """Tells CUDA graphs (`--torch_compile_mode reduce-overhead`) that they may overwrite what the last step made."""

    def on_step_begin(self, *args, **kwargs):
        torch.compiler.cudagraph_mark_step_begin()


class AverageWeights(TrainerCallback):
    """Updates the trainer's moving average of the weights after every step."""

    def __init__(self, trainer: EmoCLIPTrainer):
        self.trainer = trainer

    def on_step_end(self, *args, **kwargs):
        self.trainer.update_average()


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
