"""Which of the Trainer's checkpoints an interrupted training goes on from: the newest whole one."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from training.arguments import EmoCLIPTrainingArguments
from training.trainer import EmoCLIPTrainer

logger = logging.getLogger("emoclip")


def find_flaw(checkpoint: Path, args: EmoCLIPTrainingArguments) -> str | None:
    """What keeps a training from going on exactly as it would have, or None for a whole checkpoint.

    The Trainer writes the weights, then the optimizer, the schedule and the random numbers, and `trainer_state.json`
    last: of a training that was killed meanwhile, the later ones are missing. Files that are cut short are what a full
    disk, or a machine that lost its power, leaves behind.
    """
    names = ["model.safetensors"]
    if args.ema_decay:
        names.append(EmoCLIPTrainer.live_weights)
    if not args.save_only_model:
        names += ["optimizer.pt", "scheduler.pt", *(["scaler.pt"] if (checkpoint / "scaler.pt").exists() else [])]
        names += [path.name for path in checkpoint.glob("rng_state*.pth")] or ["rng_state.pth"]  # one for each process
    for name in (*names, "trainer_state.json"):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        try:
            check_file(checkpoint / name)
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
            return f"{name} is damaged"
    return None


def check_file(file: Path):
    """Raises an error where a file of a checkpoint has been cut short or damaged."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt"):
            return
    if file.suffix == ".json":
        json.loads(file.read_text())
        return
    with zipfile.ZipFile(file) as archive:  # what torch.save writes
        if damaged := archive.testzip():
            raise ValueError(damaged)


def find_start(args: EmoCLIPTrainingArguments) -> str | None:
    """The checkpoint that a training goes on from: the one that was asked for, or the newest whole one in its folder.

    Newer ones that are not whole are renamed, so that nothing of them is mixed with what is saved from here on.

    Raises:
        ValueError: the one that was asked for is not whole.
    """
    if asked := args.resume_from_checkpoint:
        if flaw := find_flaw(Path(asked), args):
            raise ValueError(f"{asked} is not a whole checkpoint: {flaw}.")
        return asked
    folders = [path for path in Path(args.output_dir).glob("checkpoint-*") if path.name.split("-", 1)[1].isdecimal()]
    for checkpoint in sorted(folders, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        flaw = find_flaw(checkpoint, args)
        if flaw is None:
            logger.info("Going on from %s; give another --output_dir to start afresh.", checkpoint)
            return str(checkpoint)
        unfinished = checkpoint.with_name(checkpoint.name.replace("checkpoint", "unfinished"))
        shutil.rmtree(unfinished, ignore_errors=True)  # of an earlier time
        checkpoint.rename(unfinished)
        logger.warning(
            "%s is not whole (%s): it is now called %s, and may be deleted.", checkpoint, flaw, unfinished.name
        )
    return None
