"""What is to be looked at and listened to: files, folders, lists of files and tables.

    inputs = find_inputs(["photos", "clips.csv"])
    inputs.rows[0]                                     # {"file": "photos/1.jpg"}

A row names its files by the columns of COLUMNS. What `file` holds is told by its content, later and by many threads.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Dataset, Image, Video
from datasets.exceptions import DatasetsError
from torch.utils.data import ConcatDataset

from files_emoclip import FileSource

#: The columns that name files: one of any kind, or a photo, a recording, both, or a video.
COLUMNS = ("file", "image", "audio", "video")

Row = dict[str, FileSource | None]


@dataclass
class Inputs:
    """`rows` of the columns `columns`, in an order that is the same in every process. `digest` tells one choice of
    inputs from another, by their names."""

    rows: Sequence[Row]
    columns: list[str]
    digest: str


def find_inputs(sources: Collection[str | os.PathLike], leave_out: Collection[Path] = ()) -> Inputs:
    """Every input that the sources stand for.

    Args:
        sources: files; folders, which are walked (hidden files are left out); lists, `.txt` with a path a line;
            tables, `.csv`, `.jsonl` or `.parquet`, with one or more of COLUMNS. Paths in lists and tables start from
            the folder of these; a table's cell may also hold a file itself, as `datasets` writes it.
        leave_out: files and folders that are no inputs, where a walk meets them.
    Raises:
        ValueError: a source is not there, cannot be read or holds nothing.
    """
    skipped = {path.absolute() for path in leave_out}
    parts: list[Sequence[Row]] = []
    digest = hashlib.sha256()
    for source in map(Path, sources):
        read = READERS.get(source.suffix.lower(), _read_file)
        if source.is_dir():
            part = [{"file": str(path)} for path in _walk(source, skipped)]
        elif source.is_file():
            part = read(source)
        else:
            raise ValueError(f"There is no file or folder {source}.")
        if not len(part):
            raise ValueError(f"There is nothing in {source}.")
        parts.append(part)
        if isinstance(part, list):
            for row in part:
                digest.update(json.dumps(row).encode())
        else:
            digest.update(f"{source.name} {source.stat().st_size}".encode())
    columns = {name for part in parts for name in part[0]}
    return Inputs(ConcatDataset(parts), [name for name in COLUMNS if name in columns], digest.hexdigest())


def _walk(folder: Path, skipped: set[Path]) -> Iterator[Path]:
    """The files in a folder and in those within, in an order of their own."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.absolute() in skipped:
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link may lead back
            yield from _walk(entry, skipped)
        elif entry.is_file():
            yield entry


def _read_file(file: Path) -> list[Row]:
    return [{"file": str(file)}]


def _read_list(file: Path) -> list[Row]:
    return [{"file": _beside(file, line)} for _, line in _read_lines(file)]


def _read_csv(file: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(_read_text(file), newline=""))
    try:
        columns = _columns(file, reader.fieldnames or [])
        return [{name: _beside(file, row[name]) for name in columns} for row in reader]
    except csv.Error as error:
        raise ValueError(f"Line {reader.line_num} of {file} is no line of a table: {error}.") from None


def _read_jsonl(file: Path) -> list[Row]:
    rows = []
    for number, line in _read_lines(file):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {file} is not a JSON object.")
        rows.append(row)
    columns = _columns(file, [name for row in rows for name in row])
    return [{name: _beside(file, row.get(name)) for name in columns} for row in rows]


class _Parquet(Sequence):
    """A table that stays on the disk: `datasets` maps it into memory."""

    def __init__(self, file: Path):
        try:
            columns = _columns(file, pq.read_schema(file).names)
            self._table = Dataset.from_parquet(str(file), columns=columns)
        except (pa.ArrowException, DatasetsError, OSError):
            raise ValueError(f"{file} is not a Parquet file that can be read.") from None
        for name, feature in self._table.features.items():
            if isinstance(feature, (Audio, Image, Video)):
                self._table = self._table.cast_column(name, type(feature)(decode=False))
        self._file = file

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> Row:
        return {name: _beside(self._file, value) for name, value in self._table[number].items()}


READERS = {".txt": _read_list, ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _Parquet}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text in UTF-8: save it as one.") from None


def _read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    lines = enumerate(_read_text(file).split("\n"), start=1)  # splitlines also splits where JSON does not end
    return ((number, line) for number, line in lines if line.strip())


def _columns(file: Path, names: Collection[str]) -> list[str]:
    """Of a table's columns, those that name files."""
    columns = [name for name in COLUMNS if name in names]
    if not columns:
        raise ValueError(f"{file} has none of the columns {', '.join(COLUMNS)}: name one of its columns so.")
    if "file" in columns and len(columns) > 1:
        raise ValueError(f"{file} has the column file and {columns[1]} beside it: leave out one of them.")
    return columns


def _beside(table: Path, value: FileSource | None) -> FileSource | None:
    """A cell of a table: paths start from the table's folder, and an empty cell is None."""
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return str(table.parent / value["path"])
        return value
    return str(table.parent / value.strip()) if isinstance(value, str) and value.strip() else None


def name_of(source: FileSource | None) -> str | None:
    """How a result names an input: its path, or the name that a table's own file has in it. Bytes that are no UTF-8,
    which paths may hold and tables may not, are replaced."""
    name = source.get("path") if isinstance(source, dict) else source
    return name if name is None else name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
