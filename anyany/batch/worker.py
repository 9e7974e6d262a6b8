"""A worker process: reads, computes and writes, each in a thread of its own.

While one window is computed, the next one is read and what is made already is written. The process
knows nothing of the run's ledger; it answers over a pipe, ends when its parent does, and leaves
Ctrl-C to the parent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any, Final, TypeAlias

from anyany.batch.functions import Factory, Function
from anyany.batch.items import Task
from anyany.batch.ledger import raise_if_full
from anyany.batch.outcomes import Outcome, failure, flush_folders, reply_record, write_reply
from anyany.errors import AnyAnyError, ResourceError
from anyany.messages import Reply

_log = logging.getLogger(__name__)

_READ_AHEAD: Final = 1  # windows
_UNWRITTEN: Final = 4  # parts of windows
_PERIOD: Final = 0.5  # seconds of quick items that are written, and lost by a kill, together

Computed: TypeAlias = "tuple[Task, Any, float]"  # a task, its reply or failure, seconds


@dataclass(frozen=True)
class Window:
    """Tasks that are carried out together.

    Args:
        number: of the window, for its answer.
        tasks: of it.
    """

    number: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class _Made:
    """What was computed of a window since the last time.

    Args:
        number: of the window.
        computed: the next of its tasks, in order.
        seconds: that the whole window took; None = there is more to come.
    """

    number: int
    computed: list[Computed]
    seconds: float | None = None


class Carrier:
    """The three steps of a window, over one function; used by every engine.

    Args:
        function: answers tasks.
        work: where items' folders are made.
        name: of the worker; no two workers share it.
        metadata: keep records inside files.
    """

    def __init__(self, function: Function, work: Path, name: str, *, metadata: bool = True) -> None:
        self.function = function
        self.work = work
        self.name = name
        self.metadata = metadata
        self._count = 0

    def carry(self, tasks: Sequence[Task]) -> list[Outcome]:
        """All three steps.

        Raises:
            ResourceError: the disk is full.
        """
        return self.write(self.compute(self.read(tasks)))

    def read(self, tasks: Sequence[Task]) -> list[tuple[Task, Any]]:
        """Each task with what `compute` needs of it, or its failure."""
        found: list[tuple[Task, Any]] = []
        for task in tasks:
            try:
                found.append((task, self.function.prepare(task)))
            except Exception as error:
                found.append((task, self._failed(task, error)))
        return found

    def compute(self, read: Sequence[tuple[Task, Any]]) -> Iterator[Computed]:
        """Each task as soon as it has its reply or failure, with the seconds it took, in order."""
        good = [(task, prepared) for task, prepared in read if not isinstance(prepared, Outcome)]
        answers = self._answers(good)
        began = time.perf_counter()
        for task, prepared in read:
            answer = prepared if isinstance(prepared, Outcome) else next(answers)
            now = time.perf_counter()
            yield task, answer, now - began
            began = now

    def write(self, computed: Iterable[Computed]) -> list[Outcome]:
        """The outcomes, their files durable.

        Raises:
            ResourceError: the disk is full.
        """
        outcomes = []
        try:
            for task, answer, seconds in computed:
                outcomes.append(
                    answer if isinstance(answer, Outcome) else self._written(task, answer, seconds)
                )
            flush_folders([Path(found.folder) for found in outcomes if found.folder])
        except OSError as error:
            raise_if_full(error, "an item's files")
            raise
        return outcomes

    def _answers(self, good: Sequence[tuple[Task, Any]]) -> Iterator[Any]:
        """A reply or a failure each; where all fail together, one by one to find the culprit."""
        answered = 0
        try:
            for answer in self.function.answer([prepared for _, prepared in good]) if good else ():
                task = good[answered][0]
                answered += 1
                yield self._failed(task, answer) if isinstance(answer, Exception) else answer
            if answered < len(good):
                raise RuntimeError(f"expected {len(good)} answers, got {answered}")
        except Exception as error:
            _log.debug("a function raised", exc_info=True)
            left = good[answered:]
            if len(good) == 1 and left:
                yield self._failed(good[0][0], error)
                return
            for pair in left:
                yield from self._answers([pair])

    def _written(self, task: Task, reply: Reply, seconds: float) -> Outcome:
        self._count += 1
        folder = self.work / f"{self.name}-{self._count}"
        try:
            files = write_reply(reply, folder, metadata=self.metadata)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise
            return self._failed(task, error)
        return Outcome(
            task,
            "done",
            folder=str(folder),
            files=files,
            reply=reply_record(reply),
            seconds={**reply.timings, "share": seconds},
            worker=self.name,
        )

    def _failed(self, task: Task, error: BaseException) -> Outcome:
        return failure(task, error, worker=self.name)


def worker_main(
    pipe: connection.Connection, factory: Factory, work: str, name: str, metadata: bool, log: str
) -> None:
    """Run in a process of its own until the pipe is closed.

    Args:
        pipe: to the parent: windows come, messages go.
        factory: builds the function.
        work: folder for items' folders.
        name: of the worker.
        metadata: keep records inside files.
        log: file that takes what libraries print.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _send_prints_to(log)
    logging.basicConfig()
    logging.getLogger("anyany.batch").setLevel(logging.DEBUG)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError, EOFError):
        try:
            carrier = Carrier(factory(), Path(work), name, metadata=metadata)
            pipe.send(("ready", carrier.function.describe()))
        except Exception as error:
            traceback.print_exc()
            pipe.send(_fatal(error))
            return
        _Pipeline(pipe, carrier).run()


class _Pipeline:
    """Three threads and the pipe; the computing one is the caller's."""

    def __init__(self, pipe: connection.Connection, carrier: Carrier) -> None:
        self._pipe = pipe
        self._carrier = carrier
        self._read: queue.Queue[tuple[Window, Any] | None] = queue.Queue(_READ_AHEAD)
        self._computed: queue.Queue[_Made | None] = queue.Queue(_UNWRITTEN)
        self._sending = threading.Lock()

    def run(self) -> None:
        reader = threading.Thread(target=self._guarded, args=(self._reading,), daemon=True)
        writer = threading.Thread(target=self._guarded, args=(self._writing,), daemon=True)
        reader.start()
        writer.start()
        while (got := self._read.get()) is not None:
            window, read = got
            self._send(("computing", window.number))
            self._computing(window, read)
        self._computed.put(None)
        writer.join()

    def _computing(self, window: Window, read: Any) -> None:
        """Hand on what is made, not later than the first item after a period."""
        began = handed = time.perf_counter()
        made: list[Computed] = []
        for computed in self._carrier.compute(read):
            made.append(computed)
            now = time.perf_counter()
            if now - handed > _PERIOD:
                self._computed.put(_Made(window.number, made))
                made, handed = [], now
        self._computed.put(_Made(window.number, made, time.perf_counter() - began))

    def _reading(self) -> None:
        try:
            for window in self._windows():
                self._send(("reading", window.number))
                read = self._carrier.read(window.tasks)
                self._send(("waiting", window.number))
                self._read.put((window, read))
        finally:
            self._read.put(None)

    def _writing(self) -> None:
        while (got := self._computed.get()) is not None:
            try:
                outcomes = self._carrier.write(got.computed)
            except Exception as error:
                self._send(_fatal(error))
                raise
            self._send(("done", got.number, outcomes, got.seconds))

    def _windows(self) -> Iterator[Window]:
        while True:
            try:
                yield self._pipe.recv()
            except (EOFError, OSError):
                return

    def _send(self, message: tuple[Any, ...]) -> None:
        with self._sending:
            self._pipe.send(message)

    def _guarded(self, step: Any) -> None:
        """A thread's failure ends the process: half a worker would only hang."""
        try:
            step()
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)


def _fatal(error: Exception) -> tuple[str, str, str]:
    known = isinstance(error, AnyAnyError)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        error, known = ResourceError("out of memory: the model does not fit"), True
    message = str(error) if known else f"internal error ({type(error).__name__}) in a worker"
    return "fatal", type(error).__name__ if known else "InternalError", message


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _send_prints_to(log: str) -> None:
    """Nothing that a library prints belongs on the terminal of the one who runs this."""
    with contextlib.suppress(OSError):
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)
