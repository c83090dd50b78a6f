"""How fast EmoCLIP is beside others that answer a photo or listen to a recording, on the same files, in turn.

    python -m venv peers
    peers/bin/pip install tensorflow-cpu 'setuptools<81' 'opencv-python-headless<5' 'moviepy<2' pandas requests
    peers/bin/pip install --no-deps fer==25.10.3      # what else it asks for is another face detector
    python benchmarks/peer_speed.py --fer peers/bin/python

`fer` finds faces by Haar cascades and classifies 48 x 48 pixels by a small network in TensorFlow; it lives in an
environment of its own. Photos are those of predict_speed.py, of 1280 x 960 pixels. Of a recording, Silero VAD's share
is what finding the speech takes. `hsemotion-onnx` fetches its weights from GitHub when it is first used; where that is
not to be had, neither is its speed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import hub  # noqa: E402
from benchmarks.predict_speed import make_photos, make_recordings  # noqa: E402
from media_emoclip import SpeechDetector, load_audio  # noqa: E402

FER = """
import json, sys, time, cv2
from fer.fer import FER
detector = FER()
detector.detect_emotions(cv2.imread(sys.argv[1]))
took, found = [], 0
for file in sys.argv[1:]:
    start = time.perf_counter()
    found += bool(detector.detect_emotions(cv2.imread(file)))
    took.append(time.perf_counter() - start)
print(json.dumps([took, found]))
"""


def timed(works: list[Callable[[], object]]) -> list[float]:
    """The seconds of each, after the first was done once to warm up."""
    works[0]()
    took = []
    for work in works:
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return took


def show(name: str, took: list[float], note: str = "") -> None:
    print(f"{name:44} {1000 * statistics.median(took):8.1f} ms  {note}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer", help="the Python of an environment that has fer")
    parser.add_argument("--files", type=int, default=60, help="photos, and recordings")
    args = parser.parse_args()
    pipe = hub.load_pipeline(ROOT / "checkpoints" / "emoclip-small", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder, "photos"), args.files, 1280)
        make_recordings(Path(folder, "recordings"), args.files)
        photos, recordings = (sorted(Path(folder, name).iterdir()) for name in ("photos", "recordings"))
        found = []
        took = timed([lambda file=file: found.append(pipe(image=file).face is not None) for file in photos])
        show("a photo, EmoCLIP", took, f"faces in {sum(found[1:])} of {len(photos)}")
        if args.fer:
            done = subprocess.run([args.fer, "-c", FER, *photos], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit("fer cannot be run there.")
            took, seen = json.loads(done.stdout.splitlines()[-1])
            show("a photo, fer", took, f"faces in {seen} of {len(photos)}")
        show("a recording of 10 s, EmoCLIP", timed([lambda file=file: pipe(audio=file) for file in recordings]))
        detector = SpeechDetector()
        sounds = [load_audio(file, SpeechDetector.sampling_rate)[0] for file in recordings]
        show("of which Silero VAD", timed([lambda sound=sound: detector(sound) for sound in sounds]))


if __name__ == "__main__":
    main()
