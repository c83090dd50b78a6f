"""FER-2013 and CREMA-D from any source to one form.

    faces = load_faces("data/fer2013")                      # or None for the Hub's copy
    voices = load_voices("data/cremad", feature_extractor)  # or None for the Hub's copy

In the one form, a face is 48 x 48 grey bytes (column `pixels`), a voice is whatever its feature extractor stores
(column `voice`), and `label` is LABELS' index. A new layout of files goes into `open_faces` or `open_voices`.
"""

import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import soundfile
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets, load_dataset
from PIL import Image as PILImage

from configuration_emoclip import LABELS
from processing_emoclip import VoiceExtractor
from training.labels import to_label
from training.splits import Corpus, stratified_split

logger = logging.getLogger("emoclip")

FACES_HUB_ID = "clip-benchmark/wds_fer2013"
FACES_HUB_REVISION = "9399b94167523fe5c40b3a857e24ef931ee4395b"
VOICES_HUB_ID = "confit/cremad-parquet"

FACE_SIZE = 48  # pixels, FER-2013's own
#: A source with a larger share of unreadable files is refused.
MAX_CORRUPT = 0.05
#: Kaggle's fer2013.csv numbers the emotions in another order.
KAGGLE_CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
#: Datasets whose labels are integers without names, and what these mean.
BARE_INTEGERS = {FACES_HUB_ID: LABELS}


def label_reader(dataset: Dataset, column: str, source: str) -> Callable[[int | str], int]:
    """A function from a label column's values to LABELS' indices, by the names that the column or BARE_INTEGERS gives.

    Raises:
        ValueError: integers without names, of a dataset whose order is not known.
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
    """Replaces `column` by the binary column `payload`, every value read with `read`; `datasets` caches the result and
    shows a progress bar, `description`. Rows that cannot be read are left out, and a warning names them.

    Raises:
        ValueError: more than MAX_CORRUPT of the rows cannot be read.
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
    """The content of a file column that `datasets` does not decode: held in the row, or a path."""
    return encoded["bytes"] if encoded.get("bytes") is not None else Path(encoded["path"]).read_bytes()


def read_face(encoded: dict) -> bytes:
    """A picture's file to FACE_SIZE x FACE_SIZE grey bytes."""
    with PILImage.open(io.BytesIO(read_bytes(encoded))) as image:
        return image.convert("L").resize((FACE_SIZE, FACE_SIZE)).tobytes()


def read_pixels(text: str) -> bytes:
    """A cell of fer2013.csv, numbers with spaces between them, to FACE_SIZE x FACE_SIZE grey bytes."""
    values = np.array((text or "").split(), dtype=np.int64)
    if len(values) != FACE_SIZE**2:
        raise ValueError(f"{len(values)} pixels instead of {FACE_SIZE**2}")
    if values.min() < 0 or values.max() > 255:
        raise ValueError("pixels outside 0..255")
    return values.astype(np.uint8).tobytes()


def open_faces(name: str) -> dict[str, Dataset]:
    """The source's splits as they are stored, whatever the layout; see `load_faces`."""
    folder = Path(name)
    if (folder / "fer2013.csv").is_file():
        table = load_dataset("csv", data_files=str(folder / "fer2013.csv"), split="train")
        usages = np.array([usage.strip() for usage in table["Usage"]])
        table = table.cast_column("emotion", ClassLabel(names=list(KAGGLE_CODES)))
        return {
            split: table.select(np.flatnonzero(usages == usage))
            for split, usage in (("train", "Training"), ("validation", "PublicTest"), ("test", "PrivateTest"))
        }
    if any(folder.glob("*.parquet")):
        files = {split: list(map(str, folder.glob(f"{split}-*.parquet"))) for split in ("train", "validation", "test")}
        return load_dataset("parquet", data_files={split: paths for split, paths in files.items() if paths})
    if folder.is_dir():
        return load_dataset("imagefolder", data_dir=name)
    return load_dataset(name, revision=FACES_HUB_REVISION if name == FACES_HUB_ID else None)


def load_faces(source: str | None = None, seed: int = 0) -> Corpus:
    """FER-2013's faces in the one form, with the source's other columns.

    Args:
        source: a folder with `train/<emotion>/*.png` and `test/`, with `fer2013.csv`, or with parquet files named
            after their splits; a Hub id; None for the Hub's default copy.
        seed: of the validation split, for a source that has none.
    Raises:
        ValueError: one sentence that says what the source lacks.
    """
    name = source or FACES_HUB_ID
    splits = {}
    for split, part in open_faces(name).items():
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


def list_recordings(source: dict[str, list]) -> Iterator[dict]:
    """A row for each of `files`. `datasets` caches by this function's arguments, the files' `stamps` among them."""
    for file in source["files"]:
        yield {"audio": {"path": file, "bytes": None}, "file": file}


def open_voices(name: str) -> Dataset:
    """All of the source's rows as they are stored, whatever the layout; see `load_voices`."""
    folder = Path(name)
    if (folder / "AudioWAV").is_dir():
        files = sorted(str(path) for path in (folder / "AudioWAV").glob("*.wav"))
        if not files:
            raise ValueError(f"{folder / 'AudioWAV'} holds no .wav file.")
        stamps = [(Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in files]
        return Dataset.from_generator(list_recordings, gen_kwargs={"source": {"files": files, "stamps": stamps}})
    if folder.is_dir():
        if not any(folder.glob("*.parquet")):
            raise ValueError(f"{folder} holds neither AudioWAV/*.wav nor parquet files.")
        return load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train")
    return concatenate_datasets(list(load_dataset(name).values()))


def load_voices(source: str | None, extractor: VoiceExtractor) -> Dataset:
    """CREMA-D's voices in the one form, with `actor_id`, `file` and the source's other columns. The source's own
    splits are ignored: `split_voices` splits by actor.

    Args:
        source: a folder with `AudioWAV/*.wav`, or with parquet files of recordings or of mel images; a Hub id; None
            for the Hub's default copy.
        extractor: of the model that the voices are for.
    Raises:
        ValueError: one sentence that says what the source lacks.
    """
    name = source or VOICES_HUB_ID
    table = open_voices(name)
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
    if "mel" in table.column_names:
        if extractor.input_name != "input_features":
            raise ValueError(f"{name} holds mel images, and this model's audio tower reads recordings; give those.")

        def read_mel(encoded: dict) -> bytes:
            with PILImage.open(io.BytesIO(read_bytes(encoded))) as image:
                mel = np.asarray(image.convert("L"))
            if mel.shape != extractor.stored_shape:
                raise ValueError(f"a mel image of {mel.shape} bands and frames, not {extractor.stored_shape}")
            return mel.tobytes()

        return convert(table.cast_column("mel", Image(decode=False)), name, "Mel images", "mel", "voice", read_mel)

    def read_recording(encoded: dict) -> bytes:
        samples, rate = soundfile.read(io.BytesIO(read_bytes(encoded)), dtype="float32", always_2d=True)
        return extractor.encode(samples.T, rate).numpy().tobytes()

    column = pick_column(table, ("audio", "wav", "flac"), name)
    table = table.cast_column(column, datasets.Audio(decode=False))
    return convert(table, name, "Recordings", column, "voice", read_recording)
