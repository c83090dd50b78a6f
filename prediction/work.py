"""From inputs to results: several threads read, find faces and speech, and score; answers come as they are ready.

    for answer in recognize(numbered_rows, recognizer, threads=4):
        print(answer.number, answer.result or answer.error)

Each thread has a face detector of its own, which cannot be shared, and the model in common. What it has found waits
until there are enough faces or windows for the model to take together.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from files_emoclip import FileSource, kind_of
from media_emoclip import InputError
from prediction.inputs import Row, name_of
from recognizer_emoclip import ROWS_PER_FORWARD, Observation, Recognizer
from results_emoclip import EmotionResult
from video_emoclip import VideoResult, What, analyze_video, finish

#: What cannot be asked of a kind of input.
LACKING = {"face": {"audio": "a recording"}, "voice": {"image": "a photo"}}
#: Errors that are not the file's fault: a package is missing, or the machine or its GPU fails.
NOT_THE_FILES = (ImportError, MemoryError, RuntimeError)
POLL_SECONDS = 0.1  # in which threads that are told to stop are looked after


@dataclass
class Answer:
    """What came of the row `number`: its `result`, or the `error` that says why there is none. `names` are its files',
    by column; `kind` is "image", "audio", "image+audio" or "video", None where that could not be told."""

    number: int
    names: dict[str, str | None]
    kind: str | None = None
    result: EmotionResult | VideoResult | None = None
    error: str | None = None


class Stopped(Exception):
    """Raised in a thread whose answers nobody waits for any more."""


class _Shared:
    """An iterator that many threads take from, until it is stopped."""

    def __init__(self, items: Iterable[tuple[int, Row]], progress: Callable[[float], None]):
        self._items, self._lock, self._progress = iter(items), threading.Lock(), progress
        self.stopped = False

    def __iter__(self) -> "_Shared":
        return self

    def __next__(self) -> tuple[int, Row]:
        with self._lock:
            if self.stopped:
                raise StopIteration
            return next(self._items)

    def report(self, part: float) -> None:
        """Tells that a further part of an item is done; Stopped where nobody waits for it."""
        if self.stopped:
            raise Stopped
        with self._lock:
            self._progress(part)


def recognize(
    rows: Iterable[tuple[int, Row]],
    recognizer: Recognizer,
    threads: int,
    what: What = "both",
    progress: Callable[[float], None] = lambda _: None,
) -> Iterator[Answer]:
    """The answer to every numbered row, in the order in which they are ready.

    Args:
        rows: each with its number; they are taken one by one, not much sooner than they are needed.
        recognizer: each thread takes it with a face detector of its own.
        threads: how many work at the same time.
        what: whether faces, voices or both are answered.
        progress: called by one thread at a time as rows are read, and while videos are watched: with the part of a row
            that was done since, 1 for a whole one.
    Raises:
        ImportError, MemoryError, RuntimeError: what is no file's fault: a package is missing, or the machine fails.
    """
    shared, answers = _Shared(rows, progress), queue.Queue(maxsize=4 * ROWS_PER_FORWARD)

    def work() -> None:
        try:
            for answer in _Worker(recognizer.with_own_face_detector(), what, shared):
                answers.put(answer)
            answers.put(None)
        except Stopped:
            pass
        except BaseException as error:  # raised where the answers are read
            answers.put(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    working = threads
    try:
        while working:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                working -= 1
            else:
                yield answer
    finally:
        shared.stopped = True
        while any(worker.is_alive() for worker in workers):
            with contextlib.suppress(queue.Empty):  # one may wait for a place in the queue
                answers.get(timeout=POLL_SECONDS)


class _Worker:
    """One thread's work: iterating gives its answers."""

    def __init__(self, recognizer: Recognizer, what: What, rows: _Shared):
        self._recognizer, self._what, self._rows = recognizer, what, rows
        self._done = 0.0  # of the row at hand

    def __iter__(self) -> Iterator[Answer]:
        seen: list[tuple[Answer, Observation]] = []  # not scored yet
        waiting = 0  # faces and windows in them
        for number, row in self._rows:
            answer = Answer(number, {column: name_of(source) for column, source in row.items()})
            self._done = 0.0
            observation = self._observe(row, answer)
            self._report(1.0)
            if observation is None:
                yield answer
                continue
            seen.append((answer, observation))
            faces = len(observation.faces.crops) if observation.faces else 0
            windows = len(observation.voice.starts) if observation.voice else 0
            waiting += max(1, faces + windows)
            if waiting >= ROWS_PER_FORWARD:
                yield from self._score(seen)
                seen, waiting = [], 0
        yield from self._score(seen)

    def _observe(self, row: Row, answer: Answer) -> Observation | None:
        """What is found in a row; None where the answer is known: of a video, or where there was an error."""
        try:
            given = self._given(row, answer)
            if "video" not in given:
                return self._recognizer.observe(**given)
            steps = analyze_video(self._recognizer, given["video"], self._what)
            answer.result = finish(steps, self._report)
        except (Stopped, *NOT_THE_FILES):
            raise
        except InputError as error:
            answer.error = str(error)
        except Exception as error:  # one odd file must not end a night's work
            answer.error = f"The input could not be read ({type(error).__name__}: {error})."
        return None

    def _report(self, fraction: float) -> None:
        """Tells how much of the row at hand is done."""
        self._rows.report(fraction - self._done)
        self._done = fraction

    def _given(self, row: Row, answer: Answer) -> dict[str, FileSource]:
        """What of a row is to be looked at or listened to, by its kind, which the answer is told."""
        given = {name: source for name, source in row.items() if source is not None}
        if "file" in given:
            given = {kind_of(given["file"]): given["file"]}
        answer.kind = "+".join(given) or None
        if "video" in given and len(given) > 1:
            raise InputError("A video is an input by itself: leave out what stands beside it.")
        lacking = LACKING.get(self._what, {})
        wanted = {kind: source for kind, source in given.items() if kind not in lacking}
        if given and not wanted:
            [kind] = given
            raise InputError(f"Only the {self._what} was asked for, and this is {lacking[kind]}.")
        return wanted

    def _score(self, seen: list[tuple[Answer, Observation]]) -> Iterator[Answer]:
        results = self._recognizer.score([observation for _, observation in seen])
        for (answer, _), answer.result in zip(seen, results):
            yield answer
