"""Does a person's own neutral voice help as a baseline?

    python experiments/baseline.py --voices emodb.parquet

Of each speaker the first two neutral recordings are the baseline, and all others are scored with and without it. The
file is a parquet one with `audio`, `label` and `speaker`; people of the training data would be no test.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from configuration_emoclip import LABELS
from hub import HubError, load_pipeline
from recognizer_emoclip import Observation, Voice, mean_log_probs
from training.metrics import emotion_metrics
from training.outside import ANSWERS, load_labelled

NEUTRAL = LABELS.index("neutral")
CLIPS = 2  # of a speaker, that make the baseline


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--voices", required=True, help="parquet file with audio, label and speaker")
    args = parser.parse_args()
    try:
        recognizer = load_pipeline(args.model, device="cpu").recognizer
        dataset = load_labelled(args.voices, "voice")
        speakers = load_dataset("parquet", data_files=args.voices, split="train", columns=["speaker"])["speaker"][:]
    except (HubError, OSError, ValueError) as error:
        sys.exit(f"baseline.py: {error}")
    voices = [recognizer.observe(audio=row["audio"]).voice for row in dataset]
    labels, speakers = np.array(dataset["label"]), np.array(speakers)
    print("| answer | baseline | n | accuracy % | mean recall % | neutral ones right % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for reading, prior, title in ANSWERS.values():
        plain, own, tested = [], [], []
        for speaker in np.unique(speakers):
            rows = np.flatnonzero((speakers == speaker) & [voice is not None for voice in voices])
            at_rest = [row for row in rows if labels[row] == NEUTRAL][:CLIPS]
            if len(at_rest) < CLIPS:
                continue
            windows = torch.cat([voices[row].windows for row in at_rest])
            person = recognizer.adapted(reading, prior=prior)
            person = person.adapted(baseline=person.baseline_of(Observation(voice=Voice([], [0.0], windows))))
            for row in np.setdiff1d(rows, at_rest):
                tested.append(row)
                for scorer, answers in ((recognizer.adapted(reading, prior=prior), plain), (person, own)):
                    answers.append(mean_log_probs(scorer.voice_log_probs(voices[row].windows))[0])
        for what, answers in (("none", plain), ("own neutral voice", own)):
            probs = torch.stack(answers).exp().numpy()
            figures = emotion_metrics(probs, labels[tested])
            neutral = (probs.argmax(1) == NEUTRAL)[labels[tested] == NEUTRAL].mean()
            numbers = " | ".join(
                f"{100 * each:.1f}" for each in (figures["accuracy"], figures["mean_recall"], neutral)
            )
            print(f"| {title} | {what} | {figures['n']} | {numbers} |")


if __name__ == "__main__":
    main()
