"""Every accuracy figure that the README or a model card prints, from one command:

    python evaluate_hf.py --model checkpoints/emoclip-small --faces DIR --voices DIR --output results.json

Faces: one crop, on the source's test split. Voices: the test actors of one fold. Fused: every test face that is not
surprise with a random test voice of the same label, 10 pairings: synthetic pairs, of people who never met. Words:
each face and voice against the prompts of every emotion, with the words of training and with those held out.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import evaluate
import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from huggingface_hub import EvalResult, ModelCardData

from configuration_emoclip import EmoCLIPConfig
from data_emoclip import (
    FACE_SIZE,
    FACES_HUB_ID,
    VOICES_HUB_ID,
    Corpus,
    load_faces,
    load_voices,
    split_voices,
    split_words,
    to_tensors,
    voice_tensors,
)
from hub_emoclip import CARD_EXAMPLES, THIS_REPOSITORY, HubError, load_pipeline
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor

PAIRINGS = 10
CALIBRATION_BINS = 15
#: The Hub's name of a figure, where it has one.
METRICS = {"mean_recall": "recall", "macro_f1": "f1"}
#: Task, data set and its Hub id of what stands in results.json about the face, the voice, or neither alone.
TASKS = {
    "face": ("image-classification", "FER-2013", FACES_HUB_ID),
    "voice": ("audio-classification", "CREMA-D", VOICES_HUB_ID),
    None: ("other", "FER-2013 x CREMA-D, synthetic pairs", FACES_HUB_ID),
}


class EmotionMetrics(evaluate.Metric):
    """Accuracy, mean recall, macro F1 and expected calibration error of (n, C) posteriors; needs no network.

    Classes that no reference has are left out of the means. The calibration error is that of Naeini et al. (2015)
    with 15 bins of equal width; `expected_if_calibrated` is what a perfectly calibrated model with these confidences
    and as many samples would show, from sampling alone.
    """

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__, citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        probs, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        answers = probs.argmax(-1)
        recalls, f1s = [], []
        for label in np.unique(labels):
            hits = ((answers == label) & (labels == label)).sum()
            recalls.append(hits / (labels == label).sum())
            f1s.append(2 * hits / ((answers == label).sum() + (labels == label).sum()))
        confidence, correct = probs.max(-1), answers == labels
        draws = np.random.default_rng(0).random((100, len(labels))) < confidence
        return {
            "accuracy": float(correct.mean()),
            "mean_recall": float(np.mean(recalls)),
            "macro_f1": float(np.mean(f1s)),
            "calibration_error": calibration_error(confidence, correct),
            "expected_if_calibrated": float(np.mean([calibration_error(confidence, draw) for draw in draws])),
        }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean gap between confidence (n,) in 0..1 and correctness (n,) bool over bins, weighted by their size."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def emotion_metrics(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`EmotionMetrics` of (n, C) posteriors and (n,) labels, with n."""
    return {"n": len(labels), **EmotionMetrics().compute(predictions=list(probs), references=list(labels))}


def prepare(
    processor: EmoCLIPProcessor,
    pixels: torch.Tensor | None,
    mels: torch.Tensor | None = None,
    waveforms: torch.Tensor | None = None,
) -> dict:
    """Faces (B, 48, 48) uint8, mel images (B, bands, frames) uint8 and waveforms (B, T) int16, each or None, to the
    model's inputs."""
    inputs = {}
    if pixels is not None:
        inputs["pixel_values"] = processor.image_processor(list(pixels[:, None]), return_tensors="pt").pixel_values
    if waveforms is not None:
        inputs["input_values"] = waveforms[:, None].float()
    if mels is not None:
        # the middle of each level: the bytes are floor(256 v)
        inputs["input_features"] = processor.feature_extractor.standardize((mels[:, None].float() + 0.5) / 256)
    return inputs


@torch.no_grad()
def predict(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    pixels: torch.Tensor | None = None,
    mels: torch.Tensor | None = None,
    waveforms: torch.Tensor | None = None,
    batch_size: int = 128,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A head's logits (n, C) and normalised embeddings (n, D), on the CPU, of n faces or else of n voices."""
    given = {"pixels": pixels, "mels": mels, "waveforms": waveforms}
    name, values = next((name, values) for name, values in given.items() if values is not None)
    parts = []
    for part in values.split(batch_size):
        inputs = prepare(processor, **{"pixels": None, name: part})
        out = model(**{key: value.to(model.device) for key, value in inputs.items()})
        logits, embeds = (
            (out.face_logits, out.image_embeds) if pixels is not None else (out.voice_logits, out.audio_embeds)
        )
        parts.append((logits.float().cpu(), embeds.float().cpu()))
    return tuple(torch.cat(columns) for columns in zip(*parts))


@torch.no_grad()
def word_embeddings(
    model: EmoCLIPForEmotionClassification, processor: EmoCLIPProcessor, words: dict[str, list[str]]
) -> torch.Tensor:
    """(C, D): each label's prompts, every word in every template, embedded, averaged and normalised."""
    rows = []
    for label in model.config.labels:
        sentences = [template.format(word) for word in words[label] for template in model.config.prompt_templates]
        inputs = processor(text=sentences, return_tensors="pt").to(model.device)
        embeds = F.normalize(model.emoclip.get_text_features(**inputs).pooler_output.float(), dim=-1)
        rows.append(F.normalize(embeds.mean(0), dim=0))
    return torch.stack(rows).cpu()


def evaluate_model(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    faces: Dataset | None,
    voices: Dataset | None,
    seed: int = 0,
) -> dict[str, dict]:
    """Every figure of one split: `face`, `voice`, `fused`, and `words`, each where there is data for it.

    Args:
        faces, voices: the split, in the one form of data_emoclip, or None.
        seed: of the pairings.
    """
    model.eval()
    data, results = {}, {}
    for name, split in (("face", faces), ("voice", voices)):
        if split is None:
            continue
        if name == "face":
            kind, (values, labels) = "pixels", to_tensors(split, "pixels", (FACE_SIZE, FACE_SIZE))
        else:
            kind, values, labels = voice_tensors(split, (128, 188))
        labels = labels.numpy()
        logits, embeds = predict(model, processor, **{kind: values})
        data[name] = logits.log_softmax(-1), labels, embeds
        results[name] = emotion_metrics(logits.softmax(-1).numpy(), labels)
        uncalibrated = logits * getattr(model.config, f"{name}_temperature")
        before = emotion_metrics(uncalibrated.softmax(-1).numpy(), labels)["calibration_error"]
        results[name]["calibration_error_before_scaling"] = before
    if len(data) == 2:
        results["fused"] = evaluate_pairs(model, *data["face"][:2], *data["voice"][:2], seed)
    if model.config.words and model.config.prompt_templates:
        trained, held_out = split_words()
        results["words"] = {}
        for name, words in (("trained", model.config.words), ("held_out", held_out)):
            text = word_embeddings(model, processor, words)
            for modality, (_, labels, embeds) in data.items():
                answers = (embeds @ text.T).argmax(-1).numpy()
                results["words"][f"{modality}_{name}"] = {
                    "n": len(labels),
                    "accuracy": float((answers == labels).mean()),
                }
    return results


def evaluate_pairs(
    model: EmoCLIPForEmotionClassification,
    face_log_probs: torch.Tensor,
    face_labels: np.ndarray,
    voice_log_probs: torch.Tensor,
    voice_labels: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Accuracy of the fusion, and of its parts on the same pairs: each face that has a voice of its label with one
    drawn at random, PAIRINGS times over; means and standard deviations over the pairings."""
    rows = np.flatnonzero(np.isin(face_labels, voice_labels))
    generator = np.random.default_rng(seed)
    scores = {"fused": [], "face": [], "voice": []}
    for _ in range(PAIRINGS):
        partners = np.empty(len(rows), dtype=int)
        for label in np.unique(voice_labels):
            here = face_labels[rows] == label
            partners[here] = generator.choice(np.flatnonzero(voice_labels == label), here.sum())
        fused, _ = model.fuse(face_log_probs[rows], voice_log_probs[partners])
        for name, log_probs in (
            ("fused", fused),
            ("face", face_log_probs[rows]),
            ("voice", voice_log_probs[partners]),
        ):
            scores[name].append(float((log_probs.argmax(-1).numpy() == face_labels[rows]).mean()))
    results = {"n": len(rows), "pairings": PAIRINGS, "accuracy": float(np.mean(scores["fused"]))}
    results["accuracy_spread"] = float(np.std(scores["fused"]))
    return results | {f"{name}_alone_accuracy": float(np.mean(scores[name])) for name in ("face", "voice")}


def markdown_table(results: dict) -> str:
    """The figures of `results.json` as a table."""
    splits = results["splits"]
    pairs = " x ".join(splits.values()) + ", synthetic pairs"
    rows = [
        ("face, one crop", splits.get("face"), results.get("face")),
        ("voice", splits.get("voice"), results.get("voice")),
    ]
    if fused := results.get("fused"):
        rows.append(("face and voice, fused", pairs, fused))
        for name in ("face", "voice"):
            alone = {"n": fused["n"], "accuracy": fused[f"{name}_alone_accuracy"]}
            rows.append((f"the {name} alone, same pairs", pairs, alone))
    for name, figures in results.get("words", {}).items():
        modality, words = name.split("_", 1)
        rows.append((f"{modality} against {words.replace('_', '-')} words", splits[modality], figures))
    lines = [
        "| what | split | n | accuracy % | mean recall % | macro F1 % | calibration error % (if perfect) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for what, split, figures in rows:
        if figures is None:
            continue
        cells = [f"{100 * figures[key]:.1f}" if key in figures else "" for key in ("mean_recall", "macro_f1")]
        if "calibration_error" in figures:
            keys = ("calibration_error", "expected_if_calibrated")
            cells.append("{:.1f} ({:.1f})".format(*(100 * figures[key] for key in keys)))
        else:
            cells.append("")
        accuracy = f"**{100 * figures['accuracy']:.1f}**"
        if "accuracy_spread" in figures:
            accuracy += f" ± {100 * figures['accuracy_spread']:.1f}"
        lines.append(f"| {what} | {split} | {figures['n']:,} | {accuracy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluate_split(
    model: EmoCLIPForEmotionClassification,
    processor: EmoCLIPProcessor,
    faces: Corpus | None,
    voices: Corpus | None,
    split: str,
    most: int | None = None,
) -> dict[str, dict]:
    """`evaluate_model` on the `validation` or `test` rows, at most so many, with the splits' names."""
    rows, names = {}, {}
    for name, corpus in (("face", faces), ("voice", voices)):
        dataset = None if corpus is None else getattr(corpus, split)
        if dataset is not None and most is not None:
            dataset = dataset.shuffle(0).select(range(min(most, len(dataset))))
        rows[name] = dataset
        if corpus is not None:
            names[name] = corpus.test_name if split == "test" else corpus.validation_name
    return {"splits": names, **evaluate_model(model, processor, rows["face"], rows["voice"])}


def write_results(results: dict, path: Path):
    """Saves the figures as JSON."""
    path.write_text(json.dumps(results, indent=2) + "\n")


def replace_table(path: Path, table: str):
    """Puts the table between the marks <!-- results --> and <!-- /results --> of a Markdown file.

    Raises:
        ValueError: the file has no such marks.
    """
    parts = re.split(r"(<!-- /?results -->)", path.read_text())
    if parts[1::2] != ["<!-- results -->", "<!-- /results -->"]:
        raise ValueError(f"{path} must have <!-- results --> and <!-- /results --> once each, where the table goes.")
    path.write_text("".join([*parts[:2], f"\n{table}\n", *parts[3:]]))


def groups(results: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
    """Every group of figures of `results.json`, however deep it lies: the names that lead to it, and its numbers."""
    if figures := {name: value for name, value in results.items() if isinstance(value, (int, float))}:
        yield path, figures
    for name, value in results.items():
        if isinstance(value, dict):
            yield from groups(value, (*path, name))


def model_index(results: dict) -> list[EvalResult]:
    """Every figure of `results.json` as the Hub's front matter knows them, counts as their metrics' arguments."""
    splits, figures = results["splits"], []
    for path, values in groups({name: value for name, value in results.items() if name != "splits"}):
        words = " ".join(path).replace("_", " ")
        modality = next((name for name in ("face", "voice") if name in words.split()), None)
        task, dataset, dataset_id = TASKS[modality]
        counts = {name: value for name, value in values.items() if isinstance(value, int)}
        for name, value in values.items():
            if name not in counts:
                figures.append(
                    EvalResult(
                        task_type=task,
                        dataset_name=dataset,
                        dataset_type=dataset_id,
                        dataset_split=splits.get(modality, " x ".join(splits.values())),
                        metric_type=METRICS.get(name, name),
                        metric_name=f"{words}: {name.replace('_', ' ')}",
                        metric_value=round(value, 4),
                        metric_args=counts,
                    )
                )
    return figures


def write_card(folder: Path, results: dict):
    """Writes the model card `README.md` of a saved model: its figures, its training from `training.json`, and what it
    says of the examples."""
    config = EmoCLIPConfig.from_pretrained(folder)
    training = json.loads((folder / "training.json").read_text())
    data = ModelCardData(
        model_name="EmoCLIP",
        base_model=next((stage["base_model"] for stage in training if stage.get("base_model")), None),
        license="apache-2.0",
        language="en",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["emotion-recognition", "audioclip", "multimodal", "face", "speech", "custom_code"],
        datasets=[FACES_HUB_ID, VOICES_HUB_ID],
        metrics=["accuracy", "recall", "f1"],
        eval_results=model_index(results),
    )
    stages = "\n".join(
        f"{i}. `{stage['command']}`: {stage['rows']['faces']:,} faces and {stage['rows']['voices']:,} voices, "
        f"{stage['epochs']} epochs, seed {stage['seed']}, {stage['precision']} on {stage['device']}, "
        f"{stage['seconds'] / 60:.0f} minutes"
        for i, stage in enumerate(training, 1)
    )
    pipe = load_pipeline(folder, device="cpu")
    result = pipe(**{source: str(file) for source, file in CARD_EXAMPLES.items()})
    text = CARD.format(
        front_matter=data.to_yaml(),
        this_repository=THIS_REPOSITORY,
        photo=CARD_EXAMPLES["image"].name,
        recording=CARD_EXAMPLES["audio"].name,
        output=f"{result.fused.label} {result.agreement:.2f} {result.fused.scores[result.fused.label]:.0%}",
        table=markdown_table(results),
        training=stages,
        face_temperature=config.face_temperature,
        voice_temperature=config.voice_temperature,
    )
    (folder / "README.md").write_text(text)


CARD = """---
{front_matter}
---

# EmoCLIP

Says what a person looks **and** sounds like: a tri-modal emotion recogniser (face, voice, words) with one shared
AudioCLIP-shaped backbone. Emotions: angry, disgust, fear, happy, neutral, sad, surprise; the voice was not taught
surprise, and says nothing of it.

## Use

```python
from huggingface_hub import hf_hub_download
from transformers import pipeline

pipe = pipeline("emotion-recognition", model="{this_repository}", trust_remote_code=True)
photo = hf_hub_download("{this_repository}", "examples/{photo}")
recording = hf_hub_download("{this_repository}", "examples/{recording}")
result = pipe(image=photo, audio=recording)  # or either alone
print(result.fused.label, f"{{result.agreement:.2f}}", f"{{result.fused.scores[result.fused.label]:.0%}}")
```

```text
{output}
```

`agreement` is the logarithm of how much likelier this face and this voice are together than apart: above 0 they agree,
below 0 they conflict. Finding faces and speech needs `opencv-python-headless`, `silero-vad` and `onnxruntime`, reading
recordings `soundfile` and `av`; an image array with a `face_box` needs none of them. Without the network, after
`hf download {this_repository}`, the same lines run. The example's picture (NASA) and reading (LibriVox) are in the
public domain.

## Results

<!-- results -->
{table}
<!-- /results -->

Chosen on validation data, tested once. FER-2013: train on Training, choose on PublicTest, test on PrivateTest.
CREMA-D: folds by actor, so no voice is in both training and test; fold 1 chooses, folds 2 to 4 train. "Fused" pairs
a test face with a random test voice of the same label, 10 times: synthetic pairs, of people who never met. On real
people the independence that the fusion rests on is an assumption; CREMA-D's own videos would be its test. Words
"held out" were never seen by the text tower.

## Training

{training}

Temperatures fitted on validation data: face {face_temperature}, voice {voice_temperature}.

## Limits and responsible use

It recognises acted and posed expressions: CREMA-D is acted speech in English by 91 people, FER-2013 web photos on
whose labels people agree about two times in three. It was not tested on children, on other languages, or by ethnicity,
and it does not know what anybody feels. Do not use it to decide about people. In the European Union the AI Act bans
emotion recognition at work and in education, other than for medical or safety reasons.

Weights are under Apache-2.0. CREMA-D is under the Open Database License 1.0; FER-2013 is not redistributed here.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--faces", help="FER-2013: a folder or a Hub id; `none` for no faces")
    parser.add_argument("--voices", help="CREMA-D: a folder or a Hub id; `none` for no voices")
    parser.add_argument("--fold", type=int, default=0, help="CREMA-D's test fold")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--output", default="results.json")
    parser.add_argument("--card", action="store_true", help="write the model's card anew, from these figures")
    parser.add_argument("--table", metavar="FILE", help="put the table between the marks of this Markdown file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        pipe = load_pipeline(args.model, device="cpu")
    except HubError as error:
        sys.exit(f"evaluate_hf.py: {error}")
    model, processor = pipe.model, pipe.processor
    if args.card and not (Path(args.model) / "training.json").is_file():
        sys.exit(f"evaluate_hf.py: {args.model} has no training.json, from which its card says how it was trained.")
    try:
        faces = None if args.faces == "none" else load_faces(args.faces)
        voices = None
        if args.voices != "none":
            voices = split_voices(load_voices(args.voices, processor.feature_extractor), args.fold)
    except (OSError, ValueError) as error:
        sys.exit(f"evaluate_hf.py: {error}")
    if torch.cuda.is_available():
        model.cuda()
    results = evaluate_split(model, processor, faces, voices, args.split)
    write_results(results, Path(args.output))
    print(markdown_table(results))
    if args.card:
        write_card(Path(args.model), results)
    if args.table:
        replace_table(Path(args.table), markdown_table(results))


if __name__ == "__main__":
    main()
