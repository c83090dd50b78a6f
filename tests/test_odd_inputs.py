"""What people hand over that nobody had in mind: each gets its right answer, or one sentence that says what to do."""

import copy
import io
import multiprocessing
import pickle
import shutil
import tracemalloc
from fractions import Fraction
from operator import itemgetter

import av
import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from datasets import Image as ImageColumn
from helpers import (
    ASTRONAUT,
    READING,
    ROOT,
    SHORT_READING,
    assert_close,
    encode_audio,
    encode_image,
    one_person,
    record_like_a_browser,
    write_video,
)
from PIL import Image
from transformers import pipeline

import media_emoclip
from files_emoclip import kind_of
from hub import HubError, load_pipeline
from media_emoclip import InputError, check_box, load_audio, load_image
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline
from processing_emoclip import EmoCLIPProcessor, to_mono

CLIP = ROOT / "examples" / "talking-portrait.mp4"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 20000000\n"


@pytest.fixture(scope="module")
def pipe(checkpoint) -> EmotionRecognitionPipeline:
    model = EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32)
    return pipeline("emotion-recognition", model=model, processor=EmoCLIPProcessor.from_pretrained(checkpoint))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """(T,) float32 at 16 kHz."""
    samples, rate = soundfile.read(SHORT_READING, dtype="float32")
    assert rate == 16_000
    return samples


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(Image.open(ASTRONAUT).convert("RGB"))


def record(samples: np.ndarray, **options) -> dict:
    return {"array": samples, "sampling_rate": 16_000, **options}


# --- Whole numbers


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, list])
def test_16_bit_samples_are_heard_alike_in_whatever_type_they_come(pipe, speech, dtype):
    samples = (speech * 2**15).astype(np.int16)
    odd = samples.tolist() if dtype is list else samples.astype(dtype)
    assert pipe(audio=record(odd)) == pipe(audio=record(samples))
    features = [
        pipe.processor(audio=[each], sampling_rate=16_000, return_tensors="pt")["input_features"]
        for each in (odd, samples)
    ]
    assert torch.equal(*features)


def test_32_bit_samples_are_heard_in_both_types_and_24_bit_ones_are_refused(speech):
    whole = (speech.astype(np.float64) * 2**31).astype(np.int64)
    for samples in (whole, whole.astype(np.int32)):
        assert np.allclose(to_mono(samples), speech, atol=1e-6)
        assert np.allclose(load_audio(record(samples))[0], speech, atol=1e-6)
    for samples in (whole >> 8, whole << 8):
        for read in (to_mono, lambda samples: load_audio(record(samples))):
            with pytest.raises(InputError, match="full scale"):
                read(samples)


def test_silence_in_whole_numbers_is_silence(pipe):
    result = pipe(audio=record(np.zeros(16_000, np.int64)))
    assert result.messages == ["The recording is silent: check the microphone and record again."]


@pytest.mark.parametrize("samples", [[[0.1] * 9, [0.1] * 8], [None] * 9, ["a"] * 9, [10**400] * 9, [], [[]], 0.5])
def test_lists_that_are_no_samples_are_refused(pipe, samples):
    for read in (load_audio, lambda recording: pipe(audio=recording)):
        with pytest.raises(InputError):
            read(record(samples))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_a_cameras_bits_in_16_bit_numbers_are_seen_as_8_bit_ones(pipe, astronaut, bits):
    grey = np.asarray(Image.fromarray(astronaut).convert("L"))
    grey = np.maximum(grey, 255 * (np.arange(grey.size).reshape(grey.shape) == 0).astype(np.uint8))  # white somewhere
    deep = grey.astype(np.uint16) << (bits - 8)
    expected = pipe(grey)
    for odd in (deep, encode_image(Image.fromarray(deep), "PNG"), encode_image(Image.fromarray(deep), "TIFF")):
        result = pipe(image=odd)
        assert result.face == expected.face
        assert result.messages == [
            f"The picture's 16-bit numbers reach only {deep.max()}: they were taken for {bits}-bit ones."
        ]


def test_12_bits_in_16_bit_colours_are_refused_and_16_bits_are_seen(astronaut):
    cv2 = pytest.importorskip("cv2")
    deep = astronaut[..., ::-1].astype(np.uint16)
    for format in (".png", ".tiff"):
        _, whole = cv2.imencode(format, deep * 257)
        assert np.array_equal(np.asarray(load_image(whole.tobytes())[0]), astronaut)
        _, dark = cv2.imencode(format, deep << 4)
        with pytest.raises(InputError, match="nearly black"):
            load_image(dark.tobytes())
    assert load_image(Image.new("RGB", (32, 32)))[1] == []


def test_pictures_of_floats_are_read_as_arrays_of_floats_are(astronaut):
    grey = np.asarray(Image.fromarray(astronaut).convert("L")).astype(np.float32) / 255
    image, notes = load_image(encode_image(Image.fromarray(grey * 0.5), "TIFF"))
    assert np.abs(np.asarray(image)[..., 0] - grey * 127.5).max() <= 1 and notes == []
    image, notes = load_image(encode_image(Image.fromarray(grey * 9), "TIFF"))
    assert np.asarray(image).max() == 255 and "black to white" in notes[0]
    assert load_image(Image.fromarray(np.full((20, 20), np.nan, np.float32)))[0].getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize(
    "box", [(10**400, 0, 9, 9), (0, 0, 10**400, 10**400), ("a", 0, 9, 9), (None,) * 4, {}, [[0, 0, 9, 9], [1]]]
)
def test_what_is_no_box_is_refused(box):
    with pytest.raises(InputError, match="face box"):
        check_box(box, 100, 100)


# --- Channels


def cancelling(speech: np.ndarray) -> np.ndarray:
    """(2, T): what one microphone with its poles exchanged gives."""
    return np.stack([speech, -0.98 * speech])


@pytest.mark.parametrize("form", ["array", "columns", "wav", "flac", "m4a", "webm"])
def test_channels_that_cancel_each_other_are_heard_by_the_louder(pipe, speech, form):
    channels = cancelling(speech)
    if form in ("array", "columns"):
        source = record(channels if form == "array" else channels.T)
    elif form in ("wav", "flac"):
        source = encode_audio(channels.T, 16_000, form.upper())
    else:
        source = encode_stereo(channels, "mp4" if form == "m4a" else "webm")
    usual = encode_stereo(np.stack([speech] * 2), "mp4") if form == "m4a" else record(speech)
    result, expected = pipe(audio=source), pipe(audio=usual)
    assert result.voice.label == expected.voice.label and len(result.voice.segments) == len(expected.voice.segments)
    assert len(result.messages) == 1 and "only number 1 was used" in result.messages[0]


def encode_stereo(channels: np.ndarray, container: str, picture: np.ndarray | None = None) -> bytes:
    """(2, T) float32 at 16 kHz, left and right apart, under a still picture if there is one."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream("libopus" if container == "webm" else "aac", rate=48_000, layout="stereo")
        stream.bit_rate = 256_000
        if picture is not None:
            add_picture(out, picture, channels.shape[1] / 16_000)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout="stereo")
        frame.sample_rate = 16_000
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=48_000, frame_size=960)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


def add_picture(out: av.container.OutputContainer, picture: np.ndarray, seconds: float) -> None:
    """Adds a still picture as a video of 5 frames a second."""
    video = out.add_stream("libx264", rate=5)
    video.height, video.width, video.pix_fmt = *picture.shape[:2], "yuv420p"
    for i in range(round(5 * seconds)):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = i, Fraction(1, 5)
        out.mux(video.encode(frame))
    out.mux(video.encode(None))


def test_channels_that_cancel_each_other_are_heard_in_a_video(pipe, speech):
    result = pipe(video=encode_stereo(cancelling(speech), "mp4", one_person()))
    assert result.voice is not None and result.face is not None
    assert any("only number" in message for message in result.messages)


def test_the_processor_hears_channels_that_cancel_and_says_so(speech, caplog):
    assert torch.equal(to_mono(cancelling(speech)), torch.from_numpy(speech))
    assert "only number 1 was used" in caplog.text


def test_usual_channels_are_mixed(speech):
    noise = np.random.default_rng(0).normal(0, 0.03, len(speech)).astype(np.float32)
    for channels in (
        [speech, speech],
        [speech, 0 * speech],
        [speech, speech + noise],
        [speech + 0.2, 0 * speech - 0.2],
    ):
        channels = np.stack(channels)
        samples, notes = load_audio(record(channels))
        assert np.array_equal(samples, channels.mean(0)) and notes == []
    drowned = np.stack([0 * speech] * 7 + [speech])
    samples, [note] = load_audio(encode_audio(drowned.T, 16_000, "WAV", subtype="FLOAT"))
    assert np.array_equal(samples, speech) and "number 8" in note


# --- Photos that lie


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("photo", ["astronaut.jpg", "grace-hopper.jpg", "two-people.jpg"])
def test_a_photo_on_its_side_or_head_is_turned_and_says_so(pipe, photo, turns):
    image = Image.open(ROOT / "examples" / photo).convert("RGB")
    expected = pipe(image)
    assert expected.messages == []
    result = pipe(image.rotate(90 * turns, expand=True))
    assert result.face == expected.face
    assert len(result.messages) == 1 and "turned" in result.messages[0]
    observation = pipe.recognizer.observe(image.rotate(90 * turns, expand=True))
    assert observation.faces.turns == 4 - turns


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_video_on_its_side_or_head_says_so(pipe, tmp_path, turns):
    picture = np.ascontiguousarray(np.rot90(one_person(), turns))
    path = write_video(tmp_path / "clip.mp4", picture, seconds=1.0, speech=False)
    assert any("lies on its side" in message for message in pipe(video=path).messages) == (turns > 0)


# --- Files that were never finished


def unfinished(data: bytes, offset: int, byteorder: str, size: int = 0) -> bytes:
    return data[:offset] + size.to_bytes(4, byteorder) + data[offset + 4 :]


@pytest.mark.parametrize("size", [0, 2**32 - 1])
def test_a_header_that_was_never_finished_does_not_make_a_recording_empty(speech, size):
    wav = encode_audio(speech, 16_000, "WAV", subtype="PCM_16")
    au = encode_audio(speech, 16_000, "AU", subtype="PCM_16")
    wav = unfinished(unfinished(wav, wav.index(b"data") + 4, "little", size), 4, "little", size)
    for data in (wav, unfinished(au, 8, "big", size)):
        samples, notes = load_audio(data)
        assert len(samples) == pytest.approx(len(speech), abs=200) and notes == []
        assert np.corrcoef(samples[: len(speech)], speech[: len(samples)])[0, 1] > 0.99


# --- Sound tracks


def write_tracks(path, tracks: list[np.ndarray], picture: np.ndarray | None = None):
    """A video, or a recording, with several mono tracks of 16 kHz, all as long as the first."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("aac", rate=16_000, layout="mono") for _ in tracks]
        if picture is not None:
            add_picture(out, picture, len(tracks[0]) / 16_000)
        for stream, samples in zip(streams, tracks):
            for start in range(0, len(samples), 1024):
                part = np.ascontiguousarray(samples[None, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16_000, start
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("order", "number"), [((0, 1), 2), ((1, 0), 1), ((0, 0, 1), 3), ((0, 0), 1)])
def test_of_several_sound_tracks_the_first_that_is_not_silent_is_used(pipe, speech, tmp_path, order, number):
    tracks = [loud * speech for loud in order]
    sentence = f"Of {len(order)} sound tracks, number {number} was used."
    result = pipe(write_tracks(tmp_path / "sound.mka", tracks))
    assert (result.voice is not None) == any(order) and result.messages[0] == sentence
    result = pipe(write_tracks(tmp_path / "clip.mkv", tracks, one_person()))
    assert (result.voice is not None) == any(order) and result.messages[0] == sentence and result.width


# --- What a file holds


def test_what_a_path_holds_is_told_by_its_content(pipe, speech, tmp_path):
    files = {
        "photo": ASTRONAUT.read_bytes(),
        "photo.wav": ASTRONAUT.read_bytes(),
        "voice.jpg": READING.read_bytes(),
        "voice": encode_audio(speech, 16_000, "WAV"),
        "voice.au": encode_audio(speech, 16_000, "AU"),
        "voice.aifc": encode_audio(speech, 16_000, "AIFF"),
        "voice.w64": encode_audio(speech, 16_000, "W64"),
        "voice.caf": encode_audio(speech, 16_000, "CAF"),
        "voice.webm": record_like_a_browser(speech, 16_000, "webm", "libopus"),
        "voice.mp4": record_like_a_browser(speech, 16_000, "mp4", "aac"),
        "clip.jpg": CLIP.read_bytes(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        result, kind = pipe(tmp_path / name), kind_of(tmp_path / name)
        assert kind == {"phot": "image", "voic": "audio", "clip": "video"}[name[:4]]
        assert result.face is not None if kind == "image" else result.voice is not None


@pytest.mark.parametrize(
    ("suffix", "format", "codec", "rate"),
    [("m4b", "ipod", "aac", 16_000), ("m4r", "ipod", "aac", 16_000), ("mka", "matroska", "aac", 16_000),
     ("mp2", "mp2", "mp2", 48_000), ("mpga", "mp3", "libmp3lame", 48_000), ("ts", "mpegts", "aac", 48_000),
     ("flv", "flv", "aac", 44_100), ("wma", "asf", "wmav2", 44_100), ("ogv", "ogg", "libvorbis", 44_100),
     ("3gp", "3gp", "aac", 16_000), ("aac", "adts", "aac", 16_000)],
)  # fmt: skip
def test_recordings_of_every_suffix_are_heard(pipe, speech, tmp_path, suffix, format, codec, rate):
    path = tmp_path / f"voice.{suffix}"
    try:
        with av.open(str(path), "w", format=format) as out:
            stream = out.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(speech[None], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            resampler = av.AudioResampler(
                stream.format, "mono", rate, frame_size=stream.codec_context.frame_size or 1152
            )
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                out.mux(stream.encode(piece))
            out.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg does not write {suffix}: {error}")
    assert pipe(path).voice is not None


@pytest.mark.parametrize(("suffix", "format"), [("mts", "mpegts"), ("qt", "mov"), ("flv", "flv"), ("wmv", "asf")])
def test_videos_of_every_suffix_are_seen(pipe, tmp_path, suffix, format):
    write_video(path := tmp_path / f"clip.{suffix}", one_person(), seconds=1.0, speech=False, format=format)
    assert pipe(path).face is not None


def test_damaged_files_are_called_what_their_suffix_says(pipe, tmp_path):
    for name, word in (("a.jpg", "photo"), ("a", "photo"), ("a.wav", "recording"), ("a.mov", "video")):
        (tmp_path / name).write_bytes(b"Dear diary, today I was happy.\n" * 50)
        with pytest.raises(InputError, match=word if word != "recording" else "sound file"):
            pipe(tmp_path / name)


@pytest.mark.parametrize("path", ["a\0b.jpg", "a" * 5_000, "a" * 5_000 + ".wav", "", "~/no.jpg", "\ud800.jpg"])
def test_paths_that_no_file_can_have_get_a_short_sentence(pipe, path):
    for call in (pipe, lambda path: pipe(image=path), lambda path: pipe(audio=path), lambda path: pipe(video=path)):
        with pytest.raises(InputError) as error:
            call(path)
        assert len(str(error.value)) < 250


# --- Open files, datasets and their columns


def test_open_files_are_read_from_their_beginning_and_stay_open(pipe):
    for path in (ASTRONAUT, READING):
        with path.open("rb") as file:
            file.read(1000)
            assert pipe(file) == pipe(path)
            assert not file.closed
    with ASTRONAUT.open("rb") as image, READING.open("rb") as audio:
        assert pipe(image=image, audio=audio) == pipe(image=ASTRONAUT, audio=READING)
    with CLIP.open("rb") as video:
        assert_close(pipe(video=video).to_dict(), pipe(video=CLIP).to_dict())
    for read in (load_image, load_audio):
        with pytest.raises(InputError, match="anew"):
            read(image)  # closed
        with pytest.raises(InputError, match="rb"):
            read(io.StringIO("text"))


class Decoder:
    """What a column of sounds gives where torchcodec is installed."""

    def __init__(self, samples: np.ndarray, rate: int, damaged: bool = False):
        self.samples, self.rate, self.damaged = samples, rate, damaged

    def get_all_samples(self):
        if self.damaged:
            raise RuntimeError("Could not open input stream")
        self.data, self.sample_rate = torch.from_numpy(self.samples)[None], self.rate
        return self


def test_a_datasets_audio_decoder_is_heard(pipe, speech):
    for inputs in (Decoder(speech, 16_000), {"audio": Decoder(speech, 16_000)}):
        assert pipe(inputs) == pipe(audio=record(speech))
    with pytest.raises(InputError, match="damaged"):
        pipe(audio=Decoder(speech, 16_000, damaged=True))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rows = {"image": [str(ASTRONAUT)] * 3, "audio": [str(SHORT_READING)] * 3, "label": [1, 2, 3]}
    return Dataset.from_dict(rows).cast_column("image", ImageColumn()).cast_column("audio", Audio(decode=False))


def test_datasets_and_their_columns_are_read(pipe, dataset):
    expected = pipe(image=ASTRONAUT, audio=SHORT_READING)
    for rows in (dataset, dataset.to_iterable_dataset(), dataset.cast_column("image", ImageColumn(decode=False))):
        results = list(pipe(rows, batch_size=2))
        assert len(results) == 3
        for result in results:
            assert_close(result.to_dict(), expected.to_dict())
    for column, alone in (("image", pipe(ASTRONAUT)), ("audio", pipe(SHORT_READING))):
        for rows in (dataset[column], iter(dataset[column]), map(itemgetter(column), dataset)):
            results = list(pipe(rows))
            assert len(results) == 3
            assert_close(results[0].to_dict(), alone.to_dict())
    mapped = dataset.select(range(1)).map(lambda row: {"label": pipe(audio=row["audio"]).voice.label})
    assert mapped["label"][0] == expected.voice.label
    with pytest.raises(TypeError, match="columns"):
        pipe(dataset.select_columns("label"))
    with pytest.raises(InputError, match="neither bytes nor a path"):
        pipe(image={"bytes": None, "path": None})


def test_rows_that_hold_bytes_are_told_by_their_content(pipe):
    for path in (ASTRONAUT, READING):
        for row in ({"path": None, "bytes": path.read_bytes()}, {"path": str(path), "bytes": None}):
            assert pipe(row) == pipe(path)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_inputs_without_a_length_are_answered_once(pipe, workers):
    results = list(pipe((path for path in [ASTRONAUT, SHORT_READING, ASTRONAUT]), num_workers=workers))
    assert [result.face is not None for result in results] == [True, False, True]
    if workers == 2:
        results = list(pipe([ASTRONAUT, SHORT_READING, ASTRONAUT], num_workers=workers))
        assert [result.face is not None for result in results] == [True, False, True]


# --- Copies of a pipeline


def test_a_pipeline_is_copied_and_pickled_after_it_was_used(pipe):
    expected = pipe(image=ASTRONAUT, audio=SHORT_READING)
    for other in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert_close(other(image=ASTRONAUT, audio=SHORT_READING).to_dict(), expected.to_dict())
        assert other.recognizer.face_detector is not pipe.recognizer.face_detector


def test_a_worker_that_is_spawned_answers_after_a_call(pipe, monkeypatch):
    expected = pipe(ASTRONAUT)
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        [result] = pipe([ASTRONAUT], num_workers=1)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert_close(result.to_dict(), expected.to_dict())


# --- High rates, and models


def test_a_high_rate_takes_no_more_memory_than_a_usual_one():
    rate = 768_000
    with io.BytesIO() as file:
        with soundfile.SoundFile(file, "w", samplerate=rate, channels=1, format="WAV", subtype="PCM_U8") as sound:
            block = np.tile(np.sin(2 * np.pi * 440 * np.arange(rate) / rate), 1)
            for _ in range(60):
                sound.write(block)
        data = file.getvalue()
    tracemalloc.start()
    samples, notes = load_audio(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 60 * 16_000 and notes == []
    assert np.abs(np.fft.rfft(samples)).argmax() / 60 == pytest.approx(440, abs=0.1)
    assert peak < 40e6  # the samples as floats would be 184 MB


def test_seconds_times_rate_are_bounded(monkeypatch):
    monkeypatch.setattr(media_emoclip, "MAX_AUDIO_SAMPLES", 192_000)
    for source in (
        {"array": np.zeros(200_000, np.float32), "sampling_rate": 192_000},
        encode_audio(np.zeros(200_000), 192_000, "WAV"),
        encode_audio(np.zeros(200_000), 192_000, "FLAC"),
    ):
        with pytest.raises(InputError, match="too long for its rate"):
            load_audio(source)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "processor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["pointer", "empty", "cut"])
def test_damaged_files_of_a_checkpoint_are_named(checkpoint, tmp_path, name, damage):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes({"pointer": POINTER, "empty": b"", "cut": data[: len(data) // 2]}[damage])
    with pytest.raises(HubError, match=name if damage != "pointer" else f"{name}.*git lfs pull") as error:
        load_pipeline(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [5, None, True, 1.5, {"happy": 1}, ["\ud800"], [["happy"]], [None], "happy"])
def test_what_are_no_words_is_refused(pipe, words):
    with pytest.raises(ValueError, match="list of one or more words"):
        pipe.compare_words(words, image=ASTRONAUT)
    with pytest.raises(ValueError, match="list of one or more words"):
        pipe.zero_shot(words, text="happy")
