"""How long it takes from `python app.py` to the page and to the first answer of one who asks at once, and from a new
process to the pipeline's first answer.

    python benchmarks/start_speed.py
    python benchmarks/start_speed.py --before ../emoclip-before     # in turn with another folder of the project

Each line has the seconds that passed and the seconds that processors worked for them, which other programs on the
machine change little. What is imported of others alone, and takes as long whatever is done here, is timed as well.
"""

import argparse
import base64
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIRST_ANSWER = """
from transformers import pipeline
pipe = pipeline("emotion-recognition", model="checkpoints/emoclip-small", trust_remote_code=True)
print(pipe(image="examples/astronaut.jpg", audio="examples/reading.flac").fused.label)
"""


#: What no page, and no answer, is to be had without.
IMPORTS = {
    "page": "import gc; gc.disable(); import gradio",
    "page's first answer": "import gc; gc.disable(); import gradio, torch, torchaudio, torchvision, "
    "transformers.modeling_utils",
    "first answer": "from transformers import pipeline; pipeline",
}


def worked(process: subprocess.Popen) -> float:
    """The processor seconds of a process that runs."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(url: str) -> None:
    """Has the demo answer a photo."""
    photo = base64.b64encode((ROOT / "examples" / "astronaut.jpg").read_bytes()).decode()
    data = json.dumps({"data": [f"data:image/jpeg;base64,{photo}", None]}).encode()
    url += "gradio_api/call/analyze"
    call = urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"}))
    urllib.request.urlopen(f"{url}/{json.load(call)['event_id']}", timeout=60).read()


def to_page(folder: Path, asked: bool = False) -> tuple[float, float]:
    """Starts the demo of a folder of the project and waits for its page, and for an answer where it is `asked`:
    seconds, and processor seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment, url = {**os.environ, "GRADIO_SERVER_PORT": str(port)}, f"http://127.0.0.1:{port}/"
    start = time.perf_counter()
    server = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=60).read()
                if asked:
                    ask(url)
                return time.perf_counter() - start, worked(server)
            except OSError:
                if server.poll() is not None:
                    sys.exit("The demo did not start.")
                time.sleep(0.02)
    finally:
        server.terminate()
        server.wait()


def to_end(code: str, folder: Path) -> tuple[float, float]:
    """The same of a process that runs Python code in a folder of the project."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="after one that does not count")
    parser.add_argument("--before", type=Path, help="another folder of the project, which takes turns with this one")
    args = parser.parse_args()
    folders = {"this": ROOT} | ({"before": args.before} if args.before else {})
    measures = {
        "page": to_page,
        "page's first answer": partial(to_page, asked=True),
        "first answer": partial(to_end, FIRST_ANSWER),
    }
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} before")
    print(f"{'medians':34} {'seconds':>8} {'worked':>8}")
    for name, measure in measures.items():
        ways = {label: partial(measure, folder) for label, folder in folders.items()}
        ways["imports alone"] = partial(to_end, IMPORTS[name], ROOT)
        took: dict[str, list[tuple[float, float]]] = {label: [] for label in ways}
        for run in range(args.runs + 1):
            for label, way in ways.items():
                figures = way()
                if run:
                    took[label].append(figures)
        for label, figures in took.items():
            seconds, used = map(statistics.median, zip(*figures))
            print(f"{f'{name}, {label}':34} {seconds:8.1f} {used:8.1f}", flush=True)


if __name__ == "__main__":
    main()
