"""The checkpoint that the demo answers with, which is loaded while its page is shown already."""

import json
import threading
from typing import TYPE_CHECKING

import hub

if TYPE_CHECKING:
    from pipeline_emoclip import EmotionRecognitionPipeline
    from recognizer_emoclip import Recognizer


class Checkpoint:
    """A folder or a Hub id, of which the page needs small files alone. Whoever asks for `pipe` or `recognizer` waits
    until they are loaded, and imports what needs PyTorch only then: two threads that import it at once may each find
    the other's modules half done.

    Args:
        device: of the pipeline.
    Raises:
        HubError: as `hub.fetch`; where it is asked for `pipe`, as `hub.load_pipeline`.
    """

    def __init__(self, source: str, device: str | None = None):
        self.folder, self._device = hub.fetch(source), device
        config = json.loads((self.folder / "config.json").read_bytes())
        self.knows_neutral = isinstance(config, dict) and config.get("neutral") is not None
        self._pipe: EmotionRecognitionPipeline | None = None
        self._loading = threading.Lock()

    @property
    def pipe(self) -> "EmotionRecognitionPipeline":
        """Who asks for it first loads it."""
        if self._pipe is None:  # later nobody locks, or a process forked just then would wait for ever
            with self._loading:
                self._pipe = self._pipe or hub.load_pipeline(self.folder, device=self._device)
        return self._pipe

    @property
    def recognizer(self) -> "Recognizer":
        """The pipeline's."""
        return self.pipe.recognizer
