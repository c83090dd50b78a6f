"""How fast a long video is analysed, and in how much memory.

    python benchmarks/video_speed.py                       # 10 minutes of 720p at 30 frames a second
    python benchmarks/video_speed.py --minutes 2 --yunet FILE

The video is made here, of the photos and the recording in examples/: a minute in which one person, two, and nobody are
seen and one reads aloud, repeated. Analysis and annotated video are timed apart, as multiples of real time; the
resident memory is printed at every tenth of each, and at its peak.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import soundfile
import torch
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import hub  # noqa: E402
from demo.annotate import annotate_video  # noqa: E402
from demo.emotions import COLOURS  # noqa: E402
from video_emoclip import VideoReader, analyze_video  # noqa: E402

WIDTH, HEIGHT, FRAME_RATE, SOUND_RATE = 1280, 720, 30, 16_000
T = TypeVar("T")


def make_minute(path: str) -> None:
    """One minute: 40 s of one person, 15 s of two, 5 s of nobody; the pictures move."""
    photos = [
        np.asarray(
            ImageOps.fit(
                Image.open(ROOT / "examples" / f"{name}.jpg").convert("RGB"),
                (width, HEIGHT + 80),
                centering=(0.5, 0.1),
            )
        )
        for name, width in (
            ("astronaut", WIDTH + 80),
            ("astronaut", WIDTH // 2 + 80),
            ("grace-hopper", WIDTH // 2 + 80),
        )
    ]
    reading, rate = soundfile.read(ROOT / "examples" / "reading.flac", dtype="float32")
    sound = np.resize(reading[:: rate // SOUND_RATE], 60 * SOUND_RATE)
    with av.open(path, "w") as out:
        picture = out.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast"})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        voice = out.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for i in range(60 * FRAME_RATE):
            seconds = i / FRAME_RATE
            x, y = round(40 + 40 * np.sin(seconds)), round(40 + 40 * np.cos(0.7 * seconds))
            if seconds < 40:
                shown = photos[0][y : y + HEIGHT, x : x + WIDTH]
            elif seconds < 55:
                shown = np.hstack([photo[y : y + HEIGHT, x : x + WIDTH // 2] for photo in photos[1:]])
            else:
                shown = np.full((HEIGHT, WIDTH, 3), round(100 + x), np.uint8)
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")))
            block = sound[i * SOUND_RATE // FRAME_RATE : (i + 1) * SOUND_RATE // FRAME_RATE]
            frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
            frame.rate, frame.pts = SOUND_RATE, i * SOUND_RATE // FRAME_RATE
            out.mux(voice.encode(frame))
        out.mux(picture.encode())
        out.mux(voice.encode())


def make_video(path: str, minutes: int) -> None:
    """That minute, so many times over, by copying its packets."""
    minute = f"{path}.minute.mp4"
    make_minute(minute)
    with av.open(path, "w") as out:
        streams = None
        for i in range(minutes):
            with av.open(minute) as source:
                streams = streams or [out.add_stream_from_template(stream) for stream in source.streams]
                for packet in source.demux():
                    if packet.dts is None or (
                        packet.stream.type == "audio" and not 0 <= packet.pts * packet.time_base < 60
                    ):
                        continue  # an encoder's lead-in and lead-out, which would overlap
                    shift = round(60 * i / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)
    os.remove(minute)


def resident() -> float:
    """This process's memory now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def run(name: str, steps: Generator[float, None, T], seconds: float) -> tuple[float, T]:
    """Run the steps of a video of so many seconds, print the time and the memory at every tenth, and give the seconds
    that it took and what the steps return."""
    begun, busy, memory, tenth = time.perf_counter(), time.process_time(), [], 0
    try:
        while True:
            if next(steps) * 10 >= tenth:
                memory.append(resident())
                tenth += 1
    except StopIteration as stop:
        spent, busy = time.perf_counter() - begun, time.process_time() - busy
        print(f"{name:10s} {spent:7.1f} s ({busy:.1f} s of one core) {seconds / spent:7.2f} x real time")
        print(f"{'':10s} MB at each tenth: ", end="")
        print(*(f"{value:.0f}" for value in memory))
        return spent, stop.value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "emoclip-small"))
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--yunet", help="YuNet's ONNX file; see FaceDetector")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = f"{folder}/video.mp4"
        # In a process of its own, whose memory is not counted.
        maker = multiprocessing.get_context("spawn").Process(target=make_video, args=(video, arguments.minutes))
        maker.start()
        maker.join()
        pipe = hub.load_pipeline(arguments.model, face_detector=arguments.yunet)
        recognizer = pipe.recognizer
        # Whatever is built on first use, is so now.
        pipe(image=str(ROOT / "examples" / "astronaut.jpg"), audio=str(ROOT / "examples" / "reading-short.flac"))
        with VideoReader(video) as reader:
            seconds = reader.duration
        print(f"{seconds:.0f} s of {WIDTH} x {HEIGHT}, {os.path.getsize(video) / 2**20:.0f} MB; faces by ", end="")
        print(f"{recognizer.face_detector.name}; {torch.get_num_threads()} threads")
        analysis, result = run("analysis", analyze_video(recognizer, video), seconds)
        drawing, _ = run("annotation", annotate_video(video, result, f"{folder}/annotated.mp4", COLOURS), seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        total = seconds / (analysis + drawing)
        print(f"{'both':10s} {analysis + drawing:7.1f} s {total:7.2f} x real time    peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
