"""The tab Live as HTML, before there is a frame or a sound. static/live.js brings it to life."""

import html

from demo.emotions import COLOURS, adjective, glyph, ink
from demo.page import asset
from demo.views import agreement_meter, bars
from results_emoclip import Emotion

GAME = "Seven prompts in thirty seconds, such as “Look happy, sound angry”"
PROMISE = "Pictures and sound go to this server, are answered from memory, and are never saved."


def live_page(knows_neutral: bool, promise: str) -> str:
    """The tab's content.

    Args:
        knows_neutral: whether the model can answer relative to a person's baseline.
        promise: HTML that says what becomes of pictures and sound.
    """
    neutral = '<button type="button" class="neutral">This is me, neutral</button>' if knows_neutral else ""
    emotions = "".join(
        f'<template data-label="{label}" data-word="{adjective(label)}" data-colour="{colour}" '
        f'data-ink="{ink(colour)}">{glyph(label)}</template>'
        for label, colour in COLOURS.items()
    )
    return f"""
<div class="live" data-state="off" data-preview="loading">
  {emotions}
  <div class="stage">
    <div class="picture">
      <canvas class="wave" role="img" aria-label="The waveform of your voice"></canvas>
      <div class="screen">
        <video class="camera" muted playsinline aria-label="Your webcam"></video>
        <video class="example" muted loop playsinline aria-label="An example: an astronaut’s photo under a reading"
          data-src="{asset("talking-portrait.mp4")}"></video>
        <div class="others"></div>
        <div class="box main" hidden><span></span></div>
      </div>
      <p class="badge">Example</p>
      <div class="cover">
        <p class="status" role="status"></p>
        <button type="button" class="toggle" disabled>Start</button>
        <button type="button" class="no-camera">No camera? Try an example</button>
      </div>
      <ul class="messages" aria-live="polite"></ul>
      <div class="prompt asked" hidden><b role="status"></b><span class="track"><i></i></span><small></small></div>
      <div class="prompt resting" role="status" hidden><b>Rest your face, and talk in your normal voice</b>
        <span class="track"><i></i></span></div>
      <div class="rate expert" aria-hidden="true"></div>
    </div>
    <div class="controls">
      <div class="hearing"><span class="heard">microphone off</span>
        <div class="level" aria-hidden="true"><i></i></div></div>
      <div class="tools">
        {neutral}
        <button type="button" class="play" title="{GAME}">Play 30 s</button>
        <button type="button" class="share">Make a card</button>
        <button type="button" class="minute expert">Download CSV</button>
      </div>
    </div>
    <p class="promise">{promise}</p>
  </div>
  {answer_card("Ready when you are", "Press Start.")}
  <figure class="timeline"><canvas role="img" aria-label="Timeline, empty"></canvas>
    <figcaption>The last 60 seconds: how likely each emotion was, in the face and in the voice</figcaption></figure>
  <p class="sr-only" aria-live="polite"></p>
  <dialog class="summary" aria-label="How you played"><h2></h2><ol></ol>
    <p>Points are how likely the face and the voice were what was asked for. Nothing of it is kept.</p>
    <form method="dialog"><button type="button" class="again">Play again</button><button>Close</button></form></dialog>
  <dialog class="card" aria-label="A card to share">
    <canvas width="1200" height="630" role="img" aria-label="The card: the verdict and the last minute"></canvas>
    <label><input type="checkbox"> With my picture</label>
    <form method="dialog"><button type="button" class="download">Download</button>
      <button type="button" class="share-sheet">Share …</button><button>Close</button></form></dialog>
</div>"""


def answer_card(headline: str, line: str) -> str:
    """A verdict and bars, for static/view.js to fill."""
    empty = Emotion("", dict.fromkeys(COLOURS, 0.0), unsure=False)
    cards = "".join(bars(title, empty, "", "") for title in ("Face", "Voice", "Together"))
    return f"""
  <div class="answer">
    <div class="verdict" style="--colour:{COLOURS["neutral"]}"><div class="glyphs">{glyph("neutral")}</div>
      <div class="words"><h2 class="headline">{headline}</h2><p class="line">{line}</p></div>
      {agreement_meter(0.0)}<p class="derived expert"></p></div>
    <div class="sources">{cards}</div>
  </div>"""


def web_link(address: str | None) -> str:
    """The way to the page that runs in the browser alone, where this demo knows one."""
    if not address:
        return ""
    return (
        f' <a href="{html.escape(address)}" target="_blank" rel="noopener">Rather not? Here nothing leaves your '
        "browser.</a>"
    )
