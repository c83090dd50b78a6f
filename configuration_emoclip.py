"""EmoCLIP's configuration: what the towers look like, and what the heads were taught.

from configuration_emoclip import EmoCLIPConfig
config = EmoCLIPConfig()  # preset `small`, the shipped default
"""

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, PreTrainedConfig

#: Every emotion, alphabetical: the one order of labels, logits and scores throughout the project.
LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
#: CREMA-D was acted without surprise, so the voice head is taught the other six.
VOICE_LABELS = LABELS[:-1]


@strict
class EmoCLIPVisionConfig(PreTrainedConfig):
    """CLIP's ModifiedResNet (Radford et al., 2021, section 2.4), at any width and depth.

    Args:
        width: channels after the stem; the four stages end with 4, 8, 16 and 32 times as many.
        layers: bottleneck blocks in each of the four stages.
        image_size: side in pixels of the square face that enters the tower.
        modality_batch_norm: whether mel images, where they pass through this tower, have batch-norm layers of
            their own. Their pixels have other statistics than a face's, and the two enter in separate passes.
    """

    model_type = "emoclip_vision_model"
    base_config_key = "vision_config"

    width: int = 40
    layers: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    image_size: int = 64
    modality_batch_norm: bool = True

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage, and of the attention pool."""
        return self.width * 32

    @property
    def num_attention_heads(self) -> int:
        """Heads of the attention pool, 64 channels each."""
        return self.hidden_size // 64

    def validate_architecture(self):
        if len(self.layers) != 4 or min(self.layers) < 1:
            raise ValueError(f"`layers` must be four positive numbers of blocks, got {list(self.layers)}.")
        if self.width < 2 or self.width % 2:
            raise ValueError(f"`width` must be a positive even number of channels, got {self.width}.")
        if self.image_size < 32:
            raise ValueError(f"`image_size` must be at least 32, the tower's total stride, got {self.image_size}.")


@strict
class EmoCLIPAudioConfig(PreTrainedConfig):
    """Audio tower `shared`: the log-mel spectrogram is an image, and the image tower reads it.

    Args:
        image_size: height (mel bands) and width (frames) at which the spectrogram enters the image tower; one of
            another size is resampled.
    """

    model_type = "emoclip_audio_model"
    base_config_key = "audio_config"

    image_size: list[int] | tuple[int, ...] = (96, 141)

    def validate_architecture(self):
        if len(self.image_size) != 2 or min(self.image_size) < 32:
            raise ValueError(f"`image_size` must be (mel bands, frames), each at least 32, got {self.image_size}.")


@strict
class EmoCLIPConfig(PreTrainedConfig):
    """The whole of EmoCLIP. The defaults are the preset `small`.

    Args:
        vision_config, text_config, audio_config: the towers; the text tower is CLIP's own.
        projection_dim: size of the joint embedding space.
        logit_scale_init_value: logarithm of the similarities' first scale; CLIP's is log(1 / 0.07).
        face_prior, voice_prior: share of each class in what the head was trained on, by name. The names are the
            classes the head was taught: a head says nothing of the others.
        target_prior: how often each emotion is expected where the model is used; None for the face head's shares.
        face_temperature, voice_temperature: divisors of the heads' logits, fitted on validation data
            (Guo et al., 2017).
        loss_weights: what each loss counts for in training: `face`, `voice` (cross-entropy of the heads),
            `image_audio`, `image_text`, `audio_text` (contrastive). A weight of 0 leaves the term out.
        label_smoothing: of the heads' cross-entropy.
        classifier_dropout: before each head.
        words: for each emotion, the words that the text tower was trained on.
        prompt_templates: sentences with one `{}`, where a word goes.
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
    projection_dim: int = 256
    logit_scale_init_value: float = 2.6592

    face_prior: dict[str, float] | None = None
    voice_prior: dict[str, float] | None = None
    target_prior: dict[str, float] | None = None
    face_temperature: float = 1.0
    voice_temperature: float = 1.0

    loss_weights: dict[str, float] | None = None
    label_smoothing: float = 0.1
    classifier_dropout: float = 0.2

    words: dict[str, list[str]] | None = None
    prompt_templates: list[str] | None = None

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
        default_weights = {"face": 1.0, "voice": 1.0, "image_audio": 0.1, "image_text": 0.1, "audio_text": 0.1}
        self.loss_weights = default_weights | (self.loss_weights or {})
        super().__post_init__(**kwargs)
        self.check_labels()

    @property
    def labels(self) -> list[str]:
        """The emotions in the order of the logits."""
        return [self.id2label[i] for i in range(len(self.id2label))]

    def check_labels(self):
        """Labels travel by name, so a map that disagrees with itself or with the heads is refused.

        Raises:
            ValueError: one sentence that says which field is wrong.
        """
        if sorted(self.id2label) != list(range(len(self.id2label))) or self.labels != list(LABELS):
            raise ValueError(f"`id2label` must number {', '.join(LABELS)} from 0 in this order, got {self.id2label}.")
        if self.label2id != {label: i for i, label in self.id2label.items()}:
            raise ValueError(f"`label2id` {self.label2id} is not the inverse of `id2label` {self.id2label}.")
        for name in ("face_prior", "voice_prior", "target_prior"):
            prior = getattr(self, name)
            if unknown := sorted(set(prior) - set(self.labels)):
                raise ValueError(f"`{name}` speaks of {unknown}, but the model's labels are {self.labels}.")
            if not (all(share > 0 for share in prior.values()) and abs(sum(prior.values()) - 1) <= 1e-3):
                raise ValueError(f"`{name}` must be positive shares that sum to 1, got {prior}.")
        for name in ("face_temperature", "voice_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be a positive number, got {getattr(self, name)}.")
        if set(self.target_prior) != set(self.labels):
            raise ValueError(f"`target_prior` must give a share to each of {self.labels}, got {self.target_prior}.")
        if unknown := sorted(set(self.loss_weights) - {"face", "voice", "image_audio", "image_text", "audio_text"}):
            raise ValueError(f"`loss_weights` has no term named {unknown}.")


#: Text tower of `small`: some 1.4 M parameters behind a byte-level vocabulary trained on the prompts.
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

EmoCLIPConfig.register_for_auto_class()
