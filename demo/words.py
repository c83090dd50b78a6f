"""The tab Words: any words, and how close a face and a voice are to them; and the endpoint /compare_words."""

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import gradio as gr

from demo.checkpoint import Checkpoint
from demo.emotions import COLOURS, adjective
from demo.limits import MAX_WORD_LENGTH, MAX_WORDS
from demo.page import scroll_to
from demo.turns import RECORDING
from demo.uploads import PHOTOS, RECORDINGS, one_click, photo_and_recording, read_photo, taken_back, uploaded
from demo.views import messages, placeholder, signed
from files_emoclip import InputError
from results_emoclip import WordCloseness, WordsResult

if TYPE_CHECKING:
    from pipeline_emoclip import EmotionRecognitionPipeline

EMPTY = placeholder(
    "How close is a word?", "Write a few, add a photo or a recording and press Compare, or pick an example."
)

#: Of a word such as "table".
NO_EMOTION = "The word itself does not seem to mean an emotion, so how close it is says little"

Source = Literal["face", "voice"]


class WordJSON(TypedDict):
    word: str
    trained: bool
    emotion: str
    emotional: bool | None
    face: float | None
    voice: float | None


class WordsJSON(TypedDict):
    words: list[WordJSON]
    emotions: list[WordJSON]
    messages: list[str]


def words_tab(checkpoint: Checkpoint, results: dict[str, Any]) -> None:
    """The tab's layout, its handlers and its endpoint. `results` are the checkpoint's figures, see results.json."""
    output = gr.HTML(EMPTY, elem_id="words-answer", padding=False, render=False)
    with gr.Row():
        with gr.Column(scale=4, min_width=320, elem_classes="inputs"):
            text = gr.Textbox(
                label="Words, with commas between them",
                placeholder="relieved, furious, thunderstruck",
                max_length=MAX_WORDS * (MAX_WORD_LENGTH + 2),
                elem_id="words",
            )
            photo, recording = photo_and_recording("words-")
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
    runs = [
        asked(
            lambda *given: answer(checkpoint.pipe, held_out_note(results), *given),
            [text, photo, recording],
            output,
            api_visibility="private",
            concurrency_id=RECORDING,
        )
        for asked in (button.click, text.submit, example.then)
    ]
    for source in (photo, recording):
        taken_back(source, lambda: EMPTY, [output], runs)
    output.change(None, js=scroll_to("words-answer"))
    gr.api(compare_words_endpoint(checkpoint), api_name="compare_words", concurrency_id=RECORDING)


def compare_words_endpoint(checkpoint: Checkpoint) -> Callable[..., WordsJSON]:
    """What answers /compare_words."""

    def compare_words(
        words: list[str] | str, image: gr.FileData | None = None, audio: gr.FileData | None = None
    ) -> WordsJSON:
        """Say how close words such as "relieved" or "furious" are to a person's face and voice.

        Args:
            words: 1 to 12 words or short phrases, in English: a list, or one string with commas between them.
            image: a photo with a face, of which the largest counts: an uploaded file, a base64 data: URL, or null.
            audio: a recording of speech: an uploaded file, a base64 data: URL, or null.

        Returns:
            A dict with "words", in the order given, each {"word", "trained", "emotion", "emotional", "face", "voice"}:
            "face" and "voice" are cosines of the embeddings, from -1 to 1, null where there is no such source;
            "emotion" is what the word itself means, and "emotional" false where that seems to be no emotion, null
            where the model cannot tell; "trained" is false for words that were not in training. "emotions" are the
            same for each of the seven emotions with all its words, for scale. "messages" are sentences about what
            could not be used, and why.
        """
        try:
            return closeness(checkpoint.pipe, word_list(words), uploaded(image), uploaded(audio)).to_dict()
        except InputError as error:
            return WordsResult(messages=error.sentences).to_dict()

    return compare_words


def word_list(words: object) -> list[str]:
    """The words in what a client sent.

    Raises:
        InputError: they are not words.
    """
    if isinstance(words, str):
        words = words.split(",")
    if words is None:
        return []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError('The words must be a list such as ["relieved", "furious"], or one text with commas.')
    if any("\ud800" <= letter <= "\udfff" for word in words for letter in word):
        raise InputError("The words hold half a character (a lone surrogate): write them anew.")
    return words


def closeness(
    pipe: "EmotionRecognitionPipeline", words: list[str], image: str | bytes | None, audio: str | bytes | None
) -> WordsResult:
    """Words against a photo and a recording, with what cannot be used said in the messages."""
    words = [word.strip() for word in words if word.strip()]
    if not words:
        return WordsResult(messages=["No words were given: write one or a few, with commas between them."])
    if len(words) > MAX_WORDS or max(map(len, words)) > MAX_WORD_LENGTH:
        limit = f"at most {MAX_WORDS} words or phrases, of up to {MAX_WORD_LENGTH} letters each"
        return WordsResult(messages=[f"That is too much to compare: give {limit}."])
    photo, notes, errors = read_photo(image)
    if errors and audio is None:
        return WordsResult(messages=errors)
    try:
        result = pipe.compare_words(words, image=photo, audio=audio)
    except InputError as error:
        return WordsResult(messages=errors + error.sentences)
    result.messages = notes + result.messages + errors
    return result


def answer(pipe: "EmotionRecognitionPipeline", held_out: str, text: str, image: str | None, audio: str | None) -> str:
    """What the page shows for words with commas between them, as HTML."""
    return words_view(closeness(pipe, (text or "").split(","), image, audio), held_out)


def held_out_note(results: dict[str, Any]) -> str:
    """How often words that were not in training named the right emotion, where an evaluation tested that."""
    words = results.get("words", {})
    found = [
        f"{name}s {100 * words[f'{name}_held_out']['accuracy']:.0f}%"
        for name in ("face", "voice")
        if f"{name}_held_out" in words
    ]
    return f"In the test such words named the right emotion for {' and '.join(found)} of the time." if found else ""


def words_view(result: WordsResult, held_out: str) -> str:
    """A result as HTML. `held_out` is said of words that were not in training."""
    sources = [name for name in ("face", "voice") if result.words and getattr(result.words[0], name) is not None]
    if not sources:
        return f'<div class="answer">{messages(result.messages)}</div>'
    rows = "".join(_word(word, result, sources) for word in result.words)
    scales = "".join(_scale(name, result) for name in sources)
    new = any(not word.trained for word in result.words)
    note = f'<p class="note"><b>new</b>: not among the words it was trained on. {held_out}</p>' if new else ""
    if any(word.emotional is False for word in result.words):
        note += f'<p class="note"><b>no emotion</b>: {NO_EMOTION[0].lower()}{NO_EMOTION[1:]}.</p>'
    return f"""
<div class="answer">
  {messages(result.messages)}
  <ul class="wordlist" aria-label="How close each word is">{rows}</ul>
  {note}
  <div class="sources">{scales}</div>
</div>"""


def _word(word: WordCloseness, result: WordsResult, sources: list[Source]) -> str:
    mark = "" if word.trained else '<abbr class="new" title="Not among the words it was trained on">new</abbr>'
    if word.emotional is False:
        mark += f'<abbr class="new" title="{NO_EMOTION}">no emotion</abbr>'
    tracks = ""
    for name in sources:
        cosine = getattr(word, name)
        position = _position(cosine, name, result)
        tracks += (
            f'<div class="close"><span>{name}</span>'
            f'<span class="track" aria-hidden="true"><i style="width:{position:.0f}%"></i></span>'
            f'<span class="score">{signed(cosine)}</span></div>'
        )
    return f'<li><h2 class="word">{html.escape(word.word)}{mark}</h2>{tracks}</li>'


def _position(cosine: float, name: Source, result: WordsResult) -> float:
    """Where a cosine lies between those of the farthest and of the closest emotion's words, 0 to 100."""
    known = [getattr(emotion, name) for emotion in result.emotions]
    return 100 * min(1.0, max(0.0, (cosine - min(known)) / max(max(known) - min(known), 1e-6)))


def _scale(name: Source, result: WordsResult) -> str:
    """For scale: how close the words of each emotion are, all together."""
    rows = "".join(
        f'<li style="--colour:{COLOURS[emotion.word]}"><span class="name">{adjective(emotion.word)}</span> '
        f'<span class="score">{signed(getattr(emotion, name))}</span><span class="track" aria-hidden="true">'
        f'<i style="width:{_position(getattr(emotion, name), name, result):.0f}%"></i></span></li>'
        for emotion in sorted(result.emotions, key=lambda emotion: -getattr(emotion, name))
    )
    title = f"The {name} and the emotions"
    return f'<section class="bars" aria-label="{title}"><h3>{title}<small>cosine</small></h3><ul>{rows}</ul></section>'
