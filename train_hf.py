"""Fine-tunes EmoCLIP on FER-2013 faces and CREMA-D voices with the Hugging Face Trainer.

    python train_hf.py                                        # the Hub's copies of both, by the recipe
    python train_hf.py --faces data/fer2013 --voices data/cremad --output_dir outputs/mine
    python train_hf.py --push_to_hub --hub_model_id me/emoclip
    python train_hf.py --push_only outputs/mine --hub_model_id me/emoclip   # publishes without training
    torchrun --nproc_per_node 2 train_hf.py                   # several GPUs
    python train_hf.py --init_from checkpoints/audioclip --learning_rate 1e-3 --backbone_learning_rate 1e-5 \\
        --freeze text --per_device_train_batch_size 64        # from AudioCLIP, see convert_audioclip.py
    python train_hf.py --init_from outputs/mine --num_train_epochs 0 --output_dir outputs/calibrated  # calibrates only
    python train_hf.py --vision_model openai/clip-vit-base-patch16
    python train_hf.py recipe.json                            # every argument from a file

The arguments are those of training/arguments.py and of transformers' TrainingArguments. To resume an interrupted run
from its newest whole checkpoint, give the same command again.
"""

import logging
import shlex
import sys
from pathlib import Path

import torch
from transformers import HfArgumentParser, set_seed

from hub import HubError, UnfinishedError, fetch, open_repository, publish
from media_emoclip import FaceDetector, SpeechDetector
from modeling_emoclip import CheckpointError
from pipeline_emoclip import save_all
from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments
from training.build import make_trainer
from training.calibration import calibrate
from training.checkpoints import find_start
from training.evaluation import evaluate_split
from training.model_card import write_card, write_training
from training.report import markdown_table, write_results
from training.splits import subsample
from training.words import calibrate_texts

logger = logging.getLogger("emoclip")


def push(args: EmoCLIPTrainingArguments, folder: str):
    """Publishes a finished folder; if that fails, exits with the reason and the command to try again."""
    name = args.hub_model_id or Path(folder).resolve().name
    try:
        logger.info("Published: %s", publish(folder, name, args.hub_token, args.hub_private_repo))
    except UnfinishedError as error:
        sys.exit(f"train_hf.py: {error}")
    except HubError as error:
        again = f"python train_hf.py --push_only {shlex.quote(folder)} --hub_model_id {name}"
        again += " --hub_private_repo true" if args.hub_private_repo else ""
        sys.exit(f"train_hf.py: {error} {folder} is as it was; to publish it alone: {again}")


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
    publishes, args.push_to_hub = args.push_to_hub, False  # the Trainer would publish checkpoints
    set_seed(args.seed)
    try:
        if args.process_index == 0:  # what would fail after the training fails now
            FaceDetector()  # the model card's example needs both
            SpeechDetector()
            if publishes:
                name = args.hub_model_id or Path(args.output_dir).resolve().name
                open_repository(name, args.hub_token, args.hub_private_repo)
        base_model = (model_args.vision_model or model_args.init_from or "").partition("@")[0]
        if Path(base_model).is_dir():
            base_model = None  # a folder, or nothing at all, has no name on the Hub
        if model_args.init_from:
            model_args.init_from = str(fetch(model_args.init_from))
        args.teachers = [str(fetch(name)) for name in args.teachers]
        with args.main_process_first(desc="finding the checkpoint to go on from"):
            resume = find_start(args)
        trainer, faces, voices = make_trainer(model_args, data_args, args)
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        sys.exit(f"train_hf.py: {error}")

    result = trainer.train(resume_from_checkpoint=resume)
    trainer.log_metrics("train", result.metrics)
    prediction = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    trainer.log_metrics("eval", prediction.metrics)
    if not trainer.is_world_process_zero():
        return
    folder, model, processor = Path(args.output_dir), trainer.model, trainer.processor
    chosen_by = (subsample(corpus.validation, data_args.max_eval_samples, args.seed) for corpus in (faces, voices))
    calibrate(model, processor, *chosen_by)
    if model.config.word_vector_size is not None:
        calibrate_texts(model, processor)
    save_all(model, processor, folder)
    data = trainer.train_dataset
    rows = {"faces": len(data.face_labels), "voices": len(data.voice_labels)}
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    write_training(
        folder,
        model_args.init_from,
        base_model=base_model,
        rows=rows,
        seed=args.seed,
        epochs=round(result.metrics["epoch"], 2),
        seconds=round(result.metrics["train_runtime"]),
        device=f"{args.world_size} x {device}",
        precision="bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
    )
    # The test split is for a final recipe, on request.
    split = "test" if args.do_predict else "validation"
    figures = evaluate_split(model, processor, faces, voices, split, data_args.max_eval_samples)
    write_results(figures, folder / "results.json")
    write_card(folder, figures)
    logger.info("\n%s\n\nSaved to %s", markdown_table(figures), folder)
    if publishes:
        push(args, args.output_dir)


if __name__ == "__main__":
    main()
