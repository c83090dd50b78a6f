"""A video's result as HTML: above the player the verdict, below it the timeline, conflicts, people and downloads."""

import base64
import json
from typing import TYPE_CHECKING

import numpy as np

from demo.emotions import COLOURS, adjective, glyph
from demo.views import bars, clock, messages, verdict_view
from results_emoclip import Emotion

if TYPE_CHECKING:
    from video_emoclip import VideoResult

COLUMNS = 300  # of the timeline


def above_view(result: "VideoResult") -> str:
    """What stands above the player."""
    return f'<div class="answer">{verdict_view(result)}{messages(result.messages)}</div>'


def below_view(result: "VideoResult") -> str:
    """What stands below the player; nothing where there was neither a face nor a voice."""
    if result.fused is None:
        return ""
    speech = sum(end - start for start, end in result.segments)
    main = "the main person" if len(result.people) > 1 else "over the video"
    return f"""
<div class="answer">
  {_timeline(result)}
  {_moments(result)}
  {_people(result)}
  <div class="sources">
    {bars("Face", result.face, main, "No face to read")}
    {bars("Voice", result.voice, f"{speech:.1f} s of speech", "No voice to hear")}
    {bars("Together", result.fused, "fused" if result.agreement is not None else "alone", "No answer")}
  </div>
  <p class="downloads">{_download("CSV", "csv", "text/csv", result.to_csv())}
    {_download("JSON", "json", "application/json", json.dumps(result.to_dict()))}</p>
</div>"""


def _timeline(result: "VideoResult") -> str:
    """The posteriors of face, voice and both over time, stacked. Conflicts are framed; seek.js makes a click seek."""
    rows = "".join(
        f'<span class="source">{title}</span>'
        f'<svg viewBox="0 0 {COLUMNS} 100" preserveAspectRatio="none" role="img" aria-label="{title} over '
        f'time: {in_words(emotions)}">{areas([emotion for _, emotion in emotions])}</svg>'
        for title, emotions in (
            ("Face", [(point.time, point.face) for point in result.timeline]),
            ("Voice", [(point.time, point.voice) for point in result.timeline]),
            ("Together", [(point.time, point.fused) for point in result.timeline]),
        )
    )
    length = max(result.seconds, 0.1)
    marks = "".join(
        f'<i class="moment" style="left:{100 * moment.start / length:.2f}%;'
        f'width:{100 * (moment.end - moment.start) / length:.2f}%"></i>'
        for moment in result.moments
    )
    ticks = "".join(f"<span>{clock(length * part / 4)}</span>" for part in range(5))
    legend = "".join(f"<li>{glyph(label)}{adjective(label)}</li>" for label in COLOURS)
    return (
        f'<figure class="strip" data-seconds="{length:.3f}"><div class="rows">{rows}'
        f'<div class="over" aria-hidden="true">{marks}<i class="playhead"></i></div></div>'
        f'<div class="ticks" aria-hidden="true">{ticks}</div><ul class="legend">{legend}</ul>'
        "<figcaption>How likely each emotion was, from second to second. Framed: face and voice conflict. "
        "Click to go there.</figcaption></figure>"
    )


def areas(emotions: list[Emotion | None]) -> str:
    """Posteriors at equal distances in time as SVG areas stacked on each other, (0, 0) to (COLUMNS, 100)."""
    labels = list(COLOURS)
    scores = np.array(
        [[np.nan if emotion is None else emotion.scores[label] or 0.0 for label in labels] for emotion in emotions]
    )  # (T, C)
    bins = np.array_split(np.arange(len(scores)), min(len(scores), COLUMNS))
    scores = np.stack([scores[part].mean(0) for part in bins])
    edges = np.linspace(0, COLUMNS, len(scores) + 1)
    heights = np.concatenate([np.zeros((len(scores), 1)), scores.cumsum(1)], axis=1) * 100  # (columns, C + 1)
    polygons = []
    for first, last in _runs(~np.isnan(scores[:, 0])):
        x = [edges[first], *((edges[first : last + 1] + edges[first + 1 : last + 2]) / 2), edges[last + 1]]
        for i, label in enumerate(labels):
            low, high = (100 - heights[first : last + 1, j] for j in (i, i + 1))
            upper = [f"{a:.1f},{b:.1f}" for a, b in zip(x, [high[0], *high, high[-1]])]
            lower = [f"{a:.1f},{b:.1f}" for a, b in zip(x, [low[0], *low, low[-1]])]
            polygons.append(f'<polygon fill="{COLOURS[label]}" points="{" ".join([*upper, *lower[::-1]])}"/>')
    return "".join(polygons)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """The first and last index of every run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(int(first), int(end) - 1) for first, end in changes.reshape(-1, 2)]


def in_words(emotions: list[tuple[float, Emotion | None]]) -> str:
    """Each change of the label and when it came, of (seconds, emotion): for those who cannot see the timeline."""
    said: list[str] = []
    for time, emotion in emotions:
        label = "nothing" if emotion is None else adjective(emotion.label)
        if not said or said[-1].split(" from ")[0] != label:
            said.append(f"{label} from {clock(time)}")
    return ", ".join(said[:20]) + (" and so on" if len(said) > 20 else "")


def _moments(result: "VideoResult") -> str:
    if result.agreement is None:
        return ""
    if not result.moments:
        return '<p class="nothing">Nowhere do face and voice conflict for a second or longer.</p>'
    items = "".join(
        f'<li><button type="button" data-time="{moment.start:.2f}"><span class="glyphs">{glyph(moment.face)}'
        f"{glyph(moment.voice)}</span><b>Looks {adjective(moment.face)}, sounds {adjective(moment.voice)}</b>"
        f"<span>{clock(moment.start)} to {clock(moment.end)}</span></button></li>"
        for moment in result.moments
    )
    return f'<section class="moments"><h3>Where face and voice conflict</h3><ol>{items}</ol></section>'


def _people(result: "VideoResult") -> str:
    if len(result.people) < 2:
        return ""
    items = "".join(
        f"<li>{glyph(person.label)}<b>Person {person.id}</b><span>mostly {adjective(person.label)}, in the picture "
        f"from {clock(person.track[0].time)} to {clock(person.track[-1].time)}</span></li>"
        for person in result.people
    )
    return (
        '<section class="people"><h3>Who was seen<small>followed by overlap alone: after a cut, or a second out of '
        f"sight, somebody counts as somebody else</small></h3><ul>{items}</ul></section>"
    )


def _download(name: str, suffix: str, kind: str, text: str) -> str:
    """A link that holds the file itself: nothing of it lies on the server."""
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="emoclip-video.{suffix}" href="data:{kind};base64,{data}">Download {name}</a>'
