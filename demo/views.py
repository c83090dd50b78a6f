"""The pieces of HTML that several tabs show: verdict, agreement, bars, messages; and how numbers are written."""

import base64
import html
import io

from PIL import Image

from demo.emotions import COLOURS, adjective, glyph
from demo.verdict import derived, likeliest, percent, verdict
from results_emoclip import Emotion, FusedResult

AGREEMENT_SHOWN = 2.0  # |agreement| at the ends of the scale
NOT_TAUGHT = '<abbr title="The voice was not taught this emotion">n/a</abbr>'


def signed(value: float) -> str:
    """A number with its sign and two decimals: "+0.42"; never "−0.00"."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def clock(seconds: float) -> str:
    """A point in time: "42.0 s", or "1:02" from a minute on."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def embedded(image: Image.Image) -> str:
    """A picture as the address of an <img>: nothing is written to a file."""
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"


def placeholder(headline: str, line: str) -> str:
    """What stands where the answer will appear."""
    return f"""
<div class="answer"><div class="verdict empty"><div class="words">
  <h2 class="headline">{headline}</h2>
  <p class="line">{line}</p>
</div></div></div>"""


def messages(sentences: list[str]) -> str:
    """A list of sentences for the user; nothing where there are none."""
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="messages">{items}</ul>' if items else ""


def verdict_view(result: FusedResult) -> str:
    """What is said of a result as a card, with the agreement's scale where there is one."""
    said = verdict(result)
    if not said.labels:
        return f'<div class="verdict empty"><h2 class="headline">{said.headline}</h2></div>'
    meter = "" if result.agreement is None else agreement_meter(result.agreement)
    valence, arousal = map(signed, derived(result.fused))
    return (
        f'<div class="verdict" style="--colour:{COLOURS[said.labels[0]]}">'
        f'<div class="glyphs">{"".join(map(glyph, said.labels))}</div><div class="words">'
        f'<h2 class="headline">{said.headline}</h2><p class="line">{said.line(result)}</p></div>{meter}'
        f'<p class="derived expert">valence {valence}, arousal {arousal}, both derived from the seven</p></div>'
    )


def agreement_meter(agreement: float) -> str:
    """A scale from conflict to accord, with a mark on it."""
    position = 50 + 50 * max(-1.0, min(1.0, agreement / AGREEMENT_SHOWN))
    number = signed(agreement)
    return (
        f'<div class="meter expert"><div class="scale" aria-hidden="true"><i style="left:{position:.1f}%"></i></div>'
        f'<div class="ends"><span>conflict</span><span class="value">agreement {number}</span>'
        "<span>accord</span></div></div>"
    )


def bars(title: str, emotion: Emotion | None, note: str, missing: str) -> str:
    """A card with a bar for each emotion, of which those that its verdict would name are marked; where this source is
    missing, the words `missing`."""
    heading = f"<h3>{title}<small>{html.escape(note) if emotion else ''}</small></h3>"
    if emotion is None:
        return f'<section class="bars missing" aria-label="{title}">{heading}<p>{missing}</p></section>'
    top = likeliest(emotion)
    rows = "".join(bar(label, score, top=label in top) for label, score in emotion.scores.items())
    return f'<section class="bars" aria-label="{title}">{heading}<ul>{rows}</ul></section>'


def bar(label: str, score: float | None, top: bool) -> str:
    """One row of such a card."""
    number = NOT_TAUGHT if score is None else percent(score)
    return (
        f'<li class="{"top" if top else ""}" data-label="{label}" style="--colour:{COLOURS[label]}">'
        f'<span class="name">{adjective(label)}</span> <span class="score">{number}</span>'
        f'<span class="track" aria-hidden="true"><i style="width:{100 * (score or 0):.1f}%"></i></span></li>'
    )
