"""Faces followed from picture to picture, by where they are alone.

    track = FaceTracker()
    ids = track(boxes, time)    # one for each box: the same id as before where it is the same face

The IOU tracker of Bochinski et al. (2017), matching greedily, with a memory for faces out of sight.
"""

import torch
from torchvision.ops import box_iou

try:
    from .media_emoclip import Box
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from media_emoclip import Box

TRACK_IOU = 0.3  # overlap from which a face is the one that was there before
TRACK_MEMORY = 1.0  # seconds for which a face may be out of sight and keep its id
STILL_IOU = 0.8  # overlap from which a face has moved so little that it need not be looked for on the way


class FaceTracker:
    """A box goes on with the id whose last box it overlaps most, or gets a new one."""

    def __init__(self):
        self._last: dict[int, tuple[float, Box]] = {}
        self._next_id = 1

    def __call__(self, boxes: list[Box], time: float) -> list[int]:
        """The id of each box, at a time no earlier than the last."""
        self._last = {id: last for id, last in self._last.items() if time - last[0] <= TRACK_MEMORY}
        ids = dict(_pairs(boxes, {id: box for id, (_, box) in self._last.items()}, TRACK_IOU))
        for i, box in enumerate(boxes):
            if i not in ids:
                ids[i], self._next_id = self._next_id, self._next_id + 1
            self._last[ids[i]] = time, box
        return [ids[i] for i in range(len(boxes))]


def _pairs(boxes: list[Box], others: dict[int, Box], least: float) -> list[tuple[int, int]]:
    """Which box, by its number, and which of the others, by its key, belong together: the pair that overlaps most
    first, and none that overlaps less than `least`."""
    overlaps = [
        (overlap, i, key)
        for i, row in enumerate(iou(boxes, list(others.values())))
        for key, overlap in zip(others, row)
        if overlap >= least
    ]
    pairs: dict[int, int] = {}
    for _, i, key in sorted(overlaps, reverse=True):
        if i not in pairs and key not in pairs.values():
            pairs[i] = key
    return list(pairs.items())


def boxes_between(before: list[Box], after: list[Box], part: float) -> list[Box] | None:
    """Where faces were at a `part` of the way from one picture to another, both of which were searched: on straight
    lines. None where one has come, gone, or moved so far that it must be looked for."""
    pairs = _pairs(before, dict(enumerate(after)), STILL_IOU)
    if not len(pairs) == len(before) == len(after):
        return None
    return [tuple(start + part * (end - start) for start, end in zip(before[i], after[j])) for i, j in sorted(pairs)]


def iou(a: list[Box], b: list[Box]) -> list[list[float]]:
    """Intersection over union of every box of `a` with every one of `b`: a row for each of `a`."""
    corners = (torch.tensor(boxes, dtype=torch.float64).view(-1, 4) for boxes in (a, b))
    return box_iou(*(torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], 1) for box in corners)).tolist()
