"""Two processes give the loss and the gradients of one with the same global batch."""

import contextlib
import datetime
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from configuration_emoclip import EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification, EmoCLIPModel

#: For each case, how many rows the first process holds; the second holds the rest of the eight.
CASES = {
    "every row whole": 4,
    "the second process has no voice": 4,
    "the second process was given no voices": 4,
    "the first process has no face": 4,
    "uneven rows and masks": 5,
    "no shared label": 4,
    "rows without labels": 5,
    "targets beside the labels, uneven rows and masks": 5,
    "masks in the first process alone": 4,
    "as many faces and as many voices, apart": 4,
    "uneven faces and voices, apart": 5,
    "compiled, as many faces and as many voices, apart": 4,
    "bfloat16, the second process has no voice": 4,
}


def make_model(case: str) -> nn.Module:
    torch.manual_seed(0)
    config = EmoCLIPConfig(
        vision_config={"width": 4, "layers": [1, 1, 1, 1], "image_size": 32},
        audio_config={"image_size": [32, 47]},
        text_config={
            "vocab_size": 100,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 8,
            "pad_token_id": 0,
            "bos_token_id": 98,
            "eos_token_id": 99,
        },
        projection_dim=16,
        classifier_dropout=0.0,
        loss_weights={"face": 1.0, "voice": 0.8, "image_audio": 0.5, "image_text": 0.3, "audio_text": 0.4},
    )
    model = (EmoCLIPModel if case == "rows without labels" else EmoCLIPForEmotionClassification)(config)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # its statistics are the one thing that processes do not share
            module.eval()
            nn.init.constant_(module.weight, 0.8)
    return model


def make_batch(case: str) -> dict[str, torch.Tensor]:
    """The global batch of eight rows."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 98, (8, 6), generator=generator)
    ids[:, -1] = 99
    batch = {
        "pixel_values": torch.randn(8, 3, 32, 32, generator=generator),
        "input_features": torch.randn(8, 1, 32, 47, generator=generator),
        "input_ids": ids,
    }
    if case == "rows without labels":
        return batch
    batch |= {
        "face_labels": torch.tensor([0, 1, 2, 0, 3, 1, 5, 4]),
        "voice_labels": torch.tensor([0, 1, 2, 0, 3, 1, 5, 4]),
        "face_mask": torch.ones(8, dtype=torch.bool),
        "voice_mask": torch.ones(8, dtype=torch.bool),
    }
    if case.endswith("apart"):  # six voices: those of the rows 0 to 2 and 4 to 6
        del batch["face_mask"], batch["voice_mask"]
        batch["apart"] = torch.tensor([1, 1, 1, 0, 1, 1, 1, 0]).bool()
    if "no voice" in case:  # that none are given is the same as that none are there
        batch["voice_mask"][4:] = False
    elif case == "masks in the first process alone":
        batch["face_mask"][1] = batch["voice_mask"][2] = False
    elif case == "the first process has no face":
        batch["face_mask"][:4] = False
    elif case.endswith("uneven rows and masks"):
        batch["face_mask"] = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1]).bool()
        batch["voice_mask"] = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1]).bool()
        if case.startswith("targets"):
            batch["face_targets"], batch["voice_targets"] = torch.rand(2, 8, 7, generator=generator).softmax(-1)
    elif case == "no shared label":
        batch["voice_labels"] = torch.tensor([5, 5, 4, 4, 3, 3, 3, 3])
        batch["face_labels"] = torch.tensor([0, 1, 2, 0, 1, 1, 2, 6])
    return batch


def step(model: nn.Module, batch: dict[str, torch.Tensor], case: str) -> torch.Tensor:
    if "apart" in batch:
        of_voices = batch.pop("apart")
        batch |= {name: batch[name][of_voices] for name in ("input_features", "voice_labels")}
        bare = getattr(model, "module", model)
        bare.emoclip.even_batches = "uneven" not in case
        if case.startswith("compiled") and bare is not model:
            bare.losses = torch.compile(bare.losses, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.startswith("bfloat16")):
        loss = model(**batch).loss
    loss.backward()
    return loss.detach()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def work(rank: int, folder: str):
    """One process: every case, and what came of it in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=30),
    )
    for number, (case, first) in enumerate(CASES.items()):
        try:
            rows = slice(0, first) if rank == 0 else slice(first, 8)
            batch = {name: value[rows] for name, value in make_batch(case).items()}
            if rank == 1 and "given no voices" in case:
                del batch["input_features"], batch["voice_mask"]
            if rank == 1 and "masks in the first" in case:
                del batch["face_mask"], batch["voice_mask"]
            model = DistributedDataParallel(make_model(case), find_unused_parameters=True)
            loss = step(model, batch, case)
            result = loss, gradients(model.module)
        except Exception as error:  # shown by the test of this case
            result = repr(error)
        torch.save(result, Path(folder) / f"{number}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, tuple]:
    folder = tmp_path_factory.mktemp("processes")
    with contextlib.suppress(mp.ProcessExitedException):  # gloo aborts where tensors do not fit; its test says so
        mp.set_forkserver_preload(["transformers.modeling_utils"])  # what takes seconds, once for both
        mp.start_processes(work, (str(folder),), nprocs=2, start_method="forkserver")
    return {
        case: [torch.load(file) if file.is_file() else "the process died" for file in files]
        for case, files in (
            (case, [folder / f"{number}-{rank}.pt" for rank in range(2)]) for number, case in enumerate(CASES)
        )
    }


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a shared file is tried on Linux and macOS")
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_loss_and_gradients_of_one(results, case):
    for result in results[case]:
        assert not isinstance(result, str), result
    (first_loss, first), (second_loss, second) = results[case]
    model = make_model(case)
    loss = step(model, make_batch(case), case)
    tolerance = 2e-2 if case.startswith("bfloat16") else 1e-5
    # each process holds its own rows' share, times their number: what DDP averages is the global loss
    assert (first_loss + second_loss).item() / 2 == pytest.approx(loss.item(), abs=tolerance)
    assert loss > 0.1
    expected = gradients(model)
    assert sum(bool(value.any()) for value in expected.values()) > len(expected) / 2
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        if not case.startswith("bfloat16"):
            assert torch.allclose(first[name], value, atol=tolerance, rtol=1e-3), name
    # bfloat16 rounds each product, so that single numbers differ with the rows a process holds
    ours, theirs = (torch.cat([grads[name].flatten() for name in expected]) for grads in (first, expected))
    assert (ours - theirs).norm() < (0.1 if case.startswith("bfloat16") else 1e-3) * theirs.norm()
