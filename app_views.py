"""A result as HTML: the colours and faces of the emotions, bars, verdict, and the photo with its faces boxed."""

import base64
import html
import io

from media_emoclip import InputError, load_image
from pipeline_emoclip import Emotion, EmotionResult

SHOWN_SIDE = 1024  # pixels of the longer side of the photo in the answer
AGREEMENT_SHOWN = 2.0  # |agreement| at the ends of the scale
LITTLE_EVIDENCE = 0.1  # |agreement| below which face and voice neither agree nor conflict

# Okabe and Ito's colours, which the colour-blind can tell apart, and a grey; the same for an emotion everywhere.
COLOURS = {
    "angry": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "happy": "#E69F00",
    "neutral": "#8F8F99",
    "sad": "#0072B2",
    "surprise": "#56B4E9",
}
DETECTORS = {"yunet": "YuNet", "haar": "OpenCV’s Haar cascade"}
NOT_TAUGHT = '<abbr title="The voice was not taught this emotion">n/a</abbr>'
# A small face for each emotion: brows, eyes and mouth on a 48 x 48 disc.
EYES = '<path d="M17 20v2M31 20v2"/>'
GLYPHS = {
    "angry": EYES + '<path d="M12 14l8 4M36 14l-8 4M16 35q8-7 16 0"/>',
    "disgust": '<path d="M14 21h6M28 21h6M13 16l7 2M35 16l-7 2M14 34q4-5 8-1t6-1 6-1"/>',
    "fear": EYES + '<path d="M12 16l7-3M36 16l-7-3M15 34q3-4 6 0t6 0 6 0"/>',
    "happy": '<path d="M13 22q4-5 8 0M27 22q4-5 8 0M13 29q11 13 22 0"/>',
    "neutral": EYES + '<path d="M15 33h18"/>',
    "sad": EYES + '<path d="M12 18l7-4M36 18l-7-4M16 36q8-8 16 0"/>',
    "surprise": EYES + '<path d="M12 14q4-4 8 0M28 14q4-4 8 0"/><ellipse cx="24" cy="34" rx="4.5" ry="5.5"/>',
}


def photo_answer(image: str | None, result: EmotionResult) -> str:
    """What the page shows for a photo and a recording."""
    return f"""
<div class="answer">
  {verdict(result)}
  {messages(result.messages)}
  {_photo(image, result)}
  <div class="sources">
    {bars("Face", result.face, "from the photo", "No face to read")}
    {bars("Voice", result.voice, _speech_note(result), "No voice to hear")}
    {bars("Together", result.fused, _fused_note(result), "No answer")}
  </div>
</div>"""


def percent(score: float) -> str:
    return f"{score:.0%}".replace("%", " %")


def glyph(label: str) -> str:
    return (
        f'<svg class="glyph" viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="23" '
        f'fill="{COLOURS[label]}"/>{GLYPHS[label]}</svg>'
    )


def verdict(result: EmotionResult) -> str:
    if result.fused is None:
        return '<div class="verdict empty"><p class="headline">Nothing to go by</p></div>'
    label, score = result.fused.label, result.fused.scores[result.fused.label]
    glyphs, meter = glyph(label), ""
    if result.agreement is None:
        headline = f"{'Looks' if result.face else 'Sounds'} {adjective(label)}"
        line = f"{'The face' if result.face else 'The voice'} alone, {percent(score)}."
    else:
        headline, line = _agreement_words(result), f"Together most like {label}, {percent(score)}."
        meter = _agreement_meter(result.agreement)
        if result.conflict:
            glyphs = glyph(result.face.label) + glyph(result.voice.label)
    return (
        f'<div class="verdict" style="--colour:{COLOURS[label]}"><div class="glyphs">{glyphs}</div>'
        f'<div class="words"><p class="headline">{headline}</p><p class="line">{line}</p></div>{meter}</div>'
    )


def _agreement_words(result: EmotionResult) -> str:
    face, voice, both = (adjective(source.label) for source in (result.face, result.voice, result.fused))
    if result.conflict:
        return f"Looks {face}, sounds {voice}"
    if abs(result.agreement) < LITTLE_EVIDENCE:
        return f"Perhaps {both}: face or voice says little"
    if result.agreement < 0:
        return f"Looks and sounds {face}, though the rest differs"
    return f"Looks and sounds {face}" if face == voice else f"Likely {both}: face and voice fit together"


def adjective(label: str) -> str:
    return {"disgust": "disgusted", "fear": "afraid", "surprise": "surprised"}.get(label, label)


def _agreement_meter(agreement: float) -> str:
    position = 50 + 50 * max(-1.0, min(1.0, agreement / AGREEMENT_SHOWN))
    number = f"{agreement:+.2f}".replace("-", "−")
    return (
        f'<div class="meter"><div class="scale" aria-hidden="true"><i style="left:{position:.1f}%"></i></div>'
        f'<div class="ends"><span>conflict</span><span class="value">agreement {number}</span>'
        "<span>accord</span></div></div>"
    )


def messages(messages: list[str]) -> str:
    items = "".join(f"<li>{html.escape(message)}</li>" for message in messages)
    return f'<ul class="messages">{items}</ul>' if items else ""


def _photo(source: str | None, result: EmotionResult) -> str:
    """The upright photo with its faces boxed, embedded in the page, so that no file of it is written."""
    if source is None:
        return ""
    try:
        image = load_image(source)[0]
    except InputError:
        return ""
    width, height = image.size
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=88)
    faces = [] if result.face is None else [result.face, *result.face.others]
    boxes = "".join(_box(face, width, height, main=i == 0) for i, face in enumerate(faces))
    caption = "No face found"
    if faces:
        caption = f"{DETECTORS[result.face.detector]} found "
        caption += "one face" if len(faces) == 1 else f"{len(faces)} faces; the largest counts"
    return (
        f'<figure><div class="frame"><img src="data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}" '
        f'alt="The photo, with a box around each face">{boxes}</div><figcaption>{caption}</figcaption></figure>'
    )


def _box(face: Emotion, width: int, height: int, main: bool) -> str:
    x, y, box_width, box_height = face.box
    tag = f"{face.label} {percent(face.scores[face.label])}"
    # The tag stands above the box, from its left edge on, unless it would leave the picture there.
    at_top, at_bottom = y < 0.1 * height, y + box_height > 0.9 * height
    vertical = ("inside" if at_bottom else "below") if at_top else ""
    classes = f"box {'main' if main else ''} {vertical} {'right' if x > 0.7 * width else ''}"
    return (
        f'<div class="{classes}" style="--colour:{COLOURS[face.label]};'
        f"left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%;"
        f'width:{100 * box_width / width:.2f}%;height:{100 * box_height / height:.2f}%"><span>{tag}</span></div>'
    )


def _speech_note(result: EmotionResult) -> str:
    if result.voice is None:
        return ""
    seconds = sum(end - start for start, end in result.voice.segments)
    return f"{seconds:.1f} s of speech"


def _fused_note(result: EmotionResult) -> str:
    return "fused" if result.agreement is not None else "face only" if result.face else "voice only"


def bars(title: str, emotion: Emotion | None, note: str, missing: str) -> str:
    """A card with a bar for each emotion, or with a word where this source is missing."""
    heading = f"<h3>{title}<small>{html.escape(note) if emotion else ''}</small></h3>"
    if emotion is None:
        return f'<section class="bars missing" aria-label="{title}">{heading}<p>{missing}</p></section>'
    rows = "".join(
        f'<li class="{"top" if label == emotion.label else ""}" style="--colour:{COLOURS[label]}">'
        f'<span class="name">{label}</span> <span class="score">{NOT_TAUGHT if score is None else percent(score)}'
        f'</span><span class="track" aria-hidden="true"><i style="width:{100 * (score or 0):.1f}%"></i></span></li>'
        for label, score in emotion.scores.items()
    )
    return f'<section class="bars" aria-label="{title}">{heading}<ul>{rows}</ul></section>'


HEADER = f"""
<div class="hero">
  <div class="parade" aria-hidden="true">{"".join(glyph(label) for label in COLOURS)}</div>
  <h1>EmoCLIP</h1>
  <p>What does this person look <em>and</em> sound like? Give a photo, a recording, or both.</p>
</div>"""

EMPTY = """
<div class="answer"><div class="verdict empty"><div class="words">
  <p class="headline">The answer appears here</p>
  <p class="line">Add a photo or a recording and press Analyze, or pick an example.</p>
</div></div></div>"""

ABOUT = """
<div class="about">
  <section>
    <h2>What it is</h2>
    <p>One small network reads faces and voices in the same space: it learnt from the faces of FER-2013 and the actors’
    voices of CREMA-D, and weighs both by how much each says. <i>Agreement</i> is the logarithm of how much likelier
    this face and this voice are together than apart: above 0 they tell the same story.</p>
  </section>
  <section>
    <h2>What it is not</h2>
    <p>It recognises <strong>acted expressions</strong>. It does not know what anybody feels, it is often wrong, and
    more often on people unlike those it learnt from. Do not use it to decide anything about anybody.</p>
  </section>
  <section>
    <h2>Your files</h2>
    <p>Nothing is stored: the file you add is deleted from the server within minutes, nothing is logged, and nothing is
    sent anywhere else.</p>
  </section>
</div>"""
