"""The demo as a visitor uses it: a real Chromium, whose webcam and microphone play a real face and a real voice.

Screenshots go to the folder that EMOCLIP_SCREENSHOTS names.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    ALLOWED,
    ASTRONAUT,
    CHROMIUM,
    DESKTOP,
    DEVICES,
    LABELS,
    PHONE,
    READING,
    add_file,
    contrast,
    open_tab,
    playing,
    remove_button,
    timeline,
    timeline_seconds,
    until,
    violations,
)
from PIL import Image

from demo.about import figures
from demo.emotions import adjective

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="the browser tests need chromium: apt-get install chromium"
)


WORDS = [adjective(label) for label in LABELS]


def recognise(page) -> None:
    page.get_by_role("button", name="Recognise").click()


def expect_scores(page, *sources: str) -> None:
    """A card for each source, with a row for every emotion, of which the top one's bar is the longest."""
    for source in sources:
        card = page.locator("#answer").get_by_role("region", name=source)
        sync_api.expect(card.locator("li")).to_have_count(len(LABELS))
        assert [name.strip() for name in card.locator(".name").all_inner_texts()] == WORDS
        page.wait_for_function("document.querySelector('#answer').getAnimations({subtree: true}).length === 0")
        widths = [bar.bounding_box()["width"] for bar in card.locator(".track i").all()]
        assert max(bar.bounding_box()["width"] for bar in card.locator("li.top .track i").all()) == max(widths) > 0


def expect_face_boxed(page) -> None:
    """The box lies on the face: in the middle third of the picture's width, and in its upper half."""
    picture, box = page.locator(".frame").bounding_box(), page.locator(".frame .box.main").bounding_box()
    middle = (box["x"] + box["width"] / 2 - picture["x"]) / picture["width"]
    assert 0.3 < middle < 0.7
    assert picture["y"] <= box["y"] and box["y"] + box["height"] / 2 < picture["y"] + picture["height"] * 0.6
    assert page.locator(".frame .box.main span").inner_text().split()[0] in WORDS


def test_photo_and_recording(open_page):
    page = open_page()
    add_file(page, "photo", ASTRONAUT)
    add_file(page, "recording", READING)
    recognise(page)
    expect_scores(page, "Face", "Voice", "Together")
    expect_face_boxed(page)
    sync_api.expect(page.locator("#answer .value")).to_contain_text("agreement")
    sync_api.expect(page.locator("#answer").get_by_role("region", name="Voice")).to_contain_text("s of speech")
    sync_api.expect(page.get_by_role("region", name="Voice").locator("li").last).to_contain_text("n/a")


def test_each_alone(open_page):
    page = open_page()
    add_file(page, "photo", ASTRONAUT)
    recognise(page)
    expect_scores(page, "Face", "Together")
    sync_api.expect(page.locator("#answer .headline")).to_contain_text("Looks")
    sync_api.expect(page.locator("#answer").get_by_role("region", name="Voice")).to_contain_text("No voice to hear")
    remove_button(page, "photo").click()
    add_file(page, "recording", READING)
    recognise(page)
    sync_api.expect(page.locator("#answer .headline")).to_contain_text(re.compile("Sounds|Hard to tell"))
    expect_scores(page, "Voice", "Together")
    sync_api.expect(page.locator(".frame")).to_have_count(0)


def test_an_example_answers_in_one_click(open_page):
    page = open_page()
    page.get_by_role("button", name="Astronaut and reader", exact=True).click()
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
    recognise(page)
    expect_scores(page, "Face", "Voice", "Together")
    expect_face_boxed(page)


def test_a_text_file_renamed_jpg_shows_the_sentence_and_the_page_lives(open_page, tmp_path):
    page = open_page()
    (tmp_path / "diary.jpg").write_text("Dear diary, today I was happy.\n" * 50)
    add_file(page, "photo", tmp_path / "diary.jpg")
    recognise(page)
    sync_api.expect(page.locator("#answer .messages")).to_contain_text("not a picture")
    sync_api.expect(page.locator("#answer .headline")).to_contain_text("Nothing to go by")
    add_file(page, "recording", READING)
    recognise(page)
    expect_scores(page, "Voice", "Together")
    sync_api.expect(page.locator("#answer .messages")).to_contain_text("not a picture")


def test_a_phones_heic_photo_is_shown_though_the_browser_cannot(open_page, tmp_path):
    Image.open(ASTRONAUT).save(tmp_path / "photo.heic", format="HEIF")
    page = open_page()
    add_file(page, "photo", tmp_path / "photo.heic")
    recognise(page)
    expect_face_boxed(page)


def test_why_is_asked_of_the_answer_that_stands(open_page):
    page = open_page()
    ask, reasons = page.locator("#ask-why"), page.locator("#why")
    recognise(page)
    sync_api.expect(page.locator("#answer .headline")).to_contain_text("Nothing to go by")
    sync_api.expect(ask).to_be_hidden()
    page.get_by_role("button", name="Reader alone").click()
    expect_scores(page, "Voice", "Together")
    add_file(page, "photo", ASTRONAUT)  # not analysed
    ask.click()
    sync_api.expect(reasons).to_contain_text("What in the voice spoke for")
    sync_api.expect(reasons).not_to_contain_text("in the face")
    sync_api.expect(ask).to_be_hidden()
    recognise(page)
    expect_face_boxed(page)
    sync_api.expect(reasons).to_be_empty()


def test_several_people_stand_side_by_side(open_page):
    page = open_page()
    page.get_by_role("button", name="Two people").click()
    sync_api.expect(page.locator("#answer .faces > li")).to_have_count(2)
    sync_api.expect(page.locator("#answer .frame .box")).to_have_count(2)


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
    open_tab(page, "Live")
    start(page)
    sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    open_tab(page, "Photo and voice")
    page.get_by_role("button", name="Astronaut and reader", exact=True).click()
    expect_scores(page, "Face", "Voice", "Together")
    foreign = [
        url for url in asked if not url.startswith((server, f"{server.replace('http', 'ws')}live", "data:", "blob:"))
    ]
    assert foreign == []


# --- Live


def start(page) -> None:
    page.get_by_role("button", name="Start", exact=True).click()


def expect_text(page, selector: str, text: str) -> None:
    sync_api.expect(page.locator(f".live {selector}")).to_contain_text(text)


def bar_widths(page, card: str) -> list[str]:
    """Of one answer: asked for one by one, the bars would be of several."""
    bars = page.locator(f'.live .bars[aria-label="{card}"] .track i')
    return bars.evaluate_all("bars => bars.map((bar) => bar.style.width)")


def test_live_follows_the_face_and_the_voice(open_page):
    page = open_page("Live")
    start(page)
    sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    assert page.locator(".live .box.main span").inner_text().split()[0] in WORDS
    until(page, lambda: "missing" not in page.locator('.live .bars[aria-label="Voice"]').get_attribute("class"))
    expect_text(page, ".heard", "hears you")
    expect_text(page, ".value", "agreement")
    expect_text(page, ".rate", "frames/s")
    for card in ("Face", "Voice", "Together"):
        top = page.locator(f'.live .bars[aria-label="{card}"] li.top')
        sync_api.expect(top).to_have_count(1)
        widths = [float(width.rstrip("%")) for width in bar_widths(page, card)]
        assert max(widths) > 15 and sum(widths) < 102
    picture, box = page.locator(".live .picture").bounding_box(), page.locator(".live .box.main").bounding_box()
    assert 0.3 < (box["x"] + box["width"] / 2 - picture["x"]) / picture["width"] < 0.7
    assert (box["y"] + box["height"] / 2 - picture["y"]) / picture["height"] < 0.6
    voice = bar_widths(page, "Voice")
    until(page, lambda: bar_widths(page, "Voice") != voice)  # the reader goes on, and the bars with him
    until(page, lambda: timeline_seconds(page) >= 4)
    assert drawn_pixels(page) > 1000


def drawn_pixels(page) -> int:
    """How many of the timeline's pixels have one of the emotions' colours, which are all bright or strong."""
    return page.locator(".live .timeline canvas").evaluate(
        """canvas => {
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4)
                count += data[i + 3] > 200 && Math.max(data[i], data[i + 1], data[i + 2]) -
                    Math.min(data[i], data[i + 1], data[i + 2]) > 80;
            return count;
        }"""
    )


def test_live_stopped_leaves_nothing_and_starts_anew(open_page, app):
    page = open_page("Live")
    start(page)
    until(page, lambda: timeline_seconds(page) >= 3)
    page.get_by_role("button", name="Stop").click()
    sync_api.expect(page.locator(".live .box.main")).to_be_hidden()
    assert timeline(page) == "Timeline, empty" and drawn_pixels(page) == 0
    assert set(bar_widths(page, "Face")) == {"0%"}
    expect_text(page, ".headline", "Ready when you are")
    assert page.locator(".live .camera").evaluate("video => video.srcObject") is None
    until(page, lambda: len(app.live.line) == 0)
    start(page)
    until(page, lambda: timeline(page) != "Timeline, empty")
    assert timeline_seconds(page) <= 2


def test_live_says_when_there_is_no_face_and_no_sound(open_page, chromium, tmp_path):
    wall, silence = Image.new("RGB", (640, 480), "#998877"), np.zeros(48_000, np.float32)
    empty_room = chromium(*playing(tmp_path, wall, silence, 48_000))
    page = open_page("Live", browser=empty_room)
    start(page)
    expect_text(page, ".messages", "no face in the picture")
    expect_text(page, ".messages", "is it muted?")
    expect_text(page, ".heard", "silence")
    sync_api.expect(page.locator(".live .box.main")).to_be_hidden()
    empty_room.close()


def test_live_says_when_it_was_refused(open_page, chromium):
    strict = chromium(DEVICES)
    page = open_page("Live", browser=strict, permissions=[])
    start(page)
    expect_text(page, ".status", "The camera was refused")
    expect_text(page, ".status", "The microphone was refused")
    sync_api.expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()
    strict.close()


def test_live_says_when_there_is_no_camera_and_no_microphone(open_page, chromium):
    bare = chromium(ALLOWED)
    page = open_page("Live", browser=bare)
    start(page)
    expect_text(page, ".status", "There is no camera")
    expect_text(page, ".status", "There is no microphone")
    bare.close()


def test_live_goes_on_with_the_camera_alone(open_page):
    page = open_page("Live", permissions=["camera"])
    page.evaluate(
        """() => {
            const media = navigator.mediaDevices, ask = media.getUserMedia.bind(media);
            media.getUserMedia = (wanted) =>
                wanted.audio ? Promise.reject(new DOMException("", "NotFoundError")) : ask(wanted);
        }"""
    )
    start(page)
    sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    expect_text(page, ".messages", "There is no microphone")
    expect_text(page, ".headline", "Looks ")


def test_a_tab_closed_in_the_middle_of_live_frees_its_place(open_page, app):
    page, other = open_page("Live"), open_page("About")
    start(page)
    sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    assert len(app.live.line) == 1
    page.close()
    until(other, lambda: len(app.live.line) == 0)


def test_another_tab_of_the_demo_turns_the_camera_off(open_page, app):
    page = open_page("Live")
    start(page)
    sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    open_tab(page, "About")
    until(page, lambda: len(app.live.line) == 0)
    open_tab(page, "Live")
    sync_api.expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()


def test_live_connects_again_by_itself(open_page):
    page = open_page("Live")
    connections = []

    def connect(socket) -> None:
        connections.append(socket)
        if len(connections) == 1:
            socket.close()
        else:
            socket.connect_to_server()

    page.route_web_socket("**/live", connect)
    start(page)
    expect_text(page, ".status", "trying again")
    sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    assert len(connections) == 2


def test_who_finds_live_full_waits_and_has_a_turn(open_page, app):
    others = [object() for _ in range(app.live.line.places + 2)]
    for other in others:
        app.live.line.join(other)
    try:
        page = open_page("Live")
        start(page)
        expect_text(page, ".status", "2 people are before you")
        for other in others[:2]:
            app.live.line.leave(other)
        expect_text(page, ".status", "You are next")
        app.live.line.leave(others[2])
        sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    finally:
        for other in others[3:]:
            app.live.line.leave(other)


def test_live_by_the_keyboard(open_page):
    page = open_page("Live")
    page.get_by_role("button", name="Start", exact=True).focus()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(".live .box.main")).to_be_visible()
    spoken = page.locator(".live > .sr-only")
    sync_api.expect(spoken).to_contain_text("Looks")
    assert spoken.get_attribute("aria-live") == "polite"
    page.keyboard.press("Enter")
    sync_api.expect(page.get_by_role("button", name="Start", exact=True)).to_be_focused()


# --- Words and About


def test_words_are_compared(open_page):
    page = open_page("Words")
    page.get_by_label("Words, with commas between them").fill("joyful, zorbled")
    with page.expect_response(lambda response: "/upload" in response.url):
        page.locator("#words-photo input[type=file]").set_input_files(ASTRONAUT)
    sync_api.expect(page.locator("#words-photo").get_by_label("Remove Image")).to_be_visible()
    page.get_by_role("button", name="Compare").click()
    rows = page.locator("#words-answer .wordlist > li")
    sync_api.expect(rows).to_have_count(2)
    assert "new" not in rows.first.locator(".word").inner_text() and "new" in rows.last.locator(".word").inner_text()
    sync_api.expect(page.get_by_role("region", name="The face and the emotions").locator("li")).to_have_count(7)
    page.get_by_role("button", name="Astronaut and reader: relieved?").click()
    sync_api.expect(rows).to_have_count(4)
    sync_api.expect(page.get_by_role("region", name="The voice and the emotions").locator("li")).to_have_count(7)


def test_about_shows_the_figures(open_page, app):
    page = open_page("About")
    sync_api.expect(page.get_by_role("region", name="How often it is right").locator("li")).to_have_count(3)
    sync_api.expect(page.get_by_role("table")).to_have_count(2)
    sync_api.expect(page.get_by_role("img", name="confident")).to_have_count(2)
    page.get_by_text("All that was measured").click()
    rows = page.get_by_role("region", name="Every figure").locator("li")
    sync_api.expect(rows).to_have_count(len(figures(app.RESULTS)))
    sync_api.expect(rows.first).to_be_visible()
    sync_api.expect(page.locator("#about")).to_contain_text("never saved")
    sync_api.expect(page.locator("#about")).to_contain_text("AI Act")


# --- Everywhere


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("desktop", {"viewport": DESKTOP}),
        ("phone", {"viewport": PHONE, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}),
    ],
)
def test_it_is_readable_everywhere(open_page, screenshots, device, options):
    page = open_page("Live", **options)

    def look(tab: str, *texts: str) -> None:
        """In both themes, on the one page."""
        for theme in ("dark", "light"):
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            page.wait_for_function(f"document.body.classList.contains('dark') === {str(theme == 'dark').lower()}")
            # Colours take a moment to change.
            page.wait_for_function("!document.getAnimations().some((animation) => animation instanceof CSSTransition)")
            assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
            for selector in texts:
                assert contrast(page, selector) >= 4.5, f"{selector} in {tab}, {device}, {theme}"
            if device == "desktop":
                assert violations(page) == []
            page.screenshot(path=screenshots / f"{tab}-{device}-{theme}.png", full_page=True)

    start(page)
    until(page, lambda: "voice nothing" not in timeline(page) and timeline_seconds(page) >= 6)
    look("live", ".live .headline", ".live .bars .name", ".live .promise")
    open_tab(page, "Photo and voice")
    page.get_by_role("button", name="Astronaut and reader", exact=True).click()
    expect_scores(page, "Face", "Voice", "Together")
    expect_face_boxed(page)
    look("photo", "#answer .headline", "#answer .bars .name", "#answer figcaption")
    open_tab(page, "Words")
    page.get_by_role("button", name="Astronaut and reader: relieved?").click()
    sync_api.expect(page.locator("#words-answer .wordlist > li")).to_have_count(4)
    look("words", "#words-answer .word", "#words-answer .close > span")
    open_tab(page, "About")
    look("about", "#about .headlines li", "#about .chart p", "#about .about p")
