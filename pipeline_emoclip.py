"""From a photo, a recording, or both, to the emotion a person shows: the pipeline "emotion-recognition".

    from transformers import pipeline

    pipe = pipeline("emotion-recognition", model="<folder or Hub id>", trust_remote_code=True)
    result = pipe(image="photo.jpg", audio="recording.wav")
    print(result.fused.label, result.agreement, result.to_dict())
    print(pipe(video="clip.mp4").moments)

photo -> faces found, squared as FER-2013 frames them -> face posterior of each; the largest goes on
recording -> 16 kHz mono -> speech found -> 3 s windows that hold speech -> voice posterior, the windows' mean
both -> fused posterior and agreement

This is transformers' interface to the steps, which stand in `recognizer_emoclip.py`.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import AutoModel, Pipeline, PreTrainedModel, ProcessorMixin
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

try:
    from .baseline_emoclip import Baseline
    from .configuration_emoclip import Prior, Reading
    from .explain_emoclip import Explanation, explain
    from .files_emoclip import kind_of, read_all
    from .media_emoclip import AudioSource, Box, ImageSource, InputError, load_audio, load_image
    from .recognizer_emoclip import Observation, Recognizer, normalized
    from .results_emoclip import EmotionResult, TextResult, WordCloseness, WordsResult
    from .runtime_emoclip import Runtime
    from .video_emoclip import VideoResult, VideoSource, analyze_video, finish
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from baseline_emoclip import Baseline
    from configuration_emoclip import Prior, Reading
    from explain_emoclip import Explanation, explain
    from files_emoclip import kind_of, read_all
    from media_emoclip import AudioSource, Box, ImageSource, InputError, load_audio, load_image
    from recognizer_emoclip import Observation, Recognizer, normalized
    from results_emoclip import EmotionResult, TextResult, WordCloseness, WordsResult
    from runtime_emoclip import Runtime
    from video_emoclip import VideoResult, VideoSource, analyze_video, finish

TASK = "emotion-recognition"
#: What an input may hold by name.
NAMES = ("image", "audio", "face_box", "video")
#: A text of more is a sentence, and stands in no template.
MOST_WORDS = 4

logger = logging.getLogger("emoclip")


class EmotionRecognitionPipeline(Pipeline):
    """Emotion recognition from a face, a voice, or both.

    An input is a photo, a recording or a video alone, or a dict with "image", "audio" or both, or with "video":
    - image: a path, the bytes of a file, a PIL image or an array, as `load_image` takes them. With "face_box"
      (x, y, width, height) beside it, no face is looked for: that square of the upright image is scored.
    - audio: a path, the bytes of a file, or a dict with "array" and "sampling_rate", as `load_audio` takes them.
    - video: a path or the bytes of a file, as `analyze_video` takes them.
    All of these may be open files, and what `datasets` has in its columns. What a path or an open file alone holds is
    told by its content: what has a moving picture is a video.

    Args:
        model, processor: `EmoCLIPForEmotionClassification` and its `EmoCLIPProcessor`.
        face_detector: YuNet's ONNX file; see `FaceDetector`.
        runtime: "auto", "torch" or "onnx", what runs the network on a CPU; see `Towers`.
        reading: "perceived", how people see and hear it, or "acted", what the corpora's labels say.
        baseline: the person's own normal face and voice, from the method `baseline`, or the file that it was saved
            in; what is said is relative to it.
        prior: how often each emotion is among what is asked about, where that is known: "uniform", all equally often,
            or a dict with the share of each. By default as often as in what the model was taught.

    The last three may also be given to a call, for that call.

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

    def __init__(
        self,
        *args,
        face_detector: str | os.PathLike | None = None,
        runtime: Runtime = "auto",
        reading: Reading = "perceived",
        baseline: Baseline | str | os.PathLike | None = None,
        prior: Prior | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("EmotionRecognitionPipeline needs processor=, an EmoCLIPProcessor.")
        self.feature_extractor = self.image_processor = None  # the processor holds them, and saves them
        model = self.model.eval()
        self.recognizer = Recognizer(model, self.processor, face_detector, runtime, reading, baseline, prior)

    def __call__(
        self,
        inputs: Any = None,
        *,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        face_box: Box | None = None,
        video: VideoSource | None = None,
        progress: Callable[[float], None] | None = None,
        reading: Reading | None = None,
        baseline: Baseline | str | os.PathLike | None = None,
        prior: Prior | None = None,
        **kwargs,
    ) -> EmotionResult | VideoResult | list[EmotionResult] | Iterator[EmotionResult]:
        """Recognise the emotion in one input, in a list of them, or in an iterator or dataset of them.

        Args:
            inputs: one or several inputs as the class describes them; or `image`, `audio` and `face_box` by name. Of a
                dataset, the columns of these names are read, or one of its columns is given.
            video: one video, by itself; see `analyze_video`.
            progress: called with the fraction of `video` that is done; what it raises stops the work.
            reading, baseline, prior: as the class describes them, for this call.
            batch_size: how many inputs enter the model together.
        Returns:
            One `EmotionResult`, a list, or an iterator; a `VideoResult` of a video.
        Raises:
            InputError: none of what an input holds can be read. Where one of two can, its result is returned and the
                other's sentence stands in `messages`; so do "no face", "silence" and "no speech", which are answers.
            ImportError: a package that reads the input is not installed.
            TypeError: arguments that do not go together, or unknown ones.
            ValueError: there is no such reading, the baseline is of another model, or the prior is none.
        """
        recognizer = self.recognizer.adapted(reading, baseline, prior)
        if video is not None:
            if kwargs or any(other is not None for other in (inputs, image, audio, face_box)):
                raise TypeError("Give video= by itself, or with progress=, reading=, baseline= and prior=.")
            return finish(analyze_video(recognizer, video), progress)
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
        elif hasattr(inputs, "__iter__") and not _is_single(inputs):
            names = getattr(inputs, "column_names", None)
            if names is not None and not set(names) & set(NAMES):
                raise TypeError(f"A dataset's columns are named {', '.join(NAMES[:-1])} or video, not {names}.")
            rows = inputs
            numbered = hasattr(rows, "__len__") and not isinstance(rows, IterableDataset)
            inputs = _Rows(rows) if numbered else (_row(row, rows) for row in rows)
        return super().__call__(inputs, recognizer=recognizer, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, state_dict: dict | None = None, **kwargs) -> None:
        """The model and its processor, and the code of both and of the pipeline, as they are loaded again.

        Args:
            state_dict: the weights to write, where they are not the model's own.
        """
        weights = {} if state_dict is None else {"state_dict": state_dict}
        super().save_pretrained(
            save_directory, **weights, **kwargs
        )  # notes the pipeline in config.json, copies its code
        self.processor.save_pretrained(save_directory, **kwargs)

    # Each input has its own number of faces and windows, so what `preprocess` gives is a list of one, which batching
    # joins, and `postprocess` takes none apart.

    def _sanitize_parameters(self, recognizer: Recognizer | None = None) -> tuple[dict, dict, dict]:
        return {}, {} if recognizer is None else {"recognizer": recognizer}, {}

    def preprocess(self, inputs: Any) -> list[Observation | VideoSource]:
        """One input read, its faces and its speech found; a video is watched when its turn in the model comes."""
        given = {name: value for name, value in _as_dict(inputs).items() if value is not None}
        if "video" not in given:
            return [self.recognizer.observe(**given)]
        if len(given) > 1:
            raise InputError("A video is an input by itself: leave out what stands beside it.")
        return [given["video"]]

    def _forward(
        self, prepared: list[Observation | VideoSource], recognizer: Recognizer
    ) -> list[EmotionResult | VideoResult]:
        observations = [each for each in prepared if isinstance(each, Observation)]
        results = iter(recognizer.score(observations))
        return [
            next(results) if isinstance(each, Observation) else finish(analyze_video(recognizer, each))
            for each in prepared
        ]

    def postprocess(self, results: list[EmotionResult | VideoResult]) -> list[EmotionResult | VideoResult]:
        return results

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params) -> EmotionResult | VideoResult:
        [result] = super().run_single(inputs, preprocess_params, forward_params, postprocess_params)
        return result

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[EmotionResult | VideoResult]:
        sized = hasattr(inputs, "__len__")
        if not sized and num_workers > 1:  # every worker would go through all of it
            logger.warning("Inputs without a length are read by one worker, not by %d.", num_workers)
            num_workers = 1
        wrapper = PipelineDataset if sized else PipelineIterator
        loader = DataLoader(
            wrapper(inputs, self.preprocess, preprocess_params),
            num_workers=num_workers,
            batch_size=batch_size,
            collate_fn=_join,
        )
        for prepared in loader:
            yield from self.postprocess(self.forward(prepared, **forward_params), **postprocess_params)

    # Baselines

    def baseline(self, *, image: ImageSource | None = None, audio: AudioSource | None = None) -> Baseline:
        """A person's own normal face and voice, for the parameter of this name: of a photo of the face at rest, a
        recording of normal speech (ten seconds or more are better than two), or both.

        Raises:
            InputError: as `__call__`, or there is neither a face nor speech.
            ValueError: the model knows no baselines.
        """
        return self.recognizer.baseline_of(self.recognizer.observe(image, audio))

    # Explanations and words

    def explain(
        self,
        *,
        image: ImageSource | None = None,
        audio: AudioSource | None = None,
        face_box: Box | None = None,
        reading: Reading | None = None,
        baseline: Baseline | str | os.PathLike | None = None,
        prior: Prior | None = None,
    ) -> list[Explanation]:
        """What in the largest face, and in the most telling window of speech, spoke for the answer, see `explain`.

        Args:
            image, audio, face_box, reading, baseline, prior: as `__call__` takes them.
        Raises:
            InputError, ValueError: as `__call__`.
        """
        recognizer = self.recognizer.adapted(reading, baseline, prior)
        observation = recognizer.observe(image, audio, face_box)
        [result] = recognizer.score([observation])
        return explain(recognizer, observation, result)

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
        classes = self._prompt_embeds(labels, templates or ["{}"])  # (labels, D)
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
    def read_texts(self, texts: list[str]) -> list[TextResult]:
        """What words or sentences mean by themselves: how close each is to every emotion's words, as probabilities.

        Args:
            texts: in English. One of up to four words stands in the templates that the text tower was trained with, a
                longer one is read as it is.
        Raises:
            ValueError: no texts, or one string instead of a list.
        """
        _check_words(texts)
        return self._read(texts, self._text_embeds(texts))

    def _read(self, texts: list[str], embeds: torch.Tensor) -> list[TextResult]:
        """As `read_texts`, of texts whose embeddings (texts, D) are there already."""
        config = self.model.config
        cosines = embeds @ self._emotion_embeds.T  # (texts, labels)
        scale = config.text_scale or getattr(self.model, "emoclip", self.model).scale("image_text").item()
        results = []
        for text, row in zip(texts, cosines):
            scores = dict(zip(config.labels, (scale * row).softmax(-1).tolist()))
            emotional = None if config.emotion_cosine is None else row.max().item() >= config.emotion_cosine
            results.append(TextResult(text, max(scores, key=scores.get), scores, emotional))
        return results

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
        config = self.model.config
        seen = self.recognizer.observe(image, audio)
        face = None if seen.faces is None else self.recognizer.face_embeds(seen.faces)[:1]
        voice = None if seen.voice is None else self.recognizer.voice_embeds(seen.voice).mean(0, keepdim=True)
        word_embeds = self._text_embeds(words)
        texts = torch.cat([word_embeds, self._emotion_embeds])
        face_cosines, voice_cosines = (
            [None] * len(texts) if embeds is None else F.cosine_similarity(embeds, texts).tolist()
            for embeds in (face, voice)
        )
        known = {word for label_words in (config.words or {}).values() for word in label_words}
        trained = [*(word.lower() in known for word in words), *(True for _ in config.labels)]
        read = self._read(words, word_embeds)
        emotions = [*(each.label for each in read), *config.labels]
        emotional = [*(each.emotional for each in read), *(True for _ in config.labels)]
        columns = ([*words, *config.labels], trained, emotions, emotional, face_cosines, voice_cosines)
        rows = list(map(WordCloseness, *columns))
        return WordsResult(rows[: len(words)], rows[len(words) :], seen.messages)

    def _text_embeds(self, texts: list[str]) -> torch.Tensor:
        """(texts, D) normalised embeddings: of a word or phrase in the templates of training, of a sentence alone."""
        templates = self.model.config.prompt_templates or ["{}"]
        return torch.cat(
            [self._prompt_embeds([text], templates if len(text.split()) <= MOST_WORDS else ["{}"]) for text in texts]
        )

    def _prompt_embeds(self, words: list[str], templates: list[str]) -> torch.Tensor:
        """(words, D): the mean of each word's normalised embeddings over the templates, normalised."""
        backbone = getattr(self.model, "emoclip", self.model)
        prompts = [template.format(word) for word in words for template in templates]
        embeds = self._embed(backbone.get_text_features, text=prompts).unflatten(0, (len(words), -1))
        return normalized(embeds.mean(1))

    @functools.cached_property
    def _emotion_embeds(self) -> torch.Tensor:
        """(labels, D): each emotion's words, averaged and normalised."""
        config = self.model.config
        words = config.words or {label: [label] for label in config.labels}
        templates = config.prompt_templates or ["{}"]
        return normalized(
            torch.stack([self._prompt_embeds(words[label], templates).mean(0) for label in config.labels])
        )

    def _embed(self, tower: Callable, **inputs) -> torch.Tensor:
        """(B, D) normalised float32 embeddings of what the processor makes of `inputs`."""
        prepared = self.processor(**inputs, return_tensors="pt").to(self.device)
        return normalized(tower(**prepared).pooler_output)


def _join(prepared: list[list]) -> list:
    """The prepared inputs of a batch as one list."""
    return [each for part in prepared for each in part]


class _Rows(Dataset):
    """A dataset or a column of one, its rows as the pipeline takes them."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return _row(self.rows[index], self.rows)


def _row(row: Any, dataset: Any) -> Any:
    """Of a dataset's row, which has labels and the like too, what the pipeline takes."""
    if not hasattr(dataset, "column_names") or not isinstance(row, dict):
        return row
    return {name: row[name] for name in NAMES if name in row}


def _is_single(inputs: Any) -> bool:
    """Whether something that can be iterated over is one input, or none at all."""
    return isinstance(inputs, (str, bytes, dict, np.ndarray, torch.Tensor)) or hasattr(inputs, "read")


def _check_words(words: Any) -> None:
    """Refuses what is no list of words: a string would be taken for a list of letters."""
    if not isinstance(words, (list, tuple)) or not words:
        raise ValueError("Give a list of one or more words or phrases.")
    if not all(isinstance(word, str) and word.strip() and _is_text(word) for word in words):
        raise ValueError("Give a list of one or more words or phrases, each of letters.")


def _is_text(word: str) -> bool:
    """Whether a string has no halves of characters (lone surrogates), which no tokenizer takes."""
    try:
        word.encode()
        return True
    except UnicodeEncodeError:
        return False


def _as_dict(inputs: Any) -> dict[str, Any]:
    """An input in any of its forms, as a dict with "image" and "audio", or with "video"."""
    if isinstance(inputs, dict):
        if "sampling_rate" in inputs:
            return {"audio": inputs}
        if inputs and inputs.keys() <= {"bytes", "path"}:
            return {kind_of(inputs): inputs}
        if unknown := inputs.keys() - set(NAMES):
            raise TypeError(
                f'An input has "image", "audio", "face_box" or "video", and not {sorted(map(str, unknown))}.'
            )
        return inputs
    if isinstance(inputs, (Image.Image, np.ndarray)):
        return {"image": inputs}
    if hasattr(inputs, "get_all_samples"):  # a dataset's AudioDecoder
        return {"audio": inputs}
    if hasattr(inputs, "read"):
        inputs = {"bytes": read_all(inputs, "file")}
        return {kind_of(inputs): inputs}
    if isinstance(inputs, (str, os.PathLike)):
        return {kind_of(inputs): inputs}
    names = '{"image": ...}, {"audio": ...} or {"video": ...}'
    raise TypeError(f"An input of type {type(inputs).__name__} must be named: {names}.")


def save_all(model: PreTrainedModel, processor: ProcessorMixin, directory: str | os.PathLike) -> None:
    """Everything that a folder or Hub repository needs, in one form: weights in half precision (config.json says
    float32, so that is what they are loaded as), config, processor, tokenizer, and the code of all of them."""
    halves = {  # the waveform tower's transform counts in bins up to 1,024, too fine for half precision
        name: x.half() if x.is_floating_point() and ".fbsp." not in name else x
        for name, x in model.state_dict().items()
    }
    EmotionRecognitionPipeline(model=model, processor=processor).save_pretrained(directory, state_dict=halves)


PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # importing this file a second time is no reason to warn
PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=EmotionRecognitionPipeline, pt_model=AutoModel, type="multimodal"
)
