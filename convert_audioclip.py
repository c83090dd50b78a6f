"""Turns an official AudioCLIP or CLIP checkpoint into a folder that `from_pretrained` loads.

    python convert_audioclip.py AudioCLIP-Full-Training.pt checkpoints/audioclip
    python convert_audioclip.py RN50.pt checkpoints/clip-rn50     # image and text; the audio tower starts untrained
    python train_hf.py --init_from checkpoints/audioclip          # fine-tunes from it

    model = EmoCLIPModel.from_pretrained("checkpoints/audioclip")
    processor = EmoCLIPProcessor.from_pretrained("checkpoints/audioclip")

AudioCLIP's checkpoints (`-Full-Training`, `-Partial-Training`) are at github.com/AndreyGuzhov/AudioCLIP/releases;
OpenAI's CLIP with any ResNet is read both as the TorchScript archive that they publish and as a plain state dict.
The text vocabulary comes from the package open_clip_torch, or from the Hub where that is not installed. Pickles are
read with `weights_only=True`, so a file cannot run code.
"""

import argparse
import contextlib
import gzip
import importlib.util
import pickle
import re
import zipfile
from pathlib import Path

import torch
from transformers import CLIPTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from configuration_emoclip import EmoCLIPConfig
from modeling_emoclip import EmoCLIPModel
from processing_emoclip import EmoCLIPImageProcessor, EmoCLIPProcessor, EmoCLIPWaveformExtractor

#: Where the vocabulary is on the Hub; every CLIP by OpenAI has the same one.
CLIP_HUB_ID = "openai/clip-vit-base-patch32"
CLIP_VOCAB_SIZE = 49_408

#: Official key to ours, tried in order; TEXT stands for the text tower's prefix, which depends on transformers.
RENAMES = (
    (r"visual\.layer(\d)\.(\d+)\.downsample\.0\.", r"vision_model.layers.{block}.downsample_conv."),
    (r"visual\.layer(\d)\.(\d+)\.downsample\.1\.", r"vision_model.layers.{block}.downsample_bn.image."),
    (r"visual\.layer(\d)\.(\d+)\.(bn\d)\.", r"vision_model.layers.{block}.\3.image."),
    (r"visual\.layer(\d)\.(\d+)\.", r"vision_model.layers.{block}."),
    (r"visual\.(bn\d)\.", r"vision_model.\1.image."),
    (r"visual\.attnpool\.positional_embedding", r"vision_model.attnpool.positional_embedding.image"),
    (r"visual\.", r"vision_model."),
    (r"transformer\.resblocks\.(\d+)\.attn\.", r"TEXT.encoder.layers.\1.self_attn."),
    (r"transformer\.resblocks\.(\d+)\.ln_(\d)\.", r"TEXT.encoder.layers.\1.layer_norm\2."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"TEXT.encoder.layers.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"TEXT.encoder.layers.\1.mlp.fc2."),
    (r"token_embedding\.", r"TEXT.embeddings.token_embedding."),
    (r"positional_embedding", r"TEXT.embeddings.position_embedding.weight"),
    (r"ln_final\.", r"TEXT.final_layer_norm."),
    (r"text_projection", r"text_projection.weight"),
    (r"audio\.window", r"audio_model.fbsp.window"),
    (r"audio\.layer(\d)\.", r"audio_model.stages.{stage}."),
    (r"audio\.att(\d)\.", r"audio_model.attentions.{stage}."),
    (r"audio\.", r"audio_model."),
    (r"logit_scale", r"logit_scale"),
)
#: Keys that are left out: sizes, which the tensors' shapes give already, and an empty bias.
IGNORED = {"input_resolution", "context_length", "vocab_size", "audio.fbsp.bias"}


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by official key, memory-mapped where the file's format allows.

    Raises:
        ValueError: one sentence: there is no such file, it is no checkpoint, or it holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
            # A TorchScript archive is read by torch's own parser, which knows no Python objects.
            state = torch.jit.load(str(path), map_location="cpu").state_dict()
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is refused: it is damaged, or holds more than tensors, which could run code when read."
        ) from None
    except (RuntimeError, EOFError, OSError):
        raise ValueError(f"{path} is no PyTorch checkpoint, or a damaged one; download it again.") from None
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f"{path} is not a plain state dict of tensors, as AudioCLIP's and CLIP's checkpoints are.")
    if "visual.class_embedding" in state:
        raise ValueError(
            f"{path} is a CLIP with a vision transformer; give its Hub id to train_hf.py --vision_model instead."
        )
    if "visual.attnpool.positional_embedding" not in state or "transformer.resblocks.0.ln_1.weight" not in state:
        raise ValueError(f"{path} holds neither AudioCLIP's nor a ResNet CLIP's image and text towers.")
    return {key: value for key, value in state.items() if key not in IGNORED}


def config_of(state: dict[str, torch.Tensor]) -> EmoCLIPConfig:
    """The preset `audioclip` with the sizes of the tensors, which in the published checkpoints are the preset's."""

    def blocks(prefix: str) -> list[int]:
        names = {m.groups() for key in state if (m := re.match(rf"{prefix}\.layer(\d)\.(\d+)\.", key))}
        return [sum(stage == str(i) for stage, _ in names) for i in (1, 2, 3, 4)]

    config = EmoCLIPConfig.from_preset("audioclip").to_dict()
    vocab_size, hidden_size = state["token_embedding.weight"].shape
    cells = len(state["visual.attnpool.positional_embedding"]) - 1
    config["projection_dim"] = state["text_projection"].shape[1]
    config["vision_config"] |= {
        "width": len(state["visual.conv3.weight"]),
        "layers": blocks("visual"),
        "image_size": 32 * round(cells**0.5),
    }
    config["text_config"] |= {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": 1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.resblocks.")),
        "num_attention_heads": max(1, hidden_size // 64),
        "max_position_embeddings": len(state["positional_embedding"]),
        "bos_token_id": vocab_size - 2,
        "eos_token_id": vocab_size - 1,
    }
    if "audio.conv1.weight" in state:
        width, num_bands = state["audio.conv1.weight"].shape[:2]
        config["audio_config"] |= {
            "width": width,
            "num_bands": num_bands,
            "layers": blocks("audio"),
            "groups": 2 * width // state["audio.layer1.0.conv2.weight"].shape[1],
            "n_fft": 2 * (len(state["audio.fbsp.m"]) - 1),
            "win_length": len(state["audio.window"]),
        }
    return EmoCLIPConfig.from_dict(config)


def rename(state: dict[str, torch.Tensor], vision_layers: list[int], text_prefix: str) -> dict[str, torch.Tensor]:
    """Official keys to EmoCLIP's, in float32.

    Raises:
        ValueError: one sentence that names a key that neither AudioCLIP nor CLIP has.
    """
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in RENAMES:
            if match := re.match(pattern, key):
                break
        else:
            raise ValueError(f"The checkpoint holds {key!r}, which neither AudioCLIP nor CLIP has.")
        name = match.expand(replacement) + key[match.end() :]
        if "{" in name:
            stage = int(match[1]) - 1
            block = sum(vision_layers[:stage]) + int(match[2]) if "{block}" in name else None
            name = name.format(stage=stage, block=block)
        name = name.replace("TEXT", text_prefix)
        value = value.float() if value.is_floating_point() else value
        if ".in_proj_" in name:
            for part, third in zip("qkv", value.chunk(3)):
                # a copy: safetensors writes no tensors that share memory
                renamed[name.replace("in_proj_", f"{part}_proj.")] = third.clone()
        else:
            renamed[name] = value.T.contiguous() if key == "text_projection" else value
    return renamed


def to_model(state: dict[str, torch.Tensor]) -> tuple[EmoCLIPModel, bool]:
    """The model of an official state dict, and whether its audio tower is the checkpoint's (else it is untrained).

    Raises:
        ValueError: one sentence that names a tensor that is missing or of another shape.
    """
    config = config_of(state)
    model = EmoCLIPModel(config).eval()
    token_embedding = "embeddings.token_embedding.weight"
    text_prefix = next(k for k in model.state_dict() if k.endswith(token_embedding))[: -len(token_embedding) - 1]
    renamed = rename(state, config.vision_config.layers, text_prefix)
    has_audio = any(key.startswith("audio_model.") for key in renamed)
    new = () if has_audio else ("audio_model.", "logit_scale_ai", "logit_scale_at")
    try:
        # The checkpoint's tensors take the place of the model's: copying would hold both at once.
        missing, unexpected = model.load_state_dict(renamed, strict=False, assign=True)
    except RuntimeError as error:
        raise ValueError(f"The checkpoint has {str(error).splitlines()[-1].strip()}") from None
    missing = [key for key in missing if not key.startswith(new)]
    for keys, fault in ((missing, "lacks"), (unexpected, "has, beside what the model needs,")):
        if keys:
            raise ValueError(f"The checkpoint {fault} {len(keys)} tensors ({', '.join(keys[:3])}); get it afresh.")
    return model, has_audio


def clip_tokenizer(max_length: int = 77) -> PreTrainedTokenizerFast:
    """CLIP's byte-pair tokenizer, without a padding token, as CLIP has none: `EmoCLIPProcessor` fills rows with 0.

    Raises:
        ValueError: one sentence: the vocabulary is neither installed nor available from the Hub.
    """
    package = importlib.util.find_spec("open_clip")
    vocabulary = Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz") if package else None
    clip = None
    if vocabulary and vocabulary.is_file():
        with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
        letters = list(bytes_to_unicode().values())
        specials = ["<|startoftext|>", "<|endoftext|>"]
        merges = [tuple(line.split()) for line in lines[1 : 1 + CLIP_VOCAB_SIZE - 2 * len(letters) - len(specials)]]
        tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), *specials]
        clip = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    else:
        with contextlib.suppress(OSError):
            clip = CLIPTokenizer.from_pretrained(CLIP_HUB_ID)
        # Without a network, transformers may give a tokenizer that knows next to no words.
        if clip is None or len(clip) != CLIP_VOCAB_SIZE:
            raise ValueError(
                f"CLIP's vocabulary is needed: pip install open_clip_torch, or let {CLIP_HUB_ID} be reached."
            )
    return PreTrainedTokenizerFast(
        tokenizer_object=clip.backend_tokenizer,
        bos_token=clip.bos_token,
        eos_token=clip.eos_token,
        unk_token=clip.unk_token,
        model_max_length=max_length,
    )


def clip_processor(config: EmoCLIPConfig) -> EmoCLIPProcessor:
    """CLIP's resize, centre crop and normalisation, AudioCLIP's waveforms, CLIP's tokenizer."""
    side = config.vision_config.image_size
    return EmoCLIPProcessor(
        EmoCLIPImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            default_to_square=False,
            do_center_crop=True,
            do_grayscale=False,
            image_mean=OPENAI_CLIP_MEAN,
            image_std=OPENAI_CLIP_STD,
        ),
        EmoCLIPWaveformExtractor(),
        clip_tokenizer(config.text_config.max_position_embeddings),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="AudioCLIP-Full-Training.pt, -Partial-Training.pt or CLIP's RN50.pt")
    parser.add_argument("output_dir", help="the folder to write")
    args = parser.parse_args()
    try:
        state = read_state_dict(args.checkpoint)
        model, has_audio = to_model(state)
        processor = clip_processor(model.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    towers = {"image": "vision_model.", "text": "text_", "audio": "audio_model."}
    millions = {
        tower: sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefix)) / 1e6
        for tower, prefix in towers.items()
    }
    print(f"{args.checkpoint}: {len(state)} tensors of {'AudioCLIP' if has_audio else 'CLIP'}")
    for tower, count in millions.items():
        untrained = tower == "audio" and not has_audio
        print(f"{tower:>6} {count:6.1f} M parameters{', untrained: the checkpoint has none' if untrained else ''}")
    print(f" total {sum(p.numel() for p in model.parameters()) / 1e6:6.1f} M, in {args.output_dir}")


if __name__ == "__main__":
    main()
