"""The demo: webcam and microphone, a photo, a recording, words, and what the person looks and sounds like.

    python app.py
    EMOCLIP_MODEL=<folder or Hub id> python app.py

Every tab has an endpoint that answers programs with the same as JSON, and assistants over MCP (/gradio_api/mcp/):

    from gradio_client import Client, handle_file
    Client("http://127.0.0.1:7860").predict(handle_file("photo.jpg"), handle_file("voice.wav"), api_name="/analyze")
"""

import json
import os
from pathlib import Path
from typing import TypedDict

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ.setdefault("TQDM_POSITION", "-1")  # what is downloaded shows its progress in a Space's log too
if ZERO_GPU := bool(os.environ.get("SPACES_ZERO_GPU")):
    import spaces  # before torch

import gradio as gr
from transformers.utils import cached_file

import hub
from demo.about import ABOUT, charts, figures
from demo.live import PATH, Live, live_tab
from demo.uploads import MAX_UPLOAD, UPLOADS_CHECKED_SECONDS, UPLOADS_KEPT_SECONDS, one_click, uploaded
from demo.video import video_tab
from demo.views import (
    EMPTY,
    HEADER,
    NO_WORDS,
    held_out_note,
    photo_answer,
    scroll_to,
    why_view,
    words_answer,
)
from media_emoclip import MAX_AUDIO_SECONDS, InputError
from pipeline_emoclip import EmotionRecognitionPipeline, EmotionResult, WordsResult

HERE = Path(__file__).parent
MODEL = os.environ.get("EMOCLIP_MODEL", str(HERE / "checkpoints" / "emoclip-small"))
PHOTOS = {name: str(HERE / "examples" / f"{name}.jpg") for name in ("astronaut", "grace-hopper", "two-people")}
MAX_WORDS, MAX_WORD_LENGTH = 12, 60
RECORDINGS = {name: str(HERE / "examples" / f"{name}.flac") for name in ("reading", "reading-short")}


def load_pipeline(model: str) -> EmotionRecognitionPipeline:
    """The pipeline of a checkpoint, a local folder or a Hub id.

    On ZeroGPU it stays on the CPU: it is small, and a GPU would be lent to it, and counted, frame by frame.
    """
    print(f"Loading {model}", flush=True)
    try:
        return hub.load_pipeline(model, device="cpu" if ZERO_GPU else None)
    except hub.HubError as error:
        raise SystemExit(f"EMOCLIP_MODEL: {error}") from None


if ZERO_GPU:
    spaces.GPU(load_pipeline)  # a Space there must have a function that may be lent one


def recognise(image: str | None, audio: str | None) -> EmotionResult:
    """The pipeline's result, with what cannot be read said in its messages."""
    try:
        return pipe(image=image, audio=audio)
    except InputError as error:
        return EmotionResult(messages=error.sentences)


Answered = tuple[str | None, str | None]  # the photo and the recording of an answer


class EmotionJSON(TypedDict):
    label: str
    scores: dict[str, float | None]


class OtherFaceJSON(EmotionJSON):
    box: list[float]


class FaceJSON(OtherFaceJSON):
    detector: str
    others: list[OtherFaceJSON]


class VoiceJSON(EmotionJSON):
    segments: list[list[float]]


class ResultJSON(TypedDict):
    face: FaceJSON | None
    voice: VoiceJSON | None
    fused: EmotionJSON | None
    agreement: float | None
    messages: list[str]


class WordJSON(TypedDict):
    word: str
    trained: bool
    face: float | None
    voice: float | None


class WordsJSON(TypedDict):
    words: list[WordJSON]
    emotions: list[WordJSON]
    messages: list[str]


class FigureJSON(TypedDict):
    name: str
    n: int
    accuracy: float
    spread: float


class LiveJSON(TypedDict):
    socket: str
    places: int
    streaming: int
    waiting: int
    turn_seconds: float


def analyze(image: gr.FileData | None = None, audio: gr.FileData | None = None) -> ResultJSON:
    """Recognise the emotion that a person's face and voice express, of angry, disgust, fear, happy, neutral, sad and
    surprise. It recognises acted expressions; it does not know what a person feels.

    Args:
        image: a photo with faces (JPEG, PNG, WebP, HEIC): an uploaded file, a base64 data: URL, or null.
        audio: up to 10 minutes of speech (WAV, FLAC, OGG, MP3, WebM, MP4): an uploaded file, a data: URL, or null.

    Returns:
        A dict with "face", "voice" and "fused" (both together), each null or {"label", "scores"}, where "scores" maps
        each emotion to its probability; the voice's "surprise" is null, as it was not taught, and so is that of
        "fused" where there is no face. "face" also has "box" ([x, y, width, height] in pixels of the upright photo),
        "detector" and "others", the smaller faces; "voice" also has "segments" ([start, end] of speech, in seconds).
        "agreement", null unless both are there, is above 0 where face and voice agree and below 0 where they
        conflict. "messages" are sentences about what could not be used, and why.
    """
    try:
        return recognise(uploaded(image), uploaded(audio)).to_dict()
    except InputError as error:
        return EmotionResult(messages=error.sentences).to_dict()


def compare_words(
    words: list[str] | str, image: gr.FileData | None = None, audio: gr.FileData | None = None
) -> WordsJSON:
    """Say how close words such as "relieved" or "furious" are to a person's face and voice.

    Args:
        words: 1 to 12 words or short phrases, in English: a list, or one string with commas between them.
        image: a photo with a face, of which the largest counts: an uploaded file, a base64 data: URL, or null.
        audio: a recording of speech: an uploaded file, a base64 data: URL, or null.

    Returns:
        A dict with "words", in the order given, each {"word", "trained", "face", "voice"}: "face" and "voice" are
        cosines of the embeddings, from -1 to 1, null where there is no such source; "trained" is false for words that
        were not in training, of which it may know nothing. "emotions" are the same for each of the seven emotions
        with all its words, for scale. "messages" are sentences about what could not be used, and why.
    """
    try:
        words = words.split(",") if isinstance(words, str) else words
        return closeness(words, uploaded(image), uploaded(audio)).to_dict()
    except InputError as error:
        return WordsResult(messages=error.sentences).to_dict()


def about() -> list[FigureJSON]:
    """How often the model is right: its accuracy on the test splits, each with its name, the number of samples and the
    spread (a standard error where no other was measured)."""
    return figures(RESULTS)


def live_places() -> LiveJSON:
    """Where webcam and microphone are streamed to, and how busy it is: "socket", the path of the WebSocket (what it
    takes and answers stands at the top of demo/live.py), how many may stream at once, how many do, how many wait, and
    after how many seconds a place is given to whoever waits."""
    line = live.line
    return {
        "socket": PATH,
        "places": line.places,
        "streaming": len(line) - line.waiting,
        "waiting": line.waiting,
        "turn_seconds": line.turn_seconds,
    }


def closeness(words: list[str], image: str | None, audio: str | None) -> WordsResult:
    """Words against a photo and a recording, with what cannot be used said in its messages."""
    words = [str(word).strip() for word in words if str(word).strip()]
    if not words:
        return WordsResult(messages=["No words were given: write one or a few, with commas between them."])
    if len(words) > MAX_WORDS or max(map(len, words)) > MAX_WORD_LENGTH:
        limit = f"at most {MAX_WORDS} words or phrases, of up to {MAX_WORD_LENGTH} letters each"
        return WordsResult(messages=[f"That is too much to compare: give {limit}."])
    try:
        return pipe.compare_words(words, image=image, audio=audio)
    except InputError as error:
        return WordsResult(messages=error.sentences)


def answer(image: str | None, audio: str | None) -> tuple[str, dict, str, Answered]:
    """What the page shows for a photo and a recording, as HTML; whether it may be asked why; no reasons yet; and of
    what the answer is."""
    result = recognise(image, audio)
    return photo_answer(image, audio, result), gr.update(visible=result.fused is not None), "", (image, audio)


def why(answered: Answered) -> str:
    """What spoke for the answer, as HTML: apart from the answer, which should not wait for it."""
    return why_view(pipe, *answered, recognise(*answered))


def answer_words(text: str, image: str | None, audio: str | None) -> str:
    """What the page shows for words with commas between them, as HTML."""
    return words_answer(closeness(text.split(","), image, audio), held_out_note(RESULTS))


def load_results(model: str) -> dict:
    """The checkpoint's own figures, where it has any."""
    try:
        return json.loads(Path(cached_file(model, "results.json")).read_text())
    except OSError:
        return {}


ANNOUNCE_ANSWERS = """() => new MutationObserver(() => {
    for (const id of ["answer", "why", "words-answer", "video-answer"])
        document.getElementById(id)?.setAttribute("aria-live", "polite");
}).observe(document.body, {childList: true, subtree: true})"""

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"]
THEME = gr.themes.Base(  # the visitor's own fonts: nothing is fetched from elsewhere
    primary_hue="indigo", neutral_hue="zinc", radius_size="lg", font=FONT, font_mono=["ui-monospace", "monospace"]
).set(
    body_background_fill="#f7f7fb",
    body_background_fill_dark="#101017",
    block_background_fill="#ffffff",
    block_background_fill_dark="#191922",
    body_text_color_subdued="#5d5d6b",
    body_text_color_subdued_dark="#a7a7b8",
    block_border_width="1px",
    button_primary_background_fill="#4338ca",
    button_primary_background_fill_hover="#3730a3",
    button_primary_background_fill_dark="#5b54e0",
    button_primary_background_fill_hover_dark="#6d67ea",
    button_large_text_size="1.1rem",
)


def sources(prefix: str = "") -> tuple[gr.Image, gr.Audio]:
    """Where a photo and a recording are put in."""
    photo = gr.Image(
        label="Photo of a face",
        sources=["upload", "webcam"],
        type="filepath",
        height=270,
        buttons=[],
        elem_id=f"{prefix}photo",
    )
    # gr.Image opens the file, and raises where it is broken. The pipeline alone opens files: it says why.
    photo.preprocess = lambda payload: None if payload is None else payload.path
    recording = gr.Audio(
        label=f"Recording of a voice, up to {MAX_AUDIO_SECONDS / 60:.0f} minutes",
        sources=["upload", "microphone"],
        type="filepath",
        buttons=[],
        elem_id=f"{prefix}recording",
    )
    return photo, recording


def photo_tab() -> None:
    """A photo, a recording, or both, and what they say."""
    output = gr.HTML(EMPTY, elem_id="answer", padding=False, render=False)
    with gr.Row():
        with gr.Column(scale=4, min_width=320, elem_classes="inputs"):
            photo, recording = sources()
            button = gr.Button("Analyze", variant="primary", size="lg")
            example = one_click(
                {
                    "Astronaut and reader": [PHOTOS["astronaut"], RECORDINGS["reading"]],
                    "Admiral and reader": [PHOTOS["grace-hopper"], RECORDINGS["reading-short"]],
                    "Admiral alone": [PHOTOS["grace-hopper"], None],
                    "Reader alone": [None, RECORDINGS["reading"]],
                    "Two people": [PHOTOS["two-people"], None],
                },
                [photo, recording],
            )
        with gr.Column(scale=6, min_width=320):
            output.render()
            ask = gr.Button("Why this answer?", visible=False, elem_id="ask-why")
            reasons = gr.HTML("", elem_id="why", padding=False)
    answered = gr.State((None, None))
    for asked in (button.click, example.then):
        asked(
            answer,
            [photo, recording],
            [output, ask, reasons, answered],
            api_visibility="private",
            concurrency_id="model",
            show_progress_on=output,
        )
    told = ask.click(why, answered, reasons, api_visibility="private", concurrency_id="model")
    told.then(lambda: gr.update(visible=False), None, ask, api_visibility="private", queue=False)
    output.change(None, js=scroll_to("answer"))


def words_tab() -> None:
    """Any words, and how close a face and a voice are to them."""
    output = gr.HTML(NO_WORDS, elem_id="words-answer", padding=False, render=False)
    with gr.Row():
        with gr.Column(scale=4, min_width=320, elem_classes="inputs"):
            text = gr.Textbox(
                label="Words, with commas between them",
                placeholder="relieved, furious, thunderstruck",
                max_length=MAX_WORDS * (MAX_WORD_LENGTH + 2),
                elem_id="words",
            )
            photo, recording = sources("words-")
            button = gr.Button("Compare", variant="primary", size="lg")
            example = one_click(
                {
                    "Astronaut and reader: relieved?": [
                        "relieved, furious, thunderstruck, proud",
                        PHOTOS["astronaut"],
                        RECORDINGS["reading"],
                    ],
                    "Admiral: proud?": ["matter-of-fact, heartbroken, proud", PHOTOS["grace-hopper"], None],
                },
                [text, photo, recording],
            )
        with gr.Column(scale=6, min_width=320):
            output.render()
    for asked in (button.click, text.submit, example.then):
        asked(answer_words, [text, photo, recording], output, api_visibility="private", concurrency_id="model")
    output.change(None, js=scroll_to("words-answer"))


def about_tab() -> None:
    """The figures, what they are worth, and what becomes of a visitor's files."""
    config = pipe.model.config
    num_taught = {"face": len(config.face_prior), "voice": len(config.voice_prior)}
    gr.HTML(ABOUT + charts(RESULTS, num_taught), padding=False, elem_id="about")


pipe = load_pipeline(MODEL)
live = Live(pipe)
RESULTS = load_results(MODEL)
# Whatever is loaded or built on first use, is so now.
recognise(PHOTOS["astronaut"], RECORDINGS["reading-short"])
closeness(["relieved"], PHOTOS["astronaut"], None)

LAUNCH = {
    "theme": THEME,
    "css_paths": HERE / "demo" / "static" / "demo.css",
    "max_file_size": MAX_UPLOAD,
    "ssr_mode": False,
    "mcp_server": True,
    "app_kwargs": {"routes": [live.route]},
}

with gr.Blocks(
    title="EmoCLIP: what a face and a voice express",
    analytics_enabled=False,
    delete_cache=(UPLOADS_CHECKED_SECONDS, UPLOADS_KEPT_SECONDS),
) as demo:
    gr.HTML(HEADER, padding=False)
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Live", id="live"):
            live_tab()
        with gr.Tab("Photo and voice", id="photo"):
            photo_tab()
        with gr.Tab("Video", id="video-tab"):
            video_tab(pipe)
        with gr.Tab("Words", id="words"):
            words_tab()
        with gr.Tab("About", id="about"):
            about_tab()
    demo.load(None, js=ANNOUNCE_ANSWERS)
    gr.api(analyze, api_name="analyze", concurrency_id="model")
    gr.api(compare_words, api_name="compare_words", concurrency_id="model")
    gr.api(about, api_name="about")
    gr.api(live_places, api_name="live")

demo.queue(max_size=128, default_concurrency_limit=2)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
