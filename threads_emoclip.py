"""Work that a thread of its own does while something else goes on.

with Helper() as look:
    for frame in video:                 # is decoded meanwhile
        look(faces.add, frame)
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

CALLS_AHEAD = 8  # that wait for their turn


class Helper:
    """Makes calls one after another in a thread of its own, while whoever asks for them goes on decoding.

    At most CALLS_AHEAD of them wait: asking for more waits too, so that memory is bounded. What a call raises, a later
    one or the end of the `with` block raises; where that ends early, calls that wait are dropped.
    """

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._calls: deque[Future] = deque()

    def __enter__(self) -> "Helper":
        return self

    def __call__(self, work: Callable[..., None], *args: Any) -> None:
        """Has a call made in its turn."""
        while len(self._calls) >= CALLS_AHEAD:
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(work, *args))

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        try:
            while self._calls and error is None:
                self._calls.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
