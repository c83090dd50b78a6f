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
    weights = ["model.safetensors"] + ([EmoCLIPTrainer.live_weights] if args.ema_decay else [])
    archives = [] if args.save_only_model else ["optimizer.pt", "scheduler.pt"]
    for name in (*weights, *archives, "trainer_state.json"):
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    random_states = [path.name for path in checkpoint.glob("rng_state*.pth")]
    if not random_states and not args.save_only_model:
        return "rng_state.pth is missing"
    if (checkpoint / "scaler.pt").is_file():  # with --fp16
        archives.append("scaler.pt")
    for name in weights:
        try:
            with safe_open(checkpoint / name, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return f"{name} is damaged"
    for name in (*archives, *random_states):
        try:
            with zipfile.ZipFile(checkpoint / name) as archive:
                whole = archive.testzip() is None
        except (OSError, zipfile.BadZipFile):
            whole = False
        if not whole:
            return f"{name} is damaged"
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return "trainer_state.json is damaged"
    return None


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
