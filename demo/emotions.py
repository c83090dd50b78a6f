"""What stands for an emotion on every page: its colour, drawn face and adjective; and its posterior as JSON."""

from typing import TypedDict

# Okabe and Ito's colours, which the colour-blind can tell apart, and a grey.
COLOURS = {
    "angry": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "happy": "#E69F00",
    "neutral": "#8F8F99",
    "sad": "#0072B2",
    "surprise": "#56B4E9",
}
# Brows, eyes and mouth on a 48 x 48 disc.
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


class EmotionJSON(TypedDict):
    """An `Emotion` as the endpoints answer it."""

    label: str
    scores: dict[str, float | None]
    unsure: bool


def glyph(label: str) -> str:
    """The face drawn for an emotion, as SVG."""
    return (
        f'<svg class="glyph" viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="23" '
        f'fill="{COLOURS[label]}"/>{GLYPHS[label]}</svg>'
    )


def adjective(label: str) -> str:
    """What a person of that emotion is called, which is how the page names every emotion: "afraid" for "fear". The
    data's own names are in the JSON."""
    return {"disgust": "disgusted", "fear": "afraid", "surprise": "surprised"}.get(label, label)


def ink(colour: str) -> str:
    """The colour of letters on a colour, "#rrggbb" both: dark, or light where that would be hard to read (relative
    luminance by ITU-R BT.709)."""
    red, green, blue = ((value / 255) ** 2.2 for value in bytes.fromhex(colour.removeprefix("#")))
    return "#0d0d12" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#ffffff"
