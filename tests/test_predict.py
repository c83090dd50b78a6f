"""predict_hf.py: many files to one table, interrupted and resumed, in one process and in two."""

import csv
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Dataset, Image
from helpers import (
    ADMIRAL,
    ASTRONAUT,
    LABELS,
    READING,
    ROOT,
    SHORT_READING,
    TWO_PEOPLE,
    encode_audio,
    one_person,
    reading,
    write_video,
)
from PIL import Image as PILImage

import predict_hf
import prediction.work
from hub import load_pipeline
from prediction.output import Output, columns, parts_of
from prediction.work import recognize
from results_emoclip import Emotion


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return load_pipeline(checkpoint, device="cpu")


@pytest.fixture
def predict(checkpoint, monkeypatch, tmp_path):
    """Runs the command in this process, and gives the rows of its output."""

    def predict(*arguments, output: str = "results.parquet") -> list[dict]:
        run(checkpoint, *arguments, "--output", tmp_path / output, patch=monkeypatch)
        assert not parts_of(tmp_path / output).exists()
        return read(tmp_path / output)

    return predict


def run(checkpoint: Path, *arguments, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "argv", ["predict_hf.py", *map(str, arguments), "--model", str(checkpoint)])
    predict_hf.main()


def read(output: Path) -> list[dict]:
    """The rows, each with the columns that hold something."""
    if output.suffix == ".parquet":
        rows = pq.read_table(output).to_pylist()
    elif output.suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        text = ("file", "image", "audio", "kind", "face", "voice", "fused", "messages", "error")
        with output.open(newline="") as file:
            rows = [
                {name: value if name in text or not value else float(value) for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
    assert all(list(row) == list(rows[0]) for row in rows)
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]


def scores(row: dict, source: str) -> dict[str, float]:
    return {label: row[f"{source}_{label}"] for label in LABELS if f"{source}_{label}" in row}


def assert_is(row: dict, source: str, emotion: Emotion) -> None:
    """A row's columns hold an `Emotion` of the pipeline; sums of floats in another order are the same."""
    assert row[source] == emotion.label and row[f"{source}_unsure"] == emotion.unsure
    assert scores(row, source) == pytest.approx(scores_of(emotion), abs=1e-4)


def scores_of(emotion: Emotion) -> dict[str, float]:
    return {label: score for label, score in emotion.scores.items() if score is not None}


# --- Answers


def test_answers_are_the_pipelines_own_whatever_the_files_are_called(predict, pipe, tmp_path):
    folder = tmp_path / "files"
    (folder / "within").mkdir(parents=True)
    shutil.copy(TWO_PEOPLE, folder / "a.wav")
    shutil.copy(READING, folder / "b")
    write_video(folder / "within" / "c.mp4", one_person(), seconds=2).rename(folder / "within" / "c.txt")
    (folder / ".hidden").write_text("no input")
    rows = predict(folder)
    assert [(row["item"], row["file"], row["kind"]) for row in rows] == [
        (0, str(folder / "a.wav"), "image"),
        (0, str(folder / "a.wav"), "image"),
        (1, str(folder / "b"), "audio"),
        (2, str(folder / "within" / "c.txt"), "video"),
    ]
    photo, recording, video = (pipe(row["file"]) for row in rows[1:])
    for row, person in zip(rows, [photo.face, *photo.face.others], strict=False):
        assert_is(row, "face", person)
        assert tuple(row[name] for name in ("x", "y", "width", "height")) == person.box
    assert [row.get("person") for row in rows] == [1, 2, None, 1]
    assert_is(rows[0], "fused", photo.fused)
    assert "fused" not in rows[1]
    assert_is(rows[2], "voice", recording.voice)
    for source in ("face", "voice", "fused"):
        assert_is(rows[3], source, getattr(video, source))
    assert rows[3]["agreement"] == pytest.approx(video.agreement, abs=1e-3)
    assert not any("error" in row or "time" in row for row in rows)


def test_a_video_second_by_second_and_its_picture(predict, pipe, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", one_person(), seconds=3)
    rows = predict(clip, ASTRONAUT, "--every", "1", "--plot", tmp_path / "plots")
    header, *table = pipe(video=clip).rows()
    expected = [dict(zip(header, cells)) for cells in table]
    expected = [cells for cells in expected if cells["time"] in (0, 1, 2)]
    assert len(expected) == 3 and [row.get("time") for row in rows] == [0, 1, 2, None, None]
    for row, cells in zip(rows, expected):
        cells = {name: value for name, value in cells.items() if value is not None}
        assert {name: row[name] for name in cells} == pytest.approx(cells, abs=1e-4)
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["000000-clip.png"]
    assert np.asarray(PILImage.open(tmp_path / "plots" / "000000-clip.png")).std() > 10


def test_one_table_in_three_formats(predict):
    as_parquet, as_csv, as_jsonl = (
        predict(ASTRONAUT, SHORT_READING, ROOT / "README.md", output=f"results.{suffix}")
        for suffix in ("parquet", "csv", "jsonl")
    )
    assert as_jsonl == as_parquet and len(as_parquet) == 3
    for row, expected in zip(as_csv, as_parquet, strict=True):
        assert row == pytest.approx(expected)


def test_what_cannot_be_read_is_a_row_with_its_message(predict, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(ASTRONAUT.read_bytes()[:2_000])
    (tmp_path / "noise.wav").write_bytes(b"no sound at all")
    (tmp_path / "list.txt").write_text(f"cut.jpg\n\nnoise.wav\r\nmissing.jpg\n{ASTRONAUT}\n")
    rows = predict(tmp_path / "list.txt")
    assert [row.get("error", "").partition(":")[0] for row in rows] == [
        "The photo is damaged and cannot be read",
        "The recording is not a sound file that can be read",
        "There is no file 'missing.jpg'",
        "",
    ]
    assert [row["file"] for row in rows] == [
        *(str(tmp_path / name) for name in ("cut.jpg", "noise.wav", "missing.jpg")),
        str(ASTRONAUT),
    ]
    assert [set(row) for row in rows[:2]] == [{"item", "file", "kind", "error"}] * 2


def test_an_odd_file_ends_nothing(predict, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("recognizer_emoclip.load_image", fail)
    photo, recording = predict(ASTRONAUT, SHORT_READING)
    assert photo["error"] == "The input could not be read (ZeroDivisionError: division by zero)."
    assert recording["voice"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8")
def test_names_may_be_any_bytes(predict, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(ASTRONAUT, os.fsencode(tmp_path / "photos") + b"/caf\xe9.jpg")
    [row] = predict(tmp_path / "photos")
    assert row["file"].endswith("/caf\ufffd.jpg") and row["face"]


def test_an_error_of_the_network_is_no_files(predict, monkeypatch, tmp_path):
    def fail(*_):
        raise ValueError("weights")

    monkeypatch.setattr("recognizer_emoclip.Recognizer.score", fail)
    with pytest.raises(ValueError, match="weights"):
        predict(ASTRONAUT)
    assert not (tmp_path / "results.parquet").exists()


def test_answers_do_not_wait_for_a_face(pipe, tmp_path):
    PILImage.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    taken = itertools.count()
    rows = ((next(taken), {"image": str(tmp_path / "grey.png")}) for _ in range(200))
    answers = recognize(rows, pipe.recognizer, threads=1)
    assert next(answers).result.face is None
    answers.close()
    assert next(taken) < 100


def test_progress_is_told_within_a_video(pipe, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", one_person(), seconds=2)
    parts = []
    rows = enumerate([{"file": str(clip)}, {"file": str(ASTRONAUT)}, {"file": "missing"}])
    assert len(list(recognize(rows, pipe.recognizer, threads=1, progress=parts.append))) == 3
    assert parts[-2:] == [1, 1] and sum(parts) == pytest.approx(3)
    assert len(parts) > 10 and max(parts[:-2]) < 0.5


def test_nobody_seen_or_heard_is_an_answer(predict, tmp_path):
    PILImage.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    [row] = predict(tmp_path / "grey.png")
    assert "No face was found" in row["messages"] and "error" not in row and "fused" not in row


def test_faces_or_voices_alone(predict, pipe, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", one_person(), seconds=2)
    (tmp_path / "pairs.csv").write_text(f"image,audio\n{ASTRONAUT},{SHORT_READING}\n")
    for what, other, refused in (("face", "voice", SHORT_READING), ("voice", "face", ASTRONAUT)):
        video, error = predict(clip, refused, "--what", what, output=f"{what}.parquet")
        assert f"Only the {what} was asked for" in error["error"]
        [pair] = predict(tmp_path / "pairs.csv", "--what", what, output=f"{what}-pairs.parquet")
        for row in (video, pair):
            assert what in row and other not in row
            assert scores(row, what) == pytest.approx(scores(row, "fused"), abs=1e-5)
            assert "agreement" not in row and "messages" not in row
        assert_is(video, what, getattr(pipe(video=clip), what))


def test_a_reading_a_baseline_and_a_prior_are_the_pipelines(predict, pipe, tmp_path):
    pipe.baseline(image=ADMIRAL, audio=READING).save(tmp_path / "me.json")
    shares = dict.fromkeys(LABELS, 0.1) | {"sad": 0.4}
    for number, options in enumerate(
        ({"reading": "acted"}, {"baseline": str(tmp_path / "me.json")}, {"prior": "uniform"}, {"prior": shares})
    ):
        [(name, value)] = options.items()
        value = value if isinstance(value, str) else json.dumps(value)
        photo, recording = predict(ASTRONAUT, SHORT_READING, f"--{name}", value, output=f"{number}.parquet")
        assert_is(photo, "face", pipe(str(ASTRONAUT), **options).face)
        assert_is(recording, "voice", pipe(str(SHORT_READING), **options).voice)
        assert scores(recording, "voice") != pytest.approx(scores_of(pipe(str(SHORT_READING)).voice), abs=1e-3)


# --- Tables


def test_pairs_in_tables_of_every_kind(predict, pipe, tmp_path):
    shutil.copy(ASTRONAUT, tmp_path / "1.jpg")
    shutil.copy(SHORT_READING, tmp_path / "2.flac")
    paths = [("1.jpg", "2.flac"), ("1.jpg", None), (None, "2.flac"), (None, None)]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "id", "audio"), *((image, 7, audio) for image, audio in paths)])
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for image, audio in paths:
            file.write(json.dumps({"image": image, "audio": audio, "said": "\u2028"}, ensure_ascii=False) + "\n")
    pq.write_table(pa.table(dict(zip(("image", "audio"), zip(*paths)))), tmp_path / "pairs.parquet")
    result = pipe(image=ASTRONAUT, audio=SHORT_READING)
    for suffix in ("csv", "jsonl", "parquet"):
        rows = predict(tmp_path / f"pairs.{suffix}", output=f"of-{suffix}.parquet")
        assert [row.get("kind") for row in rows] == ["image+audio", "image", "audio", None]
        assert [(row.get("image"), row.get("audio")) for row in rows] == [
            tuple(name and str(tmp_path / name) for name in pair) for pair in paths
        ]
        assert rows[0]["agreement"] == pytest.approx(result.agreement, abs=1e-3)
        for source in ("face", "voice", "fused"):
            assert_is(rows[0], source, getattr(result, source))
        assert "Nothing was given" in rows[3]["error"]


def test_datasets_that_hold_the_files_themselves(predict, pipe, tmp_path):
    rows = {"image": [{"bytes": ADMIRAL.read_bytes(), "path": "admiral.jpg"}, None], "label": [0, 1]}
    rows["audio"] = [None, {"bytes": encode_audio(reading(), 16_000, "WAV"), "path": None}]
    data = Dataset.from_dict(rows).cast_column("image", Image()).cast_column("audio", Audio())
    data.to_parquet(tmp_path / "data.parquet")
    photo, recording = predict(tmp_path / "data.parquet")
    assert photo["image"] == "admiral.jpg" and "audio" not in recording
    assert_is(photo, "face", pipe(image=ADMIRAL).face)
    assert_is(recording, "voice", pipe(audio=READING).voice)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("t.csv", "photo,sound\na,b\n", "none of the columns file, image, audio, video"),
        ("t.csv", "file,image\na,b\n", "file and image beside it"),
        ("t.jsonl", '{"image": "a.jpg"}\nimage\n', "Line 2"),
        ("t.parquet", "no table", "not a Parquet file"),
        ("t.txt", "\n", "nothing in"),
        ("t.csv", "image\n", "nothing in"),
    ],
)
def test_what_is_no_table_is_refused(predict, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=f"^predict_hf.py: .*{message}"):
        predict(tmp_path / name)


# --- The command


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere", "--output", "r.csv"], "There is no file or folder nowhere"),
        ([ASTRONAUT, "--output", "r.xlsx"], "ends in .parquet, .csv, .jsonl, not in .xlsx"),
        ([ASTRONAUT, "--output", ASTRONAUT], "ends in .parquet"),
        ([ASTRONAUT, "--output", "r.csv", "--every", "0.3"], "multiple of 0.2, not 0.3"),
        ([ASTRONAUT, "--output", "r.csv", "--threads", "0"], "at least 1, not 0"),
        ([ASTRONAUT, "--output", "r.csv", "--baseline", ASTRONAUT], "is no baseline"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(checkpoint, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^predict_hf.py: .*{message}"):
        run(checkpoint, *arguments, patch=monkeypatch)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_what_is_printed(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run(checkpoint, "examples", "--output", "outputs/examples.parquet", patch=monkeypatch)
    shown = re.search(r"```text\n(.*?)```", (ROOT / "docs" / "many-files.md").read_text(), re.DOTALL)[1]
    assert capsys.readouterr().out == shown


def test_an_output_is_not_overwritten(predict, tmp_path):
    (tmp_path / "results.csv").write_text("mine")
    with pytest.raises(SystemExit, match="is there already"):
        predict(ASTRONAUT, output="results.csv")
    assert (tmp_path / "results.csv").read_text() == "mine"


# --- Interrupted


PHOTOS = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Different photos of one face each, one without any, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("photos")
    face = PILImage.open(ASTRONAUT).convert("RGB")
    for number in range(PHOTOS - 2):
        face.crop((number, 0, 400 + number, 300)).save(folder / f"{number:02}.jpg")
    PILImage.new("RGB", (99, 99)).save(folder / "black.jpg")
    (folder / "broken.jpg").write_text("not a photo")
    return folder


def work(arguments: list[str], environment: dict[str, str]) -> None:
    """A process of the command, which saves after every answer, and waits to be killed where there are STOP_AT
    parts."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    predict_hf.SAVE_SECONDS = 0
    prediction.work.ROWS_PER_FORWARD = 1
    sys.argv = ["predict_hf.py", *arguments]
    if goal := int(environment.get("STOP_AT", 0)):
        write = Output.write

        def write_and_stop(output: Output, rows: list[dict]) -> None:
            write(output, rows)
            if parts(output.path) >= goal and sys.exc_info()[0] is None:  # not what is saved once it is interrupted
                threading.Event().wait()

        Output.write = write_and_stop
    predict_hf.main()


def start(arguments: list, environment: dict[str, str] | None = None) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["predict_hf"])  # what takes seconds, once for all
    process = context.Process(target=work, args=([*map(str, arguments)], environment or {}))
    process.start()
    return process


def parts(output: Path) -> int:
    return len(list(parts_of(output).glob("*.parquet")))


def assert_complete(output: Path, photos: Path) -> None:
    rows = read(output)
    assert Counter(row["item"] for row in rows) == dict.fromkeys(range(PHOTOS), 1)
    assert [row["file"] for row in rows] == sorted(map(str, photos.iterdir()))
    assert [row["file"] for row in rows if "face" not in row] == [
        str(photos / "black.jpg"),
        str(photos / "broken.jpg"),
    ]
    assert not parts_of(output).exists() and list(output.parent.iterdir()) == [output]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_five_times_it_is_complete_and_without_doubles(checkpoint, photos, tmp_path):
    output = tmp_path / "results.csv"
    arguments = [photos, "--output", output, "--model", checkpoint]
    random = np.random.default_rng(0)
    seen = 0
    for kill in [signal.SIGKILL] * 4 + [signal.SIGINT]:
        goal = seen + random.integers(1, 4)
        process = start(arguments, {"STOP_AT": str(goal)})
        while parts(output) < goal:
            assert process.exitcode is None
            process.join(0.005)
        os.kill(process.pid, kill)
        process.join()
        assert process.exitcode == (-kill if kill == signal.SIGKILL else 1)
        assert goal <= (seen := parts(output)) < PHOTOS and not output.exists()
    process = start(arguments)
    process.join()
    assert process.exitcode == 0
    assert_complete(output, photos)


@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_two_processes_share_the_work(checkpoint, photos, tmp_path):
    output = tmp_path / "results.parquet"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        start(
            [photos, "--output", output, "--model", checkpoint, "--threads", "1"],
            both | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert_complete(output, photos)


@pytest.mark.parametrize(
    "changed, message",
    [
        (["--every", "1"], "other --every"),
        (["--what", "face", "--reading", "acted"], "other --what and --reading"),
        (["--prior", "uniform"], "other --prior"),
        ([ADMIRAL], "other inputs"),
    ],
)
def test_something_else_does_not_go_on(checkpoint, changed, message, tmp_path, monkeypatch):
    arguments = [ASTRONAUT, "--output", tmp_path / "r.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(Output, "finish", lambda _: sys.exit("interrupted"))
        with pytest.raises(SystemExit, match="interrupted"):
            run(checkpoint, *arguments, patch=monkeypatch)
    with pytest.raises(SystemExit, match=f"begun with {message}: "):
        run(checkpoint, *changed, *arguments, patch=monkeypatch)
    run(checkpoint, *arguments, patch=monkeypatch)
    assert len(read(tmp_path / "r.csv")) == 1


def test_another_model_does_not_go_on(checkpoint, tmp_path):
    runs = [{"weights": predict_hf.digest(checkpoint)}]
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    runs.append({"weights": predict_hf.digest(tmp_path / "model")})
    first, second = (Output(tmp_path / "r.csv", columns(["file"], LABELS), run) for run in runs)
    first.begin()
    assert first.done() == set()
    with pytest.raises(ValueError, match="begun with other weights"):
        second.done()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_two_runs_do_not_write_one_output(predict, tmp_path):
    running = Output(tmp_path / "results.parquet", columns(["file"], LABELS), {})
    running.begin()
    with pytest.raises(SystemExit, match="Another run is writing"):
        predict(ASTRONAUT)


def test_its_own_output_is_no_input(predict, tmp_path, monkeypatch):
    shutil.copy(ASTRONAUT, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(predict(".", "--plot", "plots")) == 1
