"""EmoCLIP's configuration: what the towers look like, and what the heads were taught.

from configuration_emoclip import EmoCLIPConfig
config = EmoCLIPConfig()  # preset `small`, the shipped default
config = EmoCLIPConfig.from_preset("audioclip")  # the official AudioCLIP
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

#: Every emotion, alphabetical: the one order of labels, logits and scores throughout the project.
LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
#: CREMA-D was acted without surprise, so the voice head is taught the other six.
VOICE_LABELS = LABELS[:-1]

#: What an answer means: what was acted, as the corpora's labels say, or how people perceive it, as their votes say.
Reading = Literal["acted", "perceived"]

#: How often each emotion is, where that is known: all equally often, or the share of each.
Prior = Literal["uniform"] | dict[str, float]

#: Of config.json. It is raised where older code would misread a newer file, which that code then refuses.
FORMAT_VERSION = 3

#: Class shares and calibrations of one reading: the fields of EmoCLIPConfig, and again those of its `perceived`.
READING_FIELDS = (
    *("face_prior", "voice_prior", "target_prior"),
    *("face_temperature", "voice_temperature", "face_bias", "voice_bias"),
    *("face_threshold", "voice_threshold"),
)

DEFAULT_LOSS_WEIGHTS = {
    "face": 1.0,
    "voice": 1.0,
    "face_perceived": 1.0,
    "voice_perceived": 1.0,
    "image_audio": 0.1,
    "image_text": 0.1,
    "audio_text": 0.1,
    "transform": 1.0,
}


@dataclass(frozen=True)
class HeadConfig:
    """What a head's posteriors are of, in one reading; each holds a number for every class that the head knows.

    Args:
        prior: share of each class in the training data: of the labels, or of people's votes.
        temperature, bias: the calibration: a class's logit is divided by the one, then the other is added (vector
            scaling, Guo et al., 2017).
        threshold: an answer of a lower score is unsure.
    """

    prior: dict[str, float]
    temperature: dict[str, float]
    bias: dict[str, float]
    threshold: float


def whole_calibration(
    prior: dict[str, float], temperature: dict[str, float] | float, bias: dict[str, float] | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Temperature and bias of each class in `prior`: one temperature is that of every class, a missing bias is 0."""
    if not isinstance(temperature, dict):  # as in config.json until format 3
        temperature = dict.fromkeys(prior, temperature)
    return temperature, dict.fromkeys(prior, 0.0) | (bias or {})


@strict
class EmoCLIPVisionConfig(PreTrainedConfig):
    """CLIP's ModifiedResNet (Radford et al., 2021, section 2.4), at any width and depth, or its vision transformer.

    Args:
        tower: `modified_resnet`, or `clip_vision_model`, a transformers CLIPVisionModel.
        clip_config: the CLIPVisionModel's own configuration, which then says the image size too; `width`, `layers`
            and `modality_batch_norm` are the ResNet's.
        width: channels after the stem; the four stages end with 4, 8, 16 and 32 times as many.
        layers: bottleneck blocks in each of the four stages.
        image_size: side in pixels of the square face that enters the tower.
        modality_batch_norm: whether mel images, where they pass through this tower, have batch-norm layers of
            their own. Their pixels have other statistics than a face's, and the two enter in separate passes.
    """

    model_type = "emoclip_vision_model"
    base_config_key = "vision_config"
    sub_configs = {"clip_config": CLIPVisionConfig}

    tower: Literal["modified_resnet", "clip_vision_model"] = "modified_resnet"
    clip_config: dict | CLIPVisionConfig | None = None
    width: int = 40
    layers: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    image_size: int = 96
    modality_batch_norm: bool = True

    def __post_init__(self, **kwargs):
        if self.tower == "clip_vision_model":
            if not isinstance(self.clip_config, PreTrainedConfig):
                self.clip_config = CLIPVisionConfig(**(self.clip_config or {}))
            self.image_size = self.clip_config.image_size
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage, and of the attention pool."""
        return self.width * 32

    @property
    def num_attention_heads(self) -> int:
        """Heads of the attention pool, 64 channels each."""
        return self.hidden_size // 64

    def validate_architecture(self):
        if self.tower == "clip_vision_model":
            return
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"`layers` must be four positive numbers of blocks, got {list(self.layers)}.")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"`width` must be a positive even number of channels, got {self.width}.")
        if self.image_size < 32:
            raise ValueError(f"`image_size` must be at least 32, the tower's total stride, got {self.image_size}.")


@strict
class EmoCLIPAudioConfig(PreTrainedConfig):
    """The audio tower.

    `shared`: the log-mel spectrogram is an image, and the image tower reads it. `esresnext_fbsp`: AudioCLIP's own
    (Guzhov et al., 2021), a learned frequency B-spline transform of the waveform and a ResNeXt with attention.

    Args:
        tower: `shared` or `esresnext_fbsp`; `image_size` is the former's, everything else the latter's.
        image_size: height (mel bands) and width (frames) at which the spectrogram enters the image tower; one of
            another size is resampled. A vision transformer takes squares only and resamples to its own size.
        n_fft: taps of a filter of the transform; it has n_fft // 2 + 1 filters.
        win_length, hop_length: of a frame, in samples.
        num_bands: equal parts of the spectrum that become the ResNeXt's input channels.
        width: channels after the first convolution; the four stages end with 4, 8, 16 and 32 times as many.
        groups: of the 3x3 convolutions in the blocks.
        layers: blocks in each of the four stages.
    """

    model_type = "emoclip_audio_model"
    base_config_key = "audio_config"

    tower: Literal["shared", "esresnext_fbsp"] = "shared"
    image_size: list[int] | tuple[int, ...] = (96, 141)
    n_fft: int = 2048
    win_length: int = 1654
    hop_length: int = 561
    num_bands: int = 3
    width: int = 64
    groups: int = 32
    layers: list[int] | tuple[int, ...] = (3, 4, 6, 3)

    @property
    def hidden_size(self) -> int:
        """Channels of the ResNeXt's last stage."""
        return self.width * 32

    def validate_architecture(self):
        if len(self.image_size) != 2 or min(self.image_size) < 32:
            raise ValueError(f"`image_size` must be (mel bands, frames), each at least 32, got {self.image_size}.")
        if not 0 < self.win_length <= self.n_fft or self.hop_length < 1:
            raise ValueError(
                f"`win_length` must be between 1 and `n_fft` and `hop_length` at least 1, got "
                f"{self.win_length}, {self.n_fft} and {self.hop_length}."
            )
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"`layers` must be four positive numbers of blocks, got {list(self.layers)}.")
        if self.groups < 1 or self.width < 1 or 2 * self.width % self.groups:
            raise ValueError(f"`groups` must divide twice the `width`, got {self.groups} and {self.width}.")


@strict
class EmoCLIPConfig(PreTrainedConfig):
    """The whole of EmoCLIP. The defaults are the preset `small`; `from_preset` gives the others.

    Args:
        vision_config, text_config, audio_config: the towers; the text tower is CLIP's own.
        word_vector_size: of the text tower's token embeddings where they are word vectors trained by others, which are
            kept as they are, with eight bits a number; None for embeddings of the tower's own.
        projection_dim: size of the joint embedding space.
        logit_scale_init_value: logarithm of the similarities' first scale; CLIP's is log(1 / 0.07).
        face_prior, voice_prior: share of each class in what the head was trained on, by name. The names are the
            classes the head was taught: a head says nothing of the others.
        target_prior: how often each emotion is expected where the model is used; None for the face head's shares.
        face_temperature, voice_temperature: divisors of the logits of each class that the head was taught, by name,
            fitted on validation data (vector scaling, Guo et al., 2017). A number is that of every class.
        face_bias, voice_bias: what is added to the divided logits of each class that the head was taught, by name,
            fitted together with the temperatures. The fusion asks for them: it divides by class shares, which the
            posteriors must have on average. None for 0.
        face_threshold, voice_threshold: a head's answer of a lower score is unsure; fitted on validation data.
        perceived_heads: whether the reading "perceived" has a face head and a voice head of its own, trained on
            people's votes. Without, it has a second calibration of the heads that were trained on the labels.
        perceived: these nine fields, `face_prior` to `voice_threshold`, once more by their names: of the reading
            "perceived", for which shares, calibrations and thresholds go by people's votes instead of the labels.
            None where nobody voted; that reading is then the same as "acted".
        neutral: by head (see `heads`) and label, the mean log-posterior before calibration of validation data that
            are labelled neutral, which a person's baseline is compared with; None where it is not known.
        loss_weights: what each loss counts for in training: `face`, `voice` (cross-entropy of the heads),
            `face_perceived`, `voice_perceived` (the same of the `perceived_heads`), `image_audio`, `image_text`,
            `audio_text` (contrastive), `transform` (how far the norms of the waveform tower's filters are from 1;
            `loss_reduction="audioclip"` only). A weight of 0 leaves the term out.
        loss_reduction: of the contrastive losses. `clip`: all rows of one label are positives, and each pair of
            modalities counts as the mean of its two directions. `audioclip`: as AudioCLIP was trained, a row's own
            face, sound and text are its only positives; the sum of both directions, divided by the factorial of
            the number of pairs, and the transform's term.
        label_smoothing: of the heads' cross-entropy.
        classifier_dropout: before each head.
        words: for each emotion, the words that the text tower was trained on.
        emotion_cosine: how close to the words of an emotion, as a cosine, a text must be at least to mean one; None
            where it was not fitted.
        text_scale: factor of those cosines in the probabilities of a text read alone; None for that of faces' texts.
        prompt_templates: sentences with one `{}`, where a word goes.
        format_version: of config.json; code refuses what is newer than itself.
    """

    model_type = "emoclip"
    sub_configs = {
        "vision_config": EmoCLIPVisionConfig,
        "text_config": CLIPTextConfig,
        "audio_config": EmoCLIPAudioConfig,
    }
    # Evaluation gathers every output that is not named here; the heads' logits are all it needs.
    keys_to_ignore_at_inference = ["losses", "agreement", "image_embeds", "audio_embeds", "text_embeds"]

    vision_config: dict | EmoCLIPVisionConfig | None = None
    text_config: dict | CLIPTextConfig | None = None
    audio_config: dict | EmoCLIPAudioConfig | None = None
    word_vector_size: int | None = None
    projection_dim: int = 256
    logit_scale_init_value: float | int = 2.6592

    face_prior: dict[str, float] | None = None
    voice_prior: dict[str, float] | None = None
    target_prior: dict[str, float] | None = None
    face_temperature: dict[str, float | int] | float | int = 1.0
    voice_temperature: dict[str, float | int] | float | int = 1.0
    face_bias: dict[str, float | int] | None = None
    voice_bias: dict[str, float | int] | None = None
    face_threshold: float | int = 0.0
    voice_threshold: float | int = 0.0
    perceived_heads: bool = False
    perceived: dict[str, dict[str, float | int] | float | int] | None = None
    neutral: dict[str, dict[str, float | int]] | None = None

    loss_weights: dict[str, float | int] | None = None
    loss_reduction: Literal["clip", "audioclip"] = "clip"
    label_smoothing: float | int = 0.1
    classifier_dropout: float | int = 0.2

    words: dict[str, list[str]] | None = None
    emotion_cosine: float | int | None = None
    text_scale: float | int | None = None
    prompt_templates: list[str] | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs):
        for name, cls in self.sub_configs.items():
            value = getattr(self, name)
            if not isinstance(value, PreTrainedConfig):
                default = SMALL_TEXT_CONFIG if name == "text_config" else {}
                setattr(self, name, cls(**{**default, **(value or {})}))
        if self.id2label is None:
            self.id2label = dict(enumerate(LABELS))
        if self.label2id is None:
            self.label2id = {label: int(i) for i, label in self.id2label.items()}
        if self.face_prior is None:
            self.face_prior = dict.fromkeys(LABELS, 1 / len(LABELS))
        if self.voice_prior is None:
            self.voice_prior = dict.fromkeys(VOICE_LABELS, 1 / len(VOICE_LABELS))
        if self.target_prior is None:
            self.target_prior = dict(self.face_prior)
        self.face_temperature, self.face_bias = whole_calibration(
            self.face_prior, self.face_temperature, self.face_bias
        )
        self.voice_temperature, self.voice_bias = whole_calibration(
            self.voice_prior, self.voice_temperature, self.voice_bias
        )
        self.loss_weights = DEFAULT_LOSS_WEIGHTS | (self.loss_weights or {})
        super().__post_init__(**kwargs)
        self.check_labels()

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "EmoCLIPConfig":
        """A preset of PRESETS, with some fields replaced.

        Raises:
            ValueError: no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"The preset must be one of {', '.join(PRESETS)}, got {name!r}.")
        return cls(**copy.deepcopy(PRESETS[name]) | overrides)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs) -> "EmoCLIPConfig":
        """As transformers' own, but what this code cannot read is refused in a sentence.

        Raises:
            ValueError: it is the configuration of another kind of model, or of a newer EmoCLIP, or a field is wrong.
        """
        if (kind := config_dict.get("model_type")) != cls.model_type:
            what = f"of the model type {kind!r}" if kind else "without a model type"
            raise ValueError(f"This is no EmoCLIP but a configuration {what}: name an EmoCLIP's folder or Hub id.")
        version = config_dict.get("format_version", 1)
        if not isinstance(version, int) or not isinstance(config_dict.get("id2label", {}), dict):
            raise ValueError("The EmoCLIP's config.json is wrong: `format_version` or `id2label` is of another type.")
        if version > FORMAT_VERSION:
            raise ValueError(
                f"This EmoCLIP is newer than the code that reads it (format {version}, not {FORMAT_VERSION}): update "
                "the code, or load it by the Auto classes with trust_remote_code=True, which bring its own."
            )
        # What is given beside the file is filled in and checked as what stands in it; transformers sets it afterwards.
        given = {name: kwargs.pop(name) for name in (cls.__annotations__.keys() - cls.sub_configs) & kwargs.keys()}
        try:  # what is saved from here on is of this code's format
            return super().from_dict(config_dict | given | {"format_version": FORMAT_VERSION}, **kwargs)
        except StrictDataclassError as error:
            cause = str(error.__cause__).rstrip(".")
            raise ValueError(f"The EmoCLIP's config.json is wrong: {cause}.") from None

    @property
    def labels(self) -> list[str]:
        """The emotions in the order of the logits."""
        return [self.id2label[i] for i in range(len(self.id2label))]

    def head(
        self, name: Literal["face", "voice"], reading: Reading = "acted", prior: dict[str, float] | None = None
    ) -> HeadConfig:
        """Class shares, calibration and threshold of the `face` or the `voice` head in a reading.

        Args:
            prior: each emotion's share where the model is used. The biases then turn the posteriors into those of
                these shares (Saerens et al., 2002), of which a head takes those of its classes, made to sum to 1.
        """
        fields = self._reading(reading)
        head = HeadConfig(*(fields[f"{name}_{field}"] for field in ("prior", "temperature", "bias", "threshold")))
        if prior is None:
            return head
        taught = sum(prior[label] for label in head.prior)
        shares = {label: prior[label] / taught for label in head.prior}
        bias = {label: head.bias[label] + math.log(shares[label] / own) for label, own in head.prior.items()}
        return replace(head, prior=shares, bias=bias)

    def expected(self, reading: Reading = "acted") -> dict[str, float]:
        """How often each emotion is expected where the model is used: the reading's target prior."""
        return self._reading(reading)["target_prior"]

    def shares(self, prior: Prior) -> dict[str, float]:
        """A prior as the share of each label.

        Raises:
            ValueError: one sentence: it is none, or lacks a label.
        """
        if prior == "uniform":
            return dict.fromkeys(self.labels, 1 / len(self.labels))
        if not isinstance(prior, dict) or not all(isinstance(share, Real) for share in prior.values()):
            raise ValueError(f'A prior is "uniform", or each emotion\'s share, {{"angry": 0.1, ...}}, not {prior!r}.')
        self._check_shares(prior, "The prior", self.labels)
        return prior

    def head_name(self, name: Literal["face", "voice"], reading: Reading = "acted") -> str:
        """Of the head that answers in a reading: `face_perceived` and `voice_perceived` where these have their own."""
        return f"{name}_perceived" if reading == "perceived" and self.perceived_heads else name

    @property
    def heads(self) -> list[str]:
        """The names of all heads."""
        return ["face", "voice"] + ["face_perceived", "voice_perceived"] * self.perceived_heads

    def _reading(self, reading: Reading) -> dict[str, dict[str, float] | float]:
        return self.perceived if reading == "perceived" and self.perceived else vars(self)

    def calibrate_head(
        self,
        name: Literal["face", "voice"],
        temperature: dict[str, float] | float,
        bias: dict[str, float] | None,
    ):
        """Sets a head's calibration, by label; a number is the temperature of every class, None a bias of 0.

        Raises:
            ValueError: one sentence: a temperature is not positive, or a class of the head has none.
        """
        temperature, bias = whole_calibration(self.head(name).prior, temperature, bias)
        vars(self).update({f"{name}_temperature": temperature, f"{name}_bias": bias})
        self.check_labels()

    def check_labels(self):
        """Labels travel by name, so a map that disagrees with itself or with the heads is refused.

        Raises:
            ValueError: one sentence that says which field is wrong.
        """
        if sorted(self.id2label) != list(range(len(self.id2label))) or self.labels != list(LABELS):
            raise ValueError(f"`id2label` must number {', '.join(LABELS)} from 0 in this order, got {self.id2label}.")
        if self.label2id != {label: i for i, label in self.id2label.items()}:
            raise ValueError(f"`label2id` {self.label2id} is not the inverse of `id2label` {self.id2label}.")
        self._check_reading("acted", "`")
        if self.perceived is not None:
            if missing := sorted(set(READING_FIELDS) - set(self.perceived)):
                raise ValueError(f"`perceived` lacks {missing}.")
            self._check_reading("perceived", "`perceived.")
            for name in ("face", "voice"):
                if set(self.head(name, "perceived").prior) != set(self.head(name).prior):
                    raise ValueError(f"`perceived.{name}_prior` must speak of {list(self.head(name).prior)} alone.")
        if self.neutral is not None:
            taught = {name: set(self.head(name.partition("_")[0]).prior) for name in self.heads}
            if {name: set(means) for name, means in self.neutral.items()} != taught:
                raise ValueError(f"`neutral` must give a number to each class of every head, got {self.neutral}.")
        if self.words is not None and not all(self.words.get(label) for label in self.labels):
            raise ValueError(f"`words` must name one or more for each of {self.labels}.")
        if unknown := sorted(set(self.loss_weights) - set(DEFAULT_LOSS_WEIGHTS)):
            raise ValueError(f"`loss_weights` has no term named {unknown}.")

    def _check_reading(self, reading: Reading, quote: str):
        """Class shares and calibrations of a reading; the fields' names in messages begin with `quote`."""
        fields = self._reading(reading)
        for name, needed in (("face_prior", ()), ("voice_prior", ()), ("target_prior", self.labels)):
            self._check_shares(fields[name], f"{quote}{name}`", needed)
        for name in ("face", "voice"):
            head = self.head(name, reading)
            temperatures, biases = head.temperature.values(), head.bias.values()
            if set(head.temperature) != set(head.prior) or not all(0 < value < math.inf for value in temperatures):
                raise ValueError(
                    f"{quote}{name}_temperature` must be a positive number, or one for each of {list(head.prior)} "
                    f"alone, got {head.temperature}."
                )
            if set(head.bias) != set(head.prior) or not all(map(math.isfinite, biases)):
                raise ValueError(
                    f"{quote}{name}_bias` must give a number to each of {list(head.prior)} alone, got {head.bias}."
                )
            if not 0 <= head.threshold <= 1:
                raise ValueError(f"{quote}{name}_threshold` must be between 0 and 1, got {head.threshold}.")

    def _check_shares(self, prior: dict[str, float], what: str, needed: Iterable[str]):
        """`what` is the prior's name in messages, and `needed` are the labels that it must have."""
        if unknown := sorted(set(prior) - set(self.labels)):
            raise ValueError(f"{what} speaks of {unknown}, but the model's labels are {self.labels}.")
        if not (all(share > 0 for share in prior.values()) and abs(sum(prior.values()) - 1) <= 1e-3):
            raise ValueError(f"{what} must be positive shares that sum to 1, got {prior}.")
        if set(needed) - set(prior):
            raise ValueError(f"{what} must give a share to each of {list(needed)}, got {prior}.")


#: Text tower of `small`: some 1.5 M parameters behind a byte-level vocabulary trained on the prompts.
SMALL_TEXT_CONFIG = {
    "vocab_size": 1024,
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1022,
    "eos_token_id": 1023,
}

#: What each preset sets beside the defaults above.
PRESETS = {
    "small": {},
    "audioclip": {
        "vision_config": {
            "width": 64,
            "layers": (3, 4, 6, 3),
            "image_size": 224,
            "modality_batch_norm": False,
        },
        "text_config": {
            "vocab_size": 49_408,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "max_position_embeddings": 77,
            "pad_token_id": 0,
            "bos_token_id": 49_406,
            "eos_token_id": 49_407,
        },
        "audio_config": {"tower": "esresnext_fbsp"},
        "projection_dim": 1024,
        "loss_reduction": "audioclip",
        "loss_weights": {"image_audio": 1.0, "image_text": 1.0, "audio_text": 1.0, "transform": 1.0},
        "prompt_templates": ["{}"],
    },
}

EmoCLIPConfig.register_for_auto_class()
