"""FER-2013 and CREMA-D from any source to one form.

    faces = load_faces("data/fer2013")                      # or None for the Hub's copy
    voices = load_voices("data/cremad", feature_extractor)  # or None for the Hub's copy

In the one form, a face is 48 x 48 grey bytes (column `pixels`), a voice is whatever its feature extractor stores
(column `voice`), and `label` is LABELS' index. A new layout of files goes into `open_faces` or `open_voices`.
Pictures and sounds are read as inference reads them. What cannot be used is left out, named and counted.
"""

import csv
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets, load_dataset

from configuration_emoclip import LABELS
from media_emoclip import LFS_POINTER, load_audio, load_image
from processing_emoclip import VoiceExtractor
from training.labels import to_label
from training.splits import Corpus, stratified_split

logger = logging.getLogger("emoclip")

FACES_HUB_ID = "clip-benchmark/wds_fer2013"
FACES_HUB_REVISION = "9399b94167523fe5c40b3a857e24ef931ee4395b"
VOICES_HUB_ID = "confit/cremad-parquet"

FACE_SIZE = 48  # pixels, FER-2013's own
#: A source of which a larger share cannot be read is refused.
MAX_CORRUPT = 0.05
#: Of what is left out, so many are named.
NAMED = 10
#: Kaggle's tables, and the numbers that they give the emotions, in another order than LABELS.
KAGGLE_FILES = ("fer2013.csv", "icml_face_data.csv")
KAGGLE_CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
#: Datasets whose labels are integers without names, and what these mean.
BARE_INTEGERS = {FACES_HUB_ID: LABELS}
#: What folders, files, tables and the Hub call the splits.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "publictest"), "validation"),
    **dict.fromkeys(("test", "testing", "privatetest"), "test"),
}


# --- What is left out, and what is refused


def leave_out(source: str, problems: list[str], total: int, what: str = "files"):
    """Names and counts what is left out.

    Args:
        problems: for each of it, its name and what is wrong with it. total: of `what`, whole ones included.
    Raises:
        ValueError: it is more than MAX_CORRUPT of them.
    """
    if not problems:
        return
    if len(problems) > MAX_CORRUPT * total:
        raise ValueError(
            f"{source}: {len(problems)} of {total} {what} could not be read, the first of them "
            f"{problems[0].rstrip('.')}; get it afresh."
        )
    for problem in problems[:NAMED]:
        logger.warning("%s: left out %s", source, problem)
    logger.warning("%s: %d of %d %s could not be read and are left out.", source, len(problems), total, what)


def is_junk(path: Path) -> bool:
    """Whether a relative path is what systems and editors leave behind, such as macOS' `._name` beside every file."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return hidden or path.name.lower() in ("thumbs.db", "desktop.ini")


def list_files(folder: Path, pattern: str) -> list[Path]:
    """The folder's files that match, in order, but for junk, which is counted.

    Raises:
        ValueError: they are Git LFS pointers.
    """
    wanted, junk = [], []
    for path in sorted((path for path in folder.glob(pattern) if path.is_file()), key=str):
        (junk if is_junk(path.relative_to(folder)) else wanted).append(path)
    if junk:
        logger.warning("%s: left out %d hidden or system files, such as %s.", folder, len(junk), junk[0].name)
    refuse_pointers(folder, wanted)
    return wanted


def refuse_pointers(source: Path | str, files: list[Path]):
    """Raises a ValueError where files are Git LFS pointers, which a clone without git-lfs has in the files' place."""
    pointers = []
    for path in files:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                pointers.append(path)
    if pointers:
        raise ValueError(
            f"{source}: {len(pointers)} of {len(files)} files are Git LFS pointers, such as {pointers[0].name}, and "
            "not the data: run `git lfs pull` there."
        )


def load_table(source: str, *args, **kwargs) -> Dataset | datasets.DatasetDict:
    """`load_dataset`, whose errors have no common class and several lines.

    Raises:
        ValueError: one sentence.
    """
    try:
        return load_dataset(*args, **kwargs)
    except Exception as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{source} cannot be read as a dataset: {reason}") from None


def load_parquet(source: str, files: dict[str, list[Path]]) -> datasets.DatasetDict:
    """Parquet files by their splits.

    Raises:
        ValueError: one of them is damaged.
    """
    for path in (path for paths in files.values() for path in paths):
        try:
            pyarrow.parquet.read_metadata(path)
        except (OSError, pyarrow.ArrowException):
            raise ValueError(f"{path} is damaged, or no parquet file: get it afresh.") from None
    return load_table(source, "parquet", data_files={split: list(map(str, paths)) for split, paths in files.items()})


def as_row(path: Path) -> dict:
    """A file as a column of pictures or of sounds holds it, unread."""
    return {"path": str(path), "bytes": None}


def list_rows(source: dict) -> Iterator[dict]:
    yield from source["rows"]


def generate(
    source: str, rows: Callable[[dict], Iterator[dict]], arguments: dict, files: list[Path], columns: Features
) -> Dataset:
    """The dataset of the rows that a generator yields. `datasets` caches it by the generator, its arguments, and the
    files' sizes and times.

    Raises:
        ValueError: there are none.
    """
    status = [path.stat() for path in files]
    stamps = [(each.st_size, each.st_mtime_ns) for each in status]
    try:
        return Dataset.from_generator(rows, features=columns, gen_kwargs={"source": {**arguments, "stamps": stamps}})
    except ValueError:  # what `datasets` makes of no rows
        raise ValueError(f"{source} holds no data.") from None


# --- From any columns to those of the one form


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

    def read(index: int | None) -> int:
        if index is None or not 0 <= index < len(lookup):  # -1, as in test splits that keep their labels secret
            raise ValueError(f"{source}: column {column!r} holds {index}, which is none of its {len(lookup)} classes.")
        return lookup[index]

    return read


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
    dataset: Dataset,
    source: str,
    description: str,
    column: str,
    payload: str,
    read: Callable[[object], tuple[bytes, list[str]]],
) -> Dataset:
    """Replaces `column` by the binary column `payload`, every value read with `read`, which also gives remarks;
    `datasets` caches the result and shows a progress bar, `description`. Rows that cannot be read are left out.

    Raises:
        ValueError: more than MAX_CORRUPT of the rows cannot be read.
        ImportError: a package that reads them is missing.
    """

    def convert_batch(batch: dict[str, list]) -> dict[str, list]:
        payloads, problems, remarks = [], [], []
        for i, value in enumerate(batch.pop(column)):
            name = value.get("path") if isinstance(value, dict) else None
            name = name or next((batch[c][i] for c in ("file", "name") if c in batch), "a row without a name")
            data, problem, notes = b"", "", []
            try:
                data, notes = read(value)
            except ImportError:  # nothing is wrong with the file
                raise
            except Exception as error:  # what decoders raise on damaged data has no common class
                problem = f"{name}: {error}"
            payloads.append(data)
            problems.append(problem)
            remarks.append(f"{name}: {' '.join(notes)}" if notes else "")
        return {**batch, payload: payloads, "_problem": problems, "_remark": remarks}

    kept = {name: feature for name, feature in dataset.features.items() if name != column}
    added = {payload: Value("binary"), "_problem": Value("string"), "_remark": Value("string")}
    converted = dataset.map(
        convert_batch,
        batched=True,
        batch_size=100,
        features=Features(kept | added),
        remove_columns=dataset.column_names,
        desc=description,
    )
    problems, remarks = converted["_problem"][:], list(filter(None, converted["_remark"]))
    try:
        leave_out(source, list(filter(None, problems)), len(problems))
    except ValueError:
        for file in converted.cache_files:  # or it would be refused for ever, whatever the reason was
            Path(file["filename"]).unlink(missing_ok=True)
        raise
    if remarks:
        logger.warning("%s: of %d of %d files, such as %s", source, len(remarks), len(problems), remarks[0])
    converted = converted.remove_columns(["_problem", "_remark"])
    return converted.select([i for i, problem in enumerate(problems) if not problem]) if any(problems) else converted


# --- Faces


def read_face(encoded: dict) -> tuple[bytes, list[str]]:
    """A picture's file to FACE_SIZE x FACE_SIZE grey bytes, and remarks."""
    image, notes = load_image(encoded)
    return image.convert("L").resize((FACE_SIZE, FACE_SIZE)).tobytes(), notes


def read_pixels(text: str) -> tuple[bytes, list[str]]:
    """A cell of fer2013.csv, numbers with spaces between them, to FACE_SIZE x FACE_SIZE grey bytes."""
    values = np.array((text or "").split(), dtype=np.int64)
    if len(values) != FACE_SIZE**2:
        raise ValueError(f"{len(values)} pixels instead of {FACE_SIZE**2}")
    if values.min() < 0 or values.max() > 255:
        raise ValueError("pixels outside 0..255")
    return values.astype(np.uint8).tobytes(), []


def read_header(file: Path) -> list[str]:
    """The column names of one of KAGGLE_FILES, in lower case.

    Raises:
        ValueError: it lacks one.
    """
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        names = [name.strip().lower() for name in next(csv.reader(lines), [])]
    if missing := [name for name in ("emotion", "pixels", "usage") if name not in names]:
        raise ValueError(f"{file}, row 1: there is no column {' or '.join(missing)}; FER-2013 has all three.")
    return names


def read_kaggle(source: dict) -> Iterator[dict]:
    """The rows of one of KAGGLE_FILES: split, label and pixels, or the problem with them."""
    file = Path(source["file"])
    names = read_header(file)
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        reader = csv.reader(lines)
        next(reader)
        while True:
            row = {"split": "", "label": -1, "pixels": b"", "problem": ""}
            try:
                cells = next(reader)
                while len(cells) > len(names) and not cells[-1].strip():
                    cells.pop()  # commas at the end
                if not any(map(str.strip, cells)):
                    continue
                if len(cells) != len(names):
                    raise ValueError(f"{len(cells)} cells instead of {len(names)}")
                cell = dict(zip(names, map(str.strip, cells)))
                if (split := SPLITS.get(cell["usage"].lower())) is None:
                    raise ValueError(f"a Usage of {cell['usage']!r} instead of Training, PublicTest or PrivateTest")
                if cell["emotion"] not in map(str, range(len(KAGGLE_CODES))):
                    raise ValueError(f"an emotion of {cell['emotion']!r} instead of 0 to {len(KAGGLE_CODES) - 1}")
                pixels, _ = read_pixels(cell["pixels"])
                row |= {"split": split, "label": to_label(KAGGLE_CODES[int(cell["emotion"])]), "pixels": pixels}
            except StopIteration:
                return
            except (csv.Error, ValueError) as error:
                row["problem"] = f"row {reader.line_num}: {error}"
            yield row


def open_kaggle(file: Path) -> dict[str, Dataset]:
    """The splits of one of KAGGLE_FILES, in the one form.

    Raises:
        ValueError: a column is missing, or more than MAX_CORRUPT of the rows cannot be read.
    """
    refuse_pointers(str(file), [file])
    read_header(file)
    text = Value("string")
    columns = Features(split=text, label=Value("int64"), pixels=Value("binary"), problem=text)
    table = generate(str(file), read_kaggle, {"file": str(file)}, [file], columns)
    leave_out(str(file), list(filter(None, table["problem"])), len(table), "rows")
    return by_split(table.remove_columns("problem"))


def find_kaggle(path: Path) -> Path | None:
    """Kaggle's table: the path itself, or one of KAGGLE_FILES in the folder."""
    if path.is_file():
        return path if path.suffix.lower() == ".csv" else None
    files = {file.name.lower(): file for file in path.glob("*") if file.is_file()}
    return next((files[name] for name in KAGGLE_FILES if name in files), None)


def open_pictures(folder: Path) -> dict[str, Dataset]:
    """The splits of a folder with `train/<emotion>/*.png` and so on; of the pictures, the paths."""
    rows, others = [], []
    files = list_files(folder, "**/*")
    for path in files:
        split, *emotion = path.relative_to(folder).parts[:-1] or ("",)
        if split.lower() in SPLITS and emotion:
            rows.append({"image": as_row(path), "label": emotion[0], "split": SPLITS[split.lower()]})
        else:
            others.append(path.name)
    if not rows:
        raise ValueError(f"{folder} holds neither fer2013.csv, nor parquet files, nor train/<emotion>/*.png.")
    if others:
        logger.warning("%s: left out %d files outside train/<emotion>, such as %s.", folder, len(others), others[0])
    columns = Features(image=Image(decode=False), label=Value("string"), split=Value("string"))
    splits = by_split(generate(str(folder), list_rows, {"rows": rows}, files, columns))
    there = {SPLITS.get(path.name.lower()) for path in folder.iterdir() if path.is_dir()}
    return {split: part for split, part in splits.items() if split in there}


def by_split(table: Dataset) -> dict[str, Dataset]:
    """A table's rows by its column `split`, which they lose."""
    splits = np.array(table["split"][:])
    table = table.remove_columns("split")
    return {split: table.select(np.flatnonzero(splits == split)) for split in dict.fromkeys(SPLITS.values())}


def open_faces(name: str) -> dict[str, Dataset]:
    """The source's splits as they are stored, whatever the layout but Kaggle's; see `load_faces`."""
    folder = Path(name)
    if folder.is_file():
        raise ValueError(f"{name} is a file, but not Kaggle's fer2013.csv: name the folder that holds the faces.")
    if not folder.is_dir():
        return load_table(name, name, revision=FACES_HUB_REVISION if name == FACES_HUB_ID else None)
    if tables := list_files(folder, "*.parquet"):
        files: dict[str, list[Path]] = {}
        for path in tables:  # train-00000-of-00002.parquet
            split = re.match("[a-z]*", path.name.lower())[0]
            if split not in SPLITS:
                raise ValueError(f"{path} has the name of no split, such as train-00000-of-00001.parquet: rename it.")
            files.setdefault(SPLITS[split], []).append(path)
        return load_parquet(name, files)
    return open_pictures(folder)


def load_faces(source: str | None = None, seed: int = 0) -> Corpus:
    """FER-2013's faces in the one form, with the source's other columns.

    Args:
        source: a folder with `train/<emotion>/*.png` and `test/`, with one of KAGGLE_FILES, or with parquet files
            named after their splits; such a table itself; a Hub id; None for the Hub's default copy.
        seed: of the validation split, for a source that has none.
    Raises:
        ValueError: one sentence that says what the source lacks.
    """
    name = source or FACES_HUB_ID
    kaggle = find_kaggle(Path(name))
    splits = {}
    for split, part in (open_kaggle(kaggle) if kaggle else open_faces(name)).items():
        if known := SPLITS.get(split.lower()):
            splits[known] = part
        else:
            logger.warning("%s: left out its split %s, which is none of %s.", name, split, ", ".join(SPLITS))
    if not {"train", "test"} <= set(splits):
        raise ValueError(f"{name} has the splits {', '.join(splits)}; EmoCLIP needs train and test.")
    if empty := [split for split, part in splits.items() if not len(part)]:
        raise ValueError(f"{name} has no faces in its split {' and '.join(empty)}.")
    if not kaggle:
        splits = {split: unify_faces(part, name, split) for split, part in splits.items()}
    if "validation" in splits:
        return Corpus(splits["train"], splits["validation"], splits["test"], "PublicTest", "PrivateTest")
    train, validation = stratified_split(splits["train"], 0.1, seed)
    return Corpus(train, validation, splits["test"], "a tenth of train", "PublicTest+PrivateTest")


def unify_faces(part: Dataset, source: str, split: str) -> Dataset:
    """A split in the one form, with its other columns; see `load_faces`."""
    column = pick_column(part, ("image", "jpg", "png", "img", "pixels"), source)
    label_column = pick_column(part, ("label", "cls", "labels", "emotion"), source)
    to_index = label_reader(part, label_column, source)
    labels = [to_index(value) for value in part[label_column]]  # refused before any picture is read
    part = part.remove_columns(label_column).add_column("label", labels)
    if column == "pixels":
        return convert(part, source, f"Faces, {split}", column, "pixels", read_pixels)
    part = part.cast_column(column, Image(decode=False))
    return convert(part, source, f"Faces, {split}", column, "pixels", read_face)


# --- Voices


def open_voices(name: str) -> Dataset:
    """All of the source's rows as they are stored, whatever the layout; see `load_voices`."""
    folder = Path(name)
    if folder.is_file():
        raise ValueError(f"{name} is a file: name the folder that holds CREMA-D's AudioWAV.")
    if not folder.is_dir():
        return concatenate_datasets(list(load_table(name, name).values()))
    recordings = next((path for path in folder.iterdir() if path.is_dir() and path.name.lower() == "audiowav"), None)
    if recordings is None:
        if tables := list_files(folder, "*.parquet"):
            return load_parquet(name, {"train": tables})["train"]
        if not any(path.suffix.lower() == ".wav" for path in folder.glob("*")):
            raise ValueError(f"{folder} holds neither AudioWAV/*.wav nor parquet files.")
    recordings = recordings or folder
    files = list_files(recordings, "*")
    wavs = sorted((path for path in files if path.suffix.lower() == ".wav"), key=lambda path: path.name.upper())
    if not wavs:
        raise ValueError(f"{recordings} holds no .wav file.")
    if others := [path.name for path in files if path not in set(wavs)]:
        logger.warning("%s: left out %d files that are no .wav, such as %s.", name, len(others), others[0])
    rows = [{"audio": as_row(path), "file": path.name} for path in wavs]
    columns = Features(audio={"path": Value("string"), "bytes": Value("binary")}, file=Value("string"))
    return generate(name, list_rows, {"rows": rows}, wavs, columns)


def read_name(file: str) -> tuple[str, int, int]:
    """The official name, label and actor of one of CREMA-D's recordings, such as 1001_DFA_ANG_XX.wav: actor, sentence,
    emotion, intensity. Whatever the case and the suffix: the names of SUSPECT_VOICES must be found.

    Raises:
        ValueError: it is no such name.
    """
    stem = Path(file).stem.upper()
    if not (fields := re.fullmatch(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}", stem)):
        raise ValueError("not a CREMA-D file name such as 1001_DFA_ANG_XX.wav")
    return f"{stem}.wav", to_label(fields[2]), int(fields[1])


def list_voices(source: str | None) -> Dataset:
    """CREMA-D's voices before any is read, with `label`, `actor_id` and `file`; see `load_voices`."""
    name = source or VOICES_HUB_ID
    table = open_voices(name)
    pick_column(table, ("file",), name)
    rows, columns, problems = [], [], []
    for i, file in enumerate(table["file"]):
        try:
            columns.append(read_name(file or ""))
            rows.append(i)
        except ValueError as error:
            problems.append(f"{file}: {error}")
    leave_out(name, problems, len(table))
    if not rows:
        raise ValueError(f"{name} holds no recordings.")
    names, labels, actors = zip(*columns)
    table = table.select(rows) if problems else table
    label_column = next((c for c in ("emotion", "label") if c in table.column_names), None)
    if label_column:
        to_index = label_reader(table, label_column, name)
        if [to_index(value) for value in table[label_column]] != list(labels):
            raise ValueError(f"{name}: the labels of column {label_column!r} are not those of the file names.")
    table = table.remove_columns([c for c in ("file", "label", "actor_id", "emotion") if c in table.column_names])
    for column, values in (("file", names), ("label", labels), ("actor_id", actors)):
        table = table.add_column(column, list(values))
    return table


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
    name, table = source or VOICES_HUB_ID, list_voices(source)
    if "mel" in table.column_names:
        if extractor.input_name != "input_features":
            raise ValueError(f"{name} holds mel images, and this model's audio tower reads recordings; give those.")

        def read_mel(encoded: dict) -> tuple[bytes, list[str]]:
            image, notes = load_image(encoded)
            mel = np.asarray(image.convert("L"))
            if mel.shape != extractor.stored_shape:
                raise ValueError(f"a mel image of {mel.shape} bands and frames, not {extractor.stored_shape}")
            return mel.tobytes(), notes

        return convert(table.cast_column("mel", Image(decode=False)), name, "Mel images", "mel", "voice", read_mel)

    def read_recording(encoded: dict) -> tuple[bytes, list[str]]:
        samples, notes = load_audio(encoded, extractor.sampling_rate)
        return extractor.encode(samples, extractor.sampling_rate).numpy().tobytes(), notes

    column = pick_column(table, ("audio", "wav", "flac"), name)
    table = table.cast_column(column, datasets.Audio(decode=False))
    return convert(table, name, "Recordings", column, "voice", read_recording)
