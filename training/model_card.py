"""The model card: its figures, its training, and what it says of the examples."""

import json
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from configuration_emoclip import EmoCLIPConfig
from hub import CARD_EXAMPLES, THIS_REPOSITORY, load_pipeline
from training.report import markdown_table
from training.sources import FACES_HUB_ID, VOICES_HUB_ID

#: The Hub's name of a figure, where it has one.
METRICS = {"mean_recall": "recall", "macro_f1": "f1"}
#: Task, data set and its Hub id of what stands in results.json about the face, the voice, or neither alone.
TASKS = {
    "face": ("image-classification", "FER-2013", FACES_HUB_ID),
    "voice": ("audio-classification", "CREMA-D", VOICES_HUB_ID),
    None: ("other", "FER-2013 x CREMA-D, synthetic pairs", FACES_HUB_ID),
}


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
        if stage["epochs"]
        else f"{i}. `{stage['command']}`: the heads calibrated anew, the weights as they were"
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
        calibration="\n".join(
            f"| {head}: {what} | "
            + " | ".join(f"{getattr(config, f'{head}_{what}').get(label, '')}" for label in config.labels)
            + " |"
            for head in ("face", "voice")
            for what in ("temperature", "bias")
        ),
        emotions=" | ".join(config.labels),
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
people the independence that the fusion rests on is an assumption; CREMA-D's own videos would be its test. The mean of
five folds, where it is given, is that of five more models, one a fold, of the same recipe without teachers (± the
folds' standard deviation). Words "held out" were never seen by the text tower.

## Training

{training}

Each of a head's logits is divided by a temperature, and a bias is added to it, both fitted on validation data (vector
scaling, Guo et al., 2017):

| head | {emotions} |
| --- | --- | --- | --- | --- | --- | --- | --- |
{calibration}

## Limits and responsible use

It recognises acted and posed expressions: CREMA-D is acted speech in English by 91 people, FER-2013 web photos on
whose labels people agree about two times in three. It was not tested on children, on other languages, or by ethnicity,
and it does not know what anybody feels. Do not use it to decide about people. In the European Union the AI Act bans
emotion recognition at work and in education, other than for medical or safety reasons.

Weights are under Apache-2.0. CREMA-D is under the Open Database License 1.0; FER-2013 is not redistributed here.
"""
