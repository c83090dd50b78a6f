"""The page that runs in the browser alone: the same answers as Python's, in Chromium with the network off, nothing
sent anywhere, and published by one command.

The graphs are tested with Python's onnxruntime, the scripts in Chromium. What needs both needs onnxruntime-web, which
npm gets, or has in its cache, and is skipped where it does not.
"""

import base64
import functools
import json
import os
import re
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import silero_vad
import torch
from firefox import FIREFOX
from helpers import (
    ADMIRAL,
    ASTRONAUT,
    CHROMIUM,
    DESKTOP,
    LABELS,
    PHONE,
    READING,
    ROOT,
    SHORT_READING,
    TWO_PEOPLE,
    encode_audio,
    encode_image,
    reading,
    tiny_parts,
    violations,
)
from loopback_hub import LoopbackHub, metadata_errors
from PIL import Image

import build_web
import processing_emoclip
from demo.live_page import web_link
from demo.page import asset
from demo.verdict import tag, verdict
from hub import load_pipeline
from media_emoclip import crop_face
from pipeline_emoclip import EmotionRecognitionPipeline
from processing_emoclip import EmoCLIPFeatureExtractor
from results_emoclip import Emotion, EmotionResult, FaceResult, VoiceResult

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
expect = sync_api.expect
in_chromium = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="the browser tests need chromium: apt-get install chromium"
)
TOLERANCE = 1e-3  # of probabilities and the agreement, between the page and Python
MAX_BYTES = 45e6
SCRIPTS = f"./{Path(asset('live.js')).parent}"
LOADING_SECONDS = 120  # on a busy machine


# --- What is built, and served


@pytest.fixture(scope="module")
def pipe(checkpoint) -> EmotionRecognitionPipeline:
    return load_pipeline(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def site(pipe, tmp_path_factory) -> Path:
    """The whole page but for onnxruntime-web."""
    folder = tmp_path_factory.mktemp("web")
    build_web.build_network(pipe, folder / "network")
    build_web.build_page(pipe, folder, "https://example.org/demo?a&b")
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The page on loopback; `requests` of it are the paths that were asked for."""

    class Address(str):
        requests: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            url.requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site))
    url = Address(f"http://127.0.0.1:{server.server_port}/")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield url
    server.shutdown()


@pytest.fixture(scope="module")
def runtime(site) -> None:
    try:
        build_web.fetch_runtime(site / Path(asset("live.js")).parent)
    except build_web.BuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def open_web(browser, address):
    """Opens the page; open_web(viewport=..., color_scheme=...) -> page."""
    contexts = []

    def open_web(**options):
        options = {"viewport": DESKTOP, "permissions": ["camera", "microphone"], **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(1_000 * LOADING_SECONDS)
        page.goto(address)
        return page

    yield open_web
    for context in contexts:
        context.close()


def until_loaded(page) -> None:
    expect(page.locator(".network")).to_contain_text("works offline", timeout=1_000 * LOADING_SECONDS)


# --- The graphs


def run(folder: Path, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def assert_graphs_are(pipe: EmotionRecognitionPipeline, folder: Path):
    """On noise, faces and voices, the graphs' answers are those of the recognizer."""
    recognizer, random = pipe.recognizer, np.random.default_rng(0)
    side = pipe.processor.image_processor.side
    astronaut = np.array(Image.open(ASTRONAUT).convert("RGB").resize((side, side)))
    faces = [astronaut, *random.integers(0, 256, (2, side, side, 3), dtype=np.uint8)]
    to_grey = pipe.processor.image_processor.to_grayscale
    faces = [to_grey(torch.tensor(face).permute(2, 0, 1)).permute(1, 2, 0).numpy() for face in faces]
    expected = recognizer.face_log_probs(faces)
    given = np.concatenate([run(folder, "face", face=face[None])[0] for face in faces])
    assert np.abs(np.exp(given) - expected.exp().numpy()).max() < TOLERANCE

    extractor = pipe.processor.feature_extractor
    length = extractor.num_samples
    sounds = [reading()[:length], random.normal(0, 0.1, length).astype(np.float32), np.zeros(length, np.float32)]
    voices = recognizer.voice_log_probs(extractor(sounds, extractor.sampling_rate, "pt")["input_features"])
    heard = np.concatenate([run(folder, "voice", samples=sound[None])[0] for sound in sounds])
    assert np.abs(np.exp(heard) - voices.exp().numpy()).max() < TOLERANCE
    assert (heard[:, LABELS.index("surprise")] == -np.inf).all()

    for has_face, has_voice in ((True, True), (True, False), (False, True)):
        masks = {"has_face": np.array([has_face]), "has_voice": np.array([has_voice])}
        fused, agreement = run(folder, "fusion", face=given[:1], voice=heard[:1], **masks)
        [(emotion, number)] = recognizer.fuse(expected[:1] if has_face else None, voices[:1] if has_voice else None)
        scores = [score or 0.0 for score in emotion.scores.values()]
        assert np.abs(np.exp(fused[0]) - scores).max() < TOLERANCE
        assert number is None or agreement[0] == pytest.approx(number, abs=TOLERANCE)


def test_the_graphs_give_pythons_answers(pipe, site):
    assert_graphs_are(pipe, site / "network")


def test_whatever_a_checkpoint_says_is_in_what_is_built(tmp_path):
    """Another range of the mel image, other means, shares, calibrations and thresholds."""
    shares = {label: (i + 1) / 28 for i, label in enumerate(LABELS)}
    heard = {label: (i + 1) / 21 for i, label in enumerate(LABELS[:6])}
    perceived = {"face_prior": shares, "voice_prior": heard, "target_prior": dict.fromkeys(LABELS, 1 / 7)}
    perceived |= {"face_temperature": {label: 0.5 + 0.1 * i for i, label in enumerate(shares)}}
    perceived |= {"voice_temperature": dict.fromkeys(heard, 0.3), "face_bias": dict.fromkeys(shares, 0.0)}
    perceived |= {"voice_bias": {label: 0.2 * i for i, label in enumerate(heard)}}
    model, processor = tiny_parts(perceived=perceived | {"face_threshold": 0.123, "voice_threshold": 0.456})
    processor.feature_extractor = EmoCLIPFeatureExtractor(top_db=45.0, mean=0.4, std=0.3)
    pipe = EmotionRecognitionPipeline(model=model, processor=processor)
    build_web.build_network(pipe, tmp_path)
    assert_graphs_are(pipe, tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["thresholds"] == {"face": 0.123, "voice": 0.456}
    assert settings["labels"] == LABELS and settings["faces"]["side"] == 32


def test_a_model_that_the_page_cannot_run_is_refused(tmp_path):
    model, processor = tiny_parts()
    processor.feature_extractor = processing_emoclip.EmoCLIPWaveformExtractor()
    pipe = EmotionRecognitionPipeline(model=model, processor=processor)
    with pytest.raises(build_web.BuildError, match="waveforms"):
        build_web.build_network(pipe, tmp_path)


def test_constants_that_graphs_share_are_stored_once_and_without_loss(site, pipe):
    """The tower is in both graphs; a checkpoint saved in half precision is stored so."""
    tower = sum(each.numel() for each in pipe.model.emoclip.vision_model.parameters())
    assert (site / "network" / "weights.bin").stat().st_size < 2.2 * tower


# --- The scripts, in Chromium


def evaluate(page, code: str, *arguments):
    """Runs the body of a function in the page, whose modules it may import by `load(name)`."""
    return page.evaluate(
        f"""async (args) => {{
            const load = (name) => import(new URL("{SCRIPTS}/" + name, document.baseURI));
            {code}
        }}""",
        list(arguments),
    )


def random_result(random: np.random.Generator) -> EmotionResult:
    def emotion(labels: list[str]) -> Emotion:
        shares = random.dirichlet(np.full(len(labels), random.choice([0.1, 0.4, 1.0])))
        scores = {label: float(shares[labels.index(label)]) if label in labels else None for label in LABELS}
        return Emotion(max(labels, key=lambda label: scores[label]), scores, bool(random.random() < 0.2))

    face, voice, fused = emotion(LABELS), emotion(LABELS[:6]), emotion(LABELS)
    result = EmotionResult(fused=fused, agreement=float(random.normal(0, 1)))
    result.face = FaceResult(**vars(face), box=(0, 0, 9, 9), detector="given")
    result.voice = VoiceResult(**vars(voice), segments=[])
    if (missing := random.random()) < 0.2:
        result.face = result.agreement = None
    elif missing < 0.4:
        result.voice = result.agreement = None
    return result


@in_chromium
def test_the_page_says_what_the_demo_says(open_web, site):
    random = np.random.default_rng(0)
    results = [random_result(random) for _ in range(400)]
    given = evaluate(
        open_web(),
        """const [{ Rule }, settings] = await Promise.all([
            load("verdict.js"), fetch("network/settings.json").then((reply) => reply.json())]);
        const rule = new Rule(settings);
        return args[0].map((result) => {
            const said = rule.verdict(result);
            const tag = said.face.length ? rule.tag(said.face, result.face) : "";
            return { ...said, line: rule.line(said, result), tag };
        });""",
        [result.to_dict() for result in results],
    )
    kinds = set()
    for result, said in zip(results, given):
        expected = verdict(result)
        kinds.add(expected.kind)
        names = ("headline", "labels", "kind", "face", "voice", "fused")
        assert {name: said[name] for name in names} == {
            name: value if isinstance(value := getattr(expected, name), str) else list(value) for name in names
        }
        assert said["line"] == expected.line(result)
        assert said["tag"] == (expected.tag(result) if expected.face else "")
    assert kinds == {"sure", "unsure", "conflict"}


@in_chromium
def test_in_live_all_faces_are_answered_where_that_is_asked_for(open_web):
    """By the page's session, in front of a network that finds three faces, of which each next frame says other."""
    said = evaluate(
        open_web(),
        """const [{ LiveSession }, { Rule }, settings] = await Promise.all([
            load("session.js"), load("verdict.js"), fetch("network/settings.json").then((reply) => reply.json())]);
        settings.live.max_other_faces = 1;
        let [likely, looks] = [0, 0];
        const network = {
            faces: { find: () => [[0, 0, 40, 40], [50, 0, 30, 30], [90, 0, 20, 20]] },
            face: () => (looks++, settings.labels.map((_, i) => Math.log(i === likely ? 0.94 : 0.01))),
            fuse: (face) => [face, null],
        };
        const session = new LiveSession(network, new Rule(settings), 16000), picture = { width: 120, height: 90 };
        const others = [];
        for (const [time, everyone] of [[0, false], [0.1, true], [0.1 + settings.live.half_life_seconds, true]]) {
            likely = time > 0.1 ? 3 : 0;
            await session.addFrame(picture, picture, time, everyone);
            others.push((await session.answer()).others.map(({ tag }) => tag));
        }
        return [others, looks];""",
    )
    assert said == [[["", ""], ["angry 94%", ""], ["angry or happy", ""]], 5]


@in_chromium
def test_speech_is_cut_as_silero_cuts_it_and_sound_resampled_as_torchaudio_does(open_web):
    random = np.random.default_rng(0)
    cases = []
    for _ in range(60):
        probabilities = np.clip(np.repeat(random.random(40), random.integers(1, 12, 40)) * 1.2 - 0.1, 0, 1)
        cases.append([probabilities.tolist(), 512 * len(probabilities) - int(random.integers(0, 512))])
    sound = reading()[:3_000]
    page = open_web()
    given, resampled = evaluate(
        page,
        """const { speechSegments, resample } = await load("sound.js");
        const { voice } = await (await fetch("network/settings.json")).json();
        const cut = args[0].map(([probabilities, length]) =>
            speechSegments(probabilities, length, 16000, 512, voice.speech));
        return [cut, args[2].map((rate) => Array.from(resample(Float32Array.from(args[1]), rate, 16000)))];""",
        cases,
        sound.tolist(),
        rates := [44_100, 48_000, 8_000, 16_000],
    )
    for (probabilities, length), segments in zip(cases, given):
        expected = silero_vad.utils_vad.get_speech_timestamps_from_probs(probabilities, audio_length_samples=length)
        assert segments == [[span["start"] / 16_000, span["end"] / 16_000] for span in expected]
    for rate, samples in zip(rates, resampled):
        expected = processing_emoclip.resample(torch.from_numpy(sound), rate, 16_000)
        assert len(samples) == len(expected) and np.abs(np.array(samples) - expected.numpy()).max() < 1e-5


@in_chromium
def test_faces_are_cut_and_scaled_as_pillow_does(open_web):
    picture = Image.open(ASTRONAUT).convert("RGB").resize((160, 120))
    boxes = [(20.4, 10.6, 71.5, 71.5), (-30.0, -12.0, 90.0, 90.0), (50.0, 40.0, 30.0, 30.0)]
    given = evaluate(
        open_web(),
        """const { cropFace } = await load("pixels.js");
        const picture = { data: Uint8Array.from(args[0]), width: 160, height: 120 };
        const crops = args[1].map((box) => cropFace(picture, box, 48));
        return crops.map(({ width, data }) => [width, Array.from(data)]);""",
        np.asarray(picture).flatten().tolist(),
        boxes,
    )
    for box, (side, pixels) in zip(boxes, given):
        expected = crop_face(np.asarray(picture), box)
        assert side == len(expected)
        assert np.abs(np.array(pixels) - expected.flatten().astype(int)).max() <= 1


# --- The whole page


@functools.cache
def ten_inputs() -> dict[str, tuple[bytes | None, bytes | None]]:
    """A photo, a recording, or both."""
    astronaut, admiral = (Image.open(photo).convert("RGB") for photo in (ASTRONAUT, ADMIRAL))
    samples, random = reading(), np.random.default_rng(0)
    noisy = samples[20_000:60_000] + random.normal(0, 0.003, 40_000).astype(np.float32)
    return {
        "astronaut": (ASTRONAUT.read_bytes(), None),
        "two people": (TWO_PEOPLE.read_bytes(), None),
        "on its side": (encode_image(admiral.rotate(90, expand=True), "PNG"), None),
        "small": (encode_image(admiral.resize((102, 120)), "PNG"), None),
        "a face alone": (encode_image(astronaut.crop((180, 70, 270, 170)), "PNG"), None),
        "reading": (None, READING.read_bytes()),
        "noisy": (None, encode_audio(noisy, 16_000, "WAV", subtype="FLOAT")),
        "stereo that cancels": (None, encode_audio(np.stack([samples, -samples], 1), 16_000, "FLAC")),
        "astronaut and reading": (ASTRONAUT.read_bytes(), READING.read_bytes()),
        "admiral and reader": (ADMIRAL.read_bytes(), SHORT_READING.read_bytes()),
    }


def answer(page, photo: bytes | None, recording: bytes | None) -> dict:
    """The page's answer to the bytes of files."""
    encoded = [each and base64.b64encode(each).decode() for each in (photo, recording)]
    return evaluate(
        page,
        """const [{ readPhoto, readRecording }, { ask }] = await Promise.all([load("files.js"), load("ask.js")]);
        const bytes = (each) => Uint8Array.from(atob(each), (letter) => letter.charCodeAt(0));
        const [photo, recording] = args.map((each) => each && new Blob([bytes(each)]));
        const image = photo && (await readPhoto(photo)).image;
        return ask("files", { image, channels: recording && (await readRecording(recording)).channels });""",
        *encoded,
    )


def differences(given: dict, expected: dict) -> list[float]:
    """Of every probability and of the agreement."""
    gaps = []
    for source in ("face", "voice", "fused"):
        assert (given[source] is None) == (expected[source] is None)
        if given[source] is not None:
            assert (given[source]["label"], given[source]["unsure"]) == tuple(
                expected[source][name] for name in ("label", "unsure")
            )
            for label, score in expected[source]["scores"].items():
                assert (given[source]["scores"][label] is None) == (score is None)
                gaps.append(abs((score or 0) - (given[source]["scores"][label] or 0)))
    if expected["agreement"] is not None:
        gaps.append(abs(given["agreement"] - expected["agreement"]))
    return gaps


@in_chromium
def test_ten_inputs_get_pythons_answers_with_the_network_off(open_web, runtime, pipe, address, record_property):
    page = open_web()
    until_loaded(page)
    page.context.set_offline(True)
    asked = len(address.requests)
    largest = 0.0
    for name, (photo, recording) in ten_inputs().items():
        expected = pipe(image=photo, audio=recording)
        given = answer(page, photo, recording)
        gap = max(differences(given["result"], expected.to_dict()))
        print(f"{name}: {gap:.1e}")
        assert gap < TOLERANCE, name
        assert given["headline"] == verdict(expected).headline
        if photo:
            assert given["result"]["face"]["box"] == list(expected.face.box)
            assert [(other["box"], other["tag"]) for other in given["others"]] == [
                (list(other.box), tag(other)) for other in expected.face.others
            ]
        largest = max(largest, gap)
    assert largest > 0 and len(address.requests) == asked


@pytest.mark.skipif(not Path(FIREFOX).exists(), reason="the browser tests need firefox: apt-get install firefox-esr")
def test_firefox_gives_pythons_answers_too(firefox, address, runtime, pipe):
    page = firefox.open(address)
    page.until_shown(".network", "works offline")
    for name in ("two people", "noisy", "astronaut and reading"):
        photo, recording = ten_inputs()[name]
        given, expected = answer(page, photo, recording), pipe(image=photo, audio=recording)
        assert max(differences(given["result"], expected.to_dict())) < TOLERANCE, name
    assert firefox.errors == []


@in_chromium
def test_live_answers_camera_and_microphone_with_the_network_off(open_web, runtime, address, screenshots):
    page = open_web()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    until_loaded(page)
    page.context.set_offline(True)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".live[data-state=on]")).to_be_visible()
    for source in ("Face", "Voice"):
        expect(page.locator(f'#live .bars[aria-label="{source}"].missing')).to_have_count(0)
    expect(page.locator("#live .box.main")).to_be_visible()
    expect(page.locator("#live .headline")).to_have_text(re.compile("Looks|Sounds|Most|Hard"))
    expect(page.locator("#live .heard")).to_have_text("hears you")
    page.get_by_role("switch", name="Details").check()
    expect(page.locator("#live .rate")).to_have_text(re.compile(r"[1-9]\d* frames/s"))
    page.screenshot(path=screenshots / "web-live.png")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#live .headline")).to_have_text("Ready when you are")
    assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []


@in_chromium
@pytest.mark.parametrize(
    "options", [{}, {"color_scheme": "dark"}, {"viewport": PHONE, "is_mobile": True}], ids=["light", "dark", "phone"]
)
def test_files_are_answered_on_the_page(open_web, runtime, screenshots, tmp_path, options):
    page = open_web(**options)
    expect(page.locator(".promise")).to_contain_text("Nothing leaves this browser")
    expect(page.get_by_role("link", name="The demo on a server")).to_have_attribute(
        "href", "https://example.org/demo?a&b"
    )
    start = page.get_by_role("button", name="Start", exact=True).bounding_box()
    assert start["y"] > 0 and start["y"] + start["height"] < page.viewport_size["height"]
    until_loaded(page)
    name = options.get("color_scheme") or ("phone" if options else "light")
    page.screenshot(path=screenshots / f"web-first-{name}.png")
    files = page.get_by_role("region", name="Photo and recording")
    files.get_by_label("Open a photo").set_input_files(ASTRONAUT)
    expect(files.locator(".headline")).to_contain_text("Looks")
    expect(files.locator(".box.main span")).to_contain_text("happy")
    files.get_by_label("Open a recording").set_input_files(READING)
    expect(files.locator('.bars[aria-label="Voice"].missing')).to_have_count(0)
    assert violations(page) == []
    page.screenshot(path=screenshots / f"web-files-{name}.png", full_page=True)
    (tmp_path / "diary.jpg").write_text("Dear diary, today I was happy.")
    files.get_by_label("Open a photo").set_input_files(tmp_path / "diary.jpg")
    expect(files.locator(".status")).to_contain_text("cannot be read")
    files.get_by_role("button", name="Clear").click()
    expect(files.locator(".answer")).to_be_hidden()
    page.get_by_role("button", name="No camera? Try an example").click()
    expect(files.locator(".headline")).to_have_text(re.compile("Looks|Most|Hard"))


def test_the_whole_is_small_enough(site, runtime):
    assert sum(file.stat().st_size for file in site.rglob("*") if file.is_file()) < MAX_BYTES


# --- The command


def build(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["build_web.py", *arguments])
    build_web.main()


def test_one_command_builds_the_page_and_overwrites_nothing_else(checkpoint, site, tmp_path, monkeypatch, capsys):
    """With the network and the runtime of the other tests in the place of new ones."""

    def network(pipe, folder):
        folder.mkdir(parents=True)
        for file in (site / "network").iterdir():
            os.link(file, folder / file.name)

    def fetch(folder):
        folder.mkdir(parents=True)
        (folder / build_web.RUNTIME_FILES[0]).write_text("the runtime")

    monkeypatch.setattr(build_web, "build_network", network)
    monkeypatch.setattr(build_web, "fetch_runtime", fetch)
    output = tmp_path / "page"
    for _ in range(2):
        build(monkeypatch, "--model", str(checkpoint), "--output", str(output))
        page = (output / "index.html").read_text()
        for path in re.findall(r'(?:src|href)="([^"#:$]+)"', page):
            assert (output / path).is_file(), path
        assert "$" not in page and "The demo on a server" not in page
        (output / "old").touch()
    assert f"{output}: " in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").touch()
    with pytest.raises(SystemExit, match="no such page"):
        build(monkeypatch, "--model", str(checkpoint), "--output", str(tmp_path / "mine"))


def test_without_npm_a_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build_web.BuildError, match="npm is needed"):
        build_web.fetch_runtime(tmp_path)


def test_what_npm_gives_must_be_what_was_pinned(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text(
        '#!/bin/sh\nwhile [ "$1" != --pack-destination ]; do shift; done\necho x > "$2/a.tgz"\n'
    )
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(build_web.BuildError, match="do not use it"):
        build_web.fetch_runtime(tmp_path)


def test_it_is_published_as_a_static_space_and_no_other_is_written_to(site, tmp_path):
    hub = LoopbackHub()
    environment = os.environ | hub.environment(tmp_path)
    code = "import sys; from hub import publish_space; print(publish_space(*sys.argv[1:]))"

    def publish(name: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, str(site), name]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert publish("me/web").stdout.strip() == f"{hub.url}/spaces/me/web"
    space = hub.repositories["spaces"]["me/web"]
    assert space.sdk == "static" and metadata_errors(space.head.files["README.md"].decode(), "space") == []
    assert {"index.html", "network/weights.bin", "network/settings.json"} <= space.head.files.keys()
    hub.commit(space, {"look/older/live.js": b"", "notes.txt": b""}, "an older page")
    assert publish("me/web").returncode == 0
    assert "look/older/live.js" not in space.head.files and "notes.txt" in space.head.files
    hub.add("spaces", "me/demo", {"app.py": b""})
    hub.repositories["spaces"]["me/demo"].sdk = "gradio"
    assert "a Space of another kind (gradio)" in publish("me/demo").stderr
    assert list(hub.repositories["spaces"]["me/demo"].head.files) == ["app.py"]
    hub.close()


# --- The demo's link


def test_the_demo_links_to_the_page_where_it_knows_its_address():
    assert web_link(None) == web_link("") == ""
    assert 'href="https://example.org/?a&amp;b&quot;"' in web_link('https://example.org/?a&b"')
