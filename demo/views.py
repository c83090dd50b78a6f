"""A result as HTML: the colours and faces of the emotions, bars, verdict, the photo with its faces boxed, the
spectrogram with its speech marked, and words. Pictures are embedded: no file of them is written."""

import base64
import html
import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from explain_emoclip import explain_face, explain_voice
from media_emoclip import InputError, crop_face, load_audio, load_image
from pipeline_emoclip import Emotion, EmotionRecognitionPipeline, EmotionResult, OtherFace, WordsResult
from processing_emoclip import EmoCLIPFeatureExtractor

SHOWN_SIDE = 1024  # pixels of the longer side of the photo in the answer
AGREEMENT_SHOWN = 2.0  # |agreement| at the ends of the scale
LITTLE_EVIDENCE = 0.1  # |agreement| below which face and voice neither agree nor conflict
FACES_SHOWN, FACE_CARD_SIDE = 12, 160  # side by side at most; pixels
SPECTROGRAM_COLUMNS = 900
# Silence to loud, as RGB: dark to bright, so that it can be read without its colours.
HEAT = [(13, 12, 29), (54, 20, 103), (124, 35, 119), (200, 62, 92), (246, 129, 61), (252, 231, 145)]

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


def scroll_to(element: str) -> str:
    """JavaScript that shows an answer where it lies below what it answers, as on a phone."""
    return f"() => innerWidth < 768 && document.getElementById('{element}').scrollIntoView({{behavior: 'smooth'}})"


# --------------------------------------------------------------------------------------------------------------------
# Photo and voice


def photo_answer(image: str | None, audio: str | None, result: EmotionResult) -> str:
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
  {_spectrogram(audio, result)}
</div>"""


def ink(colour: str) -> str:
    """Of letters on a colour, "#rrggbb" both: dark, or light where it is too dark for them (relative luminance by
    ITU-R BT.709)."""
    red, green, blue = ((value / 255) ** 2.2 for value in bytes.fromhex(colour.removeprefix("#")))
    return "#0d0d12" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#ffffff"


def percent(score: float) -> str:
    return f"{score:.0%}".replace("%", " %")


def glyph(label: str) -> str:
    return (
        f'<svg class="glyph" viewBox="0 0 48 48" aria-hidden="true"><circle cx="24" cy="24" r="23" '
        f'fill="{COLOURS[label]}"/>{GLYPHS[label]}</svg>'
    )


def wording(result: EmotionResult) -> tuple[str, str]:
    """A headline and a line: what the person looks and sounds like."""
    if result.fused is None:
        return "Nothing to go by", ""
    label = result.fused.label
    score = percent(result.fused.scores[label])
    if result.agreement is not None:
        return _agreement_words(result), f"Together most like {label}, {score}."
    return (
        f"{'Looks' if result.face else 'Sounds'} {adjective(label)}",
        f"{'The face' if result.face else 'The voice'} alone, {score}.",
    )


def verdict(result: EmotionResult) -> str:
    """The headline as a card, with the agreement's scale where there is one."""
    headline, line = wording(result)
    if result.fused is None:
        return f'<div class="verdict empty"><h2 class="headline">{headline}</h2></div>'
    label = result.fused.label
    glyphs = glyph(result.face.label) + glyph(result.voice.label) if result.conflict else glyph(label)
    meter = "" if result.agreement is None else _agreement_meter(result.agreement)
    return (
        f'<div class="verdict" style="--colour:{COLOURS[label]}"><div class="glyphs">{glyphs}</div>'
        f'<div class="words"><h2 class="headline">{headline}</h2><p class="line">{line}</p></div>{meter}</div>'
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
    number = _signed(agreement)
    return (
        f'<div class="meter"><div class="scale" aria-hidden="true"><i style="left:{position:.1f}%"></i></div>'
        f'<div class="ends"><span>conflict</span><span class="value">agreement {number}</span>'
        "<span>accord</span></div></div>"
    )


def messages(messages: list[str]) -> str:
    items = "".join(f"<li>{html.escape(message)}</li>" for message in messages)
    return f'<ul class="messages">{items}</ul>' if items else ""


def _photo(source: str | None, result: EmotionResult) -> str:
    """The upright photo with its faces boxed; several faces also side by side."""
    if source is None:
        return ""
    try:
        image = load_image(source)[0]
    except InputError:
        return ""
    width, height = image.size
    faces = [] if result.face is None else [result.face, *result.face.others]
    boxes = "".join(_box(face, width, height, main=i == 0) for i, face in enumerate(faces))
    caption = "No face found"
    if faces:
        caption = f"{DETECTORS[result.face.detector]} found "
        caption += "one face" if len(faces) == 1 else f"{len(faces)} faces; the largest counts"
    gallery = "".join(_face_card(image, face) for face in faces[:FACES_SHOWN]) if len(faces) > 1 else ""
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return (
        f'<figure><div class="frame"><img src="{_embedded(image)}" '
        f'alt="The photo, with a box around each face">{boxes}</div><figcaption>{caption}</figcaption></figure>'
        + (f'<ul class="faces" aria-label="The faces, largest first">{gallery}</ul>' if gallery else "")
    )


def _embedded(image: Image.Image) -> str:
    """A picture as the address of an <img>."""
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"


def _face_card(image: Image.Image, face: Emotion | OtherFace) -> str:
    """One of several faces: its picture, and its three likeliest emotions."""
    x, y, width, height = face.box
    crop = image.crop((x, y, x + width, y + height)).resize((FACE_CARD_SIDE, FACE_CARD_SIDE))
    top = sorted(face.scores.items(), key=lambda item: -item[1])[:3]
    rows = "".join(_row(label, score, top=label == face.label) for label, score in top)
    return (
        f'<li style="--colour:{COLOURS[face.label]}"><img src="{_embedded(crop)}" alt="">'
        f'<div class="bars"><ul>{rows}</ul></div></li>'
    )


def _box(face: Emotion, width: int, height: int, main: bool) -> str:
    x, y, box_width, box_height = face.box
    tag = f"{face.label} {percent(face.scores[face.label])}"
    # The tag stands above the box, from its left edge on, unless it would leave the picture there.
    at_top, at_bottom = y < 0.1 * height, y + box_height > 0.9 * height
    vertical = ("inside" if at_bottom else "below") if at_top else ""
    classes = f"box {'main' if main else ''} {vertical} {'right' if x + box_width / 2 > width / 2 else ''}"
    return (
        f'<div class="{classes}" style="--colour:{COLOURS[face.label]};--ink:{ink(COLOURS[face.label])};'
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
    rows = "".join(_row(label, score, top=label == emotion.label) for label, score in emotion.scores.items())
    return f'<section class="bars" aria-label="{title}">{heading}<ul>{rows}</ul></section>'


def _row(label: str, score: float | None, top: bool) -> str:
    return (
        f'<li class="{"top" if top else ""}" data-label="{label}" style="--colour:{COLOURS[label]}">'
        f'<span class="name">{label}</span> <span class="score">{NOT_TAUGHT if score is None else percent(score)}'
        f'</span><span class="track" aria-hidden="true"><i style="width:{100 * (score or 0):.1f}%"></i></span></li>'
    )


def _spectrogram(source: str | None, result: EmotionResult) -> str:
    """The recording as the voice's tower sees it, a mel spectrogram, with its speech marked."""
    if source is None:
        return ""
    extractor = EmoCLIPFeatureExtractor()
    try:
        samples = load_audio(source, extractor.sampling_rate)[0]
    except InputError:
        return ""
    seconds = len(samples) / extractor.sampling_rate
    mel = extractor.spectrogram(torch.from_numpy(samples)[None])  # (1, 1, bands, frames)
    mel = torch.nn.functional.adaptive_avg_pool2d(mel, (mel.shape[2], min(mel.shape[3], SPECTROGRAM_COLUMNS)))[0, 0]
    levels = np.flipud(mel.numpy())  # low tones below
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(levels, stops, channel) for channel in np.transpose(HEAT)], axis=-1)
    segments = [] if result.voice is None else result.voice.segments
    marks = "".join(
        f'<i style="left:{100 * start / seconds:.2f}%;width:{100 * (min(end, seconds) - start) / seconds:.2f}%"></i>'
        for start, end in segments
    )
    ticks = "".join(f"<span>{clock(seconds * part / 4)}</span>" for part in range(5))
    speech = f"{sum(end - start for start, end in segments):.1f} s of speech, underlined" if segments else "no speech"
    return (
        f'<figure class="spectrogram"><img src="{_embedded(Image.fromarray(colours.astype(np.uint8)))}" '
        f'alt="Mel spectrogram of the recording, {seconds:.1f} seconds: {speech}"><div class="speech">{marks}</div>'
        f'<div class="ticks" aria-hidden="true">{ticks}</div><figcaption>The sound as the network sees it: low tones '
        f"below, loud ones bright; {speech}</figcaption></figure>"
    )


def clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# --------------------------------------------------------------------------------------------------------------------
# Live


def live_view() -> str:
    """The tab Live before anything was seen or heard; live.js fills it."""
    empty = Emotion("", dict.fromkeys(COLOURS, 0.0))
    cards = "".join(bars(title, empty, "", "") for title in ("Face", "Voice", "Together"))
    glyphs = "".join(
        f'<template data-glyph="{label}" data-ink="{ink(colour)}">{glyph(label)}</template>'
        for label, colour in COLOURS.items()
    )
    return f"""
<div class="live" data-state="off">
  {glyphs}
  <div class="stage">
    <div class="picture">
      <video muted playsinline aria-label="Your webcam"></video>
      <div class="box main" hidden><span></span></div>
      <div class="cover"><div class="sample">{glyph("happy")}</div>
        <p class="status" role="status">Let the camera see you and the microphone hear you: the answer follows as you
        move and speak.</p></div>
      <div class="rate" aria-hidden="true"></div>
    </div>
    <div class="controls">
      <button type="button" class="toggle">Start</button>
      <div class="hearing"><span class="heard">microphone off</span>
        <div class="level" aria-hidden="true"><i></i></div></div>
    </div>
    <p class="promise">Pictures and sound are answered from memory: nothing is saved, and nobody sees them.</p>
  </div>
  <div class="answer">
    <div class="verdict" style="--colour:#8F8F99"><div class="glyphs">{glyph("neutral")}</div>
      <div class="words"><h2 class="headline">Ready when you are</h2><p class="line">Press Start.</p></div>
      {_agreement_meter(0.0)}</div>
    <div class="sources">{cards}</div>
    <ul class="messages" aria-live="polite"></ul>
  </div>
  <figure class="timeline"><canvas role="img" aria-label="Timeline, empty"></canvas>
    <figcaption>The last 60 seconds: how likely each emotion was, in the face and in the voice</figcaption></figure>
  <p class="sr-only" aria-live="polite"></p>
</div>"""


# --------------------------------------------------------------------------------------------------------------------
# Words


def words_answer(result: WordsResult, held_out: str) -> str:
    """What the page shows for words. `held_out` says how much words are worth that were not in training."""
    sources = [name for name in ("face", "voice") if result.words and getattr(result.words[0], name) is not None]
    if not sources:
        return f'<div class="answer">{messages(result.messages)}</div>'
    rows = "".join(_word_row(word, result, sources) for word in result.words)
    scales = "".join(_word_scale(name, result) for name in sources)
    new = any(not word.trained for word in result.words)
    note = f'<p class="note"><b>new</b>: not among the words it was trained on. {held_out}</p>' if new else ""
    return f"""
<div class="answer">
  {messages(result.messages)}
  <ul class="wordlist" aria-label="How close each word is">{rows}</ul>
  {note}
  <div class="sources">{scales}</div>
</div>"""


def held_out_note(results: dict[str, Any]) -> str:
    """What an evaluation found words to be worth that were not in training; empty where it did not look."""
    words = results.get("words", {})
    found = [
        f"{name}s {100 * words[f'{name}_held_out']['accuracy']:.0f} %"
        for name in ("face", "voice")
        if f"{name}_held_out" in words
    ]
    return f"In the test such words named the right emotion for {' and '.join(found)} of the time." if found else ""


def _word_row(word: Any, result: WordsResult, sources: list[str]) -> str:
    mark = "" if word.trained else '<abbr class="new" title="Not among the words it was trained on">new</abbr>'
    tracks = ""
    for name in sources:
        cosine = getattr(word, name)
        position = _closeness(cosine, name, result)
        tracks += (
            f'<div class="close"><span>{name}</span>'
            f'<span class="track" aria-hidden="true"><i style="width:{position:.0f}%"></i></span>'
            f'<span class="score">{_signed(cosine)}</span></div>'
        )
    return f'<li><p class="word">{html.escape(word.word)}{mark}</p>{tracks}</li>'


def _closeness(cosine: float, name: str, result: WordsResult) -> float:
    """Where a cosine lies between those of the farthest and of the closest emotion's words, 0 to 100."""
    known = [getattr(emotion, name) for emotion in result.emotions]
    return 100 * min(1.0, max(0.0, (cosine - min(known)) / max(max(known) - min(known), 1e-6)))


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")  # never −0.00


def _word_scale(name: str, result: WordsResult) -> str:
    """For scale: how close the words of each emotion are, all together."""
    rows = "".join(
        f'<li style="--colour:{COLOURS[emotion.word]}"><span class="name">{emotion.word}</span> '
        f'<span class="score">{_signed(getattr(emotion, name))}</span><span class="track" aria-hidden="true">'
        f'<i style="width:{_closeness(getattr(emotion, name), name, result):.0f}%"></i></span></li>'
        for emotion in sorted(result.emotions, key=lambda emotion: -getattr(emotion, name))
    )
    title = f"The {name} and the emotions"
    return f'<section class="bars" aria-label="{title}"><h3>{title}<small>cosine</small></h3><ul>{rows}</ul></section>'


# --------------------------------------------------------------------------------------------------------------------
# What stands still


HEADER = f"""
<div class="hero">
  <div class="parade" aria-hidden="true">{"".join(glyph(label) for label in COLOURS)}</div>
  <h1>EmoCLIP</h1>
  <p>What does this person look <em>and</em> sound like?</p>
</div>"""

EMPTY = """
<div class="answer"><div class="verdict empty"><div class="words">
  <h2 class="headline">The answer appears here</h2>
  <p class="line">Add a photo or a recording and press Analyze, or pick an example.</p>
</div></div></div>"""

NO_WORDS = """
<div class="answer"><div class="verdict empty"><div class="words">
  <h2 class="headline">How close is a word?</h2>
  <p class="line">Write a few, add a photo or a recording and press Compare, or pick an example.</p>
</div></div></div>"""


# --------------------------------------------------------------------------------------------------------------------
# Why

WHY_SIDE = 320  # pixels of the face
WHY_WIDTH, WHY_HEIGHT = 560, 320  # pixels of the spectrogram
WHY_ALPHA = 0.85  # of the colour where it is strongest


def why_view(pipe: EmotionRecognitionPipeline, image: str | None, audio: str | None, result: EmotionResult) -> str:
    """What in the face and in the spectrogram spoke for the answer, as HTML; empty where there was no answer."""
    cards = ""
    if image is not None and result.face is not None:
        label = result.face.label
        cards += _why_card(
            why_face(pipe, image, result), label, f"What in the face spoke for <b>{label}</b>", "The largest face"
        )
    if audio is not None and result.voice is not None:
        label = result.voice.label
        address, start, end = why_voice(pipe, audio, label)
        title = f"What in the voice spoke for <b>{label}</b>"
        cards += (
            f'<p class="note">{NO_VOICE_MAP}</p>'
            if address is None
            else _why_card(
                address, label, title, f"The sound from {clock(start)} to {clock(end)}, low tones below", "wide"
            )
        )
    if not cards:
        return ""
    return f'<div class="answer"><div class="why">{cards}</div><p class="note">{WHY_NOTE}</p></div>'


def why_face(pipe: EmotionRecognitionPipeline, image: str, result: EmotionResult) -> str:
    """The largest face in grey, with what spoke for its label in the label's colour: the address of an <img>."""
    photo = load_image(image)[0]
    pixels = np.asarray(photo)
    x, y, width, height = pipe.face_detector(pixels)[0]
    values = explain_face(pipe, crop_face(pixels, (x, y, width, height)), result.face.label)
    face = photo.crop((round(x), round(y), round(x + width), round(y + height))).convert("L")
    return _why_picture(face, values, result.face.label, (WHY_SIDE, WHY_SIDE))


def why_voice(pipe: EmotionRecognitionPipeline, audio: str, label: str) -> tuple[str | None, float, float]:
    """The window of a recording that speaks most for a label, as `why_face` draws it, and its start and end in
    seconds. None for the picture where the audio tower reads waveforms."""
    prepared = pipe.preprocess({"audio": audio})
    column = pipe.model.config.label2id[label]
    with torch.no_grad():
        best = int(pipe.voice_log_probs(prepared["voices"].to(pipe.device))[:, column].argmax())
    voice, start = prepared["voices"][best : best + 1], prepared["items"][0].windows[best]
    extractor = pipe.processor.feature_extractor
    values = explain_voice(pipe, voice, label)
    if values is None:
        return None, start, start + extractor.chunk_length_s
    levels = voice[0, 0].numpy() * extractor.std + extractor.mean
    picture = Image.fromarray((np.flipud(levels) * 255).clip(0, 255).astype(np.uint8))
    address = _why_picture(picture, np.flipud(values), label, (WHY_WIDTH, WHY_HEIGHT))
    return address, start, start + extractor.chunk_length_s


def _why_picture(grey: Image.Image, values: np.ndarray, label: str, size: tuple[int, int]) -> str:
    """A grey picture, coloured where `values` (H, W) are above 0."""
    ground = np.asarray(grey.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None] * 0.75  # (h, w, 1)
    strength = np.clip(values / max(np.quantile(values, 0.99), 1e-9), 0, 1)
    alpha = np.asarray(Image.fromarray(np.float32(strength)).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    alpha = WHY_ALPHA * alpha[..., None] ** 0.8
    colour = np.array(list(bytes.fromhex(COLOURS[label][1:])), np.float32)
    return _embedded(Image.fromarray((ground * (1 - alpha) + colour * alpha).astype(np.uint8)))


def _why_card(address: str, label: str, title: str, alt: str, shape: str = "") -> str:
    return (
        f'<figure class="{shape}" style="--colour:{COLOURS[label]}"><figcaption>{title}</figcaption>'
        f'<img src="{address}" alt="{alt}, coloured where it spoke for {label}"><small>{alt}</small></figure>'
    )


WHY_NOTE = (
    "Coloured: what raised the probability of that answer, by integrated gradients (Sundararajan et al., 2017). "
    "It shows what the network used, not what the person felt."
)
NO_VOICE_MAP = "Of the voice there is no such picture: this model reads the waveform itself."
