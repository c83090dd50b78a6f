"""From a photo, a recording, or both, to the emotion a person shows: the pipeline "emotion-recognition".

    from transformers import pipeline

    pipe = pipeline("emotion-recognition", model="<folder or Hub id>", trust_remote_code=True)
    result = pipe(image="photo.jpg", audio="recording.wav")
    print(result.fused.label, result.agreement, result.to_dict())

photo -> faces found, squared as FER-2013 frames them -> face posterior of each; the largest goes on
recording -> 16 kHz mono -> speech found -> 3 s windows that hold speech -> voice posterior, the windows' mean
both -> fused posterior and agreement

The steps stand in `media_emoclip.py` as plain functions and small classes on arrays, so that a stream of frames and
sound can use them one by one, as `video_emoclip.py` does:

    print(pipe(video="clip.mp4").moments)

Units everywhere: pixels of the upright image (after its EXIF rotation), x to the right and y down; seconds from the
start of the recording; natural logarithms.
"""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoModel, Pipeline, PreTrainedModel, ProcessorMixin
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

try:
    from .media_emoclip import (
        AUDIO_SUFFIXES,
        MIN_SPEECH_SECONDS,
        SILENCE_PEAK,
        VIDEO_SUFFIXES,
        AudioSource,
        Box,
        FaceDetector,
        ImageSource,
        InputError,
        SpeechDetector,
        check_box,
        clip_box,
        crop_face,
        load_audio,
        load_image,
        scored_windows,
        window_starts,
    )
    from .results_emoclip import (
        Emotion,
        EmotionResult,
        FaceResult,
        OtherFace,
        VoiceResult,
        emotion_fields,
        mean_log_probs,
    )
    from .video_emoclip import VideoResult, analyze_video, finish
except ImportError:
    from media_emoclip import (
        AUDIO_SUFFIXES,
        MIN_SPEECH_SECONDS,
        SILENCE_PEAK,
        VIDEO_SUFFIXES,
        AudioSource,
        Box,
        FaceDetector,
        ImageSource,
        InputError,
        SpeechDetector,
        check_box,
        clip_box,
        crop_face,
        load_audio,
        load_image,
        scored_windows,
        window_starts,
    )
    from results_emoclip import (
        Emotion,
        EmotionResult,
        FaceResult,
        OtherFace,
        VoiceResult,
        emotion_fields,
        mean_log_probs,
    )
    from video_emoclip import VideoResult, analyze_video, finish

TASK = "emotion-recognition"

ROWS_PER_FORWARD = 32  # faces or windows that enter the model together: bounds the memory of a 10-minute recording

# --------------------------------------------------------------------------------------------------------------------
# The pipeline


@dataclass
class _Item:
    """What is known of one input before the model has seen it."""

    boxes: list[Box] = field(default_factory=list)  # largest first
    detector: str = ""
    segments: list[tuple[float, float]] = field(default_factory=list)
    windows: list[float] = field(default_factory=list)  # where those that hold speech start, in seconds
    messages: list[str] = field(default_factory=list)
    video: str | os.PathLike | bytes | None = None  # watched when its turn in the model comes


@dataclass
class WordCloseness:
    """How close a word is to a face and a voice: cosines of their embeddings, None where there is no such source.

    `trained` is True for a word that the text tower was trained on. Of any other it may know nothing.
    """

    word: str
    trained: bool
    face: float | None
    voice: float | None


@dataclass
class WordsResult:
    """Words against a face and a voice. `words` in the order given; `emotions` are, for scale, the labels with all the
    words that each was trained on together; `messages` as in `EmotionResult`."""

    words: list[WordCloseness] = field(default_factory=list)
    emotions: list[WordCloseness] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain dicts, lists, strings and numbers, ready for `json.dumps`."""
        return asdict(self)


class EmotionRecognitionPipeline(Pipeline):
    """Emotion recognition from a face, a voice, or both.

    An input is a photo, a recording or a video alone, or a dict with "image", "audio" or both, or with "video":
    - image: a path, the bytes of a file, a PIL image or an array, as `load_image` takes them. With "face_box"
      (x, y, width, height) beside it, no face is looked for: that square of the upright image is scored.
    - audio: a path, the bytes of a file, or a dict with "array" and "sampling_rate", as `load_audio` takes them.
    - video: a path or the bytes of a file, as `analyze_video` takes them.
    What a path alone leads to is told by its suffix; a .webm is a recording.

    Args:
        model, processor: `EmoCLIPForEmotionClassification` and its `EmoCLIPProcessor`.
        face_detector: YuNet's ONNX file; see `FaceDetector`.

    Example:

    ```python
    >>> pipe("photo.jpg").face.label
    >>> pipe(image="photo.jpg", audio="recording.wav").fused.scores
    >>> [result.to_dict() for result in pipe([{"image": "1.jpg"}, {"audio": "2.wav"}], batch_size=2)]
    >>> pipe("clip.mp4").to_csv()
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, face_detector: str | os.PathLike | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("EmotionRecognitionPipeline needs processor=, an EmoCLIPProcessor.")
        self.feature_extractor = self.image_processor = None  # the processor holds them, and saves them
        self._face_model_file = face_detector
        self.model.eval()

    @functools.cached_property
    def face_detector(self) -> FaceDetector:
        """Made when the first photo without a face box arrives."""
        return FaceDetector(self._face_model_file)

    @functools.cached_property
    def speech_detector(self) -> SpeechDetector:
        """Made when the first recording arrives."""
        return SpeechDetector()

    def __call__(
        self,
        inputs: Any = None,
        *,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        face_box: Box | None = None,
        video: str | os.PathLike | bytes | None = None,
        progress: Callable[[float], None] | None = None,
        **kwargs,
    ) -> EmotionResult | VideoResult | list[EmotionResult] | Iterator[EmotionResult]:
        """Recognise the emotion in one input, in a list of them, or in a generator or dataset of them.

        Args:
            inputs: one or several inputs as the class describes them; or `image`, `audio` and `face_box` by name.
            video: one video, by itself; see `analyze_video`.
            progress: called with the fraction of `video` that is done; what it raises stops the work.
            batch_size: how many inputs enter the model together.
        Returns:
            One `EmotionResult`, a list, or an iterator; a `VideoResult` of a video.
        Raises:
            InputError: none of what an input holds can be read. Where one of two can, its result is returned and the
                other's sentence stands in `messages`; so do "no face", "silence" and "no speech", which are answers.
            ImportError: a package that reads the input is not installed.
            TypeError: arguments that do not go together, or unknown ones.
        """
        if video is not None:
            if kwargs or any(other is not None for other in (inputs, image, audio, face_box)):
                raise TypeError("Give video= by itself, or with progress=.")
            return finish(analyze_video(self, video), progress)
        if progress is not None:
            raise TypeError("Only one video= by itself has progress=.")
        if inputs is None:
            inputs = {"image": image, "audio": audio, "face_box": face_box}
        elif image is not None or audio is not None:
            raise TypeError("Give either inputs or image= and audio=, not both.")
        elif face_box is not None:
            inputs = {"image": inputs, "face_box": face_box}
        elif isinstance(inputs, (list, tuple)):
            inputs = list(inputs)
            if not inputs:
                return []
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """The model and its processor, and the code of both and of the pipeline, as they are loaded again."""
        super().save_pretrained(save_directory, **kwargs)  # notes the pipeline in config.json and copies its code
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self) -> tuple[dict, dict, dict]:
        return {}, {}, {}

    def preprocess(self, inputs: Any) -> dict[str, Any]:
        """One input to `pixel_values` (faces, 3, H, W), `voices`, which are what the audio tower takes, (windows, 1,
        bands, frames) or (windows, 1, T), and `items`."""
        given = _as_dict(inputs)
        item, errors = _Item(), []
        prepared = {"pixel_values": None, "voices": None, "items": [item]}
        if given.get("video") is not None:
            if any(value is not None for name, value in given.items() if name != "video"):
                raise InputError("A video is an input by itself: leave out what stands beside it.")
            item.video = given["video"]
            return prepared
        if given.get("face_box") is not None and given.get("image") is None:
            raise InputError("A face box was given without the photo that it lies in: add the photo.")
        if given.get("image") is not None:
            try:
                prepared["pixel_values"] = self._prepare_faces(given["image"], given.get("face_box"), item)
            except InputError as error:
                errors += error.sentences
        if given.get("audio") is not None:
            try:
                prepared["voices"] = self._prepare_voice(given["audio"], item)
            except InputError as error:
                errors += error.sentences
        num_given = sum(given.get(name) is not None for name in ("image", "audio"))
        if num_given == 0:
            raise InputError("Nothing was given: add a photo, a recording, or both.")
        if len(errors) == num_given:
            raise InputError(*errors)
        item.messages += errors
        return prepared

    def _prepare_faces(self, source: ImageSource, box: Box | None, item: _Item) -> torch.Tensor | None:
        image, notes = load_image(source)
        item.messages += notes
        if box is not None:
            item.boxes, item.detector = [check_box(box, *image.size)], "given"
        pixels = np.asarray(image)  # (H, W, 3)
        if box is None:
            item.boxes, item.detector = self.face_detector(pixels), self.face_detector.name
        if not item.boxes:
            item.messages.append("No face was found in the photo: try one where a face is larger, or better lit.")
            return None
        crops = [crop_face(pixels, box) for box in item.boxes]
        item.boxes = [clip_box(box, *image.size) for box in item.boxes]
        return self.processor(images=crops, return_tensors="pt")["pixel_values"]

    def _prepare_voice(self, source: AudioSource, item: _Item) -> torch.Tensor | None:
        rate, window = SpeechDetector.sampling_rate, self.processor.feature_extractor.chunk_length_s
        samples, notes = load_audio(source, rate)
        item.messages += notes
        if np.ptp(samples) / 2 < SILENCE_PEAK:
            item.messages.append("The recording is silent: check the microphone and record again.")
            return None
        item.segments = self.speech_detector(samples)
        starts = scored_windows(window_starts(len(samples) / rate, window), window, item.segments)
        item.windows = starts
        if not starts:
            item.messages.append(
                f"No speech was found in the recording: at least {MIN_SPEECH_SECONDS} s of it is needed."
            )
            return None
        pieces = [samples[round(start * rate) : round((start + window) * rate)] for start in starts]
        pieces = [np.pad(piece, (0, max(0, round(window * rate) - len(piece)))) for piece in pieces]
        return self.processor(audio=pieces, sampling_rate=rate, return_tensors="pt")[self.audio_input]

    def _forward(self, prepared: dict[str, Any]) -> dict[str, Any]:
        faces = self.face_log_probs(prepared["pixel_values"])
        voices = self.voice_log_probs(prepared["voices"])
        outputs = []
        for item in prepared["items"]:
            if item.video is not None:
                outputs.append(finish(analyze_video(self, item.video)))
                continue
            face, faces = faces[: len(item.boxes)], faces[len(item.boxes) :]
            voice, voices = voices[: len(item.windows)], voices[len(item.windows) :]
            face = face if len(face) else None  # (faces, C)
            voice = mean_log_probs(voice) if len(voice) else None  # (1, C)
            fused = agreement = None
            if face is not None or voice is not None:
                fused, agreement = self.model.fuse(face if face is None else face[:1], voice)
            outputs.append({"face": face, "voice": voice, "fused": fused, "agreement": agreement})
        return {"items": prepared["items"], "outputs": outputs}

    def face_log_probs(self, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Log-posteriors (N, C) of prepared faces (N, 3, H, W); None is no faces."""
        return self._log_probs("pixel_values", pixel_values, "face_logits")

    @property
    def audio_input(self) -> str:
        """What the model calls the audio: `input_features`, mel images, or `input_values`, waveforms."""
        return self.processor.feature_extractor.model_input_names[0]

    def voice_log_probs(self, voices: torch.Tensor | None) -> torch.Tensor:
        """Log-posteriors (N, C) of prepared windows (N, 1, bands, frames) or (N, 1, T); None is no windows."""
        return self._log_probs(self.audio_input, voices, "voice_logits")

    def _log_probs(self, name: str, rows: torch.Tensor | None, logits: str) -> torch.Tensor:
        if rows is None:
            return torch.zeros(0, self.model.config.num_labels, device=self.device)
        batches = [self.model(**{name: batch})[logits] for batch in rows.split(ROWS_PER_FORWARD)]
        return torch.cat(batches).float().log_softmax(dim=-1)

    @torch.no_grad()
    def zero_shot(
        self,
        labels: list[str],
        *,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        text: str | None = None,
        templates: list[str] | None = None,
    ) -> dict[str, float]:
        """Classify one picture, sound or text among any labels, which need not be emotions and were never taught.

        The whole picture or sound is embedded, without a search for faces or speech, and compared with the labels'
        prompts: the mean of a label's normalised embeddings over the templates (Radford et al., 2021, section 3.1.4).

        Args:
            labels: words or phrases.
            image, audio: as `load_image` and `load_audio` take them; give one of the three.
            templates: sentences with one `{}`, where the label goes; None for the label alone.
        Returns:
            The labels and their probabilities, likeliest first.
        Raises:
            InputError: the picture or sound cannot be read.
            TypeError: not exactly one of image, audio and text.
            ValueError: no labels, or one string instead of a list.
        """
        if sum(source is not None for source in (image, audio, text)) != 1:
            raise TypeError("Give exactly one of image=, audio= and text=.")
        _check_words(labels)
        backbone = getattr(self.model, "emoclip", self.model)
        prompts = [template.format(label) for label in labels for template in templates or ["{}"]]
        prompt_embeds = self._embed(backbone.get_text_features, text=prompts).unflatten(0, (len(labels), -1))
        classes = torch.nn.functional.normalize(prompt_embeds.mean(1), dim=-1)  # (labels, D)
        if image is not None:
            embeds = self._embed(backbone.get_image_features, images=load_image(image)[0])
            scale = backbone.scale("image_text")
        elif audio is not None:
            rate = self.processor.feature_extractor.sampling_rate
            samples, _ = load_audio(audio, rate)
            embeds = self._embed(backbone.get_audio_features, audio=samples, sampling_rate=rate)
            scale = backbone.scale("audio_text")
        else:  # no scale was learned between texts
            embeds, scale = self._embed(backbone.get_text_features, text=text), backbone.scale("image_text")
        scores = (scale.float() * embeds @ classes.T)[0].softmax(-1).tolist()
        return dict(sorted(zip(labels, scores), key=lambda pair: -pair[1]))

    @torch.no_grad()
    def compare_words(
        self, words: list[str], *, image: ImageSource | None = None, audio: AudioSource | None = None
    ) -> WordsResult:
        """How close any words are to the face in a photo, the voice in a recording, or both.

        Of the photo, the largest face counts; of the recording, the windows that hold speech (the mean of their
        embeddings). A word stands in the templates that the text tower was trained with.

        Args:
            words: words or short phrases.
            image, audio: as `load_image` and `load_audio` take them; at least one.
        Raises:
            InputError: neither can be read, or was given.
            ValueError: no words, or one string instead of a list.
        """
        _check_words(words)
        backbone = self.model.emoclip
        prepared = self.preprocess({"image": image, "audio": audio})
        sources = {"face": None, "voice": None}
        if prepared["pixel_values"] is not None:
            pixels = prepared["pixel_values"][:1].to(self.device)
            sources["face"] = backbone.get_image_features(pixels).pooler_output
        if prepared["voices"] is not None:
            rows = prepared["voices"].split(ROWS_PER_FORWARD)
            name = self.audio_input
            voices = [backbone.get_audio_features(**{name: row.to(self.device)}).pooler_output for row in rows]
            sources["voice"] = torch.nn.functional.normalize(torch.cat(voices), dim=-1).mean(0, keepdim=True)
        texts = torch.cat([self._prompt_embeds(words), self._emotion_embeds])  # (words + labels, D)
        cosines = {
            name: [None] * len(texts)
            if embeds is None
            else torch.nn.functional.cosine_similarity(embeds.float(), texts).tolist()
            for name, embeds in sources.items()
        }
        trained = {word for known in (self.model.config.words or {}).values() for word in known}
        rows = [
            WordCloseness(word, i >= len(words) or word.lower() in trained, face, voice)
            for i, (word, face, voice) in enumerate(
                zip([*words, *self.model.config.labels], cosines["face"], cosines["voice"])
            )
        ]
        return WordsResult(rows[: len(words)], rows[len(words) :], prepared["items"][0].messages)

    def _prompt_embeds(self, words: list[str]) -> torch.Tensor:
        """(words, D): the mean of each word's normalised embeddings over the templates, normalised."""
        templates = self.model.config.prompt_templates or ["{}"]
        prompts = [template.format(word) for word in words for template in templates]
        embeds = self._embed(self.model.emoclip.get_text_features, text=prompts)
        return torch.nn.functional.normalize(embeds.unflatten(0, (len(words), -1)).mean(1), dim=-1)

    @functools.cached_property
    def _emotion_embeds(self) -> torch.Tensor:
        """(labels, D): each emotion's words, averaged and normalised."""
        words = self.model.config.words or {label: [label] for label in self.model.config.labels}
        means = [self._prompt_embeds(words[label]).mean(0) for label in self.model.config.labels]
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)

    def _embed(self, tower: Callable, **inputs) -> torch.Tensor:
        """(B, D) normalised float32 embeddings of what the processor makes of `inputs`."""
        prepared = self.processor(**inputs, return_tensors="pt").to(self.device)
        return torch.nn.functional.normalize(tower(**prepared).pooler_output.float(), dim=-1)

    def postprocess(self, outputs: dict[str, Any]) -> list[EmotionResult | VideoResult]:
        """One result for each of the items."""
        return [
            output if isinstance(output, VideoResult) else self._result(item, output)
            for item, output in zip(outputs["items"], outputs["outputs"])
        ]

    def _result(self, item: _Item, output: dict[str, Any]) -> EmotionResult:
        result = EmotionResult(messages=item.messages)
        if output["face"] is not None:
            others = [OtherFace(**self._emotion(row), box=box) for row, box in zip(output["face"][1:], item.boxes[1:])]
            result.face = FaceResult(
                **self._emotion(output["face"][0]), box=item.boxes[0], detector=item.detector, others=others
            )
        if output["voice"] is not None:
            result.voice = VoiceResult(**self._emotion(output["voice"][0]), segments=item.segments)
        if output["fused"] is not None:
            result.fused = Emotion(**self._emotion(output["fused"][0]))
        if result.face and result.voice:
            result.agreement = output["agreement"].item()
        return result

    def _emotion(self, log_probs: torch.Tensor) -> dict[str, Any]:
        """(C,) log-posterior to the fields of an `Emotion`."""
        return emotion_fields(log_probs, self.model.config.id2label)

    # The base class batches tensors of one shape; here every input has its own number of faces and windows.

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params) -> EmotionResult:
        return super().run_single(inputs, preprocess_params, forward_params, postprocess_params)[0]

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[EmotionResult]:
        wrapper = PipelineDataset if hasattr(inputs, "__len__") else PipelineIterator
        loader = DataLoader(
            wrapper(inputs, self.preprocess, preprocess_params),
            num_workers=num_workers,
            batch_size=batch_size,
            collate_fn=_join,
        )
        for prepared in loader:
            yield from self.postprocess(self.forward(prepared, **forward_params), **postprocess_params)


def _join(prepared: list[dict[str, Any]]) -> dict[str, Any]:
    """Several prepared inputs as one: their rows and items one after the other."""
    joined = {"items": [item for each in prepared for item in each["items"]]}
    for name in ("pixel_values", "voices"):
        rows = [each[name] for each in prepared if each[name] is not None]
        joined[name] = torch.cat(rows) if rows else None
    return joined


def _check_words(words: Any) -> None:
    """Refuses what is no list of words: a string would be taken for a list of letters."""
    if isinstance(words, str) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError("Give a list of one or more words or phrases.")


def _as_dict(inputs: Any) -> dict[str, Any]:
    """An input in any of its forms, as a dict with "image" and "audio", or with "video"."""
    if isinstance(inputs, dict):
        if "sampling_rate" in inputs:
            return {"audio": inputs}
        unknown = inputs.keys() - {"image", "audio", "face_box", "video"}
        if unknown:
            raise TypeError(f'An input has "image", "audio", "face_box" or "video", and not {sorted(unknown)}.')
        return inputs
    if isinstance(inputs, (Image.Image, np.ndarray)):
        return {"image": inputs}
    if isinstance(inputs, (str, os.PathLike)):
        suffix = Path(inputs).suffix.lower()
        return {"audio" if suffix in AUDIO_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else "image": inputs}
    names = '{"image": ...}, {"audio": ...} or {"video": ...}'
    raise TypeError(f"An input of type {type(inputs).__name__} must be named: {names}.")


def save_all(model: PreTrainedModel, processor: ProcessorMixin, directory: str | os.PathLike) -> None:
    """Everything that a folder or Hub repository needs, in one form: weights in half precision (config.json says
    float32, so that is what they are loaded as), config, processor, tokenizer, and the code of all of them."""
    EmotionRecognitionPipeline(model=model, processor=processor).save_pretrained(directory)
    halves = {  # the waveform tower's transform counts in bins up to 1,024, too fine for half precision
        name: x.half() if x.is_floating_point() and ".fbsp." not in name else x
        for name, x in model.state_dict().items()
    }
    model.save_pretrained(directory, state_dict=halves)


PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # importing this file a second time is no reason to warn
PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=EmotionRecognitionPipeline, pt_model=AutoModel, type="multimodal"
)
