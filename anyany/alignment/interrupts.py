"""SIGINT and SIGTERM while training: the step in hand is finished, then a checkpoint is written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final, Literal

SignalName = Literal["SIGINT", "SIGTERM"]
_SIGNALS: Final[dict[int, SignalName]] = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}


class Interrupted(BaseException):
    """Raised by a signal inside `Interrupts.raising`; never leaves the trainer."""


class Interrupts:
    """Inside `with`, the first signal is noted in `.signal`; a second one acts as it always does.

    Outside the main thread, where Python takes no handlers, signals are left alone.
    """

    def __init__(self) -> None:
        self.signal: SignalName | None = None
        self._raise = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, a signal raises `Interrupted` at once: for work that may be thrown away."""
        if self.signal is not None:
            raise Interrupted
        self._raise = True
        try:
            yield
        finally:
            self._raise = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = _SIGNALS[number]
        self._restore()
        if self._raise:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
