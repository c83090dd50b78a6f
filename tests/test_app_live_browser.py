"""What makes Live inviting, in a real Chromium: the first screen and its preview, a voice alone, a second face, a lost
connection, the game, the card and the minute as CSV."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import (
    ADMIRAL,
    ASTRONAUT,
    CHROMIUM,
    DESKTOP,
    LABELS,
    PHONE,
    READING,
    open_tab,
    playing,
    timeline_seconds,
    until,
    violations,
)
from PIL import Image, ImageOps

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="the browser tests need chromium: apt-get install chromium"
)
expect = sync_api.expect
LAPTOP = {"width": 1366, "height": 657}
ON_A_PHONE = {"viewport": PHONE, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def start(page) -> None:
    page.get_by_role("button", name="Start", exact=True).click()


def until_answered(page) -> None:
    page.locator(".live[data-state=on]").wait_for()
    page.wait_for_function("document.querySelectorAll('.live .bars.missing').length === 0")


def without(page, kind: str) -> None:
    """As if there were no camera ("video"), or no microphone ("audio")."""
    page.evaluate(
        """kind => {
            const media = navigator.mediaDevices, ask = media.getUserMedia.bind(media);
            media.getUserMedia = (wanted) =>
                wanted[kind] ? Promise.reject(new DOMException("", "NotFoundError")) : ask(wanted);
        }""",
        kind,
    )


# --- The first screen


@pytest.mark.parametrize("options", [{"viewport": LAPTOP}, ON_A_PHONE], ids=["laptop", "phone"])
def test_the_first_screen_says_what_it_does_and_needs_no_scrolling(open_page, screenshots, options):
    page = open_page("Live", **options)
    page.wait_for_function("document.querySelector('.live')?.dataset.preview === 'on'")
    expect(page.locator(".live .headline")).not_to_have_text("Ready when you are")
    height = options["viewport"]["height"]
    for each in (
        page.get_by_text("See which emotion your face and your voice show, live"),
        page.get_by_role("button", name="Start", exact=True),
        page.get_by_role("button", name="No camera? Try an example"),
    ):
        box = each.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height
    button, picture = page.locator(".live .toggle").bounding_box(), page.locator(".live .picture").bounding_box()
    assert abs(button["x"] + button["width"] / 2 - picture["x"] - picture["width"] / 2) < 5
    assert picture["y"] + picture["height"] / 3 < button["y"] + button["height"] / 2
    page.screenshot(path=screenshots / f"first-{options['viewport']['width']}.png")


def test_the_preview_moves_under_the_models_own_answers_and_ends_with_the_first_start(open_page, app):
    page = open_page("Live")
    page.wait_for_function("document.querySelector('.live .example')?.currentTime > 0.5")
    expect(page.locator(".live .badge")).to_have_text("Example")
    expect(page.locator(".live .box.main")).to_be_visible()
    answers = page.evaluate("fetch('look/preview.json').then((reply) => reply.json())")
    faces = {answer["result"]["face"]["label"] for answer in answers}
    assert faces == {app.pipe(image=ASTRONAUT).face.label} and any(answer["result"]["voice"] for answer in answers)
    assert page.locator(".live .box.main").inner_text() in {answer["tag"] for answer in answers}
    start(page)
    expect(page.locator(".live .badge")).to_be_hidden()
    expect(page.locator(".live .example")).to_have_count(0)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".live .headline")).to_have_text("Ready when you are")


def test_who_has_no_camera_is_shown_an_example(open_page, server):
    page = open_page("Live")
    page.get_by_role("button", name="No camera? Try an example").click()
    expect(page.locator("#answer .headline")).to_contain_text("happy")
    assert page.url == f"{server}#photo"


def test_it_is_plain_until_details_are_asked_for(open_page):
    page = open_page("Live")
    start(page)
    until_answered(page)
    for detail in (".meter", ".derived", ".rate", ".minute", '.bars[aria-label="Together"]'):
        expect(page.locator(f".live {detail}")).to_be_hidden()
    expect(page.locator(".live .line")).to_have_text(re.compile("confidence|against|Face"))
    page.get_by_role("switch", name="Details").check()
    for detail in (".meter", ".derived", ".rate", ".minute", '.bars[aria-label="Together"]'):
        expect(page.locator(f".live {detail}")).to_be_visible()
    expect(page.locator(".live .derived")).to_contain_text("derived from the seven")


# --- While it runs


def test_a_voice_alone_has_a_stage_of_its_own(open_page, screenshots):
    page = open_page("Live")
    without(page, "video")
    start(page)
    expect(page.locator(".live .headline")).to_contain_text("angry", timeout=30_000)
    expect(page.locator(".live .wave")).to_be_visible()
    expect(page.locator(".live .camera")).to_be_hidden()
    expect(page.locator(".live .messages")).to_contain_text("There is no camera")
    wave = "document.querySelector('.live .wave').toDataURL()"
    assert page.evaluate(wave) != page.evaluate(f"new Promise((done) => setTimeout(() => done({wave}), 300))")
    assert violations(page) == []
    page.screenshot(path=screenshots / "voice-alone.png")


def test_messages_stand_on_the_picture(open_page):
    page = open_page("Live")
    without(page, "audio")
    start(page)
    expect(page.locator(".live .messages li")).to_be_visible()
    message, picture = (page.locator(f".live {each}").bounding_box() for each in (".messages li", ".picture"))
    assert picture["y"] < message["y"] and message["y"] + message["height"] < picture["y"] + picture["height"] / 3


@pytest.fixture(scope="module")
def two_people(chromium, tmp_path_factory):
    """A browser before whose webcam there are two."""
    both = Image.new("RGB", (640, 480), "#998877")
    for i, photo in enumerate((ASTRONAUT, ADMIRAL)):
        person = ImageOps.fit(Image.open(photo).convert("RGB"), (320 - 60 * i, 480 - 60 * i), centering=(0.5, 0.1))
        both.paste(person, (320 * i, 0))
    browser = chromium(*playing(tmp_path_factory.mktemp("two"), both, *soundfile.read(READING, dtype="float32")))
    yield browser
    browser.close()


def test_a_second_face_is_marked_and_answered_for_those_who_want_details(open_page, two_people, screenshots):
    page = open_page("Live", browser=two_people)
    start(page)
    expect(page.locator(".live .box.main")).to_be_visible()
    expect(page.locator(".live .box.other")).to_have_count(1)
    main, other = (page.locator(f".live .box.{each}").bounding_box() for each in ("main", "other"))
    assert abs(main["x"] - other["x"]) > 100
    tag = page.locator(".live .box.other span")
    expect(tag).to_be_hidden()
    expect(page.locator(".live .box.other")).to_have_attribute("title", "Not looked at")
    page.get_by_role("switch", name="Details").check()
    expect(tag).to_have_text(re.compile(r"\w+ \d+%|\w+ or \w+"))
    expect(page.locator(".live .box.other")).to_have_attribute("title", "")
    page.screenshot(path=screenshots / "second-face.png")


def test_the_tag_of_a_face_that_fills_the_picture_lies_inside(open_page):
    """Whatever the detector's box would be: one is drawn by the page's own view."""
    page = open_page("Live")
    inside = page.evaluate(
        """async () => {
            const address = document.querySelector("video.example").dataset.src.replace(/[^/]*$/, "");
            const load = (name) => import(new URL(address + name, document.baseURI));
            const [{ View }, { readEmotions }] = await Promise.all([load("view.js"), load("emotions.js")]);
            const live = document.querySelector(".live"), scores = { happy: 1 };
            const face = { label: "happy", scores, box: [20, 0, 440, 360] };
            new View(live, readEmotions(live)).draw({ headline: "", line: "", labels: ["happy"], tag: "happy 100%",
                size: [480, 360], likeliest: { face: ["happy"], fused: ["happy"] }, valence: 1, arousal: 1,
                result: { face, voice: null, fused: face } });
            const [tag, picture] = [".box.main span", ".picture"].map((each) =>
                live.querySelector(each).getBoundingClientRect());
            return [tag.top - picture.top, picture.bottom - tag.bottom];
        }"""
    )
    assert min(inside) >= 0


def test_a_lost_connection_keeps_the_timeline_and_greys_it(open_page):
    page = open_page("Live")
    sockets = []

    def connect(socket) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/live", connect)
    start(page)
    until_answered(page)
    until(page, lambda: timeline_seconds(page) >= 4)  # more than the next connection needs for its first answers
    strong = drawn(page)
    assert strong > 1000
    sockets[0].close()
    expect(page.locator(".live .status")).to_contain_text("trying again")
    assert drawn(page) < strong / 10
    until_answered(page)
    assert timeline_seconds(page) >= 4  # that of before is still there
    assert len(sockets) == 2


def drawn(page) -> int:
    """How many of the timeline's pixels have the full colour of an emotion."""
    return page.locator(".live .timeline canvas").evaluate(
        """canvas => {
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 0; i < data.length; i += 4) count += data[i + 3] === 255 && data[i] - data[i + 2] > 150;
            return count;
        }"""
    )


def test_this_is_me_neutral_is_one_button_and_dropped_with_one(open_page, screenshots):
    page = open_page("Live")
    start(page)
    until_answered(page)
    before = neutral_score(page)
    page.get_by_role("button", name="This is me, neutral").click()
    expect(page.locator(".live .resting")).to_be_visible()
    page.screenshot(path=screenshots / "neutral.png")
    drop = page.get_by_role("button", name="Drop my neutral")
    expect(drop).to_be_visible(timeout=20_000)
    expect(page.locator(".live .resting")).to_be_hidden()
    page.wait_for_function(NEUTRAL_SCORE + f" > {before}")
    drop.click()
    expect(page.get_by_role("button", name="This is me, neutral")).to_be_visible()
    page.wait_for_function(NEUTRAL_SCORE + f" <= {before}")


NEUTRAL_SCORE = (
    """parseInt(document.querySelector('.live .bars[aria-label="Face"] [data-label="neutral"] .score').textContent)"""
)


def neutral_score(page) -> int:
    return page.evaluate(NEUTRAL_SCORE)


# --- The game, the card, the minute


def hurry(page, factor: int) -> None:
    """From now on, the page's clock runs so many times as fast."""
    page.evaluate(
        """factor => {
            const now = performance.now.bind(performance), began = now();
            performance.now = () => began + factor * (now() - began);
        }""",
        factor,
    )


@pytest.mark.parametrize("missing", [None, "video", "audio"])
def test_a_game_of_thirty_seconds_counts_what_is_there(open_page, screenshots, missing):
    page = open_page("Live")
    if missing:
        without(page, missing)
    start(page)
    if not missing:
        until_answered(page)
    expect(page.locator(".live .headline")).to_have_text(re.compile("Looks|Sounds|Most|Hard"), timeout=30_000)
    page.get_by_role("button", name="Play 30 s").click()
    prompt = page.locator(".live .asked b")
    asked = {None: "Look happy, sound happy", "video": "Sound happy", "audio": "Look happy"}[missing]
    expect(prompt).to_have_text(asked)
    if not missing:
        page.screenshot(path=screenshots / "game.png")
        page.wait_for_timeout(2500)  # of the first prompt, whose first second does not count
    hurry(page, 8)
    summary = page.get_by_role("dialog", name="How you played")
    expect(summary).to_be_visible(timeout=15_000)
    expect(summary.locator("li")).to_have_count(7)
    points = [int(each) for each in summary.locator("li b").all_inner_texts()]
    expect(summary.locator("h2")).to_have_text(f"{sum(points)} of 700 points")
    assert max(points) <= 100
    if not missing:
        assert 40 < points[0] < 70  # a happy face, and a voice that is not
        assert violations(page) == []
        page.screenshot(path=screenshots / "game-summary.png")
    summary.get_by_role("button", name="Close").click()
    expect(summary).to_be_hidden()


def test_a_card_is_drawn_here_with_the_picture_only_where_it_is_ticked(open_page, screenshots, tmp_path):
    page = open_page("Live")
    start(page)
    until_answered(page)
    page.get_by_role("button", name="Make a card").click()
    card = page.get_by_role("dialog", name="A card to share")
    expect(card).to_be_visible()
    tick = card.get_by_label("With my picture")
    assert not tick.is_checked()
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    def saved(name: str) -> np.ndarray:
        with page.expect_download() as download:
            card.get_by_role("button", name="Download").click()
        download.value.save_as(tmp_path / name)
        return np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)

    without_picture = saved("without.png")
    assert without_picture.shape == (630, 1200, 3)
    tick.check()
    page.wait_for_timeout(200)  # in which it is drawn anew
    with_picture = saved("with.png")
    assert np.abs(with_picture - without_picture)[80:340, 80:440].mean() > 30  # where the picture is
    assert (np.ptp(without_picture[410:545, 200:1140], axis=-1) > 120).any()  # the ribbon's colours
    expect(card.get_by_role("button", name="Share")).to_be_hidden()  # this browser has no share sheet
    assert violations(page) == []
    page.screenshot(path=screenshots / "card.png")
    card.get_by_role("button", name="Close").click()
    expect(card).to_be_hidden()
    assert (
        page.locator("dialog.card canvas").evaluate(
            "canvas => canvas.getContext('2d').getImageData(9, 9, 1, 1).data[3]"
        )
        == 0
    )
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == []


def test_the_live_minute_is_downloaded_as_csv(open_page, tmp_path):
    page = open_page("Live")
    page.get_by_role("switch", name="Details").check()
    start(page)
    until_answered(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "minute.csv")
    rows = list(csv.DictReader((tmp_path / "minute.csv").open(newline="")))
    assert rows[-1]["face"] in LABELS and rows[-1]["voice"] in LABELS and float(rows[-1]["agreement"])
    assert sum(float(rows[-1][f"face_{label}"]) for label in LABELS) == pytest.approx(1, abs=1e-3)
    assert rows[-1]["voice_surprise"] == "" and float(rows[0]["seconds"]) < float(rows[-1]["seconds"])


# --- Figures


def test_the_first_load_is_light_and_nothing_jumps(open_page):
    page = open_page("Live", viewport=DESKTOP)
    page.add_init_script(
        """window.shift = 0;
        new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
        }).observe({ type: "layout-shift", buffered: true });"""
    )
    page.reload()
    page.wait_for_function("document.querySelector('.live')?.dataset.preview === 'on'")
    page.wait_for_function("document.querySelector('.live .example')?.currentTime > 1")
    sent = page.evaluate(
        """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
            .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
    )
    assert sent < 1_000_000
    assert page.evaluate("window.shift") < 0.05
    open_tab(page, "Photo and voice")
