"""The demo: a photo, a recording, or both, and what the person in them looks and sounds like.

    python app.py
    EMOCLIP_MODEL=<folder or Hub id> python app.py

The endpoint /analyze answers programs with the same result as JSON:

    from gradio_client import Client, handle_file
    Client("http://127.0.0.1:7860").predict(handle_file("photo.jpg"), handle_file("voice.wav"), api_name="/analyze")
"""

import os
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import torch

from app_uploads import MAX_UPLOAD, UPLOADS_CHECKED_SECONDS, UPLOADS_KEPT_SECONDS, uploaded_path
from app_views import ABOUT, EMPTY, HEADER, photo_answer
from media_emoclip import MAX_AUDIO_SECONDS, InputError
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline, EmotionResult
from processing_emoclip import EmoCLIPProcessor

HERE = Path(__file__).parent
MODEL = os.environ.get("EMOCLIP_MODEL", str(HERE / "checkpoints" / "emoclip-small"))
PHOTOS = {name: str(HERE / "examples" / f"{name}.jpg") for name in ("astronaut", "grace-hopper")}
RECORDINGS = {name: str(HERE / "examples" / f"{name}.flac") for name in ("reading", "reading-short")}


def load_pipeline(model: str) -> EmotionRecognitionPipeline:
    """The pipeline of a checkpoint, a local folder or a Hub id."""
    try:
        return EmotionRecognitionPipeline(
            model=EmoCLIPForEmotionClassification.from_pretrained(model, dtype=torch.float32),
            processor=EmoCLIPProcessor.from_pretrained(model),
        )
    except OSError as error:  # what transformers raises where there is no such folder or repository
        raise SystemExit(f"EMOCLIP_MODEL must name a folder or Hub id, and {model!r} is none: {error}") from None


def recognise(image: str | None, audio: str | None) -> EmotionResult:
    """The pipeline's result, with what cannot be read said in its messages."""
    try:
        return pipe(image=image, audio=audio)
    except InputError as error:
        return EmotionResult(messages=error.sentences)


def analyze(image: gr.FileData | None = None, audio: gr.FileData | None = None) -> dict:
    """Recognise the emotion that a person's face and voice express, of angry, disgust, fear, happy, neutral, sad and
    surprise. It recognises acted expressions; it does not know what a person feels.

    Args:
        image: a photo with one or more faces (JPEG, PNG, WebP, HEIC), or null.
        audio: a recording of speech of up to 10 minutes (WAV, FLAC, OGG, MP3, WebM, MP4), or null.

    Returns:
        A dict with "face", "voice" and "fused" (both together), each null or {"label", "scores"}, where "scores" maps
        each emotion to its probability; the voice's "surprise" is null, as it was not taught, and so is that of
        "fused" where there is no face. "face" also has "box" ([x, y, width, height] in pixels of the upright photo),
        "detector" and "others", the smaller faces; "voice" also has "segments" ([start, end] of speech, in seconds).
        "agreement", null unless both are there, is above 0 where face and voice agree and below 0 where they
        conflict. "messages" are sentences about what could not be used, and why.
    """
    try:
        return recognise(uploaded_path(image), uploaded_path(audio)).to_dict()
    except InputError as error:
        return EmotionResult(messages=error.sentences).to_dict()


def answer(image: str | None, audio: str | None) -> str:
    """What the page shows for a photo and a recording, as HTML."""
    return photo_answer(image, recognise(image, audio))


# On a phone the answer lies below the photo and the recording.
SHOW_ANSWER = "() => innerWidth < 768 && document.getElementById('answer').scrollIntoView({behavior: 'smooth'})"
ANNOUNCE_ANSWER = "() => document.getElementById('answer').setAttribute('aria-live', 'polite')"

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
LAUNCH = {
    "theme": THEME,
    "css_paths": HERE / "app.css",
    "max_file_size": MAX_UPLOAD,
    "ssr_mode": False,
}


def photo_tab() -> None:
    """A photo, a recording, or both, and what they say."""
    output = gr.HTML(EMPTY, elem_id="answer", padding=False, render=False)
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            photo = gr.Image(
                label="Photo of a face",
                sources=["upload", "webcam"],
                type="filepath",
                height=270,
                buttons=[],
                elem_id="photo",
            )
            # gr.Image opens the file, and raises where it is broken. The pipeline alone opens files: it says why.
            photo.preprocess = lambda payload: None if payload is None else payload.path
            recording = gr.Audio(
                label=f"Recording of a voice, up to {MAX_AUDIO_SECONDS / 60:.0f} minutes",
                sources=["upload", "microphone"],
                type="filepath",
                buttons=[],
                elem_id="recording",
            )
            button = gr.Button("Analyze", variant="primary", size="lg")
            gr.Examples(
                examples=[
                    [PHOTOS["astronaut"], RECORDINGS["reading"]],
                    [PHOTOS["grace-hopper"], RECORDINGS["reading-short"]],
                    [PHOTOS["grace-hopper"], None],
                    [None, RECORDINGS["reading"]],
                ],
                example_labels=["Astronaut and reader", "Admiral and reader", "Admiral alone", "Reader alone"],
                inputs=[photo, recording],
                outputs=output,
                fn=answer,
                run_on_click=True,
                cache_examples=False,
                label="Examples, answered in one click",
                api_visibility="private",
            )
        with gr.Column(scale=6, min_width=320):
            output.render()
    button.click(answer, [photo, recording], output, api_visibility="private")
    output.change(None, js=SHOW_ANSWER)


pipe = load_pipeline(MODEL)
recognise(PHOTOS["astronaut"], RECORDINGS["reading-short"])  # whatever is loaded or built on first use, is so now

with gr.Blocks(
    title="EmoCLIP: what a face and a voice express",
    analytics_enabled=False,
    delete_cache=(UPLOADS_CHECKED_SECONDS, UPLOADS_KEPT_SECONDS),
) as demo:
    gr.HTML(HEADER, padding=False)
    with gr.Tabs(elem_id="tabs"), gr.Tab("Photo and voice", id="photo"):
        photo_tab()
    gr.HTML(ABOUT, padding=False, elem_id="about")
    demo.load(None, js=ANNOUNCE_ANSWER)
    gr.api(analyze, api_name="analyze")

demo.queue(max_size=64, default_concurrency_limit=2)

if __name__ == "__main__":
    demo.launch(**LAUNCH)
