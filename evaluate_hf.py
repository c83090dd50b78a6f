"""Every accuracy figure of the README and of a model card, from one command:

    python evaluate_hf.py --model checkpoints/emoclip-small --faces DIR --voices DIR --output results.json
    python evaluate_hf.py --protocol outside --faces FILE --voices FILE   # people of no corpus that it was taught
    python evaluate_hf.py --protocol cremad-5fold --faces DIR --voices DIR --num_train_epochs 64   # trains five models

Faces, on the source's test split: one crop; the mean over ten crops; without the faces that are also in the training
split, pixel for pixel. Voices, of the actors of the test fold: all, and by sex, age, sentence and intensity. Fused:
every test face but those of surprise, with a random test voice of the same label, 10 times over; these pairs are
synthetic, of people who never met. Words: each face and voice against the prompts of every emotion, with the words of
training and with those held out; and the held-out words alone. The labels say what was acted: as people perceive it,
faces and voices are scored against the clear majority of FER+'s taggers and of CREMA-D's listeners.

The protocol `outside` scores any labelled faces and recordings as the pipeline scores a visitor's, in both readings:
a parquet file with `image` or `audio` and `label`, or a folder with a folder of files for each emotion.

The protocol `cremad-5fold` trains one model for each fold (fold k is the test split, fold k + 1 the validation split,
the other three are the training split). It passes further arguments on to train_hf.py, and can be interrupted and
started again.
"""

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from hub import HubError, load_pipeline
from pipeline_emoclip import EmotionRecognitionPipeline
from training.evaluation import evaluate_split
from training.model_card import write_card
from training.outside import evaluate_outside, load_labelled
from training.report import draw, markdown_table, replace_table, write_results
from training.sources import list_voices, load_faces, load_voices
from training.splits import FOLDS, split_voices

#: The figures of a fold that are averaged over the five.
FOLD_MEANS = ("accuracy", "mean_recall", "macro_f1", "calibration_error", "expected_if_calibrated")


def evaluate_folds(folder: Path, sources: dict[str, str | None], train_arguments: list[str]) -> dict:
    """Trains and tests a model for each fold of CREMA-D, but for folds that are in `folder` already.

    Args:
        sources: `faces` and `voices`, as train_hf.py takes them; None for its own.
    Returns:
        The means over the folds of accuracy (WA), mean recall (UA), macro F1 and calibration error, the standard
        deviation of the accuracy, and `folds`, the figures of each.
    Raises:
        ValueError: a fold has no voices, or a model in `folder` was tested on something else than its fold.
        CalledProcessError: a training failed.
    """
    if sources["voices"]:  # what would fail after the first trainings fails now
        voices = list_voices(sources["voices"])
        for fold in range(FOLDS):
            split_voices(voices, fold).require(("train", "validation", "test"), "voices")
    train_arguments = [f"--{name}={source}" for name, source in sources.items() if source] + train_arguments
    script, folds = str(Path(__file__).with_name("train_hf.py")), []
    for fold in range(FOLDS):
        output = folder / f"fold{fold}"
        if not (output / "results.json").is_file():  # written once a training is done
            arguments = ["--fold", str(fold), "--output_dir", str(output), "--do_predict", "true", *train_arguments]
            subprocess.run([sys.executable, script, *arguments], check=True)
        results = json.loads((output / "results.json").read_text())
        if results.get("splits", {}).get("voice") != f"fold {fold}":
            raise ValueError(f"{output} was not tested on fold {fold}: train it with --do_predict, or remove it.")
        folds.append({"fold": fold, "n": results["voice"]["n"], **{key: results["voice"][key] for key in FOLD_MEANS}})
    return {
        "n": sum(each["n"] for each in folds),
        **{key: float(np.mean([each[key] for each in folds])) for key in FOLD_MEANS},
        "accuracy_spread": float(np.std([each["accuracy"] for each in folds])),
        "folds": folds,
    }


def evaluate_corpora(pipe: EmotionRecognitionPipeline, args: argparse.Namespace) -> dict:
    """The figures of FER-2013 and of CREMA-D, see `evaluate_split`.

    Raises:
        ImportError, OSError, ValueError: one sentence that says what cannot be read.
    """
    faces = None if args.faces == "none" else load_faces(args.faces)
    voices = None if args.voices == "none" else load_voices(args.voices, pipe.processor.feature_extractor)
    split = None if voices is None else split_voices(voices, args.fold)
    for corpus, what in ((faces, "faces"), (split, "voices")):
        if corpus is not None:
            corpus.require([args.split], what)
    if torch.cuda.is_available():
        pipe.model.cuda()
    return evaluate_split(pipe.model, pipe.processor, faces, split, args.split)


def evaluate_strangers(pipe: EmotionRecognitionPipeline, args: argparse.Namespace) -> dict:
    """The figures of faces and of voices outside the corpora, by the names of their files; see `evaluate_outside`.

    Raises:
        ImportError, OSError, ValueError: one sentence that says what cannot be read.
    """
    given = {
        head: source for head, source in (("face", args.faces), ("voice", args.voices)) if source not in (None, "none")
    }
    if not given:
        raise ValueError("Name --faces, --voices or both, whom the answers are to be about.")
    if len({Path(source).stem for source in given.values()}) < len(given):
        raise ValueError("Figures go by their files' names: rename one of the two, or give one at a time.")
    datasets = {head: load_labelled(source, head) for head, source in given.items()}
    return {
        Path(given[head]).stem: {"source": head} | evaluate_outside(pipe.recognizer, head, dataset, args.face_crops)
        for head, dataset in datasets.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--faces", help="FER-2013, a folder or a Hub id, or those outside; `none` for no faces")
    parser.add_argument("--voices", help="CREMA-D, a folder or a Hub id, or those outside; `none` for no voices")
    parser.add_argument("--fold", type=int, default=0, help="CREMA-D's test fold")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--protocol", choices=("split", "outside", "cremad-5fold"), default="split", help="see above")
    parser.add_argument("--face_crops", action="store_true", help="outside: the photos are faces cut out already")
    parser.add_argument("--folds", default="outputs/folds", help="folder of the five folds' models")
    parser.add_argument("--output", default="results.json", help="JSON file; keeps figures of the other protocols")
    parser.add_argument("--card", action="store_true", help="write the model's card anew, from these figures")
    parser.add_argument("--table", metavar="FILE", help="put the table between the marks of this Markdown file")
    parser.add_argument("--picture", metavar="FILE", help="draw confusion matrices and reliability diagrams")
    args, train_arguments = parser.parse_known_args()
    if args.faces == args.voices == "none":
        parser.error("neither faces nor voices: there is nothing to evaluate")
    if train_arguments and args.protocol != "cremad-5fold":
        parser.error(f"unrecognized arguments: {' '.join(train_arguments)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        pipe = load_pipeline(args.model, device="cpu")
    except HubError as error:
        sys.exit(f"evaluate_hf.py: {error}")
    if args.card and not (Path(args.model) / "training.json").is_file():
        sys.exit(f"evaluate_hf.py: {args.model} has no training.json, from which its card says how it was trained.")
    output = Path(args.output)
    results = json.loads(output.read_text()) if output.is_file() else {}
    try:
        if args.protocol == "cremad-5fold":
            sources = {"faces": args.faces, "voices": args.voices}
            results["voice_folds"] = evaluate_folds(Path(args.folds), sources, train_arguments)
        elif args.protocol == "outside":
            results["outside"] = results.get("outside", {}) | evaluate_strangers(pipe, args)
        else:
            kept = {name: value for name, value in results.items() if name in ("voice_folds", "outside")}
            results = evaluate_corpora(pipe, args) | kept
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"evaluate_hf.py: {error}")
    except subprocess.CalledProcessError:
        sys.exit("evaluate_hf.py: a fold's training failed, as told above; the same command goes on from there.")
    results.setdefault("splits", {})  # there already if the protocol `split` was run
    write_results(results, output)
    print(markdown_table(results))
    if args.card:
        write_card(Path(args.model), results)
    if args.table:
        replace_table(Path(args.table), markdown_table(results))
    if args.picture:
        try:
            draw(results, Path(args.picture))
        except ImportError as error:
            sys.exit(f"evaluate_hf.py: {error}")


if __name__ == "__main__":
    main()
