"""How long a visitor waits for a photo, a recording and a video while another address asks for whatever it may.

    python benchmarks/neighbours.py
    python benchmarks/neighbours.py --root ../other-checkout --seconds 60

The demo is started on a free port of this machine. The other address sends photos, recordings of ten minutes and
videos as fast as it can, and does not wait for an answer. The visitor asks for astronaut.jpg, reading-short.flac and
talking-portrait.mp4 of examples/, one after the other.
"""

import argparse
import io
import json
import math
import os
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import soundfile
from load import ROOT, TIMEOUT, start

EXAMPLES = ROOT / "examples"
REFUSED_SECONDS = 0.2  # to the next call of who was refused one


class Visitor:
    """Somebody with an address of his own, as a proxy would tell it."""

    def __init__(self, url: str, address: str):
        self.client = httpx.Client(base_url=url, headers={"X-Forwarded-For": address}, timeout=TIMEOUT)

    def upload(self, data: bytes, name: str) -> dict:
        [path] = self.client.post("gradio_api/upload", files={"files": (name, data)}).json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def call(self, endpoint: str, *data: dict | None) -> httpx.Response:
        return self.client.post(f"gradio_api/call/{endpoint}", json={"data": data})

    def wait(self, endpoint: str, *data: dict | None) -> float:
        """Seconds until the answer is there; infinity where the call is refused, or not answered within TIMEOUT."""
        begun = time.monotonic()
        called = self.call(endpoint, *data)
        if not called.is_success:
            return math.inf
        try:
            text = self.client.get(f"gradio_api/call/{endpoint}/{called.json()['event_id']}").text
        except httpx.TimeoutException:
            return math.inf
        assert "event: complete" in text and json.loads(text.rpartition("data: ")[2]), text
        return time.monotonic() - begun


def long_recording() -> bytes:
    samples, rate = soundfile.read(EXAMPLES / "reading.flac", dtype="float32")
    file = io.BytesIO()
    soundfile.write(file, np.resize(samples, 599 * rate), rate, format="FLAC")
    return file.getvalue()


def calls(visitor: Visitor, recording: bytes) -> dict[str, tuple]:
    """What is asked for: the endpoint and its values, by name."""
    photo = visitor.upload((EXAMPLES / "astronaut.jpg").read_bytes(), "photo.jpg")
    voice = visitor.upload(recording, "voice.flac")
    video = visitor.upload((EXAMPLES / "talking-portrait.mp4").read_bytes(), "clip.mp4")
    return {
        "photo": ("analyze", photo, None),
        "recording": ("analyze", None, voice),
        "video": ("analyze_video", video),
    }


def flood(visitor: Visitor, call: tuple, over: threading.Event) -> None:
    while not over.is_set():
        if not visitor.call(*call).is_success:
            over.wait(REFUSED_SECONDS)


def measure(what: str, visitor: Visitor, asked: dict[str, tuple], seconds: float) -> None:
    """Prints the median and the longest wait for each."""
    waits, end = {name: [] for name in asked}, time.monotonic() + seconds
    while time.monotonic() < end:
        for name, call in asked.items():
            waits[name].append(visitor.wait(*call))
    figures = ", ".join(f"{name} {np.median(each):.1f} ({max(each):.1f}) s" for name, each in waits.items())
    print(f"{what}, load {os.getloadavg()[0]:.1f}: {figures}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose demo is started")
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    server, url = start(args.root)
    over = threading.Event()
    try:
        visitor, other = Visitor(url, "192.0.2.1"), Visitor(url, "192.0.2.2")
        asked = calls(visitor, (EXAMPLES / "reading-short.flac").read_bytes())
        for call in asked.values():  # what is made at first use
            visitor.wait(*call)
        print("median (longest) wait")
        measure("quiet", visitor, asked, args.seconds / 3)
        for call in calls(other, long_recording()).values():
            threading.Thread(target=flood, args=(other, call, over), daemon=True).start()
        measure("flooded", visitor, asked, args.seconds)
    finally:
        over.set()
        server.kill()  # it would finish what it was asked for
        server.wait()


if __name__ == "__main__":
    main()
