"""Whose turn it is: every kind of work has places of its own, an address has one of them at a time, and where calls
wait, the addresses take turns. Gradio alone serves whoever came first. The numbers are in limits.py."""

import asyncio
from collections import Counter
from typing import Any, Literal

from fastapi import Request
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, EventQueue, Queue

from demo import limits

# The kinds of work, each the concurrency_id of what does it. A recording may take as long as a hundred photos: what
# takes one takes it as its last value, and without it the call counts as that of a photo.
PHOTO, RECORDING, VIDEO = "photo", "recording", "video"
FULL = "Too many calls are waiting, yours or everybody's: try again when some of them are answered."


class Turns(Queue):
    """Gradio's queue, in which the order of those who wait and who begins next are decided here."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._at_work: set[Event] = set()
        self.pending_messages_per_session = {}  # Gradio keeps the last 2,000, though the first may still wait

    async def push(
        self, body: PredictBodyInternal, request: Request, username: str | None
    ) -> tuple[bool, str, Literal["success", "error", "queue_full", "validator_error"]]:
        """Lets a call wait for its turn, where there is room: whether there is, and its id or why not."""
        who = limits.address(request.scope)
        waiting = [_who(event) for line in self.event_queue_per_concurrency_id.values() for event in line.queue]
        if len(waiting) >= limits.MAX_QUEUE or waiting.count(who) >= limits.MAX_QUEUE_PER_ADDRESS:
            return False, FULL, "queue_full"
        pushed, answer, state = await super().push(body, request, username)
        if pushed:
            self._line_up(self.event_ids_to_events[answer])
            self._forget()
        return pushed, answer, state

    def _forget(self) -> None:
        """Drops what was to be told to sessions of which no call waits or is at work, but for the newest."""
        there = {event.session_hash for event in self.event_ids_to_events.values()}
        answered = [session for session in self.pending_event_ids_session if session not in there]
        for session in answered[: -limits.MAX_ANSWERED_SESSIONS]:
            self.pending_messages_per_session.pop(session, None)
            del self.pending_event_ids_session[session]

    def _line_up(self, event: Event) -> None:
        """Moves a call from the end of its line to its turn: the first calls of all addresses come before the second
        ones."""
        lines = self.event_queue_per_concurrency_id
        if event.concurrency_id == RECORDING and not any(event.data.data[-1:]):
            lines[RECORDING].queue.remove(event)
            event.concurrency_id = PHOTO
            lines.setdefault(PHOTO, EventQueue(PHOTO, self.default_concurrency_limit)).queue.append(event)
        line, turns, seen = lines[event.concurrency_id].queue, [], Counter()
        for each in line:
            seen[_who(each)] += 1
            turns.append(seen[_who(each)])
        line[:] = [each for _, each in sorted(zip(turns, line), key=lambda pair: pair[0])]

    def keep_place(self, event_id: str | None, work: asyncio.Task) -> None:
        """A call that is cancelled is over for Gradio, though its thread, which cannot be stopped, still works."""
        if event := self.event_ids_to_events.get(event_id):

            def give_up(_) -> None:
                self._at_work.discard(event)
                work.cancelled() or work.exception()  # or asyncio would log the one that nobody waited for

            self._at_work.add(event)
            work.add_done_callback(give_up)

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The call that begins next, of those of which the kind has a free place and the address has none of it."""
        running = self._at_work.union(*filter(None, self.active_jobs))
        taken = Counter(event.concurrency_id for event in running)
        theirs = {(event.concurrency_id, _who(event)) for event in running}
        for kind, line in self.event_queue_per_concurrency_id.items():
            if taken[kind] < line.concurrency_limit:
                for event in line.queue:
                    if (kind, _who(event)) not in theirs:
                        line.queue.remove(event)
                        return [event], False, kind
        return None


def _who(event: Event) -> str:
    return limits.address(event.request.scope)
