"""From a video to a timeline: reading, tracking, voice windows, conflicts, bad input, the annotated video, the Hub."""

import csv
import io
import json
import math
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import ASTRONAUT, LABELS, READING, SIZE, one_person, reading, two_people, write_video
from transformers import pipeline

from demo.annotate import annotate_video
from media_emoclip import InputError
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline
from processing_emoclip import EmoCLIPProcessor
from results_emoclip import Emotion
from threads_emoclip import CALLS_AHEAD, Helper
from tracking_emoclip import FaceTracker, boxes_between, iou
from video_emoclip import (
    FaceSample,
    FaceTimeline,
    Person,
    TimelinePoint,
    VideoReader,
    VideoResult,
    _stretches,
    analyze_video,
    finish,
)

COLOURS = dict.fromkeys(LABELS, "#E69F00")


@pytest.fixture(scope="module")
def pipe(checkpoint) -> EmotionRecognitionPipeline:
    return EmotionRecognitionPipeline(
        model=EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32),
        processor=EmoCLIPProcessor.from_pretrained(checkpoint),
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(clips) -> Path:
    """5 s of two people and a voice."""
    return write_video(clips / "two.mp4", two_people(), seconds=5)


@pytest.fixture(scope="module")
def result(pipe, clip) -> VideoResult:
    return pipe(video=clip)


# --- What is found


def test_a_video_of_two_people_who_are_told_apart(result):
    assert (result.width, result.height) == SIZE and result.seconds == pytest.approx(5, abs=0.2)
    assert [person.id for person in result.people] == [1, 2]
    left, right = (np.array([sample.box for sample in person.track]).mean(0) for person in result.people)
    assert left[0] + left[2] / 2 < 320 < right[0] + right[2] / 2  # the admiral's face is the larger one
    assert all(len(person.track) >= 24 for person in result.people)  # 5 a second, hardly one missed
    assert result.messages == []


def test_the_timeline_has_five_points_a_second_with_face_voice_and_both(result):
    assert [point.time for point in result.timeline] == pytest.approx([i / 5 for i in range(len(result.timeline))])
    assert len(result.timeline) == math.floor(result.seconds * 5) + 1
    whole = [point for point in result.timeline if point.face and point.voice]
    assert len(whole) >= 20
    for point in whole:
        assert list(point.fused.scores) == LABELS and point.voice.scores["surprise"] is None
        assert sum(point.fused.scores.values()) == pytest.approx(1, abs=1e-4)
        assert isinstance(point.agreement, float)


def test_the_whole_videos_face_and_voice_are_the_pipelines_own(pipe, clip, result):
    voice = pipe(audio=clip).voice
    assert result.voice.label == voice.label
    for label in LABELS[:-1]:  # but surprise
        assert result.voice.scores[label] == pytest.approx(voice.scores[label], abs=0.03)
    face = pipe(image=two_people()).face
    assert result.face.scores[face.label] == pytest.approx(face.scores[face.label], abs=0.25)  # it moves, in H.264
    assert 0 < sum(end - start for start, end in result.segments) <= result.seconds + 0.1


def test_long_sound_is_scored_in_blocks_as_if_it_were_whole(pipe, clips):
    sound = np.tile(reading(), 6)[: 40 * 16_000]  # longer than a block
    path = write_video(clips / "long.m4a", None, seconds=40, sound=sound, format="mp4")
    whole, streamed = pipe(audio=path).voice, pipe(video=path)
    for label in LABELS[:-1]:
        assert streamed.voice.scores[label] == pytest.approx(whole.scores[label], abs=0.02)
    assert sum(b - a for a, b in streamed.segments) == pytest.approx(sum(b - a for a, b in whole.segments), rel=0.05)
    assert all(a < b for a, b in streamed.segments)
    assert all(x[1] <= y[0] for x, y in zip(streamed.segments, streamed.segments[1:]))


def test_a_rotated_video_is_turned_upright(pipe, clips):
    path = write_video(clips / "rotated.mp4", np.rot90(one_person(), -1).copy(), turned=90, speech=False)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 != 0  # the metadata is there
    rotated, straight = pipe(video=path), pipe(video=write_video(clips / "straight.mp4", one_person(), speech=False))
    assert (rotated.width, rotated.height) == (straight.width, straight.height) == SIZE
    assert iou([rotated.people[0].track[0].box], [straight.people[0].track[0].box])[0][0] > 0.7


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".mov"])
def test_what_browsers_and_phones_record(pipe, clips, suffix):
    result = pipe(video=write_video(clips / f"recorded{suffix}", one_person(), seconds=2))
    assert result.face and result.voice and result.messages == []
    assert result.seconds == pytest.approx(2, abs=0.2)


def test_a_variable_frame_rate_is_sampled_in_time_not_in_frames(pipe, clips):
    times = [i / 60 for i in range(60)] + [1 + i / 4 for i in range(1, 9)]  # a second at 60, two at 4 a second
    result = pipe(video=write_video(clips / "variable.mp4", one_person(), times=times))
    seen = [sample.time for sample in result.people[0].track]
    assert sum(time < 1 for time in seen) <= 6 and sum(time >= 1 for time in seen) >= 7
    assert result.seconds == pytest.approx(3, abs=0.2)
    assert all(point.face for point in result.timeline if 0.2 <= point.time <= 2.8)  # moved evenly between two


def test_bytes_are_as_good_as_a_path(pipe, clip, result):
    assert pipe(video=clip.read_bytes()).fused == result.fused


# --- What is missing or broken


def test_without_sound_the_faces_are_answered(pipe, clips):
    result = pipe(video=write_video(clips / "mute.mp4", one_person(), seconds=1, speech=False))
    assert result.face and result.fused.scores == result.face.scores
    assert result.voice is None and result.agreement is None and result.moments == []
    assert result.messages == ["The video has no sound: only the faces in it were used."]


def test_without_a_face_the_voice_is_answered(pipe, clips):
    result = pipe(video=write_video(clips / "wall.mp4", np.full((360, 640, 3), 90, np.uint8), seconds=3))
    assert result.voice and result.face is None and result.people == []
    assert len(result.messages) == 1 and "No face was found in the video" in result.messages[0]


def test_without_a_picture_the_voice_is_answered(pipe):
    result = pipe(video=READING)
    assert result.voice and result.width is None and result.detector is None
    assert result.messages == ["The file has no moving picture: only its sound was used."]
    with pytest.raises(ValueError, match="no picture"):
        finish(annotate_video(READING, result, "nowhere.mp4", COLOURS))


def test_silence_and_noise_are_told_apart_from_speech(pipe, clips):
    silence, noise = np.zeros(32_000, np.float32), np.random.default_rng(0).normal(0, 0.02, 32_000).astype(np.float32)
    for sound, expected in ((silence, "silent"), (noise, "No speech")):
        result = pipe(video=write_video(clips / "quiet.mp4", one_person(), seconds=2, sound=sound))
        assert result.face and result.voice is None
        assert len(result.messages) == 1 and expected in result.messages[0]


def test_neither_face_nor_voice_is_an_answer(pipe, clips):
    result = pipe(
        video=write_video(clips / "nothing.mp4", np.full((64, 64, 3), 90, np.uint8), seconds=1, speech=False)
    )
    assert result.fused is None and len(result.messages) == 2
    assert len(list(result.rows())) == 1  # the header


def test_a_video_cut_off_in_the_middle_is_answered_as_far_as_it_goes(pipe, clips):
    data = write_video(clips / "whole.webm", one_person(), seconds=4).read_bytes()
    result = pipe(video=data[: len(data) // 2])
    assert 0.5 < result.seconds < 3.5 and result.face
    assert "is damaged" in result.messages[0]


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_garbage_in_the_middle_is_read_past(pipe, clips, suffix):
    data = bytearray(write_video(clips / f"garbage{suffix}", one_person(), seconds=4).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    result = pipe(video=bytes(data))
    assert result.people[0].track[-1].time > 3.5 and result.seconds == pytest.approx(4, abs=0.2)
    assert "is damaged" in result.messages[0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"Dear diary, today I was happy.\n" * 99, "not a video that can be read"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not a video that can be read"),
        (ASTRONAUT.read_bytes(), "not a video that can be read"),
    ],
    ids=["empty", "text", "playlist", "photo"],
)
def test_what_is_no_video_gets_one_sentence(pipe, data, expected):
    with pytest.raises(InputError, match=expected) as error:
        pipe(video=data)
    assert len(error.value.sentences) == 1


def test_an_mp4_that_lost_its_end_gets_one_sentence(pipe, clip):
    data = clip.read_bytes()
    with pytest.raises(InputError, match="not a video that can be read"):
        pipe(video=data[: len(data) // 2])  # its index stood at the end


def test_a_missing_file_and_other_inputs_beside_it(pipe, clip):
    with pytest.raises(InputError, match="no file 'gone.mp4'"):
        pipe(video="gone.mp4")
    with pytest.raises(TypeError, match="by itself"):
        pipe(video=clip, image=ASTRONAUT)


def test_too_long_is_said_before_and_on_the_way(pipe, clip, monkeypatch):
    monkeypatch.setattr("video_emoclip.MAX_VIDEO_SECONDS", 2.0)
    with pytest.raises(InputError, match="too long"):
        pipe(video=clip)  # its header says so
    monkeypatch.setattr(VideoReader, "_check", lambda self: None)
    with pytest.raises(InputError, match="too long"):
        pipe(video=clip)  # the header may be silent


def test_too_large_a_picture_is_said(pipe, clip, monkeypatch):
    monkeypatch.setattr("video_emoclip.MAX_VIDEO_PIXELS", 1000)
    with pytest.raises(InputError, match="too large"):
        pipe(video=clip)


# --- On the way


def test_progress_rises_to_the_end_and_what_it_raises_stops_the_work(pipe, clip):
    fractions = []
    pipe(video=clip, progress=fractions.append)
    assert fractions == sorted(fractions) and fractions[0] < 0.1 and fractions[-1] > 0.9

    class Cancelled(Exception):
        pass

    def cancel(fraction: float) -> None:
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipe(video=clip, progress=cancel)


def test_closing_the_generator_closes_the_file(pipe, clip):
    steps = analyze_video(pipe.recognizer, clip)
    next(steps)
    reader = steps.gi_frame.f_locals["video"]
    steps.close()
    assert reader._file.closed
    assert torch.is_grad_enabled()  # nothing of the model's inference is left behind


def test_frames_and_sound_are_never_held_whole(pipe, clips):
    """What the stream holds of the sound stays below a block and two windows, whatever the length."""
    path = write_video(
        clips / "minute.m4a", None, sound=np.tile(reading(), 15)[: 90 * 16_000], format="mp4", seconds=90
    )
    steps, longest = analyze_video(pipe.recognizer, path), 0
    for _ in steps:
        voice = steps.gi_frame.f_locals["voice"]
        longest = max(longest, voice._end - voice._start)
    assert longest <= (30 + 6) * 16_000


# --- Parts


def test_the_tracker_keeps_ids_through_movement_and_a_short_absence():
    track = FaceTracker()
    left, right = (0, 0, 100, 100), (300, 0, 100, 100)
    assert track([left, right], 0.0) == [1, 2]
    assert track([(310, 5, 100, 100), (10, 5, 100, 100)], 0.2) == [2, 1]  # whatever their order
    assert track([(20, 10, 100, 100)], 0.4) == [1]
    assert track([(25, 10, 100, 100), (320, 5, 100, 100)], 1.0) == [1, 2]  # 2 was away for 0.8 s
    assert track([(320, 5, 100, 100)], 2.5) == [3]  # everybody was away for too long


def test_overlap():
    [row] = iou([(0, 0, 2, 2)], [(0, 0, 2, 2), (1, 0, 2, 2), (5, 5, 2, 2)])
    assert row == pytest.approx([1, 1 / 3, 0])
    assert iou([], [(0, 0, 2, 2)]) == [] and iou([(0, 0, 2, 2)], []) == [[]]


def test_faces_between_two_pictures_are_on_straight_lines_where_they_moved_little():
    before, after = [(0, 0, 100, 100), (300, 0, 50, 50)], [(304, 0, 50, 50), (4, 4, 100, 100)]
    assert boxes_between(before, after, 0.25) == [(1, 1, 100, 100), (301, 0, 50, 50)]
    assert boxes_between([], [], 0.5) == []
    assert boxes_between(before, after[:1], 0.5) is None  # one has gone
    assert boxes_between(before[:1], [(30, 0, 100, 100)], 0.5) is None  # it has moved far


@pytest.mark.parametrize(("step", "searched"), [(2, 5), (40, 9)])  # pixels from picture to picture
def test_faces_that_stand_still_are_looked_for_in_every_other_picture(pipe, monkeypatch, step, searched):
    monkeypatch.setattr(pipe.recognizer, "find_faces", lambda pixels, side: [(int(pixels[0, 0, 0]), 20.0, 90.0, 90.0)])
    looks, search = [], FaceTimeline._search
    monkeypatch.setattr(FaceTimeline, "_search", lambda self, pixels: looks.append(pixels) or search(self, pixels))
    faces = FaceTimeline(pipe.recognizer)
    for i in range(9):
        faces.add_frame(i / 5, np.full((180, 640, 3), step * i % 256, np.uint8), (640, 180))
    [person, *_], _ = faces.people()
    assert len(looks) == searched
    assert [sample.time for sample in person.track][:3] == pytest.approx([0.0, 0.2, 0.4])
    assert [sample.box[0] for sample in person.track][:3] == [0, step, 2 * step]


def test_a_helper_works_in_turn_and_never_far_behind():
    done, release = [], threading.Event()
    with Helper() as helper:
        helper(release.wait)
        for i in range(CALLS_AHEAD - 1):
            helper(done.append, i)
        assert not done
        asking = threading.Thread(target=helper, args=[done.append, CALLS_AHEAD - 1])
        asking.start()
        asking.join(0.05)
        assert asking.is_alive()  # it waits, for there are enough
        release.set()
        asking.join()
    assert done == list(range(CALLS_AHEAD))


def test_what_a_helper_raises_is_raised_and_nothing_is_done_after_the_end():
    def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), Helper() as helper:
        helper(fail)
    done, started, release = [], threading.Event(), threading.Event()

    def slow():
        started.set()
        release.wait()

    with pytest.raises(KeyError), Helper() as helper:
        helper(slow)
        helper(done.append, 1)
        started.wait()
        threading.Timer(0.05, release.set).start()
        raise KeyError
    assert not done


def test_a_person_moves_evenly_between_two_looks_and_is_not_guessed_through_a_long_absence():
    track = [FaceSample("sad", {}, False, time, (100 * time, 0, 10, 10)) for time in (0.0, 0.2, 2.0)]
    person = Person("sad", {}, False, 1, track)
    assert person.at(0.1).box[0] == pytest.approx(10)
    assert person.at(0.2) is track[1] and person.at(2.0) is track[2]
    assert person.at(1.0) is None and person.at(-0.1) is None and person.at(2.1) is None


def test_only_lasting_conflicts_are_moments():
    assert list(_stretches([True] * 5)) == []  # 0.8 s from the first to the last
    assert list(_stretches([False] + [True] * 6 + [False] * 9)) == [(1, 6)]
    assert list(_stretches([True] * 4 + [False] * 2 + [True] * 4)) == [(0, 9)]  # a short gap is bridged
    assert list(_stretches([True] * 6 + [False] * 8 + [True] * 6)) == [(0, 5), (14, 19)]


def test_moments_obey_the_rule_of_conflict(result):
    """Where a moment lies, the points in it conflict for the most part, and outside of moments never for long."""
    for moment in result.moments:
        assert moment.agreement < 0 and moment.face != moment.voice
        assert moment.end - moment.start >= 1.0
    flags = [point.conflict for point in result.timeline]
    assert all(
        point.agreement < 0 and point.face.label != point.voice.label for point in result.timeline if point.conflict
    )
    assert len(result.moments) <= len(list(_stretches(flags)))


# --- What comes out


def test_json_and_csv_can_be_read_and_say_the_same(result):
    data = json.loads(json.dumps(result.to_dict()))
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    main = [row for row in rows if row["person"] == "1"]
    points = [point for point in data["timeline"] if point["face"]]
    assert len(main) == len(points)
    for row, point in zip(main, points):
        assert float(row["time"]) == pytest.approx(point["time"], abs=1e-3)
        assert row["face"] == point["face"]["label"] and row["fused"] == point["fused"]["label"]
        assert float(row["face_happy"]) == pytest.approx(point["face"]["scores"]["happy"], abs=1e-3)
        assert float(row["agreement"] or "nan") == pytest.approx(
            math.nan if point["agreement"] is None else point["agreement"], abs=1e-3, nan_ok=True
        )
        assert row["voice_surprise"] == ""
    other = [row for row in rows if row["person"] == "2"]
    assert other and all(row["voice"] == row["fused"] == row["agreement"] == "" for row in other)


def test_a_voice_without_a_person_has_rows_of_its_own():
    emotion = Emotion("sad", {"happy": 0.2, "sad": 0.8}, unsure=False)
    point = TimelinePoint(0.0, None, emotion, emotion, None)
    rows = list(VideoResult(0.2, voice=emotion, fused=emotion, timeline=[point]).rows())
    assert len(rows) == 2 and rows[1][:2] == [0.0, None] and rows[1][10] == "sad" and rows[1][12:14] == [0.2, 0.8]


def test_the_annotated_video_plays_keeps_its_sound_and_boxes_the_faces(result, clip, tmp_path):
    path = tmp_path / "annotated.mp4"
    fractions = []
    finish(annotate_video(clip, result, path, dict.fromkeys(LABELS, "#00FF00")), fractions.append)
    assert fractions == sorted(fractions) and fractions[-1] > 0.9
    with av.open(str(path)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert picture.codec_context.pix_fmt == "yuv420p" and (picture.width, picture.height) == SIZE
        frames = list(container.decode(picture))
    assert frames[-1].time == pytest.approx(result.seconds, abs=0.3)
    assert 60 <= len(frames) <= 80  # at most 15 a second
    x, y, width, height = (round(value) for value in result.people[0].track[10].box)
    frame = min(frames, key=lambda frame: abs(frame.time - result.people[0].track[10].time)).to_ndarray(format="rgb24")
    edge = frame[y + height // 2 - 5 : y + height // 2 + 5, max(0, x - 2) : x + 8].astype(int)
    assert (edge[..., 1] - edge[..., [0, 2]].max(-1)).max() > 90  # the box's green, which the picture has nowhere
    with av.open(str(path)) as container, av.open(str(clip)) as original:
        loud = [
            np.concatenate([f.to_ndarray().ravel() for f in c.decode(audio=0)]).std() for c in (container, original)
        ]
    assert loud[0] == pytest.approx(loud[1], rel=0.2)


def test_stopping_the_annotation_leaves_no_open_file(result, clip, tmp_path):
    steps = annotate_video(clip, result, tmp_path / "half.mp4", COLOURS)
    for _ in range(5):
        next(steps)
    reader = steps.gi_frame.f_locals["video"]
    steps.close()
    assert reader._file.closed


def test_the_saved_folder_watches_videos_by_remote_code(checkpoint, clip):
    """The code that is beside the weights; test_readme.py has it do so in a folder that holds nothing else."""
    remote = pipeline("emotion-recognition", model=str(checkpoint), trust_remote_code=True)
    result = remote(video=str(clip))
    assert type(remote).__module__.startswith("transformers_modules.")
    assert len(result.people) >= 1 and result.fused.label in LABELS


def test_without_pyav_the_pip_package_is_named(pipe, clip, monkeypatch):
    monkeypatch.setattr("video_emoclip.av", None)
    with pytest.raises(ImportError, match="pip install av"):
        pipe(video=clip)
