"""The demo as a visitor uses it: a real Chromium, whose webcam and microphone play a real face and a real voice.

Screenshots go to the folder that EMOCLIP_SCREENSHOTS names.
"""

import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio.functional as AF
from PIL import Image, ImageOps
from test_pipeline import ASTRONAUT, LABELS, READING, SHORT_READING

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="the browser tests need chromium: apt-get install chromium"
)

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    webcam, microphone = folder / "webcam.mjpeg", folder / "microphone.wav"
    ImageOps.fit(Image.open(ASTRONAUT), (640, 480), centering=(0.5, 0.1)).save(folder / "frame.jpg", quality=92)
    webcam.write_bytes((folder / "frame.jpg").read_bytes() * 30)
    samples, rate = soundfile.read(READING, dtype="float32")
    soundfile.write(microphone, AF.resample(torch.from_numpy(samples), rate, 48_000).numpy(), 48_000)
    devices = [f"--use-file-for-fake-video-capture={webcam}", f"--use-file-for-fake-audio-capture={microphone}"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES + devices)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the demo: open_page(viewport=..., color_scheme=...) -> page."""
    contexts = []

    def open_page(**options):
        options = {"viewport": DESKTOP, "permissions": ["camera", "microphone"], **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.goto(server)
        sync_api.expect(page.locator("#answer")).to_contain_text("The answer appears here")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def screenshots(tmp_path) -> Path:
    folder = Path(os.environ.get("EMOCLIP_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def add(page, box: str, file: Path) -> None:
    """Put a file into "photo" or "recording" and wait until the server has it."""
    with page.expect_response(lambda response: "/upload" in response.url):
        page.locator(f"#{box} input[type=file]").set_input_files(file)
    sync_api.expect(remove_button(page, box)).to_be_visible()


def remove_button(page, box: str):
    return page.locator(f"#{box}").get_by_label("Remove Image" if box == "photo" else "Clear", exact=True)


def analyze(page) -> None:
    page.get_by_role("button", name="Analyze").click()


def expect_scores(page, *sources: str) -> None:
    """A card for each source, with a row for every emotion, of which the top one's bar is the longest."""
    for source in sources:
        card = page.get_by_role("region", name=source)
        sync_api.expect(card.locator("li")).to_have_count(len(LABELS))
        assert [name.strip() for name in card.locator(".name").all_inner_texts()] == LABELS
        page.wait_for_function("document.querySelector('#answer').getAnimations({subtree: true}).length === 0")
        widths = [bar.bounding_box()["width"] for bar in card.locator(".track i").all()]
        top = card.locator("li.top .track i").bounding_box()["width"]
        assert top == max(widths) > 0


def expect_face_boxed(page) -> None:
    """The box lies on the face: in the middle third of the picture's width, and in its upper half."""
    picture, box = page.locator(".frame").bounding_box(), page.locator(".box.main").bounding_box()
    middle = (box["x"] + box["width"] / 2 - picture["x"]) / picture["width"]
    assert 0.3 < middle < 0.7
    assert picture["y"] <= box["y"] and box["y"] + box["height"] / 2 < picture["y"] + picture["height"] * 0.6
    assert page.locator(".box.main span").inner_text().split()[0] in LABELS


def test_photo_and_recording(open_page):
    page = open_page()
    add(page, "photo", ASTRONAUT)
    add(page, "recording", READING)
    analyze(page)
    expect_scores(page, "Face", "Voice", "Together")
    expect_face_boxed(page)
    sync_api.expect(page.locator("#answer .value")).to_contain_text("agreement")
    sync_api.expect(page.get_by_role("region", name="Voice")).to_contain_text("s of speech")
    sync_api.expect(page.get_by_role("region", name="Voice").locator("li").last).to_contain_text("n/a")


def test_each_alone(open_page):
    page = open_page()
    add(page, "photo", ASTRONAUT)
    analyze(page)
    expect_scores(page, "Face", "Together")
    sync_api.expect(page.locator(".headline")).to_contain_text("Looks")
    sync_api.expect(page.get_by_role("region", name="Voice")).to_contain_text("No voice to hear")
    remove_button(page, "photo").click()
    add(page, "recording", SHORT_READING)
    analyze(page)
    sync_api.expect(page.locator(".headline")).to_contain_text("Sounds")
    expect_scores(page, "Voice", "Together")
    sync_api.expect(page.locator(".frame")).to_have_count(0)


def test_an_example_answers_in_one_click(open_page):
    page = open_page()
    page.get_by_role("button", name="Astronaut and reader").click()
    expect_scores(page, "Face", "Voice", "Together")
    expect_face_boxed(page)


def test_webcam_and_microphone(open_page):
    page = open_page()
    photo, recording = page.locator("#photo"), page.locator("#recording")
    photo.get_by_label("Capture from camera").click()
    photo.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#photo video')?.videoWidth > 0")
    with page.expect_response(lambda response: "/upload" in response.url):
        photo.get_by_label("capture photo").click()
    recording.get_by_label("Record audio").click()
    recording.get_by_role("button", name="Record", exact=True).click()
    sync_api.expect(recording.locator("time").last).to_contain_text("0:03")
    with page.expect_response(lambda response: "/upload" in response.url):
        recording.get_by_role("button", name="Stop").first.click()
    analyze(page)
    expect_scores(page, "Face", "Voice", "Together")
    expect_face_boxed(page)


def test_a_text_file_renamed_jpg_shows_the_sentence_and_the_page_lives(open_page, tmp_path):
    page = open_page()
    (tmp_path / "diary.jpg").write_text("Dear diary, today I was happy.\n" * 50)
    add(page, "photo", tmp_path / "diary.jpg")
    analyze(page)
    sync_api.expect(page.locator(".messages")).to_contain_text("not a picture")
    sync_api.expect(page.locator("#answer .headline")).to_contain_text("Nothing to go by")
    add(page, "recording", READING)
    analyze(page)
    expect_scores(page, "Voice", "Together")
    sync_api.expect(page.locator(".messages")).to_contain_text("not a picture")


def test_a_phones_heic_photo_is_shown_though_the_browser_cannot(open_page, tmp_path):
    Image.open(ASTRONAUT).save(tmp_path / "photo.heic", format="HEIF")
    page = open_page()
    add(page, "photo", tmp_path / "photo.heic")
    analyze(page)
    expect_face_boxed(page)


def test_the_keyboard_is_enough_and_changes_are_announced(open_page):
    page = open_page()
    example = page.get_by_role("button", name="Admiral alone")
    example.focus()
    page.keyboard.press("Enter")
    expect_scores(page, "Face", "Together")
    assert page.locator("#answer").get_attribute("aria-live") == "polite"


def test_the_page_asks_no_other_server_for_anything(open_page, server):
    page = open_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.get_by_role("button", name="Astronaut and reader").click()
    expect_scores(page, "Face", "Voice", "Together")
    foreign = [url for url in asked if not url.startswith((server, "data:", "blob:"))]
    assert foreign == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("desktop-light", {"viewport": DESKTOP}),
        ("desktop-dark", {"viewport": DESKTOP, "color_scheme": "dark"}),
        ("phone", {"viewport": PHONE, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}),
    ],
)
def test_it_is_readable_everywhere(open_page, screenshots, name, options):
    page = open_page(**options)
    page.get_by_role("button", name="Astronaut and reader").click()
    expect_scores(page, "Face", "Voice", "Together")
    expect_face_boxed(page)
    width = options["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
    assert contrast(page, ".headline") >= 4.5 and contrast(page, ".bars .name") >= 4.5
    page.screenshot(path=screenshots / f"{name}.png", full_page=True)


def contrast(page, selector: str) -> float:
    """WCAG's contrast of an element's text with the page or card behind it."""
    colours = page.locator(selector).first.evaluate(
        """element => {
            const text = getComputedStyle(element).color;
            while (element && /, 0\\)$|transparent/.test(getComputedStyle(element).backgroundColor))
                element = element.parentElement;
            return [text, getComputedStyle(element ?? document.body).backgroundColor];
        }"""
    )
    text, behind = (luminance(colour) for colour in colours)
    return (max(text, behind) + 0.05) / (min(text, behind) + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)"."""
    channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
