"""Tasks that are ready before they are wanted: a thread reads ahead, by a few and no more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Final

from anyany.batch.items import Task
from anyany.batch.outcomes import Outcome

AHEAD: Final = 256


class Feed:
    """Pulls an iterator in a thread of its own.

    Args:
        source: yields tasks, and outcomes of items that need no work.
    """

    def __init__(self, source: Iterable[Task | Outcome]) -> None:
        self._source = source
        self._ready: queue.Queue[Task | Outcome] = queue.Queue(AHEAD)
        self._outcomes: list[Outcome] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._pull, daemon=True)
        self._thread.start()

    def take(self) -> Task | None:
        """The next task, if one is ready.

        Raises:
            AnyAnyError: the source did.
        """
        while True:
            ended = self._ended.is_set()
            try:
                found = self._ready.get_nowait()
            except queue.Empty:
                if ended and self._error is not None:
                    raise self._error from None
                return None
            if isinstance(found, Task):
                return found
            self._outcomes.append(found)

    def outcomes(self) -> list[Outcome]:
        """Outcomes that came up since the last call."""
        found, self._outcomes = self._outcomes, []
        return found

    @property
    def exhausted(self) -> bool:
        """Whether nothing will come any more."""
        return self._ended.is_set() and self._ready.empty() and self._error is None

    def stop(self) -> None:
        """Pull no more, and wait until the thread has ended."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue

    def _pull(self) -> None:
        try:
            for found in self._source:
                self._ready.put(found)
                if self._stopped.is_set():
                    break
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
