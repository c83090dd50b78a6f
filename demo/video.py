"""The tab Video: a video uploaded or recorded, and what its people look and sound like, second by second."""

import base64
import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr
import numpy as np

from demo.annotate import annotate_video
from demo.uploads import MAX_UPLOAD, one_click, uploaded
from demo.views import COLOURS, adjective, bars, clock, glyph, messages, percent, scroll_to, verdict
from media_emoclip import InputError
from pipeline_emoclip import EmotionRecognitionPipeline
from results_emoclip import Emotion
from video_emoclip import MAX_VIDEO_SECONDS, VideoResult, analyze_video

EXAMPLE = str(Path(__file__).parents[1] / "examples" / "talking-portrait.mp4")
PROGRESS_SECONDS = 0.3  # between two looks at how far it is
ANALYSIS_SHARE = 0.5  # of the whole time; the rest draws the annotated video
TIMELINE_COLUMNS = 300
HIDDEN = gr.update(value=None, visible=False)  # the player, where there is nothing to play
LIMITS = f"Up to {MAX_VIDEO_SECONDS / 60:.0f} minutes and {MAX_UPLOAD.removesuffix('mb')} MB. "
LIMITS += "It is deleted from the server within minutes."


class EmotionJSON(TypedDict):
    label: str
    scores: dict[str, float | None]


class FaceSampleJSON(EmotionJSON):
    time: float
    box: list[float]


class PersonJSON(EmotionJSON):
    id: int
    track: list[FaceSampleJSON]


class TimelinePointJSON(TypedDict):
    time: float
    face: EmotionJSON | None
    voice: EmotionJSON | None
    fused: EmotionJSON | None
    agreement: float | None


class ConflictMomentJSON(TypedDict):
    start: float
    end: float
    face: str
    voice: str
    agreement: float


class VideoJSON(TypedDict):
    seconds: float
    width: int | None
    height: int | None
    detector: str | None
    face: EmotionJSON | None
    voice: EmotionJSON | None
    fused: EmotionJSON | None
    agreement: float | None
    moments: list[ConflictMomentJSON]
    people: list[PersonJSON]
    segments: list[list[float]]
    timeline: list[TimelinePointJSON]
    messages: list[str]


def video_tab(pipe: EmotionRecognitionPipeline) -> None:
    """The tab's layout and handlers, and the endpoint /analyze_video."""

    def watch(path: str | None) -> Iterator[tuple[str, Any, str]]:
        yield from _watch(pipe, path)

    def analyze_video(video: gr.FileData) -> VideoJSON:
        """Recognise the emotions that people in a video express with face and voice, second by second, of angry,
        disgust, fear, happy, neutral, sad and surprise. It recognises acted expressions; it does not know what a
        person feels. A video may last up to 10 minutes; where picture or sound is missing, the other is answered
        alone.

        Args:
            video: MP4, MOV, WebM, MKV or AVI: an uploaded file, or a base64 data: URL.

        Returns:
            A dict with "face", "voice" and "fused" (both together) of the whole video, each null or {"label",
            "scores"}, and "agreement": above 0 where face and voice agree, below 0 where they conflict. "timeline"
            has the same for every 0.2 s, of the main person's face and of whatever was said. "moments" are stretches
            where they conflict: {"start", "end", "face", "voice", "agreement"}. "people" are followed by overlap
            alone, the main one first: {"id", "label", "scores", "track"}, the track having the "time", "box" ([x, y,
            width, height] in pixels) and scores of each look at the face. "segments" are the [start, end] of speech,
            in seconds. "messages" are sentences about what could not be used, and why.
        """
        try:
            file = uploaded(video)
            if file is None:
                raise InputError("No video was given: upload one.")
            return pipe(video=file).to_dict()
        except InputError as error:
            return VideoResult(0.0, messages=error.sentences).to_dict()

    above = gr.HTML(EMPTY, elem_id="video-answer", padding=False, render=False)
    player = gr.Video(
        visible=False,
        label="The video, annotated",
        show_label=False,
        elem_id="video-player",
        interactive=False,
        render=False,
    )
    below = gr.HTML("", js_on_load=SEEK, elem_id="video-details", padding=False, render=False)
    with gr.Row():
        with gr.Column(scale=4, min_width=320, elem_classes="inputs"):
            video = gr.Video(
                label="Video of people who speak",
                sources=["upload", "webcam"],
                include_audio=True,
                buttons=[],
                elem_id="video",
            )
            with gr.Row():
                start = gr.Button("Analyze video", variant="primary", size="lg")
                cancel = gr.Button("Cancel", size="lg", interactive=False)
            gr.HTML(f'<p class="limits">{LIMITS}</p>', padding=False)
            example = one_click({"Astronaut under a reading": [EXAMPLE]}, [video])
        with gr.Column(scale=6, min_width=320):
            above.render()
            player.render()
            below.render()
    outputs = [above, player, below]
    runs = []
    for begin in (start.click, example.then):
        begun = begin(
            lambda: (WAITING, HIDDEN, "", gr.update(interactive=True)),
            None,
            [*outputs, cancel],
            api_visibility="private",
            queue=False,
        )
        begun.then(None, js=scroll_to("video-answer"))
        run = begun.then(
            watch, video, outputs, concurrency_id="video", show_progress="hidden", api_visibility="private"
        )
        run.then(lambda: gr.update(interactive=False), None, cancel, api_visibility="private", queue=False)
        runs.append(run)
    # What it shows comes after: an answer under way when it was cancelled would be written over it.
    cancel.click(None, None, None, cancels=runs, api_visibility="private").then(
        lambda: (CANCELLED, HIDDEN, "", gr.update(interactive=False)),
        None,
        [*outputs, cancel],
        api_visibility="private",
        queue=False,
    )
    player.change(None, js=KEEP_PLAYING)
    # Programs have a queue of their own: one of them may send many videos, a visitor of the page sends one at a time.
    gr.api(analyze_video, api_name="analyze_video", concurrency_id="video-api", concurrency_limit=1)


def _watch(pipe: EmotionRecognitionPipeline, path: str | None) -> Iterator[tuple[str, Any, str]]:
    """What the page shows while a video is watched, and at last of it: above the player, in it, and below it.

    Wherever it is stopped, the files are closed and the annotated video is deleted; Gradio deletes its own copy.
    """
    if path is None:
        yield _sentences(["No video was given: upload or record one."]), HIDDEN, ""
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = _hold(path, folder)
            steps = analyze_video(pipe, path)
            result = yield from _progress(steps, "Watching and listening", started, 0.0, ANALYSIS_SHARE)
            if result.people:
                annotated = Path(folder) / "annotated.mp4"
                steps = annotate_video(path, result, annotated, COLOURS)
                yield from _progress(steps, "Drawing what was seen", started, ANALYSIS_SHARE, 1.0)
        except InputError as error:
            yield _sentences(error.sentences), HIDDEN, ""
            return
        shown = gr.update(value=str(annotated), visible=True) if result.people else HIDDEN
        yield _above(result), shown, _below(result)


def _hold(path: str, folder: str) -> str:
    """Another name for an upload, which Gradio may delete while it is still watched."""
    held = str(Path(folder) / "upload")
    try:
        os.link(path, held)
    except FileNotFoundError:
        raise InputError("The video had to wait for so long that it was deleted: upload it again.") from None
    except OSError:  # another file system
        shutil.copyfile(path, held)
    return held


def _progress(
    steps: Generator[float, None, Any], doing: str, started: float, begin: float, end: float
) -> Generator[tuple[str, Any, str], None, Any]:
    """Run the steps that take the work from `begin` to `end`, of 1, and return what they return."""
    looked = -PROGRESS_SECONDS
    try:
        while True:
            fraction = begin + (end - begin) * next(steps)
            now = time.monotonic()
            if now - looked >= PROGRESS_SECONDS:
                looked = now
                spent = now - started
                left = f"{_duration(spent / fraction - spent)} left" if fraction > 0.03 and spent > 1 else ""
                yield _bar(doing, fraction, left), gr.skip(), gr.skip()
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} min"


# --------------------------------------------------------------------------------------------------------------------
# Views


def _bar(doing: str, fraction: float, left: str) -> str:
    return (
        '<div class="answer"><div class="verdict empty progress"><div class="words">'
        f'<h2 class="headline">{doing}</h2><div class="track" role="progressbar" aria-label="{doing}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * fraction:.0f}">'
        f'<i style="width:{100 * fraction:.1f}%"></i></div>'
        f'<p class="line">{percent(fraction)}<span>{left}</span></p></div></div></div>'
    )


def _sentences(sentences: list[str]) -> str:
    return f'<div class="answer">{messages(sentences)}</div>'


def _above(result: VideoResult) -> str:
    return f'<div class="answer">{verdict(result)}{messages(result.messages)}</div>'


def _below(result: VideoResult) -> str:
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


def _timeline(result: VideoResult) -> str:
    """Stacked posteriors over time of face, voice and both; a click seeks the player, and conflicts are marked."""
    rows = "".join(
        f'<span class="source">{title}</span>'
        f'<svg viewBox="0 0 {TIMELINE_COLUMNS} 100" preserveAspectRatio="none" role="img" aria-label="{title} over '
        f'time: {_in_words(result, name)}">{_areas(result, name)}</svg>'
        for title, name in (("Face", "face"), ("Voice", "voice"), ("Together", "fused"))
    )
    length = max(result.seconds, 0.1)
    marks = "".join(
        f'<i class="moment" style="left:{100 * moment.start / length:.2f}%;'
        f'width:{100 * (moment.end - moment.start) / length:.2f}%"></i>'
        for moment in result.moments
    )
    ticks = "".join(f"<span>{clock(length * part / 4)}</span>" for part in range(5))
    legend = "".join(f"<li>{glyph(label)}{label}</li>" for label in COLOURS)
    return (
        f'<figure class="strip" data-seconds="{length:.3f}"><div class="rows">{rows}'
        f'<div class="over" aria-hidden="true">{marks}<i class="playhead"></i></div></div>'
        f'<div class="ticks" aria-hidden="true">{ticks}</div><ul class="legend">{legend}</ul>'
        "<figcaption>How likely each emotion was, from second to second. Framed: face and voice conflict. "
        "Click to go there.</figcaption></figure>"
    )


def _areas(result: VideoResult, name: str) -> str:
    """The posterior over time as areas on top of each other, (0, 0) to (TIMELINE_COLUMNS, 100)."""
    emotions: list[Emotion | None] = [getattr(point, name) for point in result.timeline]
    labels = list(COLOURS)
    scores = np.array(
        [[np.nan if emotion is None else emotion.scores[label] or 0.0 for label in labels] for emotion in emotions]
    )  # (T, C)
    bins = np.array_split(np.arange(len(scores)), min(len(scores), TIMELINE_COLUMNS))
    scores = np.stack([scores[part].mean(0) for part in bins])
    edges = np.linspace(0, TIMELINE_COLUMNS, len(scores) + 1)
    heights = np.concatenate([np.zeros((len(scores), 1)), scores.cumsum(1)], axis=1) * 100  # (columns, C + 1)
    areas = []
    for first, last in _runs(~np.isnan(scores[:, 0])):
        x = [edges[first], *((edges[first : last + 1] + edges[first + 1 : last + 2]) / 2), edges[last + 1]]
        for i, label in enumerate(labels):
            low, high = (100 - heights[first : last + 1, j] for j in (i, i + 1))
            upper = [f"{a:.1f},{b:.1f}" for a, b in zip(x, [high[0], *high, high[-1]])]
            lower = [f"{a:.1f},{b:.1f}" for a, b in zip(x, [low[0], *low, low[-1]])]
            areas.append(f'<polygon fill="{COLOURS[label]}" points="{" ".join([*upper, *lower[::-1]])}"/>')
    return "".join(areas)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """The first and last index of every run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(int(first), int(end) - 1) for first, end in changes.reshape(-1, 2)]


def _in_words(result: VideoResult, name: str) -> str:
    """The labels of a source one after the other, for who cannot see them."""
    said: list[str] = []
    for point in result.timeline:
        emotion = getattr(point, name)
        label = "nothing" if emotion is None else emotion.label
        if not said or said[-1].split(" from ")[0] != label:
            said.append(f"{label} from {clock(point.time)}")
    return ", ".join(said[:20]) + (" and so on" if len(said) > 20 else "")


def _moments(result: VideoResult) -> str:
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


def _people(result: VideoResult) -> str:
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


EMPTY = """
<div class="answer"><div class="verdict empty"><div class="words">
  <h2 class="headline">The timeline appears here</h2>
  <p class="line">Upload or record a video and press Analyze video.</p>
</div></div></div>"""
WAITING = """
<div class="answer"><div class="verdict empty"><div class="words">
  <h2 class="headline">Waiting for its turn …</h2>
  <p class="line">One video is watched at a time: this one is next, or waits for those before it.</p>
</div></div></div>"""
CANCELLED = _sentences(["Cancelled. The video was not watched to its end."])

# A click on a moment, or anywhere on the timeline, seeks the player; the playhead follows it.
SEEK = """
const player = () => document.querySelector("#video-player video");
element.addEventListener("click", (event) => {
  const video = player(), button = event.target.closest("[data-time]"), rows = event.target.closest(".rows svg");
  if (!video || !(button || rows)) return;
  const strip = element.querySelector(".strip"), over = strip.querySelector(".over").getBoundingClientRect();
  video.currentTime = button ? button.dataset.time
    : Math.max(0, event.clientX - over.left) / over.width * strip.dataset.seconds;
  if (button) video.play();
});
document.addEventListener("timeupdate", (event) => {
  const strip = element.querySelector(".strip");
  if (strip && event.target === player())
    strip.querySelector(".playhead").style.left = 100 * event.target.currentTime / strip.dataset.seconds + "%";
}, true);
"""
# The server deletes its file within minutes, and a visitor may look for longer: the browser keeps all of it.
KEEP_PLAYING = """async () => {
  const video = document.querySelector("#video-player video");
  if (!video?.src.startsWith("http")) return;
  const kept = await (await fetch(video.src)).blob();
  if (video.isConnected) video.src = URL.createObjectURL(kept);
}"""
