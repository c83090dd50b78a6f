"""EmoCLIP: AudioCLIP's joint space of images, audio and text, and the heads that read emotions from it.

    from modeling_emoclip import EmoCLIPForEmotionClassification
    model = EmoCLIPForEmotionClassification.from_pretrained("checkpoints/emoclip-small").eval()
    outputs = model(pixel_values=faces, input_features=voices)
    outputs.logits.exp()    # (B, 7) fused posterior
    outputs.agreement       # (B,) above 0: face and voice agree; below 0: they conflict

Shapes in the comments: B rows of a batch, D the joint space, C classes, H x W pixels, L tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

try:
    from .configuration_emoclip import EmoCLIPConfig, EmoCLIPVisionConfig, Reading
    from .esresnext_emoclip import ESResNeXt, FrequencyBSplineTransform, blackman_harris_window
    from .losses_emoclip import (
        PAIRS,
        LabeledRows,
        contrastive_loss,
        gather_rows,
        is_distributed,
        modality_labels,
        modality_masks,
        present_rows,
    )
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from configuration_emoclip import EmoCLIPConfig, EmoCLIPVisionConfig, Reading
    from esresnext_emoclip import ESResNeXt, FrequencyBSplineTransform, blackman_harris_window
    from losses_emoclip import (
        PAIRS,
        LabeledRows,
        contrastive_loss,
        gather_rows,
        is_distributed,
        modality_labels,
        modality_masks,
        present_rows,
    )

#: The largest factor by which a cosine similarity is scaled, as in CLIP.
MAX_LOGIT_SCALE = 100.0
#: Standard deviation of a word vector's numbers behind the projection, at the start.
WORD_STD = 0.2
#: Length of the noise that is added to a word vector in training, of the length 1 that it has itself.
WORD_NOISE = 1.0


def normalize(features: torch.Tensor) -> torch.Tensor:
    """(B, D) to length 1, of the same dtype; a row of zeros stays. Half precision would miss the length by 0.3 %."""
    return F.normalize(features.float(), dim=-1).to(features.dtype)


def constant(values: list, device: torch.device) -> torch.Tensor:
    """A few numbers as a tensor on a device, without making the CPU wait for a GPU."""
    if torch.compiler.is_compiling():  # a constant of the graph
        return torch.tensor(values, device=device)
    return torch.tensor(values).to(device, non_blocking=True)


def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Images (B, C, H, W) at `size`, in float32 where they were not: half precision has no antialiasing on a CPU."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True)


def padded_conv(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """`conv(x)`, with zeros for channels up to 8, or a multiple of 32: a GPU's kernels for half precision are made for
    these, and take three times as long for 20."""
    out_channels, in_channels = conv.weight.shape[:2]
    more_in = 8 - in_channels if in_channels < 8 else -in_channels % 32
    more_out = -out_channels % 32
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, more_in, 0, more_out))
    x = F.conv2d(F.pad(x, (0, 0, 0, 0, 0, more_in)), weight, stride=conv.stride, padding=conv.padding)
    return F.pad(x, (0, 0, 0, 0, 0, -more_out))  # as x[:, :out_channels], whose gradient would not be channels-last


class ModalityBatchNorm2d(nn.ModuleDict):
    """Batch norm with statistics, scales and shifts per modality; a modality without its own uses the image's."""

    def __init__(self, num_features: int, modalities: tuple[str, ...]):
        super().__init__({modality: nn.BatchNorm2d(num_features) for modality in modalities})

    def forward(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        return self[modality if modality in self else "image"](x)


class Bottleneck(nn.Module):
    """CLIP's anti-aliased bottleneck: where it strides, an average pool does, after the second convolution and before
    the shortcut's 1x1 (Zhang, 2019)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, modalities: tuple[str, ...]):
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = ModalityBatchNorm2d(channels, modalities)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = ModalityBatchNorm2d(channels, modalities)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = ModalityBatchNorm2d(out_channels, modalities)
        self.downsample_conv = self.downsample_bn = None
        if stride > 1 or in_channels != out_channels:
            self.downsample_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.downsample_bn = ModalityBatchNorm2d(out_channels, modalities)

    def forward(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x), modality))
        out = F.relu(self.bn2(self.conv2(out), modality))
        out = self.bn3(self.conv3(self.pool(out)), modality)
        if self.downsample_conv is not None:
            x = self.downsample_bn(self.downsample_conv(self.pool(x)), modality)
        return F.relu(out + x)


class AttentionPool2d(nn.Module):
    """CLIP's pooling: multi-head attention whose only query is the map's mean, with one positional grid a modality."""

    def __init__(self, config: EmoCLIPVisionConfig, grids: dict[str, tuple[int, int]], output_dim: int):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.positional_embedding = nn.ParameterDict(
            {
                modality: nn.Parameter(torch.randn(height * width_ + 1, width) / width**0.5)
                for modality, (height, width_) in grids.items()
            }
        )
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output_dim)

    def forward(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)  # (B, cells, width)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding[modality]
        q, k, v = (
            proj(inputs).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, 1 or cells + 1, 64)
            for proj, inputs in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x))
        )
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).flatten(1))  # (B, heads * 64) -> (B, D)


class ModifiedResNet(nn.Module):
    """CLIP's ResNet: a stem of three convolutions, four stages of anti-aliased bottlenecks, attention pooling.

    Args:
        config: width and depth.
        image_sizes: for each modality that passes through the tower, the height and width of its input in pixels.
        output_dim: D.
    """

    def __init__(self, config: EmoCLIPVisionConfig, image_sizes: dict[str, tuple[int, int]], output_dim: int):
        super().__init__()
        modalities = tuple(image_sizes) if config.modality_batch_norm else ("image",)
        width = config.width
        self.image_sizes = {modality: tuple(size) for modality, size in image_sizes.items()}
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = ModalityBatchNorm2d(width // 2, modalities)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = ModalityBatchNorm2d(width // 2, modalities)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = ModalityBatchNorm2d(width, modalities)
        self.layers = nn.ModuleList()
        in_channels = width
        for stage, blocks in enumerate(config.layers):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.layers.append(Bottleneck(in_channels, width * 2**stage, stride, modalities))
                in_channels = width * 2**stage * Bottleneck.expansion
        grids = {modality: tuple(map(self.output_side, size)) for modality, size in image_sizes.items()}
        self.attnpool = AttentionPool2d(config, grids, output_dim)

    @staticmethod
    def output_side(side: int) -> int:
        """Side of the last feature map for an input of `side` pixels: the stem halves upwards, each pool downwards."""
        return (side + 1) // 2 // 16

    def forward(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) pixels of one modality, resampled to its size if need be, to (B, D)."""
        x = resized(x, self.image_sizes[modality]).to(self.conv1.weight.dtype)
        padded = self.training and x.is_cuda
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(padded_conv(x, conv) if padded else conv(x), modality))
        x = F.avg_pool2d(x, 2)  # (B, width, H / 4, W / 4)
        for block in self.layers:
            x = block(x, modality)
        return self.attnpool(x, modality)


class ProjectedCLIPVisionModel(nn.Module):
    """CLIP's vision transformer behind the interface of `ModifiedResNet`; it takes squares of one size only."""

    def __init__(self, config: EmoCLIPVisionConfig, output_dim: int):
        super().__init__()
        self.image_size = config.image_size
        self.clip = CLIPVisionModel(config.clip_config)
        self.projection = nn.Linear(config.clip_config.hidden_size, output_dim, bias=False)

    def forward(self, x: torch.Tensor, modality: str) -> torch.Tensor:
        """(B, 3, H, W) pixels of any modality, resampled to the tower's square if need be, to (B, D)."""
        x = resized(x, (self.image_size, self.image_size))
        return self.projection(self.clip(pixel_values=x.to(self.projection.weight.dtype)).pooler_output)


class WordVectors(nn.Module):
    """A text tower's token embeddings that stay as they are, in eight bits, behind a projection that is trained.

    In training, noise is added to them: a word then speaks for those about it, and none can be learned by heart.
    """

    def __init__(self, config: EmoCLIPConfig):
        super().__init__()
        text, size = config.text_config, config.word_vector_size
        self.register_buffer("weight", torch.zeros(text.vocab_size, size, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(text.vocab_size, 1))  # of each token's numbers
        self.projection = nn.Linear(size, text.hidden_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Tokens (B, L) to embeddings (B, L, hidden size)."""
        vectors = self.weight[input_ids] * self.scale[input_ids].to(self.projection.weight.dtype)
        if self.training:
            vectors = vectors + WORD_NOISE * vectors.shape[-1] ** -0.5 * torch.randn_like(vectors)
        return self.projection(vectors)


@dataclass
class EmoCLIPOutput(ModelOutput):
    """What `EmoCLIPModel` returns. Embeddings are L2-normalised; a row that lacks the modality holds zeros.

    Args:
        loss: contrastive loss, weighted, a scalar. losses: its parts by name, unweighted.
        logits_image_audio, logits_image_text, logits_audio_text: (B, B') scaled cosine similarities of every pair.
        image_embeds, audio_embeds, text_embeds: (B, D).
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits_image_audio: torch.Tensor | None = None
    logits_image_text: torch.Tensor | None = None
    logits_audio_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


@dataclass
class EmoCLIPEmotionOutput(ModelOutput):
    """What `EmoCLIPForEmotionClassification` returns.

    Args:
        loss: weighted sum of `losses`, a scalar, where labels were given. losses: its parts by name, unweighted.
        logits: (B, C) log-probabilities of the fused posterior.
        face_logits, voice_logits: (B, C) each head's logits, calibrated: their softmax is its posterior. -inf in the
            column of a class that the head was not taught. Without meaning in a row that lacks the modality.
        agreement: (B,), see `fuse`: above 0 face and voice agree, below 0 they conflict; 0 where one is missing or
            says nothing.
        image_embeds, audio_embeds, text_embeds: (B, D), L2-normalised.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    face_logits: torch.Tensor | None = None
    voice_logits: torch.Tensor | None = None
    agreement: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


class CheckpointError(Exception):
    """Weights that are damaged, or not those of this model. No ValueError: transformers' `pipeline` would catch that,
    and show a traceback in the place of the sentence."""


class EmoCLIPPreTrainedModel(PreTrainedModel):
    config: EmoCLIPConfig
    config_class = EmoCLIPConfig
    base_model_prefix = "emoclip"
    main_input_name = "pixel_values"
    input_modalities = ("image", "audio", "text")
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = {"fbsp"}
    # Losses are means over the global batch: Trainer must divide them by its accumulation steps, not by items.
    accepts_loss_kwargs = False

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)  # norms, embeddings
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Bottleneck):
            for norm in module.bn3.values():  # a block starts as the identity, as CLIP's
                init.zeros_(norm.weight)
        elif isinstance(module, AttentionPool2d):
            std = module.q_proj.in_features**-0.5
            for linear in (module.q_proj, module.k_proj, module.v_proj, module.c_proj):
                init.normal_(linear.weight, std=std)
            for embedding in module.positional_embedding.values():
                init.normal_(embedding, std=std)
        elif isinstance(module, FrequencyBSplineTransform):
            init.ones_(module.m)
            init.ones_(module.fb)
            init.copy_(module.fc, torch.arange(len(module.fc), dtype=torch.float32))
            init.copy_(module.window, blackman_harris_window(len(module.window)))
        elif isinstance(module, WordVectors):
            init.zeros_(module.weight)
            init.zeros_(module.scale)
            init.normal_(module.projection.weight, std=WORD_STD * module.projection.in_features**-0.5)
        elif isinstance(module, ProjectedCLIPVisionModel):
            init.normal_(module.projection.weight, std=module.projection.in_features**-0.5)
        elif isinstance(module, EmoCLIPModel):
            init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5)
            for scale in (module.logit_scale, module.logit_scale_ai, module.logit_scale_at):
                init.constant_(scale, self.config.logit_scale_init_value)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers' own, but config.json names the custom pipeline only where its code lies in the folder, as
        it does after `save_all`."""
        pipelines = getattr(self.config, "custom_pipelines", None)
        if pipelines is not None and not (Path(save_directory) / "pipeline_emoclip.py").is_file():
            del self.config.custom_pipelines
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            if pipelines is not None:
                self.config.custom_pipelines = pipelines

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """As transformers' own, but a checkpoint that lacks weights is refused, not filled up with random numbers;
        so is a pickle.

        Raises:
            CheckpointError: one sentence that names what is missing or of another shape, or says that the file is
                damaged.
        """
        kwargs |= {"ignore_mismatched_sizes": True, "use_safetensors": True}  # the former is reported below
        path = pretrained_model_name_or_path
        try:
            model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise CheckpointError(
                f"The weights of {path} are cut off or damaged ({error}); get model.safetensors anew."
            ) from None
        mismatched = [key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]]
        for keys, fault in ((sorted(info["missing_keys"]), "lacks"), (sorted(mismatched), "has another shape of")):
            if keys:
                raise CheckpointError(
                    f"{path} {fault} {len(keys)} of {cls.__name__}'s weights "
                    f"({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}); use a whole checkpoint."
                )
        return (model, info) if output_loading_info else model


class EmoCLIPModel(EmoCLIPPreTrainedModel):
    """AudioCLIP (Guzhov et al., 2021): an image, an audio and a text tower that share one embedding space."""

    even_batches = False  # training on several processes: each holds as many faces, voices and texts as any other

    def __init__(self, config: EmoCLIPConfig):
        super().__init__(config)
        self.audio_model = None
        image_sizes = {"image": (config.vision_config.image_size,) * 2}
        if config.audio_config.tower == "shared":
            image_sizes["audio"] = tuple(config.audio_config.image_size)
        else:
            self.audio_model = ESResNeXt(config.audio_config, config.projection_dim)
        if config.vision_config.tower == "modified_resnet":
            self.vision_model = ModifiedResNet(config.vision_config, image_sizes, config.projection_dim)
        else:
            self.vision_model = ProjectedCLIPVisionModel(config.vision_config, config.projection_dim)
        self.text_model = CLIPTextModel(config.text_config)
        if config.word_vector_size is not None:
            self.text_model.embeddings.token_embedding = WordVectors(config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))  # image-text
        self.logit_scale_ai = nn.Parameter(torch.empty(()))  # audio-image
        self.logit_scale_at = nn.Parameter(torch.empty(()))  # audio-text
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """`pooler_output` (B, D), not normalised, of `pixel_values` (B, 3, H, W).

        ```python
        >>> faces = processor(images=Image.open("face.png"), return_tensors="pt")
        >>> model.get_image_features(**faces).pooler_output.shape
        torch.Size([1, 256])
        ```
        """
        return BaseModelOutputWithPooling(pooler_output=self._image_tower(pixel_values))

    def get_audio_features(
        self, input_features: torch.Tensor | None = None, input_values: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """`pooler_output` (B, D), not normalised, of what the audio tower takes.

        Args:
            input_features: (B, 1, mel bands, frames) log-mel images, for the tower `shared`.
            input_values: (B, 1, T) waveforms at 44.1 kHz in int16 units, for the tower `esresnext_fbsp`.
        Raises:
            ValueError: neither is given, or the tower takes the other one.
        """
        audio = self._audio(input_features, input_values)
        if audio is None:
            raise ValueError("The audio tower needs input_features or input_values, whichever its processor makes.")
        return BaseModelOutputWithPooling(pooler_output=self._audio_tower(audio))

    def _image_tower(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) faces to (B, D)."""
        return self.vision_model(pixel_values, "image")

    def _audio(self, input_features: torch.Tensor | None, input_values: torch.Tensor | None) -> torch.Tensor | None:
        """The one of the two that the audio tower takes; None where neither is given."""
        if self.audio_model is None and input_values is not None:
            raise ValueError(
                "The audio tower `shared` reads log-mel images, `input_features` (B, 1, mel bands, frames), "
                "and was given waveforms, `input_values`; use the processor that was saved with the model."
            )
        if self.audio_model is not None and input_features is not None:
            raise ValueError(
                f"The audio tower `{self.config.audio_config.tower}` reads waveforms, `input_values` (B, 1, T), "
                "and was given mel images, `input_features`; use the processor that was saved with the model."
            )
        return input_features if self.audio_model is None else input_values

    def _audio_tower(self, audio: torch.Tensor) -> torch.Tensor:
        """What `_audio` gives to (B, D)."""
        if self.audio_model is not None:
            return self.audio_model(audio)
        return self.vision_model(audio.expand(-1, 3, -1, -1), "audio")

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """`pooler_output` (B, D), not normalised, of `input_ids` (B, L)."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return BaseModelOutputWithPooling(pooler_output=self.text_projection(pooled))

    def scale(self, pair: str) -> torch.Tensor:
        """Factor of the cosine similarities of `image_audio`, `image_text` or `audio_text`, between 1 and 100."""
        parameter = {
            "image_audio": self.logit_scale_ai,
            "image_text": self.logit_scale,
            "audio_text": self.logit_scale_at,
        }[pair]
        return parameter.clamp(0.0, math.log(MAX_LOGIT_SCALE)).exp()

    def encode(
        self,
        pixel_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        face_mask: torch.Tensor | None = None,
        voice_mask: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """(B, D) features, not normalised, of the faces, voices and texts that are given, as `image`, `audio` and
        `text`; zeros in rows that the masks (B,) bool say are absent."""
        audio = self._audio(input_features, input_values)
        features = {
            "image": self._encode_rows(self._image_tower, pixel_values, face_mask),
            "audio": self._encode_rows(self._audio_tower, audio, voice_mask),
        }
        if input_ids is not None:
            features["text"] = self.get_text_features(input_ids, attention_mask).pooler_output
        return {name: values for name, values in features.items() if values is not None}

    def _encode_rows(
        self, tower: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """(B, D) features of the inputs (B, ...), zeros where `mask` (B,) is False; None without inputs."""
        if inputs is None:
            return None
        if mask is None:
            return tower(inputs)
        if not self.training:  # shapes that do not depend on the data, for export
            return tower(inputs).masked_fill(~mask.to(inputs.device)[:, None], 0.0)
        # Absent rows must not enter batch norm, and a batch norm must not see a batch without rows.
        rows = mask.nonzero().flatten().to(inputs.device, non_blocking=True)
        out = torch.zeros(
            len(inputs), self.config.projection_dim, device=inputs.device, dtype=self.text_projection.weight.dtype
        )
        if len(rows):
            features = tower(inputs[rows])
            out = out.to(features.dtype).index_put((rows,), features)
        return out

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        face_labels: torch.Tensor | None = None,
        voice_labels: torch.Tensor | None = None,
        face_mask: torch.Tensor | None = None,
        voice_mask: torch.Tensor | None = None,
        return_loss: bool = True,
        input_values: torch.Tensor | None = None,
    ) -> EmoCLIPOutput:
        """Embeddings of whichever modalities are given, the similarities of every pair, and the contrastive loss.

        Args:
            pixel_values: (B, 3, H, W). input_features: (B, 1, mel bands, frames) or input_values: (B, 1, T), whichever
                the audio tower takes. input_ids, attention_mask: (B, L).
            face_labels, voice_labels: (B,) class of each face and voice. Equal labels are positives of the loss;
                without labels, a row's face, voice and text are each other's only positives (CLIP's loss). A row's
                text has the label of its face, or of its voice where it has no face.
            face_mask, voice_mask: (B,) bool, False where the row has none; None where every row has one. In training
                they are best left on the CPU, which then need not wait for a GPU to know how many rows there are.
            return_loss: False leaves the loss out, as it is where only one modality is given.
        """
        features = self.encode(
            pixel_values, input_features, input_values, input_ids, attention_mask, face_mask, voice_mask
        )
        embeds = {name: normalize(values) for name, values in features.items()}
        if not embeds:
            raise ValueError("EmoCLIP needs at least one of pixel_values, input_features, input_values and input_ids.")
        logits, losses = {}, {}
        for pair, (a, b) in PAIRS.items():
            if a in embeds and b in embeds:
                logits[f"logits_{pair}"] = self.scale(pair) * embeds[a] @ embeds[b].T
        if return_loss and len(embeds) > 1:
            rows = self.labeled_rows(embeds, face_labels, voice_labels, face_mask, voice_mask)
            losses = self.contrastive_losses(rows)
        return EmoCLIPOutput(
            loss=sum(self.config.loss_weights[pair] * loss for pair, loss in losses.items()) if losses else None,
            losses=losses or None,
            **logits,
            **{f"{name}_embeds": value for name, value in embeds.items()},
        )

    def labeled_rows(
        self,
        embeds: dict[str, torch.Tensor],
        face_labels: torch.Tensor | None,
        voice_labels: torch.Tensor | None,
        face_mask: torch.Tensor | None = None,
        voice_mask: torch.Tensor | None = None,
        text_labels: torch.Tensor | None = None,
    ) -> dict[str, LabeledRows]:
        """What `contrastive_losses` compares: the rows of all processes that have a modality, with their labels.

        `embeds` holds (B, D) for `image`, `audio` and `text`, each where it is given. With the loss reduction
        `audioclip` the labels are not used. `text_labels` as in `EmoCLIPForEmotionClassification.forward`.
        """
        if self.config.loss_reduction == "audioclip":  # a row's own face, voice and text are its only positives
            face_labels = voice_labels = None
        masks = modality_masks(embeds, face_mask, voice_mask)
        labels = modality_labels(embeds, face_labels, voice_labels, masks["image"])
        if text_labels is not None:
            labels["text"] = text_labels
        if is_distributed():  # gathering is collective: a process without faces or voices gathers none
            any_embeds = next(iter(embeds.values()))
            none = any_embeds[:0] if masks["image"] is None else torch.zeros_like(any_embeds)
            embeds = {"image": none, "audio": none} | embeds
        rows = {
            name: present_rows(values, labels[name][: len(values)], masks[name]) for name, values in embeds.items()
        }
        return gather_rows(rows, self.even_batches)

    def contrastive_losses(self, rows: dict[str, LabeledRows]) -> dict[str, torch.Tensor]:
        """The losses of every pair of what `labeled_rows` gives, each a scalar, for pairs of a weight above 0.

        With the loss reduction `audioclip`, `transform` is among them where there is audio.
        """
        losses = {
            pair: contrastive_loss(rows[a].embeds, rows[b].embeds, rows[a].labels, rows[b].labels, self.scale(pair))
            for pair, (a, b) in PAIRS.items()
            if a in rows and b in rows and self.config.loss_weights[pair] > 0
        }
        if losses and self.config.loss_reduction == "audioclip":
            return self._audioclip_losses(losses, rows)
        return losses

    def _audioclip_losses(
        self, losses: dict[str, torch.Tensor], rows: dict[str, LabeledRows]
    ) -> dict[str, torch.Tensor]:
        """The losses as AudioCLIP reduces them: the sum of a pair's two directions, not their mean, divided by the
        factorial of the number of pairs; and the transform's, where there is audio."""
        present = {name for name, (embeds, _) in rows.items() if len(embeds)}
        num_pairs = sum(present.issuperset(PAIRS[pair]) for pair in losses)
        losses = {pair: 2 * loss / math.factorial(num_pairs) for pair, loss in losses.items()}
        if self.config.loss_weights["transform"] > 0 and self.audio_model is not None and "audio" in present:
            losses["transform"] = self.audio_model.fbsp.norm_loss()
        return losses


def filled(
    log_probs: torch.Tensor | None, mask: torch.Tensor | None, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-posteriors (B, C) in float32, and which rows have them, (B,) bool: every row without a mask. Where there
    are none, zeros in the shape of `like`, and no row has them."""
    if log_probs is None:
        return torch.zeros_like(like, dtype=torch.float32), torch.zeros_like(like[:, 0], dtype=torch.bool)
    mask = torch.ones_like(like[:, 0], dtype=torch.bool) if mask is None else mask
    return log_probs.float(), mask.to(like.device, non_blocking=True)


class EmotionHead(nn.Module):
    """A linear classifier of the classes that it is taught; the logits of the others are -inf."""

    def __init__(self, config: EmoCLIPConfig, taught: list[str]):
        super().__init__()
        self.num_labels = config.num_labels
        self.columns = [config.label2id[label] for label in config.labels if label in taught]
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.projection_dim, len(self.columns))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D) features to (B, C) logits."""
        logits = self.classifier(self.dropout(features))
        every = logits.new_full((logits.shape[0], self.num_labels), -torch.inf)
        return every.index_copy(1, constant(self.columns, logits.device), logits)

    def own_labels(self, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B,) classes to the columns of the head's own classes (B,); 0 where `mask` (B,) is False.

        Raises:
            ValueError: one is a class that the head was not taught.
        """
        column_of = [self.columns.index(i) if i in self.columns else -1 for i in range(self.num_labels)]
        own = constant(column_of, labels.device)[labels].masked_fill(~mask, 0)
        if not torch.compiler.is_compiling() and (own < 0).any():
            raise ValueError(f"A label is of a class that this head was not taught; it knows {self.columns} only.")
        return own

    def own_targets(self, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, C) probabilities to those of the head's own classes, which then sum to 1; uniform where `mask` (B,) is
        False."""
        own = targets[:, constant(self.columns, targets.device)]
        own = own.masked_fill(~mask[:, None], 1 / len(self.columns))
        return own / own.sum(-1, keepdim=True)

    def loss(
        self, logits: torch.Tensor, own_targets: torch.Tensor, mask: torch.Tensor, label_smoothing: float
    ) -> torch.Tensor:
        """Cross-entropy of (B, C) logits with what `own_labels` or `own_targets` give, summed over the rows where
        `mask` (B,) is True."""
        own_logits = logits[:, constant(self.columns, logits.device)].float()
        losses = F.cross_entropy(own_logits, own_targets, reduction="none", label_smoothing=label_smoothing)
        return losses.masked_fill(~mask, 0.0).sum()


class HeadInputs(NamedTuple):
    """What the losses of a modality's heads take: its features (B, D), not normalised, and labels, targets, votes and
    mask as the model's forward does."""

    features: torch.Tensor | None
    labels: torch.Tensor | None
    targets: torch.Tensor | None
    votes: torch.Tensor | None
    mask: torch.Tensor | None


class EmoCLIPForEmotionClassification(EmoCLIPPreTrainedModel):
    """EmoCLIP with a face head, a voice head, and their fusion into one posterior."""

    def __init__(self, config: EmoCLIPConfig):
        config.check_labels()
        super().__init__(config)
        self.emoclip = EmoCLIPModel(config)
        self.face_head = EmotionHead(config, list(config.face_prior))
        self.voice_head = EmotionHead(config, list(config.voice_prior))
        if config.perceived_heads:
            self.face_perceived_head = EmotionHead(config, list(config.face_prior))
            self.voice_perceived_head = EmotionHead(config, list(config.voice_prior))
        self.post_init()

    def _by_class(self, values: dict[str, float], absent: float, device: torch.device) -> torch.Tensor:
        """Numbers by label as (C,); `absent` for a class without one."""
        return constant([values.get(label, absent) for label in self.config.labels], device)

    def head(self, name: Literal["face", "voice"], reading: Reading = "acted") -> EmotionHead:
        """The face head or the voice head of a reading."""
        return getattr(self, f"{self.config.head_name(name, reading)}_head")

    def calibrate(
        self,
        name: Literal["face", "voice"],
        logits: torch.Tensor,
        reading: Reading = "acted",
        prior: dict[str, float] | None = None,
    ) -> torch.Tensor:
        """The logits (B, C) of `head(name, reading)`, each divided by its class's temperature, plus its bias (vector
        scaling, Guo et al., 2017); `prior` as in `EmoCLIPConfig.head`."""
        head = self.config.head(name, reading, prior)
        temperature = self._by_class(head.temperature, 1.0, logits.device).to(logits.dtype)
        bias = self._by_class(head.bias, 0.0, logits.device).to(logits.dtype)
        return logits / temperature + bias

    def answer(
        self, name: Literal["face", "voice"], features: torch.Tensor, reading: Reading = "acted"
    ) -> torch.Tensor:
        """Calibrated logits (B, C) for a tower's features (B, D), not normalised."""
        return self.calibrate(name, self.head(name, reading)(features), reading)

    def _evidence(self, log_probs: torch.Tensor, mask: torch.Tensor, prior: dict[str, float]) -> torch.Tensor:
        """log r(y) = log p(y|x) - log pi(y) of a head's log-posteriors (B, C) and its prior pi; 0 for a class that the
        head was not taught, and in a row where `mask` (B,) is False."""
        taught = constant([label in prior for label in self.config.labels], log_probs.device)
        log_prior = self._by_class(prior, 1.0, log_probs.device).log()
        return torch.where(taught, log_probs - log_prior, 0.0).masked_fill(~mask[:, None], 0.0)

    def fuse(
        self,
        face_log_probs: torch.Tensor | None = None,
        voice_log_probs: torch.Tensor | None = None,
        face_mask: torch.Tensor | None = None,
        voice_mask: torch.Tensor | None = None,
        reading: Reading = "acted",
        prior: dict[str, float] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The fused posterior and the agreement of face and voice log-posteriors (the heads' own, or means of them).

        The product rule for sources that are independent given the emotion (Kittler et al., 1998, equation 7):
        log p(y|f,v) = log p(y|f) - log pi_F(y) + log p(y|v) - log pi_V(y) + log pi(y) + c; a class that a head was
        not taught gets no evidence from it, for or against. The agreement is the pointwise mutual information of
        face and voice under the target prior, log p(f,v) / (p(f) p(v)): with r = p(y|.) / pi_.(y) and sums over the
        classes that both heads were taught, log [sum pi r_F r_V] [sum pi] / ([sum pi r_F] [sum pi r_V]). Where the
        three priors are equal it is the rule's own normaliser.

        Args:
            face_log_probs, voice_log_probs: (B, C), each normalised, or None.
            face_mask, voice_mask: (B,) bool, False where the row has none; None where every row has one.
            reading: that of the log-posteriors, whose class shares are divided out.
            prior: that of the log-posteriors, where `calibrate` was given one, and then the target prior too.
        Returns:
            (B, C) fused log-probabilities, those of the one source where the other is missing and the target prior
            where both are; (B,) agreement, 0 where a modality is missing.
        Raises:
            ValueError: neither is given.
        """
        given = face_log_probs if voice_log_probs is None else voice_log_probs
        if given is None:
            raise ValueError("Fusion needs a face, a voice, or both.")
        config = self.config
        face_prior, voice_prior = (config.head(name, reading, prior).prior for name in ("face", "voice"))
        face, has_face = filled(face_log_probs, face_mask, given)
        voice, has_voice = filled(voice_log_probs, voice_mask, given)
        face_evidence = self._evidence(face, has_face, face_prior)
        voice_evidence = self._evidence(voice, has_voice, voice_prior)
        evidence = face_evidence + voice_evidence  # (B, C)
        log_prior = self._by_class(prior or config.expected(reading), 0.0, given.device).log()  # (C,)
        fused = (log_prior + evidence).log_softmax(-1)
        # Where there is nothing to fuse, the only source keeps the class shares that it was trained on.
        fused = torch.where((has_face & ~has_voice)[:, None], face.log_softmax(-1), fused)
        fused = torch.where((has_voice & ~has_face)[:, None], voice.log_softmax(-1), fused)

        taught_both = face_prior.keys() & voice_prior.keys()
        both = constant([i for i, label in enumerate(config.labels) if label in taught_both], given.device)

        def log_mass(log_ratio: torch.Tensor) -> torch.Tensor:
            """log of the sum of pi r over the classes that both heads were taught, (B, C) to (B,)."""
            return (log_prior + log_ratio)[:, both].logsumexp(-1)

        voice_given_face = log_mass(evidence) - log_mass(face_evidence)
        voice_alone = log_mass(voice_evidence) - log_mass(torch.zeros_like(evidence))
        return fused, voice_given_face - voice_alone  # exactly 0 where one of them is missing

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        face_labels: torch.Tensor | None = None,
        voice_labels: torch.Tensor | None = None,
        face_mask: torch.Tensor | None = None,
        voice_mask: torch.Tensor | None = None,
        return_loss: bool = True,
        input_values: torch.Tensor | None = None,
        face_targets: torch.Tensor | None = None,
        voice_targets: torch.Tensor | None = None,
        reading: Reading = "acted",
        text_labels: torch.Tensor | None = None,
        face_votes: torch.Tensor | None = None,
        voice_votes: torch.Tensor | None = None,
    ) -> EmoCLIPEmotionOutput:
        """Each head's logits, the fused posterior and the agreement; with labels, the losses too.

        Args:
            pixel_values: (B, 3, H, W) faces. input_features: (B, 1, mel bands, frames) log-mel voices of 3 s, or
                input_values: (B, 1, T) waveforms, whichever the audio tower takes.
            input_ids, attention_mask: (B, L) a prompt that speaks of the row's emotion; training only needs it.
            face_labels, voice_labels: (B,) classes; any value where the mask is False. The contrastive losses go by
                them, and the heads' cross-entropy where there are no targets. Where several processes train together,
                either all of them or none give each of these and `input_ids`.
            face_targets, voice_targets: (B, C) probabilities of the classes, beside the labels; the heads'
                cross-entropy alone goes by them.
            face_votes, voice_votes: (B, C) what people perceived, as probabilities, beside the labels: the targets of
                the heads of the reading "perceived", where it has its own.
            text_labels: the classes of the prompts where these are not the rows' own; -1 for one that speaks of no
                emotion, which matches no face and no voice.
            face_mask, voice_mask: (B,) bool, False where the row has none; None where every row has one. In training
                they are best left on the CPU, which then need not wait for a GPU to know how many rows there are.
            return_loss: False leaves the losses out.
            reading: whose heads, calibration and class shares the logits and the fusion go by.
        Without masks and with both labels, B may be another for the voices than for the faces and texts, as in
        training: the losses go by labels, and nothing is fused (`logits` and `agreement` are None).

        Raises:
            ValueError: neither a face nor a voice is given, or else not as many of the one as of the other; a label
                is of a class that the head was not taught; there are targets and no labels.

        ```python
        >>> inputs = processor(images=face, audio=voice, sampling_rate=16_000, return_tensors="pt")
        >>> outputs = model(**inputs)
        >>> model.config.id2label[outputs.logits.argmax(-1).item()]
        'happy'
        ```
        """
        if pixel_values is None and input_features is None and input_values is None:
            raise ValueError("EmoCLIP needs a face (pixel_values), a voice (input_features or input_values), or both.")
        voices = input_values if input_features is None else input_features
        together = pixel_values is None or voices is None or pixel_values.shape[0] == voices.shape[0]
        by_label = face_labels is not None and voice_labels is not None and self.config.loss_reduction == "clip"
        if not together and (not by_label or face_mask is not None or voice_mask is not None):
            raise ValueError(
                "The faces and voices of a batch belong together, row by row, and here are "
                f"{len(pixel_values)} faces and {len(voices)} voices."
            )
        if (face_targets is not None and face_labels is None) or (voice_targets is not None and voice_labels is None):
            raise ValueError("Targets are for the cross-entropy alone; pass face_labels and voice_labels beside them.")
        features = self.emoclip.encode(
            pixel_values, input_features, input_values, input_ids, attention_mask, face_mask, voice_mask
        )
        embeds = {name: normalize(values) for name, values in features.items()}
        face_logits = self.answer("face", features["image"], reading) if "image" in features else None
        voice_logits = self.answer("voice", features["audio"], reading) if "audio" in features else None
        losses, logits, agreement = {}, None, None
        if return_loss and (face_labels is not None or voice_labels is not None):
            face = HeadInputs(features.get("image"), face_labels, face_targets, face_votes, face_mask)
            voice = HeadInputs(features.get("audio"), voice_labels, voice_targets, voice_votes, voice_mask)
            rows = self.emoclip.labeled_rows(embeds, face_labels, voice_labels, face_mask, voice_mask, text_labels)
            losses = self.losses(rows, face, voice)
        if together:
            logits, agreement = self.fuse(
                None if face_logits is None else face_logits.float().log_softmax(-1),
                None if voice_logits is None else voice_logits.float().log_softmax(-1),
                face_mask,
                voice_mask,
                reading,
            )
        return EmoCLIPEmotionOutput(
            loss=sum(self.config.loss_weights[name] * loss for name, loss in losses.items()) if losses else None,
            losses=losses or None,
            logits=logits,
            face_logits=face_logits,
            voice_logits=voice_logits,
            agreement=agreement,
            **{f"{name}_embeds": value for name, value in embeds.items()},
        )

    def losses(self, rows: dict[str, LabeledRows], face: HeadInputs, voice: HeadInputs) -> dict[str, torch.Tensor]:
        """The losses of a weight above 0 by name, unweighted, each a scalar; `rows` as in `contrastive_losses`."""
        losses = {}
        for name, given in (("face", face), ("voice", voice)):
            if given.labels is None:
                continue
            targets = {("acted", name): given.targets}
            if self.config.perceived_heads and given.votes is not None:
                targets["perceived", self.config.head_name(name, "perceived")] = given.votes
            for (reading, head_name), of_reading in targets.items():
                if self.config.loss_weights[head_name] > 0:
                    losses[head_name] = self._head_loss(name, reading, given, of_reading)
        return losses | self.emoclip.contrastive_losses(rows)

    def _head_loss(
        self, name: Literal["face", "voice"], reading: Reading, given: HeadInputs, targets: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean cross-entropy over the rows of all processes that have the modality.

        DistributedDataParallel averages gradients over the processes: each returns the sum over its own rows, times
        the number of processes, over the number of rows of all.
        """
        head, features, labels, mask = self.head(name, reading), given.features, given.labels, given.mask
        mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.to(labels.device, non_blocking=True)
        if features is None:
            mask = torch.zeros_like(mask)
            total = next(self.parameters()).new_zeros(())
        else:
            logits = self.answer(name, features, reading)
            own = head.own_labels(labels, mask) if targets is None else head.own_targets(targets, mask)
            smoothing = self.config.label_smoothing if reading == "acted" else 0.0  # votes are smooth themselves
            total = head.loss(logits, own, mask, smoothing)
        count = mask.sum()
        if not self.emoclip.even_batches and is_distributed():  # else every process's mean weighs the same
            dist.all_reduce(count)
            total = total * dist.get_world_size()
        return total / count.clamp(min=1)


# AutoModel gives what was saved: the backbone alone, or the whole classifier.
EmoCLIPModel.register_for_auto_class("AutoModel")
EmoCLIPForEmotionClassification.register_for_auto_class("AutoModel")
