"""The model: its size, its losses, masks, precision, and what a checkpoint must hold."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from configuration_emoclip import LABELS, EmoCLIPConfig
from losses_emoclip import contrastive_loss, multi_positive_cross_entropy
from modeling_emoclip import CheckpointError, EmoCLIPForEmotionClassification, EmoCLIPModel
from pipeline_emoclip import save_all
from processing_emoclip import EmoCLIPFeatureExtractor, EmoCLIPImageProcessor, EmoCLIPProcessor
from training.prompts import train_tokenizer

ROOT = Path(__file__).parent.parent
#: Class shares that tell the classes apart.
UNEVEN = dict(zip(LABELS, (0.14, 0.02, 0.14, 0.25, 0.17, 0.17, 0.11)))
PARTS = ("face", "voice", "image_audio", "image_text", "audio_text")
TEXT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 298,
    "eos_token_id": 299,
}


def tiny_config(**fields) -> EmoCLIPConfig:
    defaults = {
        "vision_config": {"width": 4, "layers": [1, 1, 1, 1], "image_size": 32},
        "audio_config": {"image_size": [32, 47]},
        "text_config": TEXT,
        "projection_dim": 16,
        "classifier_dropout": 0.0,
    }
    return EmoCLIPConfig(**{**defaults, **fields})


def awake(model: nn.Module) -> nn.Module:
    """A new model's residual branches end in zeros: other numbers, and statistics, let every weight speak."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.2, 0.2, generator=generator)
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def tiny_model(cls=EmoCLIPForEmotionClassification, **fields):
    torch.manual_seed(0)
    return awake(cls(tiny_config(**fields))).eval()


def make_batch(rows: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every modality in every row, voices at the processor's own size."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 298, (rows, 8), generator=generator)
    ids[:, 0], ids[:, 6], ids[:, 7] = 298, 299, 0
    labels = torch.randint(0, 6, (rows,), generator=generator)
    return {
        "pixel_values": torch.randn(rows, 3, 32, 32, generator=generator),
        "input_features": torch.randn(rows, 1, 128, 188, generator=generator),
        "input_ids": ids,
        "face_labels": labels,
        "voice_labels": labels.clone(),
        "face_mask": torch.ones(rows, dtype=torch.bool),
        "voice_mask": torch.ones(rows, dtype=torch.bool),
    }


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def assert_one_sentence(text: str):
    assert text and "\n" not in text and text.endswith(".") and len(text) < 600, text


# --- Size and shapes


def test_the_default_model_keeps_to_its_budget():
    with torch.device("meta"):
        model = EmoCLIPForEmotionClassification(EmoCLIPConfig())
    count = sum(p.numel() for p in model.parameters())
    text = [*model.emoclip.text_model.parameters(), *model.emoclip.text_projection.parameters()]
    assert count <= 15_000_000
    assert sum(p.numel() for p in text) <= 2_000_000
    assert model.config.text_config.vocab_size <= 4_096
    assert 2 * count <= 30e6  # bytes of the half-precision file


def test_features_have_one_row_of_the_joint_space_each():
    model, batch = tiny_model(EmoCLIPModel), make_batch(3)
    for output in (
        model.get_image_features(batch["pixel_values"]),
        model.get_audio_features(batch["input_features"]),
        model.get_text_features(batch["input_ids"]),
    ):
        assert output.pooler_output.shape == (3, 16)
        assert not torch.allclose(output.pooler_output.norm(dim=-1), torch.ones(3))  # normalising comes later


def test_similarities_of_every_pair_are_scaled_cosines():
    model, batch = tiny_model(EmoCLIPModel), make_batch(3)
    out = model(**batch)
    for pair in ("image_audio", "image_text", "audio_text"):
        a, b = (out[f"{name}_embeds"] for name in pair.split("_"))
        assert torch.allclose(a.norm(dim=-1), torch.ones(3), atol=1e-5)
        expected = math.exp(model.config.logit_scale_init_value) * (a @ b.T)
        assert torch.allclose(out[f"logits_{pair}"], expected, atol=1e-4)


def test_scales_are_learned_one_for_each_pair_and_never_exceed_100():
    model, batch = tiny_model(EmoCLIPModel).train(), make_batch()
    model(**batch).loss.backward()
    for scale in (model.logit_scale, model.logit_scale_ai, model.logit_scale_at):
        assert scale.grad is not None and scale.grad != 0
    with torch.no_grad():
        model.logit_scale_ai.fill_(9.0)
    assert model.scale("image_audio").item() == pytest.approx(100.0)
    assert model.scale("image_text").item() == pytest.approx(1 / 0.07, rel=1e-3)


def test_padding_changes_no_text():
    model, batch = tiny_model(EmoCLIPModel), make_batch(2)
    ids = batch["input_ids"][:, :7]  # ends with the end token
    padded = F.pad(ids, (0, 5))
    plain = model.get_text_features(ids).pooler_output
    assert torch.allclose(model.get_text_features(padded).pooler_output, plain, atol=1e-5)
    assert torch.allclose(model.get_text_features(padded, (padded != 0).long()).pooler_output, plain, atol=1e-5)
    assert not torch.allclose(plain[0], plain[1], atol=1e-3)


# --- The contrastive loss


def plain_loss(a: torch.Tensor, b: torch.Tensor, a_labels: list, b_labels: list, scale: float) -> float:
    """The loss's definition, in plain Python: for each row with a positive, the mean of -log p(positive)."""

    def direction(rows, columns, row_labels, column_labels) -> float:
        losses = []
        for x, label in zip(rows, row_labels):
            scores = [scale * sum(p * q for p, q in zip(x, y)) for y in columns]
            total = math.log(sum(map(math.exp, scores)))
            positives = [total - s for s, other in zip(scores, column_labels) if other == label]
            if positives:
                losses.append(sum(positives) / len(positives))
        return sum(losses) / len(losses) if losses else 0.0

    a, b = a.double().tolist(), b.double().tolist()
    return (direction(a, b, a_labels, b_labels) + direction(b, a, b_labels, a_labels)) / 2


def embeddings(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_its_definition(seed):
    draw = random.Random(seed)
    a, b = embeddings(7, seed), embeddings(4, seed + 10)
    a_labels, b_labels = [draw.randrange(4) for _ in a], [draw.randrange(4) for _ in b]
    loss = contrastive_loss(a, b, torch.tensor(a_labels), torch.tensor(b_labels), torch.tensor(9.0))
    assert loss.item() == pytest.approx(plain_loss(a, b, a_labels, b_labels, 9.0), abs=1e-5)


def test_with_one_positive_a_row_it_is_clips_loss():
    a, b, own = embeddings(6, 0), embeddings(6, 1), torch.arange(6)
    logits = 20 * a @ b.T
    clip = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert torch.allclose(contrastive_loss(a, b, own, own, torch.tensor(20.0)), clip, atol=1e-6)
    model, batch = tiny_model(EmoCLIPModel), make_batch()
    out = model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"])  # no labels: rows match themselves
    logits = out.logits_image_text
    clip = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert torch.allclose(out.losses["image_text"], clip, atol=1e-5)


def test_a_row_without_a_positive_adds_no_loss_and_no_row_gives_zero():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    positives = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    loss = multi_positive_cross_entropy(logits, positives)
    assert torch.allclose(loss, multi_positive_cross_entropy(logits[[0, 2]], positives[[0, 2]]))
    loss.backward()
    assert (logits.grad[1] == 0).all() and (logits.grad[0] != 0).all()
    nothing = multi_positive_cross_entropy(logits, torch.zeros_like(positives))
    assert nothing.item() == 0
    assert multi_positive_cross_entropy(logits[:0], positives[:0]).item() == 0


def test_half_precision_embeddings_lose_no_digits_in_the_loss():
    a, b, own = embeddings(6, 0).bfloat16(), embeddings(6, 1).bfloat16(), torch.arange(6)
    exact = contrastive_loss(a.float(), b.float(), own, own, torch.tensor(100.0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(a, b, own, own, torch.tensor(100.0))
    assert loss.dtype == torch.float32 and torch.allclose(loss, exact)


def test_absent_rows_are_no_part_of_the_contrastive_loss():
    model, batch = tiny_model(EmoCLIPModel), make_batch()
    batch["face_mask"] = torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    batch["voice_mask"] = torch.tensor([0, 1, 1, 1, 0, 1]).bool()
    batch["face_labels"] = torch.tensor([0, 1, 5, 2, 0, 5])  # 5 where the face is absent: must not count
    batch["voice_labels"] = torch.tensor([4, 1, 2, 0, 4, 1])
    with torch.no_grad():
        out = model(**batch)
        faces = F.normalize(model.get_image_features(batch["pixel_values"]).pooler_output, dim=-1)
        voices = F.normalize(model.get_audio_features(batch["input_features"]).pooler_output, dim=-1)
        texts = F.normalize(model.get_text_features(batch["input_ids"]).pooler_output, dim=-1)
    face, voice = batch["face_mask"], batch["voice_mask"]
    text_labels = [0, 1, 2, 2, 0, 1]  # the face's, or the voice's where there is no face
    scale = math.exp(model.config.logit_scale_init_value)
    expected = {
        "image_audio": (faces[face], voices[voice], [0, 1, 2, 0], [1, 2, 0, 1]),
        "image_text": (faces[face], texts, [0, 1, 2, 0], text_labels),
        "audio_text": (voices[voice], texts, [1, 2, 0, 1], text_labels),
    }
    for pair, arguments in expected.items():
        assert out.losses[pair].item() == pytest.approx(plain_loss(*arguments, scale), abs=1e-4)


# --- Masks and batches


@pytest.mark.parametrize("modality", ["face", "voice"])
def test_in_training_absent_rows_change_neither_batch_norm_nor_the_loss(modality):
    inputs = {"face": "pixel_values", "voice": "input_features"}[modality]
    results = []
    for garbage in (0.0, 1e3, math.nan):
        model, batch = tiny_model().train(), make_batch()
        batch[f"{modality}_mask"][[1, 4]] = False
        batch[inputs][[1, 4]] = garbage
        batch[f"{modality}_labels"][[1, 4]] = 3
        out = model(**batch)
        out.loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((out.losses, buffers(model), grads))
    for losses, state, grads in results[1:]:
        for name in PARTS:
            assert torch.allclose(losses[name], results[0][0][name], atol=1e-6)
        assert all(torch.equal(value, results[0][1][name]) for name, value in state.items())
        assert all(torch.allclose(value, results[0][2][name], atol=1e-5) for name, value in grads.items())
    # and the statistics are those of the present rows alone
    model, batch = tiny_model().train(), make_batch()
    present = [0, 2, 3, 5]
    model(**{inputs: batch[inputs][present]})
    norms = ".image." if modality == "face" else ".audio."
    own = {name: value for name, value in buffers(model).items() if norms in name}
    assert own and all(torch.allclose(value, results[0][1][name], atol=1e-6) for name, value in own.items())


def test_a_training_batch_without_any_voice_or_face_leaves_their_statistics_alone():
    for mask, norms in (("voice_mask", ".audio."), ("face_mask", ".image.")):
        model, batch = tiny_model().train(), make_batch()
        batch[mask][:] = False
        before = buffers(model)
        out = model(**batch)
        out.loss.backward()
        assert math.isfinite(out.loss.item())
        assert out.losses["voice" if mask == "voice_mask" else "face"].item() == 0
        assert all(torch.equal(v, before[k]) for k, v in buffers(model).items() if norms in k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_training_batch_may_lack_a_modality(dtype):
    model, batch = tiny_model().to(dtype).train(), make_batch()
    batch["input_features"] = batch["input_features"][:, :, :32, :47]
    batch["voice_mask"][:] = False
    assert math.isfinite(model(**batch).loss.item())


def test_faces_and_fewer_voices_apart_are_as_with_masks():
    """What training gives the model, against the same rows with a mask."""
    voices = [0, 2, 3, 5]
    masked = make_batch()
    masked["voice_mask"] = torch.tensor([i in voices for i in range(6)])
    apart = {name: value for name, value in make_batch().items() if "mask" not in name}
    for name in ("input_features", "voice_labels"):
        apart[name] = apart[name][voices]
    results = []
    for batch in (masked, apart):
        model = tiny_model().train()
        out = model(**batch)
        out.loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        results.append((out, buffers(model), grads))
    (expected, expected_state, expected_grads), (out, state, grads) = results
    assert set(out.losses) == set(PARTS) and out.logits is None and out.agreement is None
    assert out.face_logits.shape == (6, 7) and out.voice_logits.shape == (4, 7)
    assert all(torch.allclose(out.losses[name], expected.losses[name], atol=1e-5) for name in PARTS)
    assert all(torch.allclose(value, expected_state[name], atol=1e-5) for name, value in state.items())
    for name, grad in grads.items():  # there is one for every parameter: processes need not look for unused ones
        assert torch.allclose(grad, expected_grads[name], atol=1e-4), name


@pytest.mark.parametrize("missing", ["face_labels", "voice_labels", "clip", "no mask"])
def test_faces_and_voices_that_cannot_belong_together_are_refused_in_a_sentence(missing):
    model = tiny_model(loss_reduction="audioclip" if missing == "clip" else "clip")
    batch = {name: value for name, value in make_batch().items() if "mask" not in name and name != missing}
    batch["input_features"] = batch["input_features"][:4]
    if missing == "no mask":
        batch["face_mask"] = torch.ones(6, dtype=torch.bool)
    with pytest.raises(ValueError, match="here are 6 faces and 4 voices") as error:
        model(**batch)
    assert_one_sentence(str(error.value))


def test_in_evaluation_absent_rows_are_ignored():
    model, batch = tiny_model(target_prior=UNEVEN), make_batch()
    batch["face_mask"][[0, 2]] = False
    batch["voice_mask"][[1, 2]] = False
    batch["pixel_values"][[0, 2]] = math.nan
    batch["input_features"][[1, 2]] = 1e4
    with torch.no_grad():
        out = model(**batch)
        voice = model(input_features=batch["input_features"][:1])
        face = model(pixel_values=batch["pixel_values"][1:2])
    assert torch.allclose(out.logits[0], voice.logits[0], atol=1e-5)
    assert torch.allclose(out.logits[1], face.logits[0], atol=1e-5)
    assert out.logits[2].exp().tolist() == pytest.approx(list(UNEVEN.values()), abs=1e-5)
    assert out.agreement[:3].tolist() == [0, 0, 0]
    assert (out.image_embeds[[0, 2]] == 0).all() and (out.audio_embeds[[1, 2]] == 0).all()
    assert all(math.isfinite(out.losses[name]) for name in PARTS)
    expected = F.cross_entropy(out.face_logits[[1, 3, 4, 5]], batch["face_labels"][[1, 3, 4, 5]], label_smoothing=0.1)
    assert torch.allclose(out.losses["face"], expected, atol=1e-5)


# --- The losses of training


def test_every_part_of_the_loss_is_there_and_counts_for_its_weight():
    weights = {"face": 0.7, "voice": 1.3, "image_audio": 0.2, "image_text": 0.4, "audio_text": 0.6}
    model, batch = tiny_model(loss_weights=weights), make_batch()
    out = model(**batch)
    assert set(out.losses) == set(PARTS)
    assert out.loss.item() == pytest.approx(sum(weights[name] * out.losses[name].item() for name in PARTS), abs=1e-5)
    face = F.cross_entropy(out.face_logits, batch["face_labels"], label_smoothing=0.1)
    voice = F.cross_entropy(out.voice_logits[:, :6], batch["voice_labels"], label_smoothing=0.1)
    assert torch.allclose(out.losses["face"], face, atol=1e-5)
    assert torch.allclose(out.losses["voice"], voice, atol=1e-5)
    assert model(**batch, return_loss=False).loss is None


def test_weights_that_are_not_given_stay_at_the_default_and_zero_leaves_a_pair_out():
    model = tiny_model(loss_weights={"image_audio": 0.0})
    assert model.config.loss_weights == EmoCLIPConfig().loss_weights | {"image_audio": 0.0}
    assert "image_audio" not in model(**make_batch()).losses
    with pytest.raises(ValueError) as error:
        tiny_config(loss_weights={"image_smell": 1.0})
    assert "image_smell" in str(error.value)
    assert_one_sentence(str(error.value))


def test_every_weight_takes_part_in_training():
    model = tiny_model().train()
    model(**make_batch()).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias of the keys moves every score alike, so that softmax takes it out; and not every entry is in the batch
    assert [name for name in idle if "k_proj.bias" not in name] == []


def as_targets(labels: torch.Tensor) -> torch.Tensor:
    return F.one_hot(labels, 7).float()


def test_the_heads_go_by_probabilities_where_they_are_given():
    model, batch = tiny_model().train(), make_batch()
    certain = {f"{name}_targets": as_targets(batch[f"{name}_labels"]) for name in ("face", "voice")}
    by_label, by_target = model(**batch), model(**batch | certain)
    for part, loss in by_label.losses.items():
        assert by_target.losses[part].item() == pytest.approx(loss.item(), abs=1e-5), part
    halves = {"face_targets": certain["face_targets"].roll(1, 0)}
    mixed = model(**batch | {"face_targets": (certain["face_targets"] + halves["face_targets"]) / 2}).losses["face"]
    other = model(**batch | halves).losses["face"]
    assert mixed.item() == pytest.approx((by_label.losses["face"].item() + other.item()) / 2, abs=1e-5)


def test_the_contrastive_losses_go_by_the_labels_whatever_the_targets_are():
    model, batch = tiny_model().train(), make_batch()
    strange = {f"{name}_targets": as_targets((batch[f"{name}_labels"] + 1) % 6) for name in ("face", "voice")}
    by_label, by_target = model(**batch).losses, model(**batch | strange).losses
    for part in PARTS:
        same = torch.equal(by_target[part], by_label[part])
        assert same == (part not in ("face", "voice")), part


def test_targets_without_labels_are_an_error():
    batch = make_batch()
    targets = as_targets(batch.pop("face_labels"))
    with pytest.raises(ValueError, match="face_labels") as error:
        tiny_model()(**batch, face_targets=targets)
    assert_one_sentence(str(error.value))


def test_what_the_voice_head_was_not_taught_is_left_out_of_its_probabilities():
    model, batch = tiny_model().train(), make_batch()
    targets = as_targets(batch["voice_labels"]) * 0.8
    with_surprise = targets.clone()
    with_surprise[:, LABELS.index("surprise")] = 0.2
    losses = [model(**batch | {"voice_targets": given}).losses["voice"] for given in (targets / 0.8, with_surprise)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)


def test_a_voice_labelled_with_an_untaught_class_is_an_error():
    batch = make_batch()
    batch["voice_labels"][0] = LABELS.index("surprise")
    with pytest.raises(ValueError, match="not taught"):
        tiny_model()(**batch)


def test_as_many_faces_as_voices_are_needed_and_some_of_either():
    batch, model = make_batch(), tiny_model()
    with pytest.raises(ValueError, match="1 faces and 6 voices"):
        model(pixel_values=batch["pixel_values"][:1], input_features=batch["input_features"])
    with pytest.raises(ValueError, match="input_features or input_values"):
        model.emoclip.get_audio_features()


def test_a_transformer_sees_pictures_of_another_size_in_half_precision():
    clip = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"tower": "clip_vision_model", "clip_config": clip | {"image_size": 32, "patch_size": 16}}
    model = tiny_model(vision_config=vision).bfloat16().eval()
    batch = make_batch()
    with torch.no_grad():
        out = model(pixel_values=batch["pixel_values"], input_features=batch["input_features"])
    assert out.logits.isfinite().all() and out.image_embeds.dtype == torch.bfloat16


# --- Saved and loaded


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny_model(face_prior=UNEVEN, face_temperature=1.5).save_pretrained(folder)
    return folder


def forward(model) -> dict[str, torch.Tensor]:
    batch = make_batch()
    with torch.no_grad():
        return {k: v for k, v in model(**batch).items() if torch.is_tensor(v)}


def told_apart(config: dict) -> dict:
    """A config.json without what transformers notes of the loading itself."""
    notes = ("_name_or_path", "dtype", "transformers_version")
    return {k: told_apart(v) if isinstance(v, dict) else v for k, v in config.items() if k not in notes}


def test_save_load_and_save_again_give_the_same_numbers(saved, tmp_path):
    original = forward(tiny_model(face_prior=UNEVEN, face_temperature=1.5))
    loaded = EmoCLIPForEmotionClassification.from_pretrained(saved)
    assert not loaded.training
    loaded.save_pretrained(tmp_path)
    again = EmoCLIPForEmotionClassification.from_pretrained(tmp_path)
    for outputs in (forward(loaded), forward(again)):
        assert outputs.keys() == original.keys()
        assert all(torch.allclose(value, original[name], atol=1e-5) for name, value in outputs.items())
    assert (tmp_path / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (saved, tmp_path))
    assert told_apart(first) == told_apart(second)
    assert not list(saved.glob("*.bin")) and not list(saved.glob("*.pt"))


def test_the_backbone_loads_from_the_whole_and_the_whole_not_from_the_backbone(saved, tmp_path):
    backbone = EmoCLIPModel.from_pretrained(saved)
    whole = EmoCLIPForEmotionClassification.from_pretrained(saved)
    assert torch.equal(forward(backbone)["image_embeds"], forward(whole)["image_embeds"])
    backbone.save_pretrained(tmp_path)
    assert torch.equal(forward(EmoCLIPModel.from_pretrained(tmp_path))["loss"], forward(backbone)["loss"])
    with pytest.raises(CheckpointError, match="head") as error:
        EmoCLIPForEmotionClassification.from_pretrained(tmp_path)
    assert_one_sentence(str(error.value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_answers_alike(saved, dtype):
    model = EmoCLIPForEmotionClassification.from_pretrained(saved, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    exact = forward(EmoCLIPForEmotionClassification.from_pretrained(saved))
    outputs = forward(model)  # float32 inputs, voices that must be resampled to the tower's size
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-2, torch.bfloat16: 2e-1}[dtype]
    for name in ("face_logits", "voice_logits", "image_embeds", "audio_embeds"):
        finite = exact[name].isfinite()
        assert torch.equal(outputs[name].isfinite(), finite)
        assert torch.allclose(outputs[name][finite].float(), exact[name][finite], atol=tolerance), name
    assert torch.allclose(outputs["logits"].exp().sum(-1).float(), torch.ones(6), atol=1e-3)


def test_half_precision_files_load_as_float32(tmp_path):
    model, tokenizer = tiny_model(), train_tokenizer(["a happy face"], 300, 16)
    size = {"height": 32, "width": 32}
    processor = EmoCLIPProcessor(EmoCLIPImageProcessor(size=size), EmoCLIPFeatureExtractor(), tokenizer)
    save_all(model, processor, tmp_path / "a")
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert kinds <= {"F16", "I64"}
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # the model in hand is left alone
    loaded = EmoCLIPForEmotionClassification.from_pretrained(tmp_path / "a")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.allclose(forward(loaded)["face_logits"], forward(model)["face_logits"], atol=1e-2)
    save_all(loaded, processor, tmp_path / "b")
    again = EmoCLIPForEmotionClassification.from_pretrained(tmp_path / "b")
    assert torch.equal(forward(again)["logits"], forward(loaded)["logits"])


def test_every_tensor_is_a_parameter_or_a_buffer(saved):
    model = EmoCLIPForEmotionClassification.from_pretrained(saved)
    known = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    for name, module in model.named_modules():
        stack = [(name, value) for key, value in vars(module).items() if key not in ("_parameters", "_buffers")]
        while stack:
            path, value = stack.pop()
            if torch.is_tensor(value):
                assert id(value) in known, f"{path} holds a tensor that is neither"
            elif isinstance(value, dict):
                stack += [(f"{path}.{key}", item) for key, item in value.items() if key != "_modules"]
            elif isinstance(value, (list, tuple)):
                stack += [(path, item) for item in value]
    assert all(tensor.device.type == "cpu" for tensor in [*model.parameters(), *model.buffers()])
    held_back = set(dict(model.named_buffers())) - set(model.state_dict())
    assert {name.rsplit(".", 1)[1] for name in held_back} <= {"position_ids"}  # arithmetic, not knowledge
    assert set(load_file(saved / "model.safetensors")) == set(model.state_dict())


def copy_checkpoint(saved: Path, target: Path, change) -> Path:
    """The checkpoint with its weights changed by `change`, a function of the dict of them."""
    target.mkdir(exist_ok=True)
    for file in saved.iterdir():
        if file.suffix in (".json", ".py"):
            (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(saved / "model.safetensors")
    save_file(change(weights), target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize(
    "part",
    [
        "emoclip.vision_model.layers.2.conv2.weight",
        "emoclip.vision_model.attnpool.positional_embedding.audio",
        "emoclip.vision_model.bn1.audio.running_mean",
        "emoclip.text_model",
        "emoclip.text_projection.weight",
        "emoclip.logit_scale_ai",
        "face_head.classifier.bias",
        "voice_head",
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_refused_in_a_sentence_that_names_it(saved, tmp_path, part):
    def drop(weights):
        kept = {name: value for name, value in weights.items() if not name.startswith(part)}
        assert len(kept) < len(weights)
        return kept

    folder = copy_checkpoint(saved, tmp_path / "lacking", drop)
    with pytest.raises(CheckpointError) as error:
        EmoCLIPForEmotionClassification.from_pretrained(folder)
    assert_one_sentence(str(error.value))
    assert part in str(error.value) and "lacks" in str(error.value)


def test_a_checkpoint_with_a_weight_of_another_shape_is_refused(saved, tmp_path):
    name = "face_head.classifier.weight"
    folder = copy_checkpoint(saved, tmp_path / "misfit", lambda w: w | {name: w[name][:5].contiguous()})
    with pytest.raises(CheckpointError) as error:
        EmoCLIPForEmotionClassification.from_pretrained(folder)
    assert_one_sentence(str(error.value))
    assert name in str(error.value) and "shape" in str(error.value)


def test_auto_model_gives_the_same_numbers_by_the_folders_own_code(saved):
    """test_hub.py has it do so where the project's modules cannot be imported."""
    model = AutoModel.from_pretrained(saved, trust_remote_code=True)
    parts = [type(part) for part in (model, model.emoclip, model.config)]
    assert [part.__name__ for part in parts] == ["EmoCLIPForEmotionClassification", "EmoCLIPModel", "EmoCLIPConfig"]
    assert all(part.__module__.startswith("transformers_modules.") for part in parts) and not model.training
    outputs, here = forward(model), forward(EmoCLIPForEmotionClassification.from_pretrained(saved))
    assert outputs.keys() == here.keys()
    assert all(torch.allclose(value, here[name], atol=1e-6) for name, value in outputs.items())
