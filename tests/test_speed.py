"""What makes training fast changes nothing: fixed shapes, padded channels, compiled regions."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.data_loader import prepare_data_loader
from helpers import SMALL_EXTRACTOR, TINY, numbered_faces, numbered_voices
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from modeling_emoclip import padded_conv
from training.arguments import EmoCLIPTrainingArguments, ModelArguments
from training.build import build_model, build_processor
from training.dataset import FaceVoiceDataset, TrainingDataset, as_batch
from training.trainer import EmoCLIPTrainer

#: Inductor would take minutes on a CPU.
AOT_EAGER = {"torch_compile_backend": "aot_eager"}


def training_data(
    batch_size: int, processes: int = 1, voices_per_epoch: int | None = None, seed: int = 0
) -> TrainingDataset:
    sizes = {"batch_size": batch_size, "processes": processes, "voices_per_epoch": voices_per_epoch}
    prompts = [torch.full((2 + label, 5), label) for label in range(7)]
    return TrainingDataset(numbered_faces(), numbered_voices(), SMALL_EXTRACTOR, prompts, seed=seed, **sizes)


def batches_of(data: TrainingDataset, epoch: int) -> list[dict]:
    data.set_epoch(epoch)
    return [data.__getitems__(list(range(i, i + data.batch_size))) for i in range(0, len(data), data.batch_size)]


@pytest.mark.parametrize("batch_size, processes", [(16, 1), (16, 2), (50, 2), (200, 1)])
@pytest.mark.parametrize("voices_per_epoch", [None, 96])
def test_every_batch_has_one_shape_and_everything_comes_equally_often(batch_size, processes, voices_per_epoch):
    data = training_data(batch_size, processes, voices_per_epoch)
    seen = {"faces": Counter(), "voices": Counter()}
    shapes = set()
    for epoch in range(9):
        batches = batches_of(data, epoch)
        assert len(batches) % processes == 0
        for batch in batches:
            shapes.add(tuple((name, tuple(value.shape)) for name, value in batch.items()))
            assert torch.equal(batch["input_ids"][:, 0], batch["text_labels"])
            for name, counter in seen.items():
                numbers = batch[name][:, 0, 0] - 1
                assert torch.equal(getattr(data, f"{name[:-1]}_labels")[numbers.long()], batch[f"{name[:-1]}_labels"])
                counter.update(numbers.tolist())
    assert len(shapes) == 1
    for name, count in (("faces", 123), ("voices", 48)):
        times = [seen[name][i] for i in range(count)]
        assert max(times) - min(times) <= 1, name
    assert sum(seen["voices"].values()) / sum(seen["faces"].values()) == pytest.approx(
        (voices_per_epoch or 48) / 123, rel=0.1
    )


def test_the_next_epoch_goes_on_where_the_last_ended_and_is_drawn_from_the_seed_alone():
    data = training_data(50)
    rows = [(data.set_epoch(epoch), data.face_rows)[1] for epoch in range(5)]  # 100 of 123 faces an epoch
    every = torch.cat(rows)
    for start in range(0, 369, 123):
        assert sorted(every[start : start + 123].tolist()) == list(range(123))
    torch.manual_seed(7)
    again = training_data(50)
    again.set_epoch(3)
    assert torch.equal(again.face_rows, rows[3])
    assert not torch.equal(training_data(50, seed=1).face_rows, rows[0])


def test_two_processes_take_turns_with_the_batches_of_every_epoch():
    loader = DataLoader(training_data(16, processes=2), batch_size=16, collate_fn=as_batch, drop_last=True)
    for epoch in range(3):
        shards = []
        for rank in range(2):
            shard = prepare_data_loader(loader, num_processes=2, process_index=rank)
            shard.set_epoch(epoch)
            shards.append(list(shard))
        expected = batches_of(training_data(16, processes=2), epoch)
        given = [batch for pair in zip(*shards, strict=True) for batch in pair]
        assert len(given) == len(expected) == 6  # of 123 faces, 96
        for batch, other in zip(given, expected):
            assert batch.keys() == other.keys()
            assert all(torch.equal(value, other[name]) for name, value in batch.items())


@pytest.mark.parametrize("shape", [(3, 20, 2), (20, 20, 1), (20, 40, 1), (4, 6, 1), (32, 64, 1)])
def test_padded_channels_change_nothing(shape):
    torch.manual_seed(0)
    inputs, outputs, stride = shape
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(2, inputs, 9, 8).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn_like(conv(x))
    results = []
    for apply in (lambda: conv(x), lambda: padded_conv(x, conv)):
        y = apply()
        results.append((y.detach(), *torch.autograd.grad((y * weights).sum(), (x, conv.weight))))
    for plain, padded in zip(*results):
        assert torch.allclose(plain, padded, atol=1e-5)


@pytest.mark.parametrize("per_epoch, expected", [(24, 4), (60, 10), (96, 16), (None, 8), (1, 2)])
def test_voices_per_epoch_is_the_number_of_voices_beside_all_faces(per_epoch, expected):
    """Of 123 faces 20 in a batch; never fewer than two voices, for batch norm."""
    batch = training_data(20, voices_per_epoch=per_epoch).__getitems__(list(range(20)))
    assert len(batch["faces"]) == 20 and len(batch["voices"]) == len(batch["voice_labels"]) == expected


def tiny_trainer(folder: Path, eval_strategy: str = "no", **arguments) -> EmoCLIPTrainer:
    """Two epochs of three steps, of 8 faces and 3 voices; 21 rows to evaluate."""
    torch.manual_seed(0)
    model_args = ModelArguments(config=TINY)
    processor = build_processor(model_args)
    extractor = processor.feature_extractor
    data = [
        (numbered_faces(dict.fromkeys(range(7), n)), numbered_voices(dict.fromkeys(range(6), n // 2), extractor))
        for n in (4, 3)
    ]
    model = build_model(model_args, processor, data[0][0]["label"], data[0][1]["label"])
    prompts = [torch.randint(3, 90, (3, 6)) for _ in range(7)]
    args = EmoCLIPTrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=8,
        logging_steps=1,
        eval_strategy=eval_strategy,
        load_best_model_at_end=False,
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        **{"num_train_epochs": 2, "save_strategy": "no", **arguments},
    )
    model.emoclip.even_batches = args.world_size > 1
    return EmoCLIPTrainer(
        model.to(memory_format=torch.channels_last),
        args,
        train_dataset=TrainingDataset(*data[0], extractor, prompts, batch_size=8, processes=args.world_size),
        eval_dataset=FaceVoiceDataset(*data[1], extractor, prompts),
        processor=processor,
        mixup=0.2,
        votes=(0.3, 0.3),
    )


def losses_of(trainer: EmoCLIPTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_compiled_steps_are_the_eager_ones(tmp_path):
    losses, weights = [], []
    for arguments in ({}, AOT_EAGER):
        trainer = tiny_trainer(tmp_path, **arguments)
        trainer.train()
        losses.append(losses_of(trainer))
        weights.append(trainer.average.state_dict())
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.allclose(value.float(), weights[1][name].float(), atol=1e-4), name


def test_each_region_is_compiled_once_and_evaluation_and_what_follows_is_not(tmp_path):
    trainer = tiny_trainer(tmp_path, eval_strategy="steps", eval_steps=2)
    graphs = []

    def count(graph: torch.fx.GraphModule, _) -> Callable:
        graphs.append(graph)
        return graph.forward

    trainer.args.compile_regions = {"backend": count}
    names = trainer.model.state_dict().keys()
    trainer.train()
    assert len(graphs) == 4, "faces, voices, augmentation, losses"
    assert len([entry for entry in trainer.state.log_history if "eval_loss" in entry]) == 3
    regions = {"_image_tower", "_audio_tower", "losses", "augment", "posteriors"}
    assert all(not regions & set(vars(owner)) for owner in (trainer, trainer.model, trainer.model.emoclip))
    assert trainer.model.state_dict().keys() == names and trainer.average.state_dict().keys() == names
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    assert len(graphs) == 4


def train_as_one_of_two(rank: int, folder: str):
    """One process of two: a training of four steps, eager and compiled, and what came of them in a file."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    gather, gathered, results = dist.all_gather_into_tensor, [], []
    dist.all_gather_into_tensor = lambda *args: gathered.append(args) or gather(*args)
    for arguments in ({}, {"torch_compile_backend": "eager"}):
        trainer = tiny_trainer(Path(folder), num_train_epochs=4, ema_decay=0, **arguments)
        gathered.clear()
        trainer.train()
        of_training, logged = len(gathered), losses_of(trainer)
        weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        metrics = trainer.evaluate()
        results.append((of_training, logged, weights, trainer.model.state_dict(), metrics["eval_accuracy"]))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a shared file is tried on Linux and macOS")
def test_two_processes_gather_once_a_step_compiled_or_not(tmp_path):
    mp.set_forkserver_preload(["transformers.modeling_utils"])
    mp.start_processes(train_as_one_of_two, (str(tmp_path),), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for (steps, losses, ours, evaluated, accuracy), (_, _, theirs, their_evaluated, their_accuracy) in zip(
        first, second
    ):
        assert steps == len(losses) == 4
        assert accuracy == their_accuracy
        differ = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
        assert differ == {name for name in ours if "running" in name}, "each keeps its own rows' statistics"
        assert all(torch.equal(value, their_evaluated[name]) for name, value in evaluated.items())
    assert first[0][1] == pytest.approx(first[1][1], abs=1e-4)
    for name, value in first[0][2].items():
        assert torch.allclose(value.float(), first[1][2][name].float(), atol=1e-4), name


class Stopped(TrainerCallback):
    """Ends the training after a checkpoint, as if it were killed."""

    def on_save(self, *args, **kwargs):
        raise KeyboardInterrupt


@pytest.mark.parametrize("arguments", [{}, AOT_EAGER], ids=["eager", "compiled"])
def test_resumed_is_as_if_not_stopped_bit_by_bit(tmp_path, arguments):
    arguments = {"save_strategy": "steps", "save_steps": 4, **arguments}
    whole = tiny_trainer(tmp_path / "whole", **arguments)
    whole.train()
    stopped = tiny_trainer(tmp_path / "stopped", **arguments)
    stopped.add_callback(Stopped())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert "augment" not in vars(stopped)  # an error takes the regions off, too
    resumed = tiny_trainer(tmp_path / "stopped", **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-4"))
    assert losses_of(resumed) == losses_of(whole) and len(losses_of(whole)) == 6
    for name in ("model.safetensors", EmoCLIPTrainer.live_weights):
        files = [folder / "checkpoint-6" / name for folder in (tmp_path / "whole", tmp_path / "stopped")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
