"""The tab Photo and voice: a photo, a recording, or both, and what they say; and the endpoint /analyze."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

import gradio as gr
from PIL import Image

from demo.checkpoint import Checkpoint
from demo.emotions import COLOURS, EmotionJSON, ink
from demo.page import scroll_to
from demo.turns import PHOTO, RECORDING
from demo.uploads import PHOTOS, RECORDINGS, one_click, photo_and_recording, read_photo, taken_back, uploaded
from demo.verdict import likeliest, tag
from demo.views import bar, bars, embedded, messages, placeholder, verdict_view
from demo.why import Answered, close_up
from files_emoclip import InputError
from results_emoclip import EmotionResult, FaceResult, OtherFace

if TYPE_CHECKING:
    from recognizer_emoclip import Observation, Recognizer

SHOWN_SIDE = 1024  # pixels of the longer side of the photo in the answer
FACES_SHOWN, FACE_CARD_SIDE = 12, 160  # side by side at most; pixels
EMPTY = placeholder("The answer appears here", "Add a photo or a recording and press Recognise, or pick an example.")


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


def photo_tab(checkpoint: Checkpoint, why: Callable[[Answered | None], str]) -> None:
    """The tab's layout, its handlers and its endpoint. `why` is `why_view` of this checkpoint's recognizer."""
    output = gr.HTML(EMPTY, elem_id="answer", padding=False, render=False)
    with gr.Row():
        with gr.Column(scale=4, min_width=320, elem_classes="inputs"):
            photo, recording = photo_and_recording()
            button = gr.Button("Recognise", variant="primary", size="lg")
            example = one_click(
                {
                    "Astronaut and reader": [PHOTOS["astronaut"], RECORDINGS["reading"]],
                    "Admiral and reader": [PHOTOS["grace-hopper"], RECORDINGS["reading-short"]],
                    "Admiral alone": [PHOTOS["grace-hopper"], None],
                    "Reader alone": [None, RECORDINGS["reading"]],
                    "Two people": [PHOTOS["two-people"], None],
                },
                [photo, recording],
                elem_id="examples",
            )
        with gr.Column(scale=6, min_width=320):
            output.render()
            ask = gr.Button("Why this answer?", visible=False, elem_id="ask-why")
            reasons = gr.HTML("", elem_id="why", padding=False)
    answered = gr.State(None)
    shown = [output, ask, reasons, answered]
    runs = [
        asked(
            lambda image, audio: answer(checkpoint.recognizer, image, audio),
            [photo, recording],
            shown,
            api_visibility="private",
            concurrency_id=RECORDING,
            show_progress_on=output,
        )
        for asked in (button.click, example.then)
    ]
    # Apart from the answer, which should not wait for it.
    told = ask.click(why, answered, reasons, api_visibility="private", concurrency_id=PHOTO)
    told.then(lambda: gr.update(visible=False), None, ask, api_visibility="private", queue=False)
    for source in (photo, recording):
        taken_back(source, lambda: (EMPTY, gr.update(visible=False), "", None), shown, [*runs, told])
    output.change(None, js=scroll_to("answer"))
    gr.api(analyze_endpoint(checkpoint), api_name="analyze", concurrency_id=RECORDING)


def analyze_endpoint(checkpoint: Checkpoint) -> Callable[..., ResultJSON]:
    """What answers /analyze."""

    def analyze(image: gr.FileData | None = None, audio: gr.FileData | None = None) -> ResultJSON:
        """Recognise the emotion that a person's face and voice express, of angry, disgust, fear, happy, neutral, sad
        and surprise. It recognises acted expressions; it does not know what a person feels.

        Args:
            image: a photo with faces (JPEG, PNG, WebP, HEIC): an uploaded file, a base64 data: URL, or null.
            audio: up to 10 minutes of speech (WAV, FLAC, OGG, MP3, WebM, MP4): an uploaded file, a data: URL, or null.

        Returns:
            A dict with "face", "voice" and "fused" (both together), each null or {"label", "scores"}, where "scores"
            maps each emotion to its probability; the voice's "surprise" is null, as it was not taught, and so is that
            of "fused" where there is no face. "face" also has "box" ([x, y, width, height] in pixels of the upright
            photo), "detector" and "others", the smaller faces; "voice" also has "segments" ([start, end] of speech, in
            seconds). "agreement", null unless both are there, is above 0 where face and voice agree and below 0 where
            they conflict. "messages" are sentences about what could not be used, and why.
        """
        try:
            return recognise(checkpoint.recognizer, uploaded(image), uploaded(audio))[0].to_dict()
        except InputError as error:
            return EmotionResult(messages=error.sentences).to_dict()

    return analyze


def recognise(
    recognizer: "Recognizer", image: str | bytes | None, audio: str | bytes | None
) -> tuple[EmotionResult, "Observation | None", Image.Image | None]:
    """The result of a photo and a recording, what was found in them, and the photo, upright. Where nothing was given,
    or nothing of it can be read, the result's messages say so."""
    photo, notes, errors = read_photo(image)
    if errors and audio is None:
        return EmotionResult(messages=errors), None, None
    try:
        observation = recognizer.observe(photo, audio)
    except InputError as error:
        return EmotionResult(messages=errors + error.sentences), None, photo
    observation.messages = notes + observation.messages + errors
    [result] = recognizer.score([observation])
    if observation.faces and observation.faces.turns:  # boxes are in pixels of the photo as it was turned
        photo = photo.rotate(90 * observation.faces.turns, expand=True)
    return result, observation, photo


def answer(recognizer: "Recognizer", image: str | None, audio: str | None) -> tuple[str, dict, str, Answered | None]:
    """What the page shows for a photo and a recording, as HTML; whether it may be asked why; no reasons yet; and what
    they would be of."""
    result, observation, photo = recognise(recognizer, image, audio)
    answered = None
    if result.fused is not None:
        face = close_up(photo, observation.faces.squares[0]) if observation.faces else None
        answered = Answered(result, observation.decisive(result), face)
    page = answer_view(recognizer, photo, audio, result)
    return page, gr.update(visible=result.fused is not None), "", answered


def answer_view(recognizer: "Recognizer", photo: Image.Image | None, audio: str | None, result: EmotionResult) -> str:
    """A result beside the photo and the recording that it is of, as HTML."""
    from demo.spectrogram import spectrogram_view

    segments = result.voice.segments if result.voice else []
    speech = f"{sum(end - start for start, end in segments):.1f} s of speech"
    fused = "fused" if result.agreement is not None else "face only" if result.face else "voice only"
    extractor = recognizer.processor.feature_extractor
    return f"""
<div class="answer">
  {verdict_view(result)}
  {messages(result.messages)}
  {_photo(photo, result.face) if photo is not None else ""}
  <div class="sources">
    {bars("Face", result.face, "from the photo", "No face to read")}
    {bars("Voice", result.voice, speech, "No voice to hear")}
    {bars("Together", result.fused, fused, "No answer")}
  </div>
  {spectrogram_view(audio, extractor, segments) if audio is not None else ""}
</div>"""


def _photo(photo: Image.Image, face: FaceResult | None) -> str:
    """The upright photo with its faces boxed; several faces also side by side."""
    width, height = photo.size
    faces = [] if face is None else [face, *face.others]
    boxes = "".join(_box(face, width, height, main=i == 0) for i, face in enumerate(faces))
    caption = "No face found"
    if face is not None:
        caption = "YuNet found "
        caption += "one face" if len(faces) == 1 else f"{len(faces)} faces; the largest counts"
    gallery = "".join(_face_card(photo, face) for face in faces[:FACES_SHOWN]) if len(faces) > 1 else ""
    shown = photo.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return (
        f'<figure><div class="frame"><img src="{embedded(shown)}" '
        f'alt="The photo, with a box around each face">{boxes}</div><figcaption>{caption}</figcaption></figure>'
        + (f'<ul class="faces" aria-label="The faces, largest first">{gallery}</ul>' if gallery else "")
    )


def _box(face: FaceResult | OtherFace, width: int, height: int, main: bool) -> str:
    x, y, box_width, box_height = face.box
    # The tag stands above the box, from its left edge on, unless it would leave the picture there.
    at_top, at_bottom = y < 0.1 * height, y + box_height > 0.9 * height
    vertical = ("inside" if at_bottom else "below") if at_top else ""
    classes = f"box {'main' if main else ''} {vertical} {'right' if x + box_width / 2 > width / 2 else ''}"
    return (
        f'<div class="{classes}" style="--colour:{COLOURS[face.label]};--ink:{ink(COLOURS[face.label])};'
        f"left:{100 * x / width:.2f}%;top:{100 * y / height:.2f}%;"
        f'width:{100 * box_width / width:.2f}%;height:{100 * box_height / height:.2f}%"><span>{tag(face)}</span></div>'
    )


def _face_card(photo: Image.Image, face: FaceResult | OtherFace) -> str:
    """One of several faces: its picture, and its three likeliest emotions."""
    x, y, width, height = face.box
    crop = photo.crop((x, y, x + width, y + height)).resize((FACE_CARD_SIDE, FACE_CARD_SIDE))
    top = sorted(face.scores.items(), key=lambda item: -item[1])[:3]
    rows = "".join(bar(label, score, top=label in likeliest(face)) for label, score in top)
    return (
        f'<li style="--colour:{COLOURS[face.label]}"><img src="{embedded(crop)}" alt="">'
        f'<div class="bars"><ul>{rows}</ul></div></li>'
    )
