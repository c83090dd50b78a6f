"""The tab About: how often the model is right, as charts, what it is not, and what becomes of a visitor's files; and
the endpoint /about."""

import html
import json
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr

from demo.emotions import COLOURS, adjective
from demo.words import held_out_note

HEADS = ("face", "voice")


class FigureJSON(TypedDict):
    name: str
    n: int
    accuracy: float
    spread: float


def about_tab(results: dict[str, Any]) -> None:
    """The tab's content and its endpoint. `results` are the checkpoint's figures, see results.json."""
    num_taught = {head: len(results.get(head, {}).get("recall", COLOURS)) for head in HEADS}
    gr.HTML(ABOUT + charts(results, num_taught), padding=False, elem_id="about")

    def about() -> list[FigureJSON]:
        """How often the model is right: its accuracy on the test splits, each with its name, the number of samples and
        the spread (a standard error where no other was measured)."""
        return figures(results)

    gr.api(about, api_name="about")


def read_figures(file: Path) -> dict[str, Any]:
    """A checkpoint's results.json, as far as it has the form that evaluate_hf.py writes; what has another is left out,
    and the log says so."""
    if not file.is_file():
        return {}
    try:
        results = json.loads(file.read_text("utf-8"))
        if not isinstance(results, dict):
            raise ValueError
    except (ValueError, RecursionError):  # bytes that are no text, text that is no JSON, or JSON of another form
        print(f"{file.name} is not what evaluate_hf.py writes: the demo shows no figures.", flush=True)
        return {}
    known = {name: entry for name, entry in results.items() if _fits(name, entry)}
    if left_out := sorted(results.keys() - known.keys()):
        print(f"{file.name} has parts of another form, which are left out: {', '.join(left_out)}", flush=True)
    return known


def _fits(name: str, entry: object) -> bool:
    """Whether an entry can be shown: it is tried, alone."""
    if not isinstance(entry, dict):
        return False
    try:
        charts({name: entry}, dict.fromkeys(HEADS, len(COLOURS)))
        held_out_note({name: entry})
        return all(
            isinstance(row["n"], int) and 0 <= row["accuracy"] <= 1 and 0 <= row["spread"] <= 1
            for row in figures({name: entry})
        )
    except Exception:  # whatever a number, a list or a text does in another's place
        return False


def figures(results: dict[str, Any]) -> list[FigureJSON]:
    """Every accuracy in an evaluation's results, whatever entries it has. `spread` is a standard error where no other
    was measured."""
    found = []

    def walk(entry: dict[str, Any], path: tuple[str, ...]) -> None:
        n = entry.get("n")
        for key, value in entry.items():
            if isinstance(value, dict):
                walk(value, (*path, key))
            elif n and (key == "accuracy" or key.endswith("_accuracy")):
                name = " · ".join((*path, key.removesuffix("accuracy"))).replace("_", " ").rstrip(" ·")
                spread = entry.get("accuracy_spread") if key == "accuracy" else None
                spread = spread or (value * (1 - value) / n) ** 0.5
                found.append({"name": name, "n": n, "accuracy": value, "spread": spread})

    walk(results, ())
    return found


#: What the figures' names mean, where they do not say it themselves.
FIGURE_TITLES = {
    "face": "Face, one crop",
    "face ten crops": "Face, mean of ten crops",
    "face unseen": "Face, without those that training repeats",
    "face · uncalibrated": "Face, before calibration",
    "voice · uncalibrated": "Voice, before calibration",
    "face perceived": "Face as people see it, against their clear majority",
    "voice perceived": "Voice as people hear it, against their clear majority",
    "voice folds": "Voice, mean of five folds",
    "fused": "Face and voice together",
    "fused · predicted": "Together, as the product rule predicts",
    "fused · face alone": "The face alone, of the same pairs",
    "fused · voice alone": "The voice alone, of the same pairs",
    "words · face trained": "Face against words of training",
    "words · voice trained": "Voice against words of training",
    "words · face held out": "Face against words that are new",
    "words · voice held out": "Voice against words that are new",
}
#: CREMA-D's codes of what was said, and of how strongly the emotion was acted.
GROUP_TITLES = {
    "DFA": "“Don’t forget a jacket”",
    "IEO": "“It’s eleven o’clock”",
    "IOM": "“I’m on my way to the meeting”",
    "ITH": "“I think I have a doctor’s appointment”",
    "ITS": "“I think I’ve seen this before”",
    "IWL": "“I would like a new alarm clock”",
    "IWW": "“I wonder what this is about”",
    "MTI": "“Maybe tomorrow it will be cold”",
    "TAI": "“The airplane is almost full”",
    "TIE": "“That is exactly what happened”",
    "TSI": "“The surface is slick”",
    "WSI": "“We’ll stop in a couple of minutes”",
    "LO": "low",
    "MD": "medium",
    "HI": "high",
    "XX": "not told",
}


#: By how the names of their test splits begin.
DATASETS = {"PrivateTest": "FER-2013", "PublicTest": "FER-2013", "fold": "CREMA-D"}


def charts(results: dict[str, Any], num_taught: dict[str, int]) -> str:
    """The figures of `results.json`, as far as it has them, as HTML: three accuracies, a confusion table and a
    reliability diagram of each head, and every figure as a bar in a list that folds away.

    Args:
        num_taught: how many emotions the `face` and the `voice` head know; chance is one in so many.
    """
    if not results:
        return ""
    splits = results.get("splits", {})
    where = html.escape(" and ".join(f"{name}s of {_dataset(split)}" for name, split in splits.items()))
    known = [head for head in HEADS if "confusion" in results.get(head, {})]
    confusions = "".join(_confusion(head, results[head]) for head in known)
    reliabilities = "".join(_reliability(head, results[head]["reliability"]) for head in known)
    return (
        '<section class="chart" aria-label="How often it is right"><h2>How often it is right</h2>'
        f"{_headlines(results)}<p>On the test data: {where}. "
        "Face and voice together are pairs of people who never met. All figures on this page are of what was acted, "
        "but for those whose name says that people perceive, see or hear it, which is what the demo answers."
        "</p></section>"
        f'<section class="chart" aria-label="What it confuses"><h2>What it confuses</h2>'
        f'<div class="pair">{confusions}</div></section>'
        f'<section class="chart" aria-label="Accuracy against confidence"><h2>Accuracy against confidence</h2>'
        f'<div class="pair">{reliabilities}</div>'
        "<p>Of the answers given with that much confidence, how many were right. On the dashed line the two are "
        "equal; the larger a dot, the more answers.</p></section>"
        f"{_every_figure(results, num_taught)}"
    )


def _dataset(split: str) -> str:
    """The dataset that a split is of; the split's own name where that is of another."""
    return next((dataset for start, dataset in DATASETS.items() if split.startswith(start)), split)


def _headlines(results: dict[str, Any]) -> str:
    cards = ""
    for name, title in (("face", "of faces"), ("voice", "of voices"), ("fused", "of both together")):
        if "accuracy" in results.get(name, {}):
            accuracy, n = results[name]["accuracy"], results[name]["n"]
            cards += f"<li><b>{100 * accuracy:.1f}%</b> {title}<small>n = {n:,}</small></li>"
    return f'<ul class="headlines">{cards}</ul>'


def _confusion(head: str, figures: dict[str, Any]) -> str:
    """A confusion table: of each label, the share of every answer, in percent."""
    labels = list(COLOURS)
    columns = [i for i, label in enumerate(labels) if label in figures["recall"]]
    head_row = "".join(f'<th scope="col"><span>{adjective(labels[i])}</span></th>' for i in columns)
    rows = ""
    for i in columns:
        total = sum(figures["confusion"][i])
        cells = ""
        for j in columns:
            share = figures["confusion"][i][j] / max(total, 1)
            cells += f'<td style="--share:{100 * share:.0f}%;--colour:{COLOURS[labels[j]]}">{100 * share:.0f}</td>'
        rows += f'<tr><th scope="row">{adjective(labels[i])}</th>{cells}</tr>'
    return (
        f'<table class="confusion"><caption>{head.capitalize()}: of each emotion (rows), the answers (columns), in '
        "per cent</caption>"
        f"<thead><tr><td></td>{head_row}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _reliability(head: str, bins: list[dict[str, float]]) -> str:
    """A reliability diagram: accuracy over confidence, both 0 to 1."""
    total = sum(each["n"] for each in bins)
    points = [(100 * each["confidence"], 100 - 100 * each["accuracy"], each["n"] / total) for each in bins]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1 + 6 * share**0.5:.1f}"/>' for x, y, share in points)
    told = "; ".join(f"{each['confidence']:.0%} confident, {each['accuracy']:.0%} right" for each in bins)
    return (
        f'<figure class="reliability"><svg viewBox="-2 -2 104 104" role="img" aria-label="{head}: {told}">'
        f'<path class="frame" d="M0 0V100H100"/><path class="ideal" d="M0 100L100 0"/>'
        f'<polyline points="{line}"/>{dots}</svg>'
        f"<figcaption>{head.capitalize()}: accuracy, upwards, against confidence; both 0 to 100%</figcaption></figure>"
    )


def _every_figure(results: dict[str, Any], num_taught: dict[str, int]) -> str:
    def bar(row: FigureJSON) -> str:
        group, _, value = row["name"].partition(" by · ")[2].rpartition(" · ")
        title = f"{group}: {GROUP_TITLES.get(value, value)}" if group else FIGURE_TITLES.get(row["name"], row["name"])
        chance = 1 / num_taught["voice" if "voice" in row["name"] else "face"]
        return (
            f'<li><span class="name">{html.escape(title)}<small>n = {row["n"]:,}</small></span>'
            f'<span class="score">{100 * row["accuracy"]:.1f}% <small>± {100 * row["spread"]:.1f}</small></span>'
            f'<span class="track" aria-hidden="true"><i style="width:{100 * row["accuracy"]:.1f}%"></i>'
            f'<b style="left:{100 * (row["accuracy"] - row["spread"]):.1f}%;width:{200 * row["spread"]:.1f}%"></b>'
            f'<u style="left:{100 * chance:.1f}%"></u></span></li>'
        )

    rows = figures(results)
    whole = "".join(bar(row) for row in rows if " by · " not in row["name"])
    by_group = "".join(bar(row) for row in rows if " by · " in row["name"])
    folded = f"<details><summary>The voice by group</summary><ul>{by_group}</ul></details>" if by_group else ""
    return (
        f'<section class="chart" aria-label="Every figure"><h2>Every figure</h2>'
        f"<details><summary>All that was measured</summary><ul>{whole}</ul></details>{folded}"
        f"<p>The upright line is guessing: {100 / num_taught['voice']:.0f}% for the voice, which knows "
        f"{num_taught['voice']} emotions, {100 / num_taught['face']:.0f}% else.</p></section>"
    )


ABOUT = """
<div class="about">
  <section>
    <h2>What it is</h2>
    <p>One small network reads faces and voices in the same space: it learnt from the faces of FER-2013 and the actors’
    voices of CREMA-D, and weighs both by how much each says. <i>Agreement</i> says how well this face and this voice
    go together: above 0 they tell the same story, below 0 they do not.</p>
  </section>
  <section>
    <h2>What it is not</h2>
    <p>It recognises <strong>acted expressions</strong>. It does not know what anybody feels, it is often wrong, and
    more often on people unlike those it learnt from: it was not tested on children, on other languages than English,
    or by ethnicity. Do not use it to decide anything about anybody. In the European Union the AI Act bans emotion
    recognition at work and in education, other than for medical or safety reasons.</p>
  </section>
  <section>
    <h2>Your pictures and your voice</h2>
    <p>What Live sees and hears goes to this server, is answered from its memory, and is never saved. A file that you
    add in another tab is deleted from the server within minutes. Nothing is logged, and nothing is sent anywhere
    else.</p>
  </section>
</div>"""
