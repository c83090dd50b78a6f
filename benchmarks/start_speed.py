"""How long it takes from `python app.py` to the page, and from a new process to the pipeline's first answer.

    python benchmarks/start_speed.py
    python benchmarks/start_speed.py --before ../emoclip-before     # in turn with another folder of the project

Each line has the seconds that passed and the seconds that processors worked for them, which other programs on the
machine change little. What is imported of others alone, and takes as long whatever is done here, is timed as well.
"""

import argparse
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
    "page": "import gc; gc.disable(); import gradio, torch, torchaudio, torchvision, transformers.modeling_utils",
    "first answer": "from transformers import pipeline; pipeline",
}


def worked(process: subprocess.Popen) -> float:
    """The processor seconds of a process that runs."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def to_page(folder: Path) -> tuple[float, float]:
    """Starts the demo of a folder of the project and waits for its page: seconds, and processor seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    start = time.perf_counter()
    server = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read()
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
    measures = {"page": to_page, "first answer": partial(to_end, FIRST_ANSWER)}
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} before")
    print(f"{'medians':24} {'seconds':>8} {'worked':>8}")
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
            print(f"{f'{name}, {label}':24} {seconds:8.1f} {used:8.1f}", flush=True)


if __name__ == "__main__":
    main()
