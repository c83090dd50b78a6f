"""Gives an EmoCLIP another text tower, with word vectors, that is trained alone: in minutes, on a CPU.

    python make_word_vectors.py outputs/word-vectors
    python train_words.py --model outputs/student --word_vectors outputs/word-vectors --output outputs/with-words

The faces and voices of training pass through their towers once, as they are, and what comes out is what the prompts
are compared with. All other weights stay, bit by bit, but for the scales of the similarities with texts; the
heads are calibrated anew, to the same validation data.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers import get_cosine_schedule_with_warmup, set_seed

from hub import HubError, fetch
from losses_emoclip import LabeledRows, contrastive_loss
from modeling_emoclip import CheckpointError, EmoCLIPForEmotionClassification, normalize
from pipeline_emoclip import save_all
from training.arguments import EmoCLIPTrainingArguments, ModelArguments
from training.build import build_model, build_processor
from training.calibration import calibrate
from training.dataset import face_tensors, voice_tensors
from training.evaluation import encode
from training.labels import votes_for
from training.model_card import write_training
from training.prompts import tokenize_prompts
from training.sources import FACES_HUB_ID, VOICES_HUB_ID, load_faces, load_voices
from training.splits import split_voices
from training.trainer import averaging_decay, decays
from training.words import calibrate_texts

#: Prompts of a batch, and faces; the voices are in the ratio of the two corpora.
BATCH = 96
NO_EMOTION = -1  # the label of a prompt that matches no face and no voice


def train_text_tower(
    model: EmoCLIPForEmotionClassification,
    rows: dict[str, LabeledRows],
    prompts: list[torch.Tensor],
    steps: int,
    learning_rate: float,
):
    """Trains the text tower by the contrastive losses, and leaves the average of its weights in the model.

    Args:
        rows: the normalised embeddings and the labels of all faces (`image`) and of all voices (`audio`).
        prompts: as `tokenize_prompts` gives them; every emotion's, and those without one, are drawn equally often.
    """
    emoclip = model.emoclip
    trained = {
        name: parameter
        for name, parameter in emoclip.named_parameters()
        if name.startswith("text_") or name in ("logit_scale", "logit_scale_at")
    }
    for name, parameter in emoclip.named_parameters():
        parameter.requires_grad_(name in trained)
    groups = [
        {"params": [p for name, p in trained.items() if decays(name, p) is wanted], "weight_decay": weight}
        for wanted, weight in ((True, EmoCLIPTrainingArguments.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(EmoCLIPTrainingArguments.warmup_steps * steps), steps)
    live, average = list(trained.values()), [p.detach().clone() for p in trained.values()]
    counts = {"image": BATCH, "audio": max(2, round(BATCH * len(rows["audio"].labels) / len(rows["image"].labels)))}
    emoclip.text_model.train()
    for step in range(steps):
        drawn = {name: torch.randint(len(every.labels), (counts[name],)) for name, every in rows.items()}
        batch = {name: LabeledRows(rows[name].embeds[of], rows[name].labels[of]) for name, of in drawn.items()}
        classes = torch.randint(len(prompts), (BATCH,)).tolist()
        tokens = torch.stack([prompts[i][torch.randint(len(prompts[i]), ())] for i in classes])
        labels = torch.tensor([i if i < model.config.num_labels else NO_EMOTION for i in classes])
        texts = normalize(emoclip.get_text_features(tokens).pooler_output)
        loss = sum(
            model.config.loss_weights[pair]
            * contrastive_loss(seen.embeds, texts, seen.labels, labels, emoclip.scale(pair))
            for pair, seen in (("image_text", batch["image"]), ("audio_text", batch["audio"]))
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(live, EmoCLIPTrainingArguments.max_grad_norm)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, live, 1 - averaging_decay(EmoCLIPTrainingArguments.ema_decay, step + 1))
        if (step + 1) % 100 == 0:
            print(f"{step + 1} of {steps} batches, loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        torch._foreach_copy_(live, average)
    model.eval().requires_grad_(True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the checkpoint, a folder or a Hub id")
    parser.add_argument("--word_vectors", required=True, help="a folder made by make_word_vectors.py")
    parser.add_argument("--output", required=True, type=Path, help="the folder of the new checkpoint")
    parser.add_argument("--faces", default=FACES_HUB_ID, help="FER-2013: a folder or a Hub id")
    parser.add_argument("--voices", default=VOICES_HUB_ID, help="CREMA-D: a folder or a Hub id")
    parser.add_argument("--fold", type=int, default=0, help="CREMA-D's test fold, which the checkpoint was not taught")
    parser.add_argument("--steps", type=int, default=3_000, help=f"batches, of {BATCH} prompts each")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    set_seed(args.seed)
    started = time.monotonic()
    try:
        folder = str(fetch(args.model))
        model_args = ModelArguments(init_from=folder, word_vectors=args.word_vectors)
        processor = build_processor(model_args)
        faces = load_faces(args.faces)
        voices = split_voices(load_voices(args.voices, processor.feature_extractor), args.fold)
        for corpus, what in ((faces, "faces"), (voices, "voices")):
            corpus.require(["train", "validation"], what)
        voted = all(votes_for(corpus.validation) is not None for corpus in (faces, voices))
        model = build_model(model_args, processor, faces.train["label"], voices.train["label"], voted).eval()
    except (CheckpointError, HubError, ImportError, OSError, ValueError) as error:
        sys.exit(f"train_words.py: {error}")
    model.to(memory_format=torch.channels_last)  # faster convolutions, on a CPU too
    stored = {"face": face_tensors(faces.train), "voice": voice_tensors(voices.train, processor.feature_extractor)}
    rows = {
        name: LabeledRows(normalize(encode(model, processor, head, values)), labels)
        for name, (head, (values, labels)) in zip(("image", "audio"), stored.items())
    }
    prompts = tokenize_prompts(processor.tokenizer, model.config.words)
    train_text_tower(model, rows, prompts, args.steps, args.learning_rate)
    calibrate(model, processor, faces.validation, voices.validation)
    calibrate_texts(model, processor)
    save_all(model, processor, args.output)
    write_training(
        args.output,
        folder,
        base_model=None,
        rows={f"{head}s": len(labels) for head, (_, labels) in stored.items()},
        seed=args.seed,
        epochs=round(args.steps * BATCH / len(rows["image"].labels), 2),
        seconds=round(time.monotonic() - started),
        device=f"1 x CPU, {torch.get_num_threads()} threads",
        precision="fp32",
    )
    print(f"Saved to {args.output}; its figures and its card: python evaluate_hf.py --model {args.output} --card")


if __name__ == "__main__":
    main()
