"""The tab Video: a video uploaded or recorded, and what its people look and sound like, second by second; and the
endpoint /analyze_video."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import gradio as gr

from demo.checkpoint import Checkpoint
from demo.emotions import COLOURS, EmotionJSON
from demo.limits import MAX_UPLOAD, MAX_VIDEO_WORK_SECONDS
from demo.page import script, scroll_to
from demo.timeline import above_view, below_view
from demo.turns import VIDEO
from demo.uploads import EXAMPLES, one_click, taken_back, uploaded
from demo.verdict import percent
from demo.views import messages, placeholder
from demo.work import check_video, for_at_most
from files_emoclip import MAX_VIDEO_SECONDS, InputError

if TYPE_CHECKING:
    from recognizer_emoclip import Recognizer
    from video_emoclip import VideoResult

PROGRESS_SECONDS = 0.3  # between two updates of the progress bar
ANALYSIS_SHARE = 0.5  # of the whole time; the rest draws the annotated video
HIDDEN = gr.update(value=None, visible=False)  # the player, where there is nothing to play
EMPTY = placeholder("The timeline appears here", "Upload or record a video and press Recognise.")
WAITING = placeholder(
    "Waiting for its turn …",
    "Two videos are watched at a time, one of each visitor: this one waits for those before it.",
)
CANCELLED = "Cancelled. The video was not watched to its end."
LIMITS = f"Up to {MAX_VIDEO_SECONDS / 60:.0f} minutes and {MAX_UPLOAD.removesuffix('mb')} MB. "
LIMITS += "It is deleted from the server within minutes."

Shown = tuple[str, dict[str, Any], str]  # above the player, an update of the player, below it
T = TypeVar("T")


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


def video_tab(checkpoint: Checkpoint) -> None:
    """The tab's layout, its handlers and its endpoint."""

    def answer(path: str | None) -> Iterator[Shown]:
        yield from watch(checkpoint.recognizer, path)

    above = gr.HTML(EMPTY, elem_id="video-answer", padding=False, render=False)
    player = gr.Video(
        visible=False,
        label="The video, annotated",
        show_label=False,
        elem_id="video-player",
        interactive=False,
        render=False,
    )
    below = gr.HTML("", js_on_load=script("seek.js"), elem_id="video-details", padding=False, render=False)
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
                start = gr.Button("Recognise", variant="primary", size="lg")
                cancel = gr.Button("Cancel", size="lg", interactive=False)
            gr.HTML(f'<p class="limits">{LIMITS}</p>', padding=False)
            example = one_click({"Astronaut under a reading": [str(EXAMPLES / "talking-portrait.mp4")]}, [video])
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
            answer,
            video,
            outputs,
            concurrency_id=VIDEO,
            show_progress="hidden",
            api_visibility="private",
        )
        run.then(lambda: gr.update(interactive=False), None, cancel, api_visibility="private", queue=False)
        runs.append(run)
    # That it was cancelled is shown afterwards: an answer under way at that moment would be written over it.
    cancel.click(None, None, None, cancels=runs, api_visibility="private").then(
        lambda: (_sentences([CANCELLED]), HIDDEN, "", gr.update(interactive=False)),
        None,
        [*outputs, cancel],
        api_visibility="private",
        queue=False,
    )
    taken_back(video, lambda: (EMPTY, HIDDEN, "", gr.update(interactive=False)), [*outputs, cancel], runs)
    player.change(None, js=script("keep_playing.js"))
    gr.api(analyze_video_endpoint(checkpoint), api_name="analyze_video", concurrency_id=VIDEO)


def analyze_video_endpoint(checkpoint: Checkpoint) -> Callable[..., VideoJSON]:
    """What answers /analyze_video."""

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
        recognizer = checkpoint.recognizer
        from video_emoclip import VideoResult, finish

        try:
            file = uploaded(video)
            if file is None:
                raise InputError("No video was given: upload one.")
            return finish(_analysis(recognizer, file)).to_dict()
        except InputError as error:
            return VideoResult(0.0, messages=error.sentences).to_dict()

    return analyze_video


def watch(recognizer: "Recognizer", path: str | None) -> Iterator[Shown]:
    """What the page shows while a video is analysed, and at last its answer.

    Wherever it is stopped, the files are closed and the annotated video is deleted; Gradio deletes its own copy.
    """
    if path is None:
        yield _sentences(["No video was given: upload or record one."]), HIDDEN, ""
        return
    from demo.annotate import annotate_video

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = _hold(path, folder)
            steps = _analysis(recognizer, path)
            result = yield from _progress(steps, "Watching and listening", started, 0.0, ANALYSIS_SHARE)
            if result.people:
                annotated = Path(folder) / "annotated.mp4"
                steps = for_at_most(MAX_VIDEO_WORK_SECONDS, annotate_video(path, result, annotated, COLOURS))
                yield from _progress(steps, "Drawing what was seen", started, ANALYSIS_SHARE, 1.0)
        except InputError as error:
            yield _sentences(error.sentences), HIDDEN, ""
            return
        shown = gr.update(value=str(annotated), visible=True) if result.people else HIDDEN
        yield above_view(result), shown, below_view(result)


def _analysis(recognizer: "Recognizer", source: str | bytes) -> Generator[float, None, "VideoResult"]:
    """The steps of a video's analysis, within what a visitor may cost."""
    from video_emoclip import analyze_video

    check_video(source)
    return for_at_most(MAX_VIDEO_WORK_SECONDS, analyze_video(recognizer, source))


def _hold(path: str, folder: str) -> str:
    """Another name for an upload, which Gradio may delete while it is still read."""
    held = str(Path(folder) / "upload")
    try:
        os.link(path, held)
    except FileNotFoundError:
        raise InputError("The video had to wait for so long that it was deleted: upload it again.") from None
    except OSError:  # another file system
        shutil.copyfile(path, held)
    return held


def _progress(
    steps: Generator[float, None, T], doing: str, started: float, begin: float, end: float
) -> Generator[Shown, None, T]:
    """Run the steps that take the work from the fraction `begin` to `end`, and return what they return."""
    updated = -PROGRESS_SECONDS
    try:
        while True:
            fraction = begin + (end - begin) * next(steps)
            now = time.monotonic()
            if now - updated >= PROGRESS_SECONDS:
                updated = now
                spent = now - started
                left = f"{duration(spent / fraction - spent)} left" if fraction > 0.03 and spent > 1 else ""
                yield _progress_bar(doing, fraction, left), gr.skip(), gr.skip()
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


def duration(seconds: float) -> str:
    """How long something will take, in words."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} min"


def _progress_bar(doing: str, fraction: float, left: str) -> str:
    return (
        '<div class="answer"><div class="verdict empty progress"><div class="words">'
        f'<h2 class="headline">{doing}</h2><div class="track" role="progressbar" aria-label="{doing}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * fraction:.0f}">'
        f'<i style="width:{100 * fraction:.1f}%"></i></div>'
        f'<p class="line">{percent(fraction)}<span>{left}</span></p></div></div></div>'
    )


def _sentences(sentences: list[str]) -> str:
    return f'<div class="answer">{messages(sentences)}</div>'
