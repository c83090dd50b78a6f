"""How fast the page that runs in the browser alone is: frames a second, and the time from a frame to its answer.

    python build_web.py && python benchmarks/web_speed.py outputs/web --seconds 20

In Debian's Chromium, without a window and without a GPU, whose webcam shows a face that moves about and whose
microphone plays examples/reading.flac. No more than 12 frames a second are asked for (demo/static/frames.js). "find"
and "recognise" are the times for a frame's face, "voice" that for a window of sound, twice a second.
"""

import argparse
import functools
import shutil
import statistics
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import soundfile
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.live_speed import frames  # noqa: E402

SWITCHES = ["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
WARM_UP_SECONDS = 3.0
# Notes when a frame is given to the page's worker, and when its answer comes.
RECORDED = """
const sent = new Map(), Plain = Worker;
window.answers = [];
window.Worker = class extends Plain {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data: { id, answer } }) => {
      if (answer?.took) answers.push({ now: performance.now(), sent: sent.get(id) ?? null, took: { ...answer.took } });
    });
  }
  postMessage(message, transferred) {
    if (message.kind === "frame") sent.set(message.id, performance.now());
    super.postMessage(message, transferred);
  }
};
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", help="the folder that build_web.py wrote")
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=args.page))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        webcam, microphone = Path(folder, "webcam.mjpeg"), Path(folder, "microphone.wav")
        webcam.write_bytes(b"".join(frames(120)))
        soundfile.write(microphone, *soundfile.read(ROOT / "examples" / "reading.flac"))
        devices = [f"--use-file-for-fake-video-capture={webcam}", f"--use-file-for-fake-audio-capture={microphone}"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*SWITCHES, *devices])
        page = browser.new_page(permissions=["camera", "microphone"])
        page.add_init_script(RECORDED)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.get_by_text("works offline").wait_for(timeout=120_000)
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_timeout(1_000 * WARM_UP_SECONDS)
        page.evaluate("answers.length = 0")
        page.wait_for_timeout(1_000 * args.seconds)
        answers = page.evaluate("answers")
        browser.close()
    server.shutdown()
    delays = sorted(each["now"] - each["sent"] for each in answers if each["sent"] is not None)
    print(f"{len(delays) / args.seconds:.1f} frames a second")
    print(
        f"from frame to answer: median {statistics.median(delays):.0f} ms, p95 {delays[len(delays) * 19 // 20]:.0f} ms"
    )
    for part in ("find", "recognise", "voice"):
        took = [each["took"][part] for each in answers if part in each["took"]]
        print(f"{part}: median {statistics.median(took):.0f} ms" if took else f"{part}: never")


if __name__ == "__main__":
    main()
