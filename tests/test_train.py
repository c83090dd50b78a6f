"""Training: the command from nothing to a folder that loads, its resumption, and its parts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pytest
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from helpers import TINY, write_faces, write_voices, write_word_vectors
from safetensors.torch import load_file
from torch import nn

import train_hf
import train_words
import training.trainer
from configuration_emoclip import LABELS, VOICE_LABELS, EmoCLIPConfig
from modeling_emoclip import EmoCLIPForEmotionClassification
from processing_emoclip import EmoCLIPProcessor
from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments
from training.build import TOP_DB, build_model, build_processor, class_shares
from training.checkpoints import find_flaw, find_start
from training.prompts import WORD_VECTORS_FILE, train_tokenizer
from training.sources import load_faces
from training.trainer import EmoCLIPTrainer

ROOT = Path(__file__).parent.parent
REAL = os.environ.get("EMOCLIP_DATA")
NO_EVALUATION = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
PARTS = ("face_loss", "voice_loss", "image_audio_loss", "image_text_loss", "audio_text_loss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images and tones: 56 faces to train on and 7 to choose by; 36 voices to train on and 12 to choose by."""
    folder = tmp_path_factory.mktemp("train")
    write_faces(folder / "faces", train=9, test=1)
    write_voices(folder / "voices")
    return folder


def write_recipe(folder: Path, name: str, **arguments) -> str:
    """A recipe file in the folder, to be used there: its paths are relative."""
    recipe = {
        "config": TINY,
        "faces": "faces",
        "voices": "voices",
        "output_dir": name,
        "per_device_train_batch_size": 16,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    (folder / f"{name}.json").write_text(json.dumps(recipe))
    return f"{name}.json"


def start(folder: Path, name: str, processes: int = 1, **arguments) -> subprocess.Popen:
    """`python train_hf.py recipe.json`, or the same under torchrun, its output in `<name>.log`."""
    recipe = write_recipe(folder, name, **arguments)
    environment = dict(os.environ)
    if "faces" not in arguments:  # what `datasets` prepares of the real data is worth keeping
        environment["HF_DATASETS_CACHE"] = str(folder / "cache")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    with open(folder / f"{name}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, *(torchrun if processes > 1 else []), str(ROOT / "train_hf.py"), recipe],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen, log: Path) -> str:
    assert process.wait(timeout=300) == 0, log.read_text()[-20_000:]
    return log.read_text()


def build(
    face_labels: Sequence[int] = (0,), voice_labels: Sequence[int] = (0,), **arguments
) -> tuple[EmoCLIPForEmotionClassification, EmoCLIPProcessor]:
    model_args = ModelArguments(**arguments)
    processor = build_processor(model_args)
    return build_model(model_args, processor, face_labels, voice_labels), processor


@pytest.fixture
def train(monkeypatch) -> Callable:
    """`python train_hf.py recipe.json` in this process."""

    def train(folder: Path, name: str, **arguments):
        recipe = write_recipe(folder, name, **arguments)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["train_hf.py", recipe])
        if "faces" not in arguments:
            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        train_hf.main()

    return train


def last_state(folder: Path) -> dict:
    """The Trainer's own notes, of the newest checkpoint."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((newest / "trainer_state.json").read_text())


# --- The command


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    finish(start(folder, "one", learning_rate=0.02), folder / "one.log")  # fast enough for heads that say something
    return folder / "one"


def test_one_epoch_ends_with_a_folder_that_loads_and_answers(trained):
    model = EmoCLIPForEmotionClassification.from_pretrained(trained)
    processor = EmoCLIPProcessor.from_pretrained(trained)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    stored = load_file(trained / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    inputs = processor(
        images=torch.zeros(48, 48, dtype=torch.uint8),
        audio=torch.ones(8_000).cumsum(0).sin(),
        sampling_rate=16_000,
        return_tensors="pt",
    )
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.logits.exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert outputs.face_logits.shape == outputs.voice_logits.shape == (1, 7)
    code = {path.name for path in ROOT.glob("*_emoclip.py")}
    assert len(code) > 7 and code <= {path.name for path in trained.iterdir()}
    assert not list(trained.glob("*.bin"))


def test_a_training_starts_from_word_vectors_and_ends_with_marks(folder, train):
    (folder / "vectors").mkdir()
    train(folder, "words", word_vectors=str(write_word_vectors(folder / "vectors")))
    model = EmoCLIPForEmotionClassification.from_pretrained(folder / "words")
    assert model.config.word_vector_size == 13 and -1 < model.config.emotion_cosine < 1
    table = load_file(folder / "vectors" / WORD_VECTORS_FILE)
    assert torch.equal(model.emoclip.text_model.embeddings.token_embedding.weight, table["weight"])
    processor = EmoCLIPProcessor.from_pretrained(folder / "words")
    assert processor.tokenizer.tokenize("livid") == ["livid"]
    results = json.loads((folder / "words" / "results.json").read_text())
    assert set(results["texts"]["thing"]) == {"n", "auroc", "marked", "unmarked"}


def test_a_text_tower_can_be_trained_alone_and_all_else_stays_as_it_was(trained, folder, monkeypatch, capsys):
    (folder / "other-vectors").mkdir()
    vectors = write_word_vectors(folder / "other-vectors")
    arguments = ["--model", str(trained), "--word_vectors", str(vectors), "--output", str(folder / "texts")]
    arguments += ["--faces", str(folder / "faces"), "--voices", str(folder / "voices"), "--steps", "200"]
    monkeypatch.setattr(sys, "argv", ["train_words.py", *arguments])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    train_words.main()
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if "batches" in line]
    assert len(losses) == 2 and losses[1] < losses[0]
    stages = json.loads((folder / "texts" / "training.json").read_text())
    assert [stage["command"].split()[1] for stage in stages] == ["train_hf.py", "train_words.py"]
    before, after = (load_file(path / "model.safetensors") for path in (trained, folder / "texts"))
    texts = {"emoclip.logit_scale", "emoclip.logit_scale_at"}
    kept = {name for name in before if ".text_" not in name} - texts
    assert all(torch.equal(before[name], after[name]) for name in kept) and len(kept) > 100
    assert not any(torch.equal(before[name], after[name]) for name in texts)
    before, after = (EmoCLIPConfig.from_pretrained(path) for path in (trained, folder / "texts"))
    for name in ("face", "voice"):  # fitted again, to the same validation data
        for own, again in zip(vars(before.head(name)).values(), vars(after.head(name)).values()):
            assert again == pytest.approx(own, abs=1e-3)
        assert after.neutral[name] == pytest.approx(before.neutral[name], abs=1e-3)
    assert after.target_prior == before.target_prior


def test_its_config_says_what_the_heads_were_taught(trained, folder):
    config = EmoCLIPConfig.from_pretrained(trained)
    assert config.labels == list(LABELS)
    for temperature, taught in ((config.face_temperature, LABELS), (config.voice_temperature, VOICE_LABELS)):
        assert list(temperature) == list(taught) and len(set(temperature.values())) > 1
        assert all(0.05 < value < 20 for value in temperature.values())
    assert config.face_prior == pytest.approx(dict.fromkeys(LABELS, 1 / 7), abs=1e-4)  # 8 faces each
    assert config.voice_prior == pytest.approx(dict.fromkeys(VOICE_LABELS, 1 / 6), abs=1e-4)
    assert set(config.words) == set(LABELS) and len(config.prompt_templates) == 10


def test_its_tokenizer_is_small_and_speaks_the_prompts(trained):
    tokenizer = EmoCLIPProcessor.from_pretrained(trained).tokenizer
    config = EmoCLIPConfig.from_pretrained(trained)
    assert len(tokenizer) == config.text_config.vocab_size <= 4_096
    assert tokenizer.eos_token_id == config.text_config.eos_token_id == 511
    assert tokenizer.pad_token_id == 0
    text = "a recording of a level-headed person"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text


def test_its_card_holds_its_own_figures(trained):
    card, results = (trained / "README.md").read_text(), json.loads((trained / "results.json").read_text())
    assert card.startswith("---\n") and "license: apache-2.0" in card
    for name in ("face", "voice"):
        assert f"{results[name]['n']:,} | **{100 * results[name]['accuracy']:.1f}**" in card
    assert results["face"]["n"] == 7 and results["voice"]["n"] == 12  # the test split stays untouched
    assert results["splits"] == {"face": "a tenth of train", "voice": "fold 1"}
    config = EmoCLIPConfig.from_pretrained(trained)
    for head in ("face", "voice"):
        calibration = config.head(head)
        for what, values in (("temperature", calibration.temperature), ("bias", calibration.bias)):
            cells = [str(values.get(label, "")) for label in LABELS]
            assert f"| {head}: {what} | {' | '.join(cells)} |" in card
    training = json.loads((trained / "training.json").read_text())
    assert len(training) == 1 and training[0]["rows"] == {"faces": 56, "voices": 36}


def test_every_part_of_the_loss_is_logged_with_the_metrics(trained):
    history = last_state(trained)["log_history"]
    weights = EmoCLIPConfig.from_pretrained(trained).loss_weights
    steps = [entry for entry in history if "loss" in entry]
    assert len(steps) == 56 // 16
    for entry in steps:
        assert set(PARTS) <= set(entry)
        total = sum(weights[name.removesuffix("_loss")] * entry[name] for name in PARTS)
        assert entry["loss"] == pytest.approx(total, abs=0.01)
    evaluation = [entry for entry in history if "eval_loss" in entry]
    assert len(evaluation) == 1
    metrics = ("accuracy", "mean_recall", "macro_f1", "calibration_error")
    expected = {f"eval_{name}_{metric}" for name in ("face", "voice", "fused") for metric in metrics}
    assert expected | {f"eval_{name}" for name in PARTS} <= set(evaluation[0])


@pytest.mark.skipif(sys.platform == "win32", reason="gloo is tried on Linux and macOS")
@pytest.mark.parametrize("weights", [{}, {"voice": 0}], ids=["every loss", "none for the voice head"])
def test_two_processes_train_one_model_to_the_end(folder, weights):
    name, config = f"two-{len(weights)}", {**TINY, "loss_weights": weights}
    finish(start(folder, name, processes=2, config=config, per_device_train_batch_size=8), folder / f"{name}.log")
    state = last_state(folder / name)
    assert state["global_step"] == 56 // 16
    assert ("voice_loss" in state["log_history"][0]) == (not weights)
    EmoCLIPForEmotionClassification.from_pretrained(folder / name)


def test_a_wrong_source_is_told_in_one_sentence(folder, train):
    with pytest.raises(SystemExit, match=r"^train_hf.py: faces holds neither AudioWAV/\*.wav nor parquet files.$"):
        train(folder, "wrong", voices="faces")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--hub_revision", "v1"], "--hub_revision is not for EmoCLIP"),
        (["--config", "[1]"], "--config must be a JSON object"),
        (["--init_from", "a", "--vision_model", "b"], "--init_from brings an image tower of its own"),
        (["--votes", "2"], "--votes takes one number from 0 to 1"),
        (["--cutmix", "0.5"], "Some specified arguments are not used"),
        (["nowhere.json"], "nowhere.json"),
        (["--use_cpu", "--init_from", "./nowhere"], "There is no folder ./nowhere."),
        (
            ["--use_cpu", "--faces", "FACES", "--freeze", "heads"],
            "--freeze takes image, audio and text, not heads.",
        ),
        (["--use_cpu", "--faces", "FACES", "--train_share", "2"], "--train_share must be above 0 and at most 1"),
        (["--use_cpu", "--faces", "FACES", "--face_labels", "ferplus"], "These faces have no FER+ votes"),
        (["--use_cpu", "--faces", "FACES", "--fold", "5"], "CREMA-D has folds 0 to 4, not 5."),
        (["--use_cpu", "--faces", "FACES", "--config", '{"loss_reduction": "audioclip"}'], "leave `loss_reduction`"),
    ],
)
def test_a_wrong_argument_is_told_in_one_sentence(folder, monkeypatch, arguments, sentence):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    if "FACES" in arguments:
        arguments = [str(folder / "faces") if word == "FACES" else word for word in arguments]
        arguments = ["--config", json.dumps(TINY), "--voices", str(folder / "voices"), *arguments]
    monkeypatch.setattr(sys, "argv", ["train_hf.py", *arguments])
    with pytest.raises(SystemExit) as error:
        train_hf.main()
    assert str(error.value).startswith("train_hf.py: ") and sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_package_that_the_card_needs_is_missed_before_the_training(folder, train, monkeypatch):
    monkeypatch.setattr("media_emoclip.cv2", None)
    sentence = "^train_hf.py: Finding faces needs OpenCV: pip install opencv-python-headless$"
    with pytest.raises(SystemExit, match=sentence):
        train(folder, "bare")
    assert not (folder / "bare").exists()


@pytest.mark.skipif(not REAL, reason="EMOCLIP_DATA does not say where the data is")
def test_one_epoch_on_200_real_samples(tmp_path, train):
    data = Path(REAL).resolve()
    sources = {"faces": str(data / "fer2013"), "voices": str(data / "cremad_mel")}
    train(tmp_path, "real", **sources, max_train_samples=200, max_eval_samples=100)
    config = EmoCLIPForEmotionClassification.from_pretrained(tmp_path / "real").config
    assert max(config.face_prior, key=config.face_prior.get) == "happy"
    assert sum(config.face_prior.values()) == pytest.approx(1, abs=1e-4)
    results = json.loads((tmp_path / "real" / "results.json").read_text())
    assert results["face"]["n"] == results["voice"]["n"] == 100


def test_a_resumed_training_has_the_average_and_the_weights_it_stopped_with(folder, trained):
    """The checkpoint's own weights are the average; beside them lie those that the optimizer moves."""
    newest = max(trained.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    average, live = load_file(newest / "model.safetensors"), load_file(newest / EmoCLIPTrainer.live_weights)
    assert average.keys() == live.keys()
    assert not torch.equal(average["face_head.classifier.weight"], live["face_head.classifier.weight"])
    args = EmoCLIPTrainingArguments(**NO_EVALUATION, output_dir=str(folder / "unused"), use_cpu=True)
    model, processor = build(init_from=str(trained))
    trainer = EmoCLIPTrainer(model, args, processor=processor)
    trainer._load_from_checkpoint(str(newest))
    assert all(torch.equal(value, live[name]) for name, value in trainer.model.state_dict().items())
    with trainer.averaged():
        assert all(torch.equal(value, average[name]) for name, value in trainer.model.state_dict().items())
    assert all(torch.equal(value, live[name]) for name, value in trainer.model.state_dict().items())


def test_teachers_posteriors_are_mixed_into_the_targets(folder, trained):
    teachers = {"teachers": [str(trained)] * 2, "teachers_weight": 0.25}
    args = EmoCLIPTrainingArguments(**NO_EVALUATION, **teachers, output_dir=str(folder / "unused"), use_cpu=True)
    model, processor = build(config=TINY)
    trainer = EmoCLIPTrainer(model, args, processor=processor)
    inputs = {
        "pixel_values": torch.randn(4, 3, 32, 32),
        "input_features": torch.randn(3, 1, 128, 188),
        "face_targets": F.one_hot(torch.tensor([0, 3, 5, 2]), 7).float(),
        "voice_targets": F.one_hot(torch.tensor([1, 4, 4]), 7).float(),
    }
    teacher = EmoCLIPForEmotionClassification.from_pretrained(trained).eval()
    with torch.no_grad():
        face_logits = teacher(pixel_values=inputs["pixel_values"]).face_logits
        voice_logits = teacher(input_features=inputs["input_features"]).voice_logits
    taught = trainer.distilled(inputs)
    assert set(taught) == {"face_targets", "voice_targets"}
    for name, logits in (("face_targets", face_logits), ("voice_targets", voice_logits)):
        assert torch.allclose(taught[name], 0.75 * inputs[name] + 0.25 * logits.softmax(-1), atol=1e-5)
        assert not taught[name].requires_grad


def test_targets_are_mixed_and_classes_stay_the_rows_own(folder):
    args = EmoCLIPTrainingArguments(**NO_EVALUATION, output_dir=str(folder / "unused"), use_cpu=True)
    model, processor = build(config=TINY)
    trainer = EmoCLIPTrainer(model, args, processor=processor, votes=(0.5, 0.25), mixup=0.2)
    torch.manual_seed(0)
    counts, classes, votes = {"face": 16, "voice": 12}, {}, {}
    for name, count in counts.items():
        classes[name], voted = torch.randint(0, 6, (2, count))
        votes[name] = F.one_hot(voted, 7).float()
    batch = {
        "faces": torch.randint(0, 256, (16, 48, 48), dtype=torch.uint8),
        "voices": torch.randint(0, 256, (12, 128, 188), dtype=torch.uint8),
        "input_ids": torch.randint(1, 500, (16, 5)),
        **{f"{name}_labels": classes[name] for name in counts},
        **{f"{name}_votes": votes[name] for name in counts},
    }
    inputs = trainer.to_model_inputs(batch, train=True)
    assert inputs["pixel_values"].shape == (16, 3, 32, 32) and inputs["input_features"].shape == (12, 1, 128, 188)
    assert torch.equal(inputs["input_ids"], batch["input_ids"]) and not {"face_mask", "voice_mask"} & set(inputs)
    for (name, count), weight in zip(counts.items(), (0.5, 0.25)):
        assert torch.equal(inputs[f"{name}_labels"], classes[name])
        targets, alone = inputs[f"{name}_targets"], F.one_hot(classes[name], 7).float().lerp(votes[name], weight)
        assert torch.allclose(targets.sum(-1), torch.ones(count)) and not torch.allclose(targets, alone)
        assert ((targets - alone / 2) > -1e-5).all()  # at least half is a row's own
    trainer.mixup = 0
    inputs = trainer.to_model_inputs(batch, train=True)
    assert torch.allclose(inputs["face_targets"], F.one_hot(classes["face"], 7).float().lerp(votes["face"], 0.5))


def test_in_evaluation_nothing_is_augmented_or_mixed(folder):
    args = EmoCLIPTrainingArguments(**NO_EVALUATION, output_dir=str(folder / "unused"), use_cpu=True)
    model, processor = build(config=TINY)
    trainer = EmoCLIPTrainer(model, args, processor=processor, votes=(0.5, 0.25), mixup=0.2)
    batch = {
        "faces": torch.randint(0, 256, (4, 48, 48), dtype=torch.uint8),
        "voices": torch.randint(0, 256, (4, 128, 188), dtype=torch.uint8),
        "face_labels": torch.tensor([3, 1, 4, 1]),
        "voice_labels": torch.tensor([3, 1, 4, 1]),
        "face_mask": torch.tensor([True, True, True, False]),
        "voice_mask": torch.tensor([False, True, True, True]),
    }
    chosen = trainer.to_model_inputs(batch, train=False)
    names = ("face_labels", "voice_labels", "face_mask", "voice_mask")
    assert set(chosen) == {"pixel_values", "input_features", *names}
    assert all(torch.equal(chosen[name], batch[name]) for name in names)
    assert torch.equal(chosen["input_features"], processor.feature_extractor.decode(batch["voices"]))
    faces = processor.image_processor(list(batch["faces"][:, None]), return_tensors="pt").pixel_values
    assert torch.equal(chosen["pixel_values"], faces)


# --- Resumption


def steps(**more) -> dict:
    """Three epochs; evaluated and saved in the middle of epochs, too."""
    strategies = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    return {"num_train_epochs": 3, **strategies, "save_total_limit": None, **more}


@pytest.fixture(scope="module")
def uninterrupted(folder) -> Path:
    finish(start(folder, "whole", **steps()), folder / "whole.log")
    return folder / "whole"


def assert_same_training(given: Path, expected: Path):
    """Both ended with the same weights, bit by bit: the average, those of the optimizer, and those that are kept."""
    last = last_state(expected)["global_step"]
    assert last_state(given)["global_step"] == last > 6
    for name in (f"checkpoint-{last}/model.safetensors", f"checkpoint-{last}/live.safetensors", "model.safetensors"):
        assert (given / name).read_bytes() == (expected / name).read_bytes(), name
    figures = [json.loads((path / "results.json").read_text()) for path in (given, expected)]
    assert figures[0] == figures[1]


def test_a_training_that_was_killed_goes_on_and_ends_with_the_same_weights(
    folder, trained, uninterrupted, train, caplog
):
    per_epoch = last_state(trained)["global_step"]
    process = start(folder, "torn", **steps())
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        states = list((folder / "torn").glob("checkpoint-*/trainer_state.json"))
        if states and states[0].stat().st_size:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    log = folder / "torn.log"
    assert process.returncode == -signal.SIGKILL, log.read_text()[-20_000:]
    assert not (folder / "torn" / "results.json").exists()
    whole = list((folder / "torn").glob("checkpoint-*/trainer_state.json"))
    before = max(int(path.parent.name.split("-")[1]) for path in whole)
    assert 2 <= before < 3 * per_epoch
    train(folder, "torn", **steps())
    assert f"Going on from torn{os.sep}checkpoint-{before}" in caplog.text
    state = last_state(folder / "torn")
    assert state["global_step"] == state["max_steps"] == 3 * per_epoch
    assert [e["step"] for e in state["log_history"] if "loss" in e] == list(range(1, 3 * per_epoch + 1))
    EmoCLIPForEmotionClassification.from_pretrained(folder / "torn")
    assert_same_training(folder / "torn", uninterrupted)


@pytest.mark.parametrize("moment", ["live weights", "optimizer", "random numbers", "state"])
def test_a_training_killed_while_saving_goes_on_as_if_it_had_not_been(
    folder, uninterrupted, train, monkeypatch, caplog, moment
):
    owner, name, lacking = {
        "live weights": (training.trainer, "save_file", "live.safetensors"),
        "optimizer": (EmoCLIPTrainer, "_save_optimizer_and_scheduler", "optimizer.pt"),
        "random numbers": (EmoCLIPTrainer, "_save_rng_state", "rng_state.pth"),
        "state": (transformers.TrainerState, "save_to_json", "trainer_state.json"),
    }[moment]
    original, calls = getattr(owner, name), []

    def killed(*args, **kwargs):
        calls.append(name)
        if len(calls) == 3:  # at step 6
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    torn = f"torn-{moment.replace(' ', '-')}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, killed)
        train(folder, torn, **steps())
    assert (folder / torn / "checkpoint-6" / "model.safetensors").is_file()
    train(folder, torn, **steps())
    assert f"Going on from {torn}{os.sep}checkpoint-4" in caplog.text
    assert f"checkpoint-6 is not whole ({lacking} is missing): it is now called unfinished-6" in caplog.text
    assert_same_training(folder / torn, uninterrupted)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "live.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"],
)
def test_a_checkpoint_of_which_a_file_is_cut_is_not_whole(uninterrupted, tmp_path, caplog, name):
    shutil.copytree(uninterrupted, tmp_path / "cut")
    args = EmoCLIPTrainingArguments(output_dir=str(tmp_path / "cut"), use_cpu=True)
    checkpoints = sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) > 3 and find_flaw(checkpoints[-1], args) is None
    newest, step = checkpoints[-1], checkpoints[-1].name.split("-")[1]
    data = (newest / name).read_bytes()
    for cut in (data[:-2], data[: len(data) // 2], b""):
        (newest / name).write_bytes(cut)
        assert find_flaw(newest, args) == f"{name} is damaged"
    args.resume_from_checkpoint = str(newest)
    with pytest.raises(ValueError, match=f"checkpoint-{step} is not a whole checkpoint: {name} is damaged.$"):
        find_start(args)
    args.resume_from_checkpoint = None
    assert find_start(args) == str(checkpoints[-2])
    assert f"checkpoint-{step} is not whole ({name} is damaged): it is now called unfinished-{step}" in caplog.text
    assert find_start(args) == str(checkpoints[-2]) and not newest.exists()
    for checkpoint in checkpoints[:-1]:
        (checkpoint / name).unlink()
    assert find_start(args) is None
    assert len(list((tmp_path / "cut").glob("unfinished-*"))) == len(checkpoints)


def test_where_nothing_was_saved_a_training_starts_afresh(tmp_path):
    assert find_start(EmoCLIPTrainingArguments(output_dir=str(tmp_path / "new"), use_cpu=True)) is None


@pytest.mark.parametrize("batch_size", [5, 64])
def test_faces_that_fill_no_whole_batch_stop_no_training(tmp_path, folder, train, batch_size):
    """36 faces: in batches of 5, one is left for the next epoch; in a batch of 64, some come twice."""
    name = f"few-{batch_size}"
    write_faces(tmp_path / "few", train=6, test=1)
    train(folder, name, faces=str(tmp_path / "few"), per_device_train_batch_size=batch_size, voices_per_epoch=2)
    assert last_state(folder / name)["global_step"] == max(1, 36 // batch_size)
    EmoCLIPForEmotionClassification.from_pretrained(folder / name)


# --- Its parts


def test_the_votes_weight_is_of_both_or_of_face_and_voice():
    assert DataArguments().votes == [0.3, 0.3] and DataArguments(votes=0.5).votes == [0.5, 0.5]
    assert DataArguments(votes=[1, 0.3]).votes == [1, 0.3]
    for wrong in ([], [2], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match="--votes"):
            DataArguments(votes=wrong)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, None),
        ({"torch_compile": True}, {"mode": None, "backend": "inductor"}),
        ({"torch_compile_mode": "reduce-overhead"}, {"mode": "reduce-overhead", "backend": "inductor"}),
        ({"torch_compile_backend": "aot_eager"}, {"mode": None, "backend": "aot_eager"}),
    ],
)
def test_what_is_asked_of_torch_compile_is_for_the_trainers_regions_alone(arguments, expected):
    args = EmoCLIPTrainingArguments(use_cpu=True, **arguments)
    assert args.compile_regions == expected
    assert not args.torch_compile and not args.torch_compile_mode and not args.torch_compile_backend


def test_weights_decay_and_scales_biases_and_positions_do_not():
    model = EmoCLIPForEmotionClassification(EmoCLIPConfig(**TINY))
    decaying = set(EmoCLIPTrainer.get_decay_parameter_names(None, model))
    parameters = dict(model.named_parameters())
    for kind in (nn.Conv2d, nn.Linear):
        weights = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kind)}
        assert weights and weights <= decaying
    kept = set(parameters) - decaying
    assert {name for name in parameters if name.endswith("bias") or "logit_scale" in name or ".bn" in name} <= kept
    assert {name for name in parameters if "position" in name} <= kept


def test_priors_are_the_shares_of_the_training_labels():
    labels = [0] * 10 + [3] * 70 + [6] * 20
    shares = class_shares(labels, LABELS)
    counts = Counter(labels)
    assert shares == pytest.approx({label: (counts[i] + 1) / 107 for i, label in enumerate(LABELS)}, abs=1e-6)
    EmoCLIPConfig(face_prior=shares)  # accepted: none is 0, and they sum to 1


def test_training_goes_on_from_a_checkpoint_with_priors_and_a_calibration_of_its_own(trained):
    model, processor = build([3] * 10, [5] * 10, init_from=str(trained))
    assert set(model.config.face_temperature.values()) == set(model.config.voice_temperature.values()) == {1}
    assert set(model.config.face_bias.values()) == set(model.config.voice_bias.values()) == {0}
    assert max(model.config.face_prior, key=model.config.face_prior.get) == "happy"
    assert max(model.config.voice_prior, key=model.config.voice_prior.get) == "sad"
    stored = load_file(trained / "model.safetensors")
    assert all(torch.equal(value, stored[name].to(value.dtype)) for name, value in model.state_dict().items())
    assert processor.image_processor.size["height"] == 32


def test_no_epoch_calibrates_the_heads_anew_and_leaves_the_weights_as_they_were(folder, trained, train):
    config = json.loads((trained / "config.json").read_text())
    for head in ("face", "voice"):
        config |= {f"{head}_temperature": 3.0, f"{head}_bias": dict.fromkeys(config[f"{head}_bias"], 0.0)}
    shutil.copytree(trained, folder / "uncalibrated")
    (folder / "uncalibrated" / "config.json").write_text(json.dumps(config))
    train(folder, "anew", init_from="uncalibrated", config={}, num_train_epochs=0)
    weights = [(path / "model.safetensors").read_bytes() for path in (trained, folder / "anew")]
    assert weights[0] == weights[1]
    expected, config = (EmoCLIPConfig.from_pretrained(path) for path in (trained, folder / "anew"))
    for what in ("face_temperature", "face_bias", "voice_temperature", "voice_bias", "face_threshold"):
        assert getattr(config, what) == pytest.approx(getattr(expected, what), abs=1e-3)
    assert config.neutral["voice"] == pytest.approx(expected.neutral["voice"], abs=1e-3)
    assert "the heads calibrated anew" in (folder / "anew" / "README.md").read_text()


def test_the_range_of_the_mel_image_is_an_argument_of_those_that_have_one(trained):
    for start in (None, str(trained)):
        assert build_processor(ModelArguments(init_from=start)).feature_extractor.top_db == TOP_DB
        assert build_processor(ModelArguments(init_from=start, top_db=60)).feature_extractor.top_db == 60
    with pytest.raises(ValueError, match="`top_db` must be above 0 and at most 80"):
        build_processor(ModelArguments(top_db=100))
    waveforms = ModelArguments(config={"audio_config": {"tower": "esresnext_fbsp"}}, top_db=45)
    with pytest.raises(ValueError, match="leave out --top_db"):
        build_processor(waveforms)


def test_the_tokenizer_numbers_as_the_text_tower_expects():
    tokenizer = train_tokenizer(["a happy face", "a sad voice"], 1024, 32)
    text = EmoCLIPConfig().text_config
    assert len(tokenizer) == text.vocab_size
    assert tokenizer.pad_token_id == text.pad_token_id
    assert tokenizer.bos_token_id == text.bos_token_id and tokenizer.eos_token_id == text.eos_token_id
    assert train_tokenizer(["a sad voice", "a happy face"], 1024, 32).get_vocab() == tokenizer.get_vocab()


def test_a_text_tower_of_another_vocabulary_still_reads_to_the_end():
    """The end token, where the tower pools, must be the tokenizer's whatever the sizes."""
    text = {name: value for name, value in TINY["text_config"].items() if "token_id" not in name}
    model, processor = build(config={**TINY, "text_config": text})
    inputs = processor(text=["a happy face", "someone who sounds furious"], return_tensors="pt")
    with torch.no_grad():
        first, second = model.eval().emoclip.get_text_features(**inputs).pooler_output
    assert not torch.allclose(first, second, atol=1e-4)


def test_the_faces_of_training_are_never_those_that_choose(folder):
    corpus = load_faces(str(folder / "faces"))
    assert isinstance(corpus.train, Dataset)
    assert not set(corpus.train["pixels"]) & set(corpus.validation["pixels"])
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (56, 7, 7)
