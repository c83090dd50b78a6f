"""How fast Live answers: frames a second and the time from a frame to its answer, for 1, 2 and 4 visitors at once.

    python benchmarks/live_speed.py                       # the demo itself is started, on a free port
    python benchmarks/live_speed.py --visitors 1 --seconds 30

Each visitor does what the page does (demo/static/live.js): frames of 480 x 360 pixels, never a second before the first
is answered and not more than 12 a second, and a quarter of a second of sound four times a second. The face moves
about, the voice is examples/reading.flac. "find" and "recognise" are the server's time for a frame's face, "voice" for
a window; what is left of the delay is the way there and back, decoding, and waiting for the voice and the other
visitors.
"""

import argparse
import asyncio
import io
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image
from websockets.asyncio.client import connect

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from media_emoclip import load_audio  # noqa: E402

FRAME, FRAME_SECONDS, SOUND_SECONDS, RATE = (480, 360), 0.08, 0.25, 16_000
WARM_UP_SECONDS = 3.0


def frames(count: int = 48) -> list[bytes]:
    """JPEGs of a face that moves from side to side, and nearer and away."""
    photo = Image.open(ROOT / "examples" / "astronaut.jpg").convert("RGB")
    jpegs = []
    for phase in np.linspace(0, 2 * np.pi, count, endpoint=False):
        width = photo.width / (1.3 + 0.3 * np.sin(2 * phase))
        left = (photo.width - width) * (0.5 + 0.3 * np.sin(phase))
        crop = photo.crop((left, 0, left + width, width * FRAME[1] / FRAME[0])).resize(FRAME)
        jpeg = io.BytesIO()
        crop.save(jpeg, "JPEG", quality=75)
        jpegs.append(jpeg.getvalue())
    return jpegs


async def visit(
    url: str, number: int, jpegs: list[bytes], samples: np.ndarray, seconds: float
) -> tuple[list[float], list[dict]]:
    """One visitor, with an address of its own, as a proxy would tell it. Returns the delay of every frame, in seconds,
    and every answer."""
    delays, answers = [], []
    async with connect(url, compression=None, additional_headers={"X-Forwarded-For": f"192.0.2.{number}"}) as page:
        await page.send(json.dumps({"sampling_rate": RATE}))
        while json.loads(await page.recv())["type"] != "ready":
            pass
        start = time.perf_counter()
        answered = asyncio.Event()
        answered.set()

        async def speak() -> None:
            size = round(SOUND_SECONDS * RATE)
            for i in range(int(seconds / SOUND_SECONDS)):
                piece = np.take(samples, range(i * size, (i + 1) * size), mode="wrap")
                await asyncio.sleep(max(0.0, start + (i + 1) * SOUND_SECONDS - time.perf_counter()))
                header = b"S" + struct.pack("<d", time.perf_counter() - start)
                await page.send(header + (piece * 32767).astype("<i2").tobytes())

        async def look() -> None:
            i = 0
            while time.perf_counter() - start < seconds:
                await answered.wait()
                answered.clear()
                i, sent = i + 1, time.perf_counter() - start
                await page.send(b"F" + struct.pack("<d", sent) + jpegs[i % len(jpegs)])
                await asyncio.sleep(FRAME_SECONDS)

        async def read() -> None:
            last = None
            while True:
                answer = json.loads(await page.recv())
                now = time.perf_counter() - start
                answers.append(answer)
                if answer["time"] != last:
                    last = answer["time"]
                    if last > WARM_UP_SECONDS:
                        delays.append(now - last)
                    answered.set()

        reader = asyncio.create_task(read())
        await asyncio.gather(speak(), look())
        reader.cancel()
    return delays, answers


async def measure(url: str, visitors: int, seconds: float) -> None:
    """Prints a line for so many visitors at once."""
    jpegs, samples = frames(), load_audio(ROOT / "examples" / "reading.flac")[0]
    visits = await asyncio.gather(*(visit(url, number, jpegs, samples, seconds) for number in range(visitors)))
    delays = [1000 * delay for each, _ in visits for delay in each]
    took = {
        part: statistics.median(
            answer["took"][part] for _, answers in visits for answer in answers if part in answer["took"]
        )
        for part in ("find", "recognise", "voice")
    }
    faces = sum(answer["result"]["face"] is not None for _, answers in visits for answer in answers)
    rate = len(delays) / visitors / (seconds - WARM_UP_SECONDS)
    print(
        f"{visitors:8} {rate:9.1f} {statistics.median(delays):8.0f} {np.percentile(delays, 95):7.0f} "
        f"{took['find']:7.0f} {took['recognise']:10.0f} {took['voice']:6.0f} "
        f"{100 * faces / sum(len(answers) for _, answers in visits):8.0f} %",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=20.0, help="a visit's length; the first 3 do not count")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                # The page itself is there before the model.
                urllib.request.urlopen(f"http://127.0.0.1:{port}/look/preview.json", timeout=120)
                break
            except OSError:
                if server.poll() is not None:
                    sys.exit("The demo did not start.")
                time.sleep(0.5)
        print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} before")
        print("visitors  frames/s  median ms  p95 ms  find ms  recognise ms  voice ms  face seen")
        for visitors in args.visitors:
            asyncio.run(measure(f"ws://127.0.0.1:{port}/live", visitors, args.seconds))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
