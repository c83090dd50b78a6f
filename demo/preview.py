"""What Live says of an example, which the page plays before its visitor presses Start: the model's own answers."""

import asyncio
import io
from functools import cached_property
from typing import TYPE_CHECKING

import av
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from demo.checkpoint import Checkpoint
from demo.page import PORTRAIT

if TYPE_CHECKING:
    from demo.live_session import LiveAnswer

FRAME_SECONDS = 0.25


class Preview:
    """The answers, made when they are first asked for.

    Args:
        checkpoint: its recognizer makes them, beside everything else that it does; a pipeline will do.
    """

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._making = asyncio.Lock()
        self.route = Route("/look/preview.json", self._serve)

    async def _serve(self, request: Request) -> JSONResponse:
        async with self._making:
            return JSONResponse(await asyncio.to_thread(lambda: self.answers))

    @cached_property
    def answers(self) -> list["LiveAnswer"]:
        """Of a frame every FRAME_SECONDS, in order; their times are the video's."""
        recognizer = self._checkpoint.recognizer
        from demo.live_session import LiveSession
        from media_emoclip import SpeechDetector, load_audio

        session, rate = LiveSession(recognizer), SpeechDetector.sampling_rate
        sound, _ = load_audio(str(PORTRAIT), rate)
        answers, heard = [], 0
        with av.open(str(PORTRAIT)) as video:
            for frame in video.decode(video=0):
                if frame.time < len(answers) * FRAME_SECONDS:
                    continue
                until = round(frame.time * rate)
                if until > heard:
                    session.add_audio(sound[heard:until], frame.time)
                    heard = until
                if session.window_due:
                    session.score_window()
                jpeg = io.BytesIO()
                frame.to_image().save(jpeg, "JPEG", quality=90)
                session.add_frame(jpeg.getvalue(), frame.time)
                answers.append(session.answer())
        return answers
