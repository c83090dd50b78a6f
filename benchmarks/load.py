"""What the demo bears: fifty clients for a minute, and its memory over a thousand calls.

    python benchmarks/load.py
    python benchmarks/load.py --root ../other-checkout --clients 50 --seconds 60 --calls 1000

The demo is started on a free port of this machine. A client uploads examples/astronaut.jpg once and then asks
/analyze for it again and again, each time as soon as it has its answer; each has an address of its own, as a proxy
would tell it. For the memory, one client asks one call after the other, each in a session of its own. "Held" is the
resident memory of the server (VmRSS).
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parent.parent
TIMEOUT = 120.0  # seconds, after which an answer counts as an error


def start(root: Path) -> tuple[subprocess.Popen, str]:
    """The demo of a checkout, once it answers, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    server = subprocess.Popen([sys.executable, "app.py"], cwd=root, env=environment, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    while True:
        try:
            httpx.get(f"{url}look/preview.json", timeout=TIMEOUT)  # the page itself is there before the model
            return server, url
        except httpx.HTTPError:
            if server.poll() is not None:
                sys.exit("The demo did not start.")
            time.sleep(0.5)


def upload(client: httpx.Client) -> dict:
    photo = (ROOT / "examples" / "astronaut.jpg").read_bytes()
    [path] = client.post("gradio_api/upload", files={"files": ("photo.jpg", photo)}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def ask(client: httpx.Client, file: dict) -> bool:
    """Whether a photo is answered as it should be."""
    call = client.post("gradio_api/call/analyze", json={"data": [file, None]}).json()
    text = client.get(f"gradio_api/call/analyze/{call['event_id']}").text
    return "event: complete" in text and json.loads(text.rpartition("data: ")[2])[0]["face"] is not None


def visit(url: str, seconds: float, number: int) -> list[tuple[float, bool]]:
    """One client: how long each of its answers took, and whether it was right."""
    answers, address = [], {"X-Forwarded-For": f"192.0.2.{number}"}
    with httpx.Client(base_url=url, headers=address, timeout=TIMEOUT) as client:
        file = upload(client)
        end = time.monotonic() + seconds
        while (start := time.monotonic()) < end:
            try:
                right = ask(client, file)
            except (httpx.HTTPError, ValueError, KeyError):
                right = False
            answers.append((time.monotonic() - start, right))
    return answers


def held(server: subprocess.Popen) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose demo is started")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--calls", type=int, default=1_000)
    args = parser.parse_args()
    server, url = start(args.root)
    try:
        print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} before", flush=True)
        if args.calls:
            with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
                for number in range(args.calls + 1):
                    if number % 100 == 0:
                        file = upload(client)
                        print(f"call {number:5}: {held(server):7.0f} MB held", flush=True)
                    assert ask(client, file)
        if args.clients:
            with ThreadPoolExecutor(args.clients) as clients:
                visits = list(clients.map(partial(visit, url, args.seconds), range(args.clients)))
            times = [took for each in visits for took, right in each if right]
            wrong = sum(not right for each in visits for _, right in each)
            median, p95 = np.percentile(times, [50, 95])
            print(
                f"{args.clients} clients, {args.seconds:.0f} s: {len(times)} answers, {wrong} errors, median "
                f"{median:.1f} s, p95 {p95:.1f} s, {held(server):.0f} MB held afterwards"
            )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
