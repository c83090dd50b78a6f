"""The model card: `model_card.md`, filled in with the figures, the training, and the answer to the card's example."""

import json
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from string import Template

from huggingface_hub import EvalResult, ModelCardData

from configuration_emoclip import EmoCLIPConfig
from hub import CARD_EXAMPLES, THIS_REPOSITORY, load_pipeline
from training.dataset import HEADS
from training.report import markdown_table
from training.sources import FACES_HUB_ID, VOICES_HUB_ID

TEMPLATE = Path(__file__).with_suffix(".md")
#: Where the meaning of words comes from, and under which terms.
WORD_VECTORS_NOTICE = """
The word vectors are what the sentence encoder all-MiniLM-L6-v2 (Apache-2.0) reads in WordNet 3.0. WordNet: Copyright
2006 by Princeton University, all rights reserved; its licence permits to use, copy, modify and distribute it for any
purpose and without fee, with this notice; it comes "as is", without warranty."""
#: The Hub's name of a figure, where it has one.
METRICS = {"mean_recall": "recall", "macro_f1": "f1"}
#: Task, data set and its Hub id for figures of faces, of voices, and of both.
TASKS = {
    "face": ("image-classification", "FER-2013", FACES_HUB_ID),
    "voice": ("audio-classification", "CREMA-D", VOICES_HUB_ID),
    None: ("other", "FER-2013 x CREMA-D, synthetic pairs", FACES_HUB_ID),
}


def groups(results: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
    """Every object of `results.json` that holds numbers, at any depth: the names that lead to it, and its numbers."""
    if figures := {name: value for name, value in results.items() if isinstance(value, (int, float))}:
        yield path, figures
    for name, value in results.items():
        if isinstance(value, dict):
            yield from groups(value, (*path, name))


def model_index(results: dict) -> list[EvalResult]:
    """Every figure of `results.json` in the form of the Hub's model index; counts are arguments of the metrics."""
    splits, figures = results["splits"], []
    for path, values in groups({name: value for name, value in results.items() if name != "splits"}):
        words = " ".join(path).replace("_", " ")
        modality = next((name for name in HEADS if name in words.split()), None)
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


def write_training(folder: Path, init_from: str | None, **stage):
    """Writes `training.json`, which the card is made of: the stages of the folder `init_from`, and this one."""
    before = Path(init_from or "") / "training.json"
    stages = json.loads(before.read_text()) if init_from and before.is_file() else []
    command = " ".join(["python", Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])])
    versions = {package: version(package) for package in ("torch", "transformers", "datasets")}
    stages.append({"command": command, **stage, "versions": versions})
    (folder / "training.json").write_text(json.dumps(stages, indent=2) + "\n")


def write_card(folder: Path, results: dict):
    """Writes the model card `README.md` of a saved model.

    Args:
        folder: of the model; its `training.json` says how it was trained. results: as in `results.json`.
    """
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
        if stage["epochs"]
        else f"{i}. `{stage['command']}`: the heads calibrated anew, the weights as they were"
        for i, stage in enumerate(training, 1)
    )
    pipe = load_pipeline(folder, device="cpu")
    result = pipe(**{source: str(file) for source, file in CARD_EXAMPLES.items()})
    heads = {name: config.head(name) for name in HEADS}
    calibration = [
        f"| {name}: {what} | {' | '.join(str(values.get(label, '')) for label in config.labels)} |"
        for name, head in heads.items()
        for what, values in (("temperature", head.temperature), ("bias", head.bias))
    ]
    card = Template(TEMPLATE.read_text()).substitute(
        front_matter=data.to_yaml(),
        this_repository=THIS_REPOSITORY,
        photo=CARD_EXAMPLES["image"].name,
        recording=CARD_EXAMPLES["audio"].name,
        output=f"{result.fused.label} {result.agreement:.2f} {result.fused.scores[result.fused.label]:.0%}",
        table=markdown_table(results),
        training=stages,
        emotions=" | ".join(config.labels),
        calibration="\n".join(calibration),
        word_vectors=WORD_VECTORS_NOTICE if config.word_vector_size is not None else "",
    )
    (folder / "README.md").write_text(card)
