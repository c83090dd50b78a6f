"""What one visitor may cost, in one place; docs/limits.md says what was measured, and where each limit is enforced.

An address is that of a connection, or the one that a trusted proxy forwards (uvicorn's FORWARDED_ALLOW_IPS); of IPv6,
its network of 64 bits, which is what one household has.
"""

import ipaddress
import time
from collections.abc import Mapping
from typing import Any

# What is sent
MAX_UPLOAD = "256mb"  # of a file: a few minutes of a phone's video
MAX_DATA_URL = 32 * 1024**2  # characters
MAX_BODY_BYTES = 2 * MAX_DATA_URL + 64 * 1024  # of a request that is no upload: two data: URLs
MAX_BODY_VALUES = 1_000  # of its JSON, roughly: commas and opening brackets
UPLOADS_CHECKED_SECONDS, UPLOADS_KEPT_SECONDS = 60, 300
MAX_SENT_BYTES = 1024**3  # by an address while an upload is kept, which is what it may take of the disk
MIN_FREE_DISK_BYTES = 512 * 1024**2  # below it nobody uploads

# What is looked at
MAX_DECODE_SECONDS = 20.0  # of an AVIF or a HEIC
MAX_VIDEO_WORK_PIXELS = 600 * 30 * 1920 * 1088  # of a video, all frames together: ten minutes of full HD
MAX_VIDEO_WORK_SECONDS = 600.0  # for which a video may keep its place
MAX_WORDS, MAX_WORD_LENGTH = 12, 60

# Who is there
MAX_QUEUE, MAX_QUEUE_PER_ADDRESS = 128, 16  # calls that wait
PLACES = 2  # for each kind of work; an address has one of them at a time
MAX_PROGRAM_SESSIONS = 50  # Gradio keeps 0.27 MB for each; a program has one a call
MAX_ANSWERED_SESSIONS = 500  # of which an answer may not have been fetched yet
MAX_PAGE_SESSIONS = 500  # pages that are open

# Live
LIVE_PLACES = 4  # visitors who stream at once
SOCKETS_PER_ADDRESS = 3  # fewer than there are places, so that no address has them all
MAX_LINE = 64
TURN_SECONDS = 120.0  # after which the place goes to the next who waits, if anybody does
GREETING_SECONDS, MAX_GREETING_BYTES = 5.0, 1024  # in which a page says what it sends, and how long that may be
IDLE_SECONDS = 30.0  # without a frame or a sound, after which the place is free
MAX_WAIT_SECONDS = TURN_SECONDS * MAX_LINE / LIVE_PLACES  # by then everybody before had a turn
MAX_MESSAGE_BYTES = 512 * 1024
MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 40, 200  # a page sends 17; more than these are read later
MAX_FRAME_SIDE = 1280  # pixels
MAX_OTHER_FACES = 3  # of a frame, that are looked at beside the one that is followed
MAX_FRAME_SCANS = 3  # of a baseline JPEG: one, or one a colour


def address(scope: Mapping[str, Any]) -> str:
    """The address that an ASGI connection comes from."""
    host = (scope.get("client") or ("",))[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else host


class Allowance:
    """Of each address, at most so much at once, and in the long run so much in so many seconds."""

    def __init__(self, amount: float, seconds: float):
        self._amount, self._rate = amount, amount / seconds
        self._spent: dict[str, tuple[float, float]] = {}  # how much, and when

    def spend(self, who: str, amount: float) -> bool:
        """Whether there was so much left; it is spent either way."""
        now = time.monotonic()
        spent = self._left_over(who, now) + amount
        self._spent[who] = spent, now
        if len(self._spent) > 10_000:
            self._spent = {each: value for each, value in self._spent.items() if self._left_over(each, now) > 0}
        return spent <= self._amount

    def _left_over(self, who: str, now: float) -> float:
        spent, then = self._spent.get(who, (0.0, now))
        return max(0.0, spent - self._rate * (now - then))
