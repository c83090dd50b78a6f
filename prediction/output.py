"""From answers to one table: the columns, and an output that an interrupted run goes on with.

    output = Output(Path("results.parquet"), columns(inputs.columns, labels), run)
    output.begin()
    output.write(rows(answer, ...))                    # a part, written as a whole or not at all
    output.finish()

While it works, a folder `results.parquet.parts` beside the output holds `run.json`, what was asked for, and parts that
hold every row of some inputs each. The output is made of them once all are there.
"""

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from prediction.work import Answer
from results_emoclip import Emotion, EmotionResult
from video_emoclip import SAMPLES_PER_SECOND, VideoResult

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

SOURCES = ("face", "voice", "fused")
BOX = ("x", "y", "width", "height")
ROWS_AT_ONCE = 1_000  # of a table that is written as text


def columns(inputs: Sequence[str], labels: Sequence[str]) -> pa.Schema:
    """The columns of every output, which docs/many-files.md explains.

    Args:
        inputs: the columns that name the files.
        labels: the emotions.
    """
    scores = [
        field
        for source in SOURCES
        for field in (
            (source, pa.string()),
            (f"{source}_unsure", pa.int64()),
            *((f"{source}_{label}", pa.float64()) for label in labels),
        )
    ]
    return pa.schema(
        [
            ("item", pa.int64()),
            *((name, pa.string()) for name in inputs),
            ("kind", pa.string()),
            ("time", pa.float64()),
            ("person", pa.int64()),
            *((name, pa.int64()) for name in BOX),
            *scores,
            ("agreement", pa.float64()),
            ("messages", pa.string()),
            ("error", pa.string()),
        ]
    )


def rows_of(answer: Answer, every: float | None = None) -> list[dict[str, Any]]:
    """The rows of an answer, each with those of the columns that hold something: of a video, with `every`, the
    timeline at this step in seconds; at the end one for each person, the main person first, or one without any."""
    names = {"item": answer.number, **answer.names, "kind": answer.kind}
    if answer.result is None:
        return [names | {"error": answer.error}]
    timeline = _timeline(answer.result, every) if every and isinstance(answer.result, VideoResult) else ()
    return [names | cells for cells in (*timeline, *_people(answer.result))]


def _timeline(video: VideoResult, every: float) -> Iterator[dict[str, Any]]:
    header, *table = video.rows()
    step = round(every * SAMPLES_PER_SECOND)
    for cells in table:
        if round(cells[0] * SAMPLES_PER_SECOND) % step == 0:
            yield dict(zip(header, cells))


def _people(result: EmotionResult | VideoResult) -> Iterator[dict[str, Any]]:
    if isinstance(result, VideoResult):
        faces = result.people
    else:
        faces = [] if result.face is None else [result.face, *result.face.others]
    first = _cells("voice", result.voice) | _cells("fused", result.fused)
    first |= {"agreement": result.agreement, "messages": " ".join(result.messages) or None}
    for number, face in enumerate(faces, start=1):
        box = {} if isinstance(result, VideoResult) else dict(zip(BOX, face.box))
        yield {"person": number, **box, **_cells("face", face), **(first if number == 1 else {})}
    if not faces:
        yield first


def _cells(source: str, emotion: Emotion | None) -> dict[str, Any]:
    if emotion is None:
        return {}
    scores = {f"{source}_{label}": score for label, score in emotion.scores.items()}
    return {source: emotion.label, f"{source}_unsure": int(emotion.unsure), **scores}


class Output:
    """A table on the disk that grows by parts, so that little is lost where the work is interrupted.

    Args:
        path: what it ends as: `.parquet`, `.csv` or `.jsonl`.
        schema: its columns.
        run: what an output depends on, by names that sentences use; ready for JSON.
    Raises:
        ValueError: the suffix is another one.
    """

    def __init__(self, path: Path, schema: pa.Schema, run: dict[str, Any]):
        if path.suffix not in WRITERS:
            raise ValueError(f"--output ends in {', '.join(WRITERS)}, not in {path.suffix or 'nothing'}: {path}.")
        self.path, self.parts = path, parts_of(path)
        self._schema, self._run = schema, run

    def begin(self) -> None:
        """Makes the folder of the parts, or goes on with the one that is there. In one process alone, first.

        Raises:
            ValueError: the output is there already, or is being made by another run.
        """
        if self.path.exists():
            raise ValueError(f"{self.path} is there already: name another --output, or remove it.")
        self.parts.mkdir(parents=True, exist_ok=True)
        if fcntl is not None:
            self._lock = (self.parts / "lock").open("w")  # held until this process ends
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"Another run is writing {self.path}: wait for it, or name another --output."
                ) from None
        if not self._note.exists():
            self._write_whole(self._note, lambda file: file.write_text(json.dumps(self._run, indent=2) + "\n"))

    @property
    def _note(self) -> Path:
        return self.parts / "run.json"

    def done(self) -> set[int]:
        """The numbers of the inputs that the parts hold already.

        Raises:
            ValueError: they are of a run that asked for something else.
        """
        before = json.loads(self._note.read_text())
        if changed := [name for name in self._run if before.get(name) != self._run[name]]:
            raise ValueError(
                f"{self.parts} was begun with other {' and '.join(changed)}: give the same again to go on, or remove "
                "that folder to begin anew."
            )
        return {
            number for part in self._files() for number in pq.read_table(part, columns=["item"])["item"].to_pylist()
        }

    def _files(self) -> list[Path]:
        return sorted(self.parts.glob("*.parquet"))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Adds a part: all rows of some inputs. It is named by the first, which no other part holds."""
        name = f"{min(row['item'] for row in rows):09}.parquet"
        table = pa.Table.from_pylist(rows, self._schema)
        self._write_whole(self.parts / name, lambda file: pq.write_table(table, file))

    def finish(self) -> Dataset:
        """Makes the output of the parts, by the inputs' order. In one process alone, last.

        Returns:
            The table, which stays on the disk until `clear` removes it with the parts.
        """
        parts, cache = [str(part) for part in self._files()], str(self.parts / "cache")
        table = Dataset.from_parquet(parts, cache_dir=cache)
        table = table.select(np.argsort(table.data["item"].to_numpy(), kind="stable"))
        self._write_whole(self.path, lambda file: WRITERS[self.path.suffix](table, file))
        return table

    def clear(self) -> None:
        """Removes the parts. Of a network disk's files that are still open, something may stay until this process
        ends."""
        if fcntl is not None:
            self._lock.close()
        shutil.rmtree(self.parts, ignore_errors=True)

    def _write_whole(self, path: Path, write: Callable[[Path], Any]) -> None:
        """A file that is there as a whole or not at all, even if this process is killed."""
        unfinished = self.parts / f"{path.name}.{os.getpid()}"
        write(unfinished)
        os.replace(unfinished, path)


def summary(table: Dataset) -> str:
    """How many inputs a table answers, and with which emotions."""
    names = ["time", "person", "fused", "error"]
    ends = table.select_columns(names).with_format("arrow")
    inputs, unread, labels = 0, 0, Counter()
    for rows in ends.iter(ROWS_AT_ONCE):
        for time, person, label, error in zip(*(rows[name].to_pylist() for name in names)):
            if time is None and person in (None, 1):
                inputs += 1
                unread += error is not None
                labels[label] += error is None
    nothing = labels.pop(None, 0)
    counts = [f"{label} {count:,}" for label, count in labels.most_common()]
    if nothing:
        counts.append(f"nobody seen or heard {nothing:,}")
    if unread:
        counts.append(f"no answer {unread:,}, see the column error")
    return f"{inputs:,} input{'s' if inputs != 1 else ''}: {', '.join(counts)}."


def parts_of(path: Path) -> Path:
    """The folder of an output's parts."""
    return path.with_name(f"{path.name}.parts")


def _write_csv(table: Dataset, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, table.column_names)
        writer.writeheader()
        for start in range(0, len(table), ROWS_AT_ONCE):
            writer.writerows(table.select(range(start, min(start + ROWS_AT_ONCE, len(table)))))


def _write_jsonl(table: Dataset, file: Path) -> None:
    with file.open("w", encoding="utf-8") as out:
        for row in table:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


WRITERS = {".parquet": Dataset.to_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
