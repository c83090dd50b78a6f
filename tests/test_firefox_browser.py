"""The demo in Firefox: its tabs, its Live with a camera and a microphone, and files."""

import base64
from pathlib import Path

import pytest
from firefox import FIREFOX
from helpers import ASTRONAUT, FIRST_SEEN, READING

pytestmark = pytest.mark.skipif(
    not Path(FIREFOX).exists(), reason="the browser tests need firefox: apt-get install firefox-esr"
)


def data_url(file: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


#: A camera before which there is a photo, and a microphone that plays a reading, over and over.
DEVICES = f"""() => {{
    if (!navigator.mediaDevices) return; // of the empty page that comes first
    navigator.mediaDevices.getUserMedia = async ({{ video, audio }}) => {{
        const stream = new MediaStream();
        if (video) {{
            const photo = new Image(), canvas = Object.assign(document.createElement("canvas"), {{
                width: 640, height: 480 }});
            photo.src = "{data_url(ASTRONAUT, "image/jpeg")}";
            await photo.decode();
            const draw = () => canvas.getContext("2d").drawImage(photo, 64, 0, 384, 288, 0, 0, 640, 480);
            draw();
            setInterval(draw, 50);
            stream.addTrack(canvas.captureStream(20).getVideoTracks()[0]);
        }}
        if (audio) {{
            const context = new AudioContext(), source = context.createBufferSource();
            const bytes = Uint8Array.from(atob("{base64.b64encode(READING.read_bytes()).decode()}"),
                (letter) => letter.charCodeAt(0));
            source.buffer = await context.decodeAudioData(bytes.buffer);
            source.loop = true;
            const output = context.createMediaStreamDestination();
            source.connect(output);
            source.start();
            stream.addTrack(output.stream.getAudioTracks()[0]);
        }}
        return stream;
    }};
}}"""


@pytest.fixture
def open_page(firefox, server):
    """open_page(tab, **options) -> page; afterwards, none may have written an error to the console."""

    pages = []

    def open_page(tab: str, **options):
        pages.append(page := firefox.open(server, **options))
        page.until_shown("#tabs [role=tab]", tab)
        page.click("tab", tab)
        page.until_shown(FIRST_SEEN[tab])
        return page

    firefox.errors.clear()
    yield open_page
    for page in pages:
        page.close()
    assert firefox.errors == []


@pytest.mark.parametrize("tab", FIRST_SEEN)
def test_every_tab_opens(open_page, tab, screenshots):
    open_page(tab).screenshot(screenshots / f"firefox-{tab.split()[0].lower()}.png")


def test_live_answers_a_face_and_a_voice(open_page, screenshots):
    page = open_page("Live", before=DEVICES)
    page.click("button", "Start")
    page.until_shown(".live .box.main span", "happy")
    page.until_shown(".live .heard", "hears you")
    for source in ("Face", "Voice"):
        page.until(f"""() => !document.querySelector('.live .bars[aria-label="{source}"].missing')""")
    page.until_shown(".live .headline", " ")
    page.screenshot(screenshots / "firefox-live.png")
    page.click("button", "Stop")
    page.until_shown(".live .headline", "Ready when you are")


def test_live_says_that_there_is_nobody(open_page):
    """Before Firefox's own camera, which shows colours, and a microphone that plays a tone."""
    page = open_page("Live")
    page.click("button", "Start")
    page.until_shown(".live .messages", "no face in the picture")
    page.until_shown(".live .heard", "listening")


def test_a_photo_and_a_recording_are_answered(open_page, screenshots):
    page = open_page("Photo and voice")
    for box, file, remove in (("photo", ASTRONAUT, "Remove Image"), ("recording", READING, "Clear")):
        page.set_files(f"#{box} input[type=file]", file)
        page.until_shown(f'#{box} [aria-label="{remove}"]')  # the server has it
    page.click("button", "Recognise")
    page.until_shown("#answer .box span", "happy")
    page.until_shown('#answer .bars[aria-label="Voice"]')
    page.screenshot(screenshots / "firefox-photo.png")
