"""A video's timeline as a picture."""

from pathlib import Path

import numpy as np

from prediction.work import Answer
from video_emoclip import VideoResult

MOST_OF_A_NAME = 60  # characters, of a file's name in its picture's: file systems bear 255 bytes
TITLES = {"face": "looks", "voice": "sounds", "fused": "together"}


def picture_of(answer: Answer, folder: Path) -> Path:
    """Where an answer's picture is put: its number and its file's name tell it from all others."""
    name = next((name for name in answer.names.values() if name), "video")
    return folder / f"{answer.number:06}-{Path(name).stem[:MOST_OF_A_NAME]}.png"


def draw(video: VideoResult, path: Path, colours: dict[str, str]) -> None:
    """Saves a picture of how likely each emotion was over time, by the face, the voice and both; moments of conflict
    are shaded.

    Args:
        colours: of each emotion.
    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(len(TITLES), sharex=True)
    times = [point.time for point in video.timeline]
    for axis, (source, title) in zip(axes, TITLES.items()):
        emotions = [getattr(point, source) for point in video.timeline]
        scores = np.array(
            [
                [np.nan if emotion is None else emotion.scores[label] or 0.0 for label in colours]
                for emotion in emotions
            ]
        ).reshape(-1, len(colours))  # (T, C)
        axis.stackplot(times, scores.T, labels=list(colours), colors=list(colours.values()))
        for moment in video.moments:
            axis.axvspan(moment.start, moment.end, facecolor="none", edgecolor="black", hatch="//", linewidth=0)
        axis.set(ylabel=title, ylim=(0, 1), xlim=(0, max(video.seconds, 0.1)))
    axes[-1].set_xlabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
