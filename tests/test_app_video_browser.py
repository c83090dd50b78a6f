"""The tab Video as a visitor uses it, in a real Chromium: uploaded, recorded, cancelled, seeked, downloaded."""

import csv
import json
from pathlib import Path

import pytest
from helpers import CHROMIUM, DESKTOP, LABELS, PHONE, contrast, one_person, two_people, violations, write_video

import demo.video
import video_emoclip
from video_emoclip import ConflictMoment

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="the browser tests need chromium: apt-get install chromium"
)
expect = sync_api.expect


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(clips) -> Path:
    return write_video(clips / "two.mp4", two_people(), seconds=4)


@pytest.fixture
def open_video(open_page):
    """Opens the tab: open_video(...) -> page."""

    def open_video(**options):
        page = open_page(**options)
        page.set_default_timeout(60_000)
        page.get_by_role("tab", name="Video", exact=True).click()
        expect(page.locator("#video-answer")).to_contain_text("The timeline appears here")
        return page

    return open_video


def add(page, file: Path) -> None:
    with page.expect_response(lambda response: "/upload" in response.url):
        page.locator("#video input[type=file]").set_input_files(file)
    # While it loads there may be two, on a busy machine for longer than the five seconds of every expectation.
    expect(clear(page)).to_have_count(1, timeout=60_000)


def clear(page):
    """The button, of those that are seen: over what the browser cannot play Gradio lays another, which is hidden."""
    return page.locator("#video").get_by_role("button", name="Clear")


def recognise(page) -> None:
    page.get_by_role("button", name="Recognise").click()


def expect_answer(page) -> None:
    """A timeline with areas in every row, cards with bars, and a player whose video plays."""
    expect(page.locator("#video-details .strip")).to_be_visible(timeout=120_000)
    for title in ("Face", "Voice", "Together"):
        assert page.get_by_role("img", name=f"{title} over time").locator("polygon").count() >= len(LABELS)
        card = page.locator("#video-details").get_by_role("region", name=title)
        expect(card.locator("li")).to_have_count(len(LABELS))
    page.wait_for_function("document.querySelector('#video-player video')?.readyState >= 2")
    page.wait_for_function("document.querySelector('#video-player video').src.startsWith('blob:')")


def player(page, what: str):
    return page.locator("#video-player video").evaluate(f"video => video.{what}")


def test_an_uploaded_video_from_progress_to_downloads(open_video, clip, tmp_path):
    page = open_video()
    add(page, clip)
    recognise(page)
    progress = page.locator("#video-answer [role=progressbar]")
    expect(progress).to_be_visible()
    expect_answer(page)
    expect(progress).to_have_count(0)
    expect(page.locator(".people li")).to_have_count(2)
    assert abs(player(page, "duration") - 4) < 0.3 and player(page, "videoWidth") == 640
    # Anywhere on the timeline, a click goes there, and the playhead with it.
    page.get_by_role("img", name="Voice over time").click()
    page.wait_for_function("Math.abs(document.querySelector('#video-player video').currentTime - 2) < 0.2")
    page.wait_for_function("Math.abs(parseFloat(document.querySelector('.playhead').style.left) - 50) < 6")
    for name in ("CSV", "JSON"):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download {name}").click()
        download.value.save_as(tmp_path / name)
    rows = list(csv.DictReader((tmp_path / "CSV").open(newline="")))
    data = json.loads((tmp_path / "JSON").read_text())
    assert {row["person"] for row in rows} == {"1", "2"} and len(data["timeline"]) >= 20
    assert rows[0]["face"] == data["timeline"][0]["face"]["label"]


def test_a_moment_of_conflict_is_a_button_that_plays_it(open_video, clip, monkeypatch):
    """The clip's own conflicts depend on the weights: one is put in."""
    below = demo.video.below_view

    def with_conflict(result):
        result.moments = [ConflictMoment(1.0, 2.4, "happy", "sad", -0.5)]
        return below(result)

    monkeypatch.setattr(demo.video, "below_view", with_conflict)
    page = open_video()
    add(page, clip)
    recognise(page)
    expect_answer(page)
    moment = page.get_by_role("button", name="Looks happy, sounds sad")
    expect(moment).to_contain_text("1.0 s to 2.4 s")
    moment.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#video-player video').currentTime >= 1")
    assert page.locator(".strip .moment").bounding_box()["width"] > 20


def test_webcam_and_microphone(open_video):
    page = open_video()
    video = page.locator("#video")
    video.get_by_label("Capture from camera").click()
    video.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#video video')?.videoWidth > 0")
    video.get_by_label("start recording").click()
    page.wait_for_timeout(3500)  # of being filmed
    with page.expect_response(lambda response: "/upload" in response.url):
        video.get_by_role("button", name="start recording").click()  # it reads "Stop" now
    recognise(page)
    expect_answer(page)
    expect(page.locator("#video-answer .messages")).to_have_count(0)


def test_a_long_one_can_be_cancelled_and_whoever_waited_is_answered(open_video, clip, monkeypatch):
    watch, watched = video_emoclip.analyze_video, []

    def endless(*args):
        """The first video is watched again and again, until it is cancelled."""
        watched.append(args)
        again = len(watched) == 1
        while again:
            for fraction in watch(*args):
                yield max(fraction, 0.1)  # from here on the time that is left is told
        return (yield from watch(*args))

    monkeypatch.setattr(video_emoclip, "analyze_video", endless)
    page = open_video()
    add(page, clip)
    recognise(page)
    expect(page.locator("#video-answer [role=progressbar]")).to_be_visible()
    expect(page.locator("#video-answer")).to_contain_text("left", timeout=60_000)  # how long it will take
    other = open_video()
    add(other, clip)
    recognise(other)
    expect(other.locator("#video-answer")).to_contain_text("Waiting for its turn")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#video-answer")).to_contain_text("Cancelled")
    expect_answer(other)
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    clear(page).click()
    add(page, clip)
    recognise(page)
    expect_answer(page)


def test_what_is_missing_or_broken_is_said_and_the_page_lives(open_video, clips, clip):
    page = open_video()
    recognise(page)
    expect(page.locator("#video-answer")).to_contain_text("No video was given")
    (clips / "diary.mp4").write_text("Dear diary, today I was happy.\n" * 50)
    add(page, clips / "diary.mp4")
    recognise(page)
    expect(page.locator("#video-answer")).to_contain_text("not a video that can be read")
    expect(page.locator("#video-player")).to_be_hidden()
    clear(page).click()
    add(page, write_video(clips / "mute.mp4", one_person(), seconds=1, speech=False))
    recognise(page)
    expect(page.locator("#video-answer .messages")).to_contain_text("no sound")
    expect(page.locator("#video-details")).to_contain_text("No voice to hear")


def test_the_page_asks_no_other_server_for_anything_and_nobody_for_ffmpeg(open_video, clip, server):
    page = open_video()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    add(page, clip)
    recognise(page)
    expect_answer(page)
    assert [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []
    assert [url for url in asked if "ffmpeg" in url] == []


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("desktop", {"viewport": DESKTOP}),
        ("phone", {"viewport": PHONE, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}),
    ],
)
def test_it_is_readable_everywhere(open_video, screenshots, clip, device, options):
    page = open_video(**options)
    add(page, clip)
    recognise(page)
    expect_answer(page)
    for theme in ("dark", "light"):  # on the one page
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.wait_for_function(f"document.body.classList.contains('dark') === {str(theme == 'dark').lower()}")
        # A link's colour takes a moment to change.
        page.wait_for_function("!document.getAnimations().some((animation) => animation instanceof CSSTransition)")
        assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
        for text in (".strip .source", ".strip figcaption", ".legend li", ".people span", ".downloads a", ".limits"):
            assert contrast(page, text) >= 4.5, f"{text}, {device}, {theme}"
        if device == "desktop":
            assert violations(page) == []
        page.screenshot(path=screenshots / f"video-{device}-{theme}.png", full_page=True)


def test_an_example_is_answered_in_one_click(open_video):
    page = open_video()
    page.get_by_text("Astronaut under a reading").click()
    expect_answer(page)
    expect(page.locator("#video-answer .headline")).to_contain_text("Most likely happy")
