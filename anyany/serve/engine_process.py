"""A process for the engine: its start, its end, and the messages that go to it and come from it.

Messages are tuples that begin with a word; no tensors, whose memory multiprocessing would share.
Light to import, so that the child loads its model while the parent still imports what it needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import logging.handlers
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final, Self, cast

if TYPE_CHECKING:
    from anyany.system import AnyToAny

NUM_MARKS: Final = 4096  # memory that both see: a mark for each request that is cancelled,
WAITING: Final = 0  # and one while there may be requests that could join
_END: Final = 5.0  # seconds that a child has to end by itself
_LEVELS: Final = ("", "anyany", "anyany.cli", "py.warnings")  # loggers whose levels it takes over


class EngineProcess:
    """A child that loads a system and then says "ready", or "failed" with the exception.

    Args:
        load: gives the system, in the child; it travels there.

    Attributes:
        marks: [NUM_MARKS] flags in memory that both see.
    """

    def __init__(self, load: Callable[[], AnyToAny]) -> None:
        self._load = load
        self._context = multiprocessing.get_context("spawn")
        self.marks: Any = self._context.RawArray(ctypes.c_bool, NUM_MARKS)
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.close() if kind is None else self.kill()

    def restart(self) -> None:
        """Start another in place of one that has ended."""
        self.close()
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        levels = {name: logging.getLogger(name).getEffectiveLevel() for name in _LEVELS}
        self._process = self._context.Process(
            target=_child, args=(theirs, self.marks, self._load, levels), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def send(self, *message: Any) -> None:
        """Send a message.

        Raises:
            OSError: it has ended.
        """
        self._pipe.send(message)

    def hear(self, seconds: float) -> Any:
        """Its next message; None = there was none so long. Its log goes to ours.

        Raises:
            EOFError, OSError: it has ended.
        """
        while self._pipe.poll(seconds):
            message = self._pipe.recv()
            if message[0] != "log":
                return message
            logging.getLogger(message[1].name).handle(message[1])
        return None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Let it end."""
        self._pipe.close()
        self._process.join(_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _child(
    pipe: Connection, marks: Sequence[bool], load: Callable[[], AnyToAny], levels: Mapping[str, int]
) -> None:
    """A child's life: load, then carry out calls until the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger().addHandler(_PipeHandler(pipe))
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            system = load()
        except Exception as error:
            pipe.send(("failed", error))
            return
        from anyany.serve.engine_worker import EngineWorker

        worker = EngineWorker(pipe, marks, system)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all: the parent drains first
        worker.work()


class _PipeHandler(logging.handlers.QueueHandler):
    """Sends the child's log to the parent."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        super().__init__(cast("Any", pipe))  # put nothing in: it is sent

    def enqueue(self, record: logging.LogRecord) -> None:
        """See QueueHandler."""
        with contextlib.suppress(ConnectionError):
            self._pipe.send(("log", record))
