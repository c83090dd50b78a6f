"""EmoCLIP's data: any FER-2013 or CREMA-D source to one form, splits and folds, pairs, augmentation.

    faces = load_faces("data/fer2013")                      # or None for the Hub's copy
    voices = load_voices("data/cremad", feature_extractor)  # or None for the Hub's copy
    train = FaceVoiceDataset(faces.train, split_voices(voices, fold=0).train, prompts, voices_per_epoch=9_000)

One form: a face is 48 x 48 grey bytes, a voice is 128 x 188 bytes of the log-mel image, labels are LABELS' indices.
"""

import io
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets, load_dataset
from PIL import Image as PILImage
from transformers import PreTrainedTokenizerBase

from configuration_emoclip import LABELS, VOICE_LABELS
from processing_emoclip import EmoCLIPFeatureExtractor, EmoCLIPWaveformExtractor, tokenize

logger = logging.getLogger("emoclip")

FACES_HUB_ID = "clip-benchmark/wds_fer2013"
FACES_HUB_REVISION = "9399b94167523fe5c40b3a857e24ef931ee4395b"
VOICES_HUB_ID = "confit/cremad-parquet"

FACE_SIZE = 48  # pixels, FER-2013's own
CREMAD_ACTORS = range(1001, 1092)
ACTORS_PER_FOLD = 18
FOLDS = 5
#: Above this share of unreadable files the source itself is taken to be broken.
MAX_CORRUPT = 0.05
#: One silent recording, and three pairs of identical ones with different labels: of no use for training.
SUSPECT_VOICES = (
    "1006_TIE_HAP_XX.wav",
    "1006_TIE_NEU_XX.wav",
    "1013_WSI_DIS_XX.wav",
    "1013_WSI_SAD_XX.wav",
    "1017_IWW_ANG_XX.wav",
    "1017_IWW_FEA_XX.wav",
    "1076_MTI_SAD_XX.wav",
)

#: What the answers in a column of votes mean, in order; None is none of LABELS. FER+ (Barsoum et al., 2016) asked ten
#: people about each face, CREMA-D about ten about each voice alone.
VOTES = {
    "ferplus_votes": ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", None, None, None),
    "voice_votes": VOICE_LABELS,
}

#: What others call the emotions. CREMA-D's file names have three capitals.
ALIASES = {
    **{label: label for label in LABELS},
    **{"anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "joy": "happy"},
    **{"sadness": "sad", "surprised": "surprise"},
    **{"ang": "angry", "dis": "disgust", "fea": "fear", "hap": "happy", "neu": "neutral"},
}
#: Kaggle's fer2013.csv numbers its emotions in an order of its own.
KAGGLE_CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
#: Datasets known to hold bare integers, and what these mean.
BARE_INTEGERS = {FACES_HUB_ID: LABELS}

TEMPLATES = (
    "{}",
    "a {} person",
    "a {} face",
    "a {} voice",
    "a photo of a {} person",
    "a recording of a {} person",
    "someone who looks {}",
    "someone who sounds {}",
    "this person feels {}",
    "a {} expression",
)
#: 30 words an emotion; every fifth is held out of training, to see what the text tower makes of it.
WORDS = {
    "angry": """angry, furious, enraged, irritated, annoyed, mad, outraged, irate, cross, livid, incensed, infuriated,
        hostile, resentful, indignant, seething, fuming, aggravated, exasperated, provoked, heated, wrathful, raging,
        bitter, vexed, offended, aggressive, displeased, hot-headed, ill-tempered""",
    "disgust": """disgusted, revolted, repulsed, sickened, nauseated, appalled, grossed out, repelled, queasy, averse,
        contemptuous, disdainful, scornful, loathing, squeamish, full of disgust, put off, turned off, repugnant,
        full of loathing, nauseous, detesting, despising, disapproving, retching, gagging, sneering, sick, abhorrent,
        full of revulsion""",
    "fear": """afraid, fearful, scared, terrified, frightened, anxious, panicked, alarmed, petrified, nervous, worried,
        uneasy, apprehensive, horrified, spooked, timid, threatened, tense, dreading, panicky, shaken, jittery,
        intimidated, trembling, unnerved, cowering, aghast, wary, insecure, full of fear""",
    "happy": """happy, joyful, cheerful, delighted, glad, pleased, content, smiling, elated, joyous, merry, ecstatic,
        thrilled, overjoyed, blissful, jolly, radiant, amused, grinning, jubilant, satisfied, gleeful, laughing,
        upbeat, sunny, exuberant, relieved, euphoric, beaming, tickled""",
    "neutral": """neutral, calm, expressionless, indifferent, composed, impassive, unemotional, blank, detached,
        placid, unmoved, stoic, even-tempered, matter-of-fact, impartial, deadpan, collected, unexpressive, plain,
        serene, dispassionate, poker-faced, relaxed, unconcerned, cool, level-headed, quiet, uninvolved, ordinary,
        flat""",
    "sad": """sad, unhappy, sorrowful, depressed, gloomy, miserable, heartbroken, down, tearful, melancholy, dejected,
        mournful, grieving, downcast, despondent, crying, hopeless, blue, dismal, disheartened, forlorn, weeping, glum,
        woeful, discouraged, lonely, hurt, desolate, regretful, downhearted""",
    "surprise": """surprised, astonished, amazed, shocked, startled, stunned, astounded, dumbfounded, flabbergasted,
        speechless, taken aback, wide-eyed, bewildered, staggered, dazed, thunderstruck, awestruck, incredulous,
        stupefied, jolted, open-mouthed, unprepared, wonderstruck, floored, gobsmacked, caught off guard, agape,
        disbelieving, dazzled, agog""",
}
WORDS = {label: " ".join(words.split()).split(", ") for label, words in WORDS.items()}


@dataclass
class Corpus:
    """One modality's splits, and what those that figures are given for are called beside one."""

    train: Dataset
    validation: Dataset
    test: Dataset
    validation_name: str
    test_name: str


# ---------------------------------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------------------------------


def split_words() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The words of each emotion that the text tower is trained on, and the fifth that is held out."""
    trained = {label: [word for i, word in enumerate(words) if i % 5 != 4] for label, words in WORDS.items()}
    held_out = {label: words[4::5] for label, words in WORDS.items()}
    return trained, held_out


def fill_templates(words: list[str], templates: tuple[str, ...] | list[str] = TEMPLATES) -> list[str]:
    """Every template with every word: `len(words) * len(templates)` sentences, word by word."""
    return [template.format(word) for word in words for template in templates]


# ---------------------------------------------------------------------------------------------------------------------
# Sources
# ---------------------------------------------------------------------------------------------------------------------


def to_label(name: str) -> int:
    """LABELS' index of an emotion by any of its names.

    Raises:
        ValueError: nobody calls an emotion so.
    """
    label = ALIASES.get(str(name).strip().lower())
    if label is None:
        raise ValueError(f"Unknown emotion {name!r}; known are {', '.join(ALIASES)}.")
    return LABELS.index(label)


def label_reader(dataset: Dataset, column: str, source: str) -> Callable[[int | str], int]:
    """How to read a label column: by the names it carries, or by a known dataset's order.

    Raises:
        ValueError: bare integers of an unknown dataset, whose order would be a guess.
    """
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        lookup = [to_label(name) for name in feature.names]
    elif feature.dtype == "string":
        return to_label
    elif source in BARE_INTEGERS:
        lookup = [to_label(name) for name in BARE_INTEGERS[source]]
    else:
        raise ValueError(f"{source}: column {column!r} holds bare integers; name its classes, as ClassLabel does.")
    return lambda index: lookup[index]


def pick_column(dataset: Dataset, names: tuple[str, ...], source: str) -> str:
    """The first of `names` that the dataset has.

    Raises:
        ValueError: it has none of them.
    """
    for name in names:
        if name in dataset.column_names:
            return name
    raise ValueError(f"{source} has none of the columns {', '.join(names)}; it has {', '.join(dataset.column_names)}.")


def convert(
    dataset: Dataset, source: str, description: str, column: str, payload: str, read: Callable[[object], bytes]
) -> Dataset:
    """Replaces `column` by the binary column `payload`, each value read with `read`, once: `datasets` shows a
    progress bar and caches the result. Rows that cannot be read are named, counted and left out.

    Raises:
        ValueError: more than MAX_CORRUPT of them.
    """

    def convert_batch(batch: dict[str, list]) -> dict[str, list]:
        payloads, kept = [], []
        for i, value in enumerate(batch.pop(column)):
            try:
                payloads.append(read(value))
                kept.append(i)
            except Exception as error:  # what decoders raise on damaged data has no common class
                name = value.get("path") if isinstance(value, dict) else None
                name = name or next((batch[c][i] for c in ("file", "name") if c in batch), "a row without a name")
                logger.warning("%s: left out %s: %s", source, name, error)
        return {name: [values[i] for i in kept] for name, values in batch.items()} | {payload: payloads}

    features = Features({k: v for k, v in dataset.features.items() if k != column} | {payload: Value("binary")})
    converted = dataset.map(
        convert_batch,
        batched=True,
        batch_size=100,
        features=features,
        remove_columns=dataset.column_names,
        desc=description,
    )
    lost = len(dataset) - len(converted)
    if lost:
        logger.warning("%s: %d of %d files could not be read and are left out.", source, lost, len(dataset))
    if lost > MAX_CORRUPT * len(dataset):
        raise ValueError(f"{source}: {lost} of {len(dataset)} files could not be read; get it afresh.")
    return converted


def read_bytes(encoded: dict) -> bytes:
    """The file in a column that is not decoded: held in the row, or beside it."""
    return encoded["bytes"] if encoded.get("bytes") is not None else Path(encoded["path"]).read_bytes()


def read_face(encoded: dict) -> bytes:
    """An encoded picture to FACE_SIZE x FACE_SIZE grey bytes."""
    with PILImage.open(io.BytesIO(read_bytes(encoded))) as image:
        return image.convert("L").resize((FACE_SIZE, FACE_SIZE)).tobytes()


def read_pixels(text: str) -> bytes:
    """A cell of fer2013.csv, numbers between blanks, to FACE_SIZE x FACE_SIZE grey bytes."""
    values = np.array((text or "").split(), dtype=np.int64)
    if len(values) != FACE_SIZE**2:
        raise ValueError(f"{len(values)} pixels instead of {FACE_SIZE**2}")
    if values.min() < 0 or values.max() > 255:
        raise ValueError("pixels outside 0..255")
    return values.astype(np.uint8).tobytes()


def load_faces(source: str | None = None, seed: int = 0) -> Corpus:
    """FER-2013's faces: columns `pixels` (48 x 48 grey bytes) and `label`, and what else the source says of each.

    Args:
        source: a folder with `train/<emotion>/*.png` and `test/`, with `fer2013.csv`, or with parquet files named
            after their splits; a Hub id; None for the Hub's default copy.
        seed: of the validation split, where the source has none.
    Raises:
        ValueError: one sentence that says what the source lacks.
    """
    name = source or FACES_HUB_ID
    folder = Path(name)
    if (folder / "fer2013.csv").is_file():
        table = load_dataset("csv", data_files=str(folder / "fer2013.csv"), split="train")
        usages = np.array([usage.strip() for usage in table["Usage"]])
        table = table.cast_column("emotion", ClassLabel(names=list(KAGGLE_CODES)))
        parts = {
            split: table.select(np.flatnonzero(usages == usage))
            for split, usage in (("train", "Training"), ("validation", "PublicTest"), ("test", "PrivateTest"))
        }
    elif any(folder.glob("*.parquet")):
        files = {split: list(map(str, folder.glob(f"{split}-*.parquet"))) for split in ("train", "validation", "test")}
        parts = load_dataset("parquet", data_files={split: paths for split, paths in files.items() if paths})
    elif folder.is_dir():
        parts = load_dataset("imagefolder", data_dir=name)
    else:
        parts = load_dataset(name, revision=FACES_HUB_REVISION if name == FACES_HUB_ID else None)
    splits = {}
    for split, part in parts.items():
        column = pick_column(part, ("image", "jpg", "png", "img", "pixels"), name)
        label_column = pick_column(part, ("label", "cls", "labels", "emotion"), name)
        to_index = label_reader(part, label_column, name)
        labels = [to_index(value) for value in part[label_column]]  # refused before any picture is read
        part = part.remove_columns(label_column).add_column("label", labels)
        if column != "pixels":
            part = part.cast_column(column, Image(decode=False))
        read = read_pixels if column == "pixels" else read_face
        splits[split] = convert(part, name, f"Faces, {split}", column, "pixels", read)
    if not {"train", "test"} <= set(splits):
        raise ValueError(f"{name} has the splits {', '.join(splits)}; EmoCLIP needs train and test.")
    if "validation" in splits:
        return Corpus(splits["train"], splits["validation"], splits["test"], "PublicTest", "PrivateTest")
    train, validation = stratified_split(splits["train"], 0.1, seed)
    return Corpus(train, validation, splits["test"], "a tenth of train", "PublicTest+PrivateTest")


def relabel_by_votes(faces: Corpus) -> Corpus:
    """FER-2013's faces by FER+ (Barsoum et al., 2016): each has the label that most of its taggers chose. Those on
    whom nobody voted for one of LABELS are left out of train; in the other splits stand only those of whom more than
    half of all taggers chose the same one, as is the custom.

    Raises:
        ValueError: the source has no votes.
    """
    if "ferplus_votes" not in faces.train.column_names:
        raise ValueError("These faces have no FER+ votes, column `ferplus_votes`: leave out --face_labels ferplus.")
    splits = {}
    for split in ("train", "validation", "test"):
        dataset = getattr(faces, split)
        votes = votes_for(dataset)
        share, label = votes.max(-1)
        rows = (share > (0 if split == "train" else 0.5)).nonzero().flatten()
        kept = dataset.select(rows.tolist()).remove_columns("label")
        splits[split] = kept.add_column("label", label[rows].tolist())
    names = (f"{name}, FER+'s majority" for name in (faces.validation_name, faces.test_name))
    return Corpus(*splits.values(), *names)


def stratified_split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Sets `share` of every class aside; identical images stay together, on one side."""
    groups: dict[bytes, list[int]] = {}
    for index, pixels in enumerate(dataset["pixels"]):
        groups.setdefault(pixels, []).append(index)
    labels = np.array(dataset["label"])
    generator = np.random.default_rng(seed)
    aside: list[int] = []
    for label in range(len(LABELS)):
        members = [rows for rows in groups.values() if labels[rows[0]] == label]
        wanted, taken = round(share * (labels == label).sum()), 0
        for position in generator.permutation(len(members)):
            if taken >= wanted:
                break
            aside += members[position]
            taken += len(members[position])
    kept = np.setdiff1d(np.arange(len(dataset)), aside)
    return dataset.select(kept), dataset.select(sorted(aside))


def list_recordings(source: dict[str, list]) -> Iterator[dict]:
    """A row for each of `files`. `datasets` caches by this function's arguments, the files' `stamps` among them."""
    for file in source["files"]:
        yield {"audio": {"path": file, "bytes": None}, "file": file}


def load_voices(source: str | None, feature_extractor: EmoCLIPFeatureExtractor) -> Dataset:
    """CREMA-D's voices: columns `mel` (bands x frames bytes) or, for a tower that reads them, `waveform` (the first
    seconds as int16), `label`, `actor_id` and `file`, and what else the source says of each. A source's own splits
    are ignored: splits are by actor (`split_voices`).

    Args:
        source: a folder with `AudioWAV/*.wav` or with parquet files of recordings or of mel images; a Hub id; None
            for the Hub's default copy.
    Raises:
        ValueError: one sentence that says what the source lacks.
    """
    name = source or VOICES_HUB_ID
    folder = Path(name)
    if (folder / "AudioWAV").is_dir():
        files = sorted(str(path) for path in (folder / "AudioWAV").glob("*.wav"))
        if not files:
            raise ValueError(f"{folder / 'AudioWAV'} holds no .wav file.")
        stamps = [(Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in files]
        table = Dataset.from_generator(list_recordings, gen_kwargs={"source": {"files": files, "stamps": stamps}})
    elif folder.is_dir():
        if not any(folder.glob("*.parquet")):
            raise ValueError(f"{folder} holds neither AudioWAV/*.wav nor parquet files.")
        table = load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train")
    else:
        table = concatenate_datasets(list(load_dataset(name).values()))
    pick_column(table, ("file",), name)
    names = [Path(file).name for file in table["file"]]  # 1001_DFA_ANG_XX.wav: actor, sentence, emotion, intensity
    if wrong := [file for file in names if not re.fullmatch(r"\d{4}_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}\.\w+", file)]:
        raise ValueError(f"{name}: {wrong[0]!r} is not a CREMA-D file name such as 1001_DFA_ANG_XX.wav.")
    labels, actors = [to_label(file.split("_")[2]) for file in names], [int(file[:4]) for file in names]
    label_column = next((c for c in ("emotion", "label") if c in table.column_names), None)
    if label_column:
        to_index = label_reader(table, label_column, name)
        if [to_index(value) for value in table[label_column]] != labels:
            raise ValueError(f"{name}: the labels of column {label_column!r} are not those of the file names.")
    table = table.remove_columns([c for c in ("file", "label", "actor_id", "emotion") if c in table.column_names])
    for column, values in (("file", names), ("label", labels), ("actor_id", actors)):
        table = table.add_column(column, values)
    waveforms = isinstance(feature_extractor, EmoCLIPWaveformExtractor)
    if "mel" in table.column_names:
        if waveforms:
            raise ValueError(f"{name} holds mel images, and this model's audio tower reads recordings; give those.")
        size = (feature_extractor.num_frames, feature_extractor.n_mels)

        def read_mel(encoded: dict) -> bytes:
            with PILImage.open(io.BytesIO(read_bytes(encoded))) as image:
                if image.size != size:
                    raise ValueError(f"a mel image of {image.size} pixels, not {size}")
                return image.convert("L").tobytes()

        return convert(table.cast_column("mel", Image(decode=False)), name, "Mel images", "mel", "mel", read_mel)

    def read_audio(encoded: dict) -> bytes:
        samples, rate = soundfile.read(io.BytesIO(read_bytes(encoded)), dtype="float32", always_2d=True)
        if waveforms:
            waveform = feature_extractor.to_waveform(samples.T, rate)[: feature_extractor.num_samples]
            waveform = F.pad(waveform, (0, feature_extractor.num_samples - len(waveform)))
            return waveform.round().clamp(-(2**15), 2**15 - 1).to(torch.int16).numpy().tobytes()
        mel = feature_extractor.spectrogram(feature_extractor.to_waveform(samples.T, rate)[None])
        return (mel * 256).clamp(max=255).to(torch.uint8).numpy().tobytes()

    column = pick_column(table, ("audio", "wav", "flac"), name)
    table = table.cast_column(column, datasets.Audio(decode=False))
    if waveforms:
        return convert(table, name, "Waveforms", column, "waveform", read_audio)
    return convert(table, name, "Mel spectrograms", column, "mel", read_audio)


def actor_fold(actor: int) -> int:
    """CREMA-D's fold of an actor: 18 actors each, the last 19.

    Raises:
        ValueError: no such actor.
    """
    if actor not in CREMAD_ACTORS:
        raise ValueError(f"CREMA-D has actors {CREMAD_ACTORS[0]} to {CREMAD_ACTORS[-1]}, not {actor}.")
    return min((actor - CREMAD_ACTORS[0]) // ACTORS_PER_FOLD, FOLDS - 1)


def split_voices(voices: Dataset, fold: int) -> Corpus:
    """Test on the actors of `fold`, choose on those of the next, train on the others, without the suspect clips."""
    if not 0 <= fold < FOLDS:
        raise ValueError(f"CREMA-D has folds 0 to {FOLDS - 1}, not {fold}.")
    actors = np.array(voices["actor_id"])
    folds = np.array([actor_fold(actor) for actor in actors])
    suspect = np.isin(voices["file"], SUSPECT_VOICES)
    validation = folds == (fold + 1) % FOLDS
    rows = {"train": (folds != fold) & ~validation & ~suspect, "validation": validation, "test": folds == fold}
    speakers = [set(actors[mask]) for mask in rows.values()]
    if sum(map(len, speakers)) != len(set.union(*speakers)):
        raise ValueError("An actor of CREMA-D stands in two splits.")
    parts = {name: voices.select(np.flatnonzero(mask)) for name, mask in rows.items()}
    return Corpus(**parts, validation_name=f"fold {(fold + 1) % FOLDS}", test_name=f"fold {fold}")


# ---------------------------------------------------------------------------------------------------------------------
# Pairs
# ---------------------------------------------------------------------------------------------------------------------


def to_tensors(
    dataset: Dataset | None, column: str, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8
) -> tuple[torch.Tensor, torch.Tensor]:
    """A binary column as (n, *shape), and the labels (n,); both empty without a dataset."""
    if not dataset:
        return torch.empty(0, *shape, dtype=dtype), torch.empty(0, dtype=torch.long)
    data = torch.frombuffer(bytearray(b"".join(dataset[column])), dtype=dtype)
    return data.view(-1, *shape), torch.tensor(dataset["label"])


def voice_tensors(voices: Dataset | None, mel_shape: tuple[int, int]) -> tuple[str, torch.Tensor, torch.Tensor]:
    """The voices of `load_voices`, what they are called, and their labels (n,): `mels` (n, *mel_shape) uint8, or
    `waveforms` (n, T) int16."""
    if voices and "waveform" in voices.column_names:
        samples = len(voices[0]["waveform"]) // torch.int16.itemsize
        return "waveforms", *to_tensors(voices, "waveform", (samples,), torch.int16)
    return "mels", *to_tensors(voices, "mel", mel_shape)


class FaceVoiceDataset(torch.utils.data.Dataset):
    """Rows with a face, a voice, or both of one label, and a prompt that speaks of it.

    FER-2013 and CREMA-D share no people: a pair can only mean the same emotion. Every epoch draws the pairs anew
    from (seed, epoch) alone. Every face stands in one row; voices join rows of their label, each as often as any
    other, and those of a label with too few faces stand in rows of their own. Rows are shuffled already: draw them
    in order.

    Args:
        faces, voices: in the one form, or None.
        prompts: for each of LABELS, the token ids (n, L) of its prompts, or None for rows without text.
        mel_shape: bands and frames.
        voices_per_epoch: rows that carry a voice; None for each voice once.
        seed: of the pairs and prompts.
        device: where everything is held, and batches are put together: 240 MB for both datasets whole.
    """

    def __init__(
        self,
        faces: Dataset | None,
        voices: Dataset | None,
        prompts: list[torch.Tensor] | None = None,
        mel_shape: tuple[int, int] = (128, 188),
        voices_per_epoch: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        pixels, self.face_labels = to_tensors(faces, "pixels", (FACE_SIZE, FACE_SIZE))
        self.voices_name, voices_, self.voice_labels = voice_tensors(voices, mel_shape)
        self.pixels, self.voices = pixels.to(device), voices_.to(device)
        self.votes = {
            "face_votes": vote_targets(faces, self.face_labels).to(device),
            "voice_votes": vote_targets(voices, self.voice_labels).to(device),
        }
        self.prompt_counts = None
        if prompts is not None:
            self.prompt_counts = torch.tensor([len(p) for p in prompts])
            self.prompts = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device)  # (labels, most, L)
        self.device = device
        self.seed = seed
        every = len(self.voices)
        self.repeats = (every if voices_per_epoch is None else voices_per_epoch) / max(every, 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Draws the epoch's pairs; their number is the same in every epoch."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        face_rows, voice_rows = [torch.arange(len(self.pixels))], [torch.full((len(self.pixels),), -1)]
        for label in range(len(LABELS)):
            faces = (self.face_labels == label).nonzero().flatten()
            voices = (self.voice_labels == label).nonzero().flatten()
            count = round(len(voices) * self.repeats)
            rounds = math.ceil(self.repeats)  # every voice once, in another order, before any comes again
            orders = [torch.randperm(len(voices), generator=generator) for _ in range(rounds)]
            drawn = voices[torch.cat([*orders, torch.empty(0, dtype=torch.long)])[:count]]
            chosen = faces[torch.randperm(len(faces), generator=generator)[:count]]
            voice_rows[0][chosen] = drawn[: len(chosen)]
            voice_rows.append(drawn[len(chosen) :])
            face_rows.append(torch.full((len(drawn) - len(chosen),), -1))
        self.face_rows, self.voice_rows = torch.cat(face_rows), torch.cat(voice_rows)
        order = spread((self.face_rows >= 0).long() + 2 * (self.voice_rows >= 0), generator)
        self.face_rows, self.voice_rows = self.face_rows[order], self.voice_rows[order]
        self.row_labels = torch.where(
            self.face_rows >= 0, take(self.face_labels, self.face_rows), take(self.voice_labels, self.voice_rows)
        )
        if self.prompt_counts is not None:
            draws = torch.rand(len(self), generator=generator)
            self.prompt_rows = (draws * self.prompt_counts[self.row_labels]).long()

    def __len__(self) -> int:
        return len(self.face_rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch at once, which is what the data loader asks for: `faces` (B, 48, 48) and `mels`
        (B, bands, frames) uint8 or `waveforms` (B, T) int16, labels and masks (B,), what people voted
        (`face_votes`, `voice_votes`, (B, C) shares), `input_ids` (B, L). A row that lacks one holds zeros. The masks
        stay on the CPU, see the model's forward."""
        indices = torch.as_tensor(indices)
        face_rows, voice_rows, labels = self.face_rows[indices], self.voice_rows[indices], self.row_labels[indices]
        device_labels = labels.to(self.device, non_blocking=True)
        batch = {
            "faces": take(self.pixels, face_rows),
            self.voices_name: take(self.voices, voice_rows),
            "face_labels": device_labels,
            "voice_labels": device_labels,
            "face_votes": take(self.votes["face_votes"], face_rows),
            "voice_votes": take(self.votes["voice_votes"], voice_rows),
            "face_mask": face_rows >= 0,
            "voice_mask": voice_rows >= 0,
        }
        if self.prompt_counts is not None:
            prompts = labels * self.prompts.shape[1] + self.prompt_rows[indices]
            batch["input_ids"] = self.prompts.flatten(0, 1)[prompts.to(self.device, non_blocking=True)]
        return batch


def votes_for(dataset: Dataset | None) -> torch.Tensor | None:
    """What share of all who were asked chose each of LABELS, (n, C), not all of them where some answered otherwise;
    zeros in a row that nobody was asked about. None where the dataset has no votes."""
    column = next((column for column in VOTES if dataset and column in dataset.column_names), None)
    if column is None:
        return None
    counts = torch.tensor(dataset[column], dtype=torch.float32)  # (n, answers)
    if "row_exact" in dataset.column_names:  # False: these votes may belong to another image
        counts *= torch.tensor(dataset["row_exact"])[:, None]
    shares = torch.zeros(len(counts), len(LABELS))
    for answer, label in enumerate(VOTES[column]):
        if label is not None:
            shares[:, LABELS.index(label)] = counts[:, answer]
    return shares / counts.sum(-1, keepdim=True).clamp(min=1)


def vote_targets(dataset: Dataset | None, labels: torch.Tensor) -> torch.Tensor:
    """The votes as distributions over LABELS (n, C); of a row that has none, its label (n,) alone."""
    own, votes = F.one_hot(labels, len(LABELS)).float(), votes_for(dataset)
    if votes is None:
        return own
    total = votes.sum(-1, keepdim=True)
    return torch.where(total > 0, votes / total.clamp(min=1e-6), own)


def spread(kinds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random order (n,) in which every stretch holds the same share of each of `kinds` (n,).

    Batches drawn in this order have as many faces and voices as one another: batch norm sees batches of one size,
    and a GPU prepares its convolutions once.
    """
    places = torch.empty(len(kinds), dtype=torch.float64)
    for kind in kinds.unique():
        members = (kinds == kind).nonzero().flatten()
        ranks = torch.randperm(len(members), generator=generator)
        places[members] = (ranks + torch.rand(1, generator=generator)).double() / len(members)
    return places.argsort()


def take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """values[rows], on the values' device, and zeros where the row, on the CPU, is -1."""
    if not len(values):
        return values.new_zeros(len(rows), *values.shape[1:])
    rows = rows.to(values.device, non_blocking=True)
    return values[rows.clamp(min=0)].masked_fill_((rows < 0).view(-1, *[1] * (values.ndim - 1)), 0)


def as_batch(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The data loader's collator: `FaceVoiceDataset` gives whole batches already."""
    return batch


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, words: dict[str, list[str]]) -> list[torch.Tensor]:
    """For each of LABELS, the ids (n, L) of its words in every template, all of one length."""
    sentences = {label: fill_templates(words[label]) for label in LABELS}
    every = tokenize(tokenizer, [s for label in LABELS for s in sentences[label]], "pt")["input_ids"]
    return list(every.split([len(sentences[label]) for label in LABELS]))


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation, in batches, on whatever device the batch is on
# ---------------------------------------------------------------------------------------------------------------------


def uniform(n: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    """(n,) draws between `low` and `high`."""
    return torch.empty(n, device=device).uniform_(low, high)


def augment_faces(faces: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 48, 48) uint8 faces to (B, 1, size, size) in 0..1: flipped, turned up to 10 degrees, shifted up to 8 %,
    scaled by 0.9 to 1.1, with another brightness and contrast, and with a grey rectangle in every third."""
    batch, device = len(faces), faces.device
    angle = uniform(batch, -10, 10, device).deg2rad()
    scale = uniform(batch, 0.9, 1.1, device)
    flip = torch.where(uniform(batch, 0, 1, device) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    shift_x, shift_y = uniform(2 * batch, -0.16, 0.16, device).view(2, batch)  # the grid is 2 wide
    theta = torch.stack([cos * flip, -sin, shift_x, sin * flip, cos, shift_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    images = F.grid_sample(faces[:, None].float() / 255, grid, "bicubic", "border", align_corners=False)
    mean = images.mean((2, 3), keepdim=True)
    contrast, brightness = (uniform(batch, *limits, device).view(-1, 1, 1, 1) for limits in ((0.8, 1.2), (-0.1, 0.1)))
    images = ((images - mean) * contrast + mean + brightness).clamp(0, 1)
    hole = rectangles(batch, size, size, device, (0.1, 0.4), (0.1, 0.4)) & (uniform(batch, 0, 3, device) < 1).view(
        -1, 1, 1
    )
    return torch.where(hole[:, None], mean, images)


def rectangles(
    n: int,
    height: int,
    width: int,
    device: torch.device,
    height_share: tuple[float, float] = (1.0, 1.0),
    width_share: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """(n, height, width) bool, True in a rectangle at random, whose sides are between these shares of the image's."""
    masks = []
    for side, share in ((height, height_share), (width, width_share)):
        length = uniform(n, *share, device) * side
        start = uniform(n, 0, 1, device) * (side - length)
        position = torch.arange(side, device=device) + 0.5
        masks.append((position >= start[:, None]) & (position < (start + length)[:, None]))
    return masks[0][:, :, None] & masks[1][:, None, :]


def mix(
    values: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, alpha: float, cut: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixup (Zhang et al., 2018): each row's input and target with those of another, the larger part its own. Or
    CutMix (Yun et al., 2019): a rectangle of the other's image, at most half of it, and as much of its target.

    Args:
        values: (B, ...) inputs, (B, C, H, W) where some are cut.
        targets: (B, L) probabilities.
        mask: (B,) bool, on the CPU, False where the row has none: such a row is nobody's partner.
        alpha: mixup's larger part is that of a draw from Beta(alpha, alpha); 0 mixes nothing.
        cut: the share of rows that CutMix mixes, in mixup's place.
    """
    rows = mask.nonzero().flatten()
    partners = torch.arange(len(values))
    partners[rows] = rows[torch.randperm(len(rows))]
    own = torch.ones(len(values))
    if alpha:
        own = torch.distributions.Beta(alpha, alpha).sample((len(values),))
    own = torch.maximum(own, 1 - own).to(values.device, non_blocking=True).view(-1, *[1] * (values.ndim - 1))
    if cut:
        height, width = values.shape[-2:]
        pasted = rectangles(len(values), height, width, values.device, (0.2, 0.7), (0.2, 0.7))[:, None]
        is_cut = (uniform(len(values), 0, 1, values.device) < cut).view(-1, 1, 1, 1)
        own = torch.where(is_cut, 1 - pasted.float(), own)
    partners = partners.to(values.device, non_blocking=True)
    return values[partners].lerp(values, own), targets[partners].lerp(targets, own.flatten(1).mean(1, keepdim=True))


def augment_waveforms(waveforms: torch.Tensor) -> torch.Tensor:
    """(B, T) int16 waveforms to (B, 1, T) floats in int16 units: shifted by up to a tenth (zeros come in), louder or
    softer by up to 6 dB, and every fourth with white noise 10 to 40 dB below it."""
    batch, length = waveforms.shape
    device = waveforms.device
    shift = (uniform(batch, -0.1, 0.1, device) * length).long()
    source = torch.arange(length, device=device) - shift[:, None]  # (B, T)
    inside = (source >= 0) & (source < length)
    out = waveforms.float().gather(1, source.clamp(0, length - 1)).masked_fill(~inside, 0.0)
    level = out.square().mean(1, keepdim=True).sqrt() * 10 ** (-uniform(batch, 10, 40, device)[:, None] / 20)
    noisy = uniform(batch, 0, 4, device)[:, None] < 1
    out = out + torch.randn_like(out) * level * noisy
    return (out * 10 ** (uniform(batch, -6, 6, device)[:, None] / 20))[:, None]


def augment_voices(mels: torch.Tensor) -> torch.Tensor:
    """(B, bands, frames) uint8 mel images to (B, 1, bands, frames) in 0..1: shifted in time by up to a
    fifth and stretched by 0.8 to 1.25 (so that neither the start nor the length says anything), moved up or down by
    up to 4 bands, with two stretches of frequency and two of time masked (Park et al., 2019)."""
    batch, bands, frames = mels.shape
    device = mels.device
    stretch = torch.exp(uniform(batch, -0.22, 0.22, device))
    shift_x = uniform(batch, -0.4, 0.4, device)  # the grid is 2 wide
    shift_y = uniform(batch, -8 / bands, 8 / bands, device)
    one, zero = torch.ones_like(stretch), torch.zeros_like(stretch)
    theta = torch.stack([stretch, zero, shift_x, zero, one, shift_y], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, bands, frames], align_corners=False)
    images = F.grid_sample(mels[:, None].float() / 256, grid, "bilinear", "zeros", align_corners=False)
    for share in ({"height_share": (0, 0.15)}, {"width_share": (0, 0.15)}):
        for _ in range(2):
            images = images.masked_fill(rectangles(batch, bands, frames, device, **share)[:, None], 0.0)
    return images
