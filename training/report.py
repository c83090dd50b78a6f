"""`results.json`: written, and shown as tables and as a picture."""

import json
import re
from pathlib import Path

import numpy as np

from configuration_emoclip import LABELS
from training.dataset import HEADS
from training.outside import ANSWERS

#: What corpora outside are called whose file has this name.
OUTSIDE = {"emodb": "Emo-DB, German", "ckplus": "CK+"}


def markdown_table(results: dict) -> str:
    """The figures of `results.json` as tables: overall, by the votes, unsure ones, each emotion's recall, voices by
    group, and words alone."""
    splits = results["splits"]
    pairs = " x ".join(splits.values()) + ", synthetic pairs"
    rows = [
        ("face, one crop", splits.get("face"), results.get("face")),
        ("face, mean over ten crops", splits.get("face"), results.get("face_ten_crops")),
        ("face, one crop, not in train", f"{splits.get('face')}, without repeats", results.get("face_unseen")),
        ("face as people see it, against their clear majority", splits.get("face"), results.get("face_perceived")),
        ("voice", splits.get("voice"), results.get("voice")),
        ("voice as people hear it, against their clear majority", splits.get("voice"), results.get("voice_perceived")),
        ("voice, mean of five folds", "folds 0 to 4", results.get("voice_folds")),
    ]
    if fused := results.get("fused"):
        rows.append(("face and voice, fused", pairs, fused))
        for key, what in (
            ("predicted", "the same, as the product rule predicts"),
            ("face_alone", "the face alone, same pairs"),
            ("voice_alone", "the voice alone, same pairs"),
        ):
            rows.append((what, pairs, {"n": fused["n"], "accuracy": fused[f"{key}_accuracy"]}))
    for name, figures in results.get("outside", {}).items():
        corpus = OUTSIDE.get(name, name)
        for key, answer in ANSWERS.items():
            if key in figures:  # older results lack the last
                what = f"{figures['source']}s outside, {answer.title}"
                rows.append((what, corpus, {"n": figures["n"]} | figures[key]))
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
    lines += votes_table(results) + unsure_table(results)
    recalls = {name: results[name]["recall"] for name in HEADS if name in results}
    emotions = [label for label in LABELS if any(label in recall for recall in recalls.values())]
    if recalls:
        lines += ["", f"| recall % | {' | '.join(emotions)} |", f"| --- |{' --- |' * len(emotions)}"]
    for name, recall in recalls.items():
        cells = [f"{100 * recall[label]:.0f}" if label in recall else "" for label in emotions]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if groups := results.get("voice_by"):
        lines += ["", "| voices by | accuracy % (n) |", "| --- | --- |"]
        for name, values in groups.items():
            cells = [f"{value} {100 * each['accuracy']:.0f} ({each['n']:,})" for value, each in values.items()]
            lines.append(f"| {name} | {', '.join(cells)} |")
    if texts := results.get("texts"):
        emotion = texts["emotion"]
        lines += ["", "| held-out words, alone | n | figures |", "| --- | --- | --- |"]
        lines.append(f"| the emotion they mean | {emotion['n']} | accuracy {100 * emotion['accuracy']:.1f} % |")
        for meaning, what in (("thing", "things"), ("other", "other words without an emotion")):
            figures = texts[meaning]
            cell = f"AUROC {figures['auroc']:.3f}"
            if "marked" in figures:
                cell += f"; marked are {100 * figures['marked']:.0f} % of the {meaning}s"
                cell += f" and {100 - 100 * figures['unmarked']:.0f} % of the words of an emotion"
            lines.append(f"| words of an emotion against {what} | {figures['n']} | {cell} |")
    return "\n".join(lines)


def votes_table(results: dict) -> list[str]:
    """How near a model comes to what people say: to the majority, beside one person, and to all of them."""
    lines = []
    for head in HEADS:
        if figures := results.get(f"{head}_perceived"):
            numbers = [100 * figures["accuracy"], 100 * figures["one_person"]]
            numbers += [figures["cross_entropy"], figures["votes_entropy"]]
            lines.append("| {} | {:,} | {:.1f} | {:.1f} | {:.2f} | {:.2f} |".format(head, figures["n"], *numbers))
    if not lines:
        return []
    return [
        "",
        "| as people perceive it | n with a clear majority | agrees with it % | one person does % | cross-entropy to "
        "the votes | their entropy |",
        "| --- | --- | --- | --- | --- | --- |",
        *lines,
    ]


def unsure_table(results: dict) -> list[str]:
    """What calling answers unsure keeps, and how often the kept and the others are right."""
    rows = []
    for head in HEADS:
        for name, reading in ((head, "acted"), (f"{head}_perceived", "perceived")):
            if "selective" in results.get(name, {}):
                rows.append((f"{head}s, as {reading}", results["splits"][head], results[name]["selective"]))
    for name, figures in results.get("outside", {}).items():
        for key, answer in ANSWERS.items():
            if key in figures:
                what = f"{figures['source']}s outside, {answer.title}"
                rows.append((what, OUTSIDE.get(name, name), figures[key]["selective"]))
    lines = []
    for what, split, figures in rows:
        right = [f"{100 * (1 - figures[key]):.0f}" if key in figures else "" for key in ("risk", "rejected_risk")]
        lines.append(
            f"| {what} | {split} | {figures['n']:,} | {100 * figures['coverage']:.0f} | {' | '.join(right)} |"
        )
    if not lines:
        return []
    return [
        "",
        "| unsure | split | n | sure % | right of the sure % | right of the unsure % |",
        "| --- | --- | --- | --- | --- | --- |",
        *lines,
    ]


def write_results(results: dict, path: Path):
    """Saves the figures as JSON."""
    path.write_text(json.dumps(results, indent=2) + "\n")


def replace_table(path: Path, table: str):
    """Replaces what is between the marks <!-- results --> and <!-- /results --> of a Markdown file by the table.

    Raises:
        ValueError: the file does not have each mark once.
    """
    parts = re.split(r"(<!-- /?results -->)", path.read_text())
    if parts[1::2] != ["<!-- results -->", "<!-- /results -->"]:
        raise ValueError(f"{path} must have <!-- results --> and <!-- /results --> once each, where the table goes.")
    path.write_text("".join([*parts[:2], f"\n{table}\n", *parts[3:]]))


def draw(results: dict, path: Path):
    """Saves a picture of the confusion matrices and the reliability diagrams of faces and of voices.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("--picture needs matplotlib: pip install matplotlib") from None
    heads = [name for name in HEADS if name in results]
    figure, axes = pyplot.subplots(len(heads), 2, figsize=(10, 4.6 * len(heads)), squeeze=False, layout="constrained")
    for (matrix_axis, reliability_axis), name in zip(axes, heads):
        known = [i for i, label in enumerate(LABELS) if label in results[name]["recall"]]
        shares = np.array(results[name]["confusion"], dtype=float)[known]
        shares /= shares.sum(1, keepdims=True)
        matrix_axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            matrix_axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
        matrix_axis.set_xticks(range(len(LABELS)), LABELS, rotation=35, ha="right")
        matrix_axis.set_yticks(range(len(known)), [LABELS[i] for i in known])
        matrix_axis.set(title=f"{name}: answers % of each label", xlabel="answer", ylabel="label")
        bins = results[name]["reliability"]
        confidence, accuracy, n = (np.array([each[key] for each in bins]) for key in ("confidence", "accuracy", "n"))
        reliability_axis.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="perfectly calibrated")
        error = np.sqrt(accuracy * (1 - accuracy) / n)
        reliability_axis.errorbar(confidence, accuracy, error, fmt="o-", capsize=3, label="model ± standard error")
        reliability_axis.bar(confidence, n / n.sum(), width=0.05, alpha=0.25, label="share of the answers")
        reliability_axis.set(
            title=f"{name}: reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1)
        )
        reliability_axis.legend(loc="upper left", fontsize="small")
    figure.savefig(path, dpi=90)
