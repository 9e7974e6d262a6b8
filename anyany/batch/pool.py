"""The local engine: worker processes that may die at any time, and the windows they work on.

A window whose worker died is not lost: its items are done again, one at a time and last, so that an
item that kills its worker is told from its neighbours; after two deaths of its own it is set aside
as failed.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any, Final

from anyany.batch import engines
from anyany.batch.feed import Feed
from anyany.batch.functions import Factory
from anyany.batch.items import Task
from anyany.batch.outcomes import Outcome
from anyany.batch.worker import Window, worker_main
from anyany.errors import ResourceError

_TICK: Final = 0.2  # seconds
_OUTSTANDING: Final = 2  # windows that a worker has: one at work, one being read
_LOAD_DEATHS: Final = 3
_DEATHS: Final = 60  # in a row, without a single item between
_KILLED: Final = (-9, -15)  # by somebody else, or for want of memory: no item is to blame yet


@dataclass
class _Trouble:
    """A task to be done again, alone.

    Args:
        task: it.
        deaths: of workers that did nothing else.
        attempts: in all.
        not_before: on the monotonic clock.
    """

    task: Task
    deaths: int = 0
    attempts: int = 1
    not_before: float = 0.0


@dataclass
class _Sent:
    """A window that a worker has.

    Args:
        tasks: of it that are not done, in order.
        size: how many it had.
        stage: what the worker says of it.
    """

    tasks: list[Task]
    size: int
    stage: str = "sent"


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    ready: bool = False
    windows: dict[int, _Sent] = field(default_factory=dict)
    alone: _Trouble | None = None


class LocalEngine:
    """Worker processes on this machine.

    Args:
        factory: builds the function in each.
        work: where they write items' folders.
        workers: how many.
        metadata: keep records inside files.
        log: file for what libraries print.
        on_event: told of deaths and retries.
    """

    def __init__(
        self,
        factory: Factory,
        work: Path,
        *,
        workers: int,
        metadata: bool = True,
        log: Path,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        self._factory = factory
        self._work = work
        self._metadata = metadata
        self._log = log
        self._tell = on_event
        self._context = multiprocessing.get_context("spawn")
        self._size = workers
        self._workers: list[_Worker] = []
        self._description: dict[str, Any] | None = None
        self._troubled: list[_Trouble] = []
        self._returned: list[Task] = []
        self._spawned = 0
        self._sent = 0
        self._window = engines.FIRST_WINDOW
        self._load_deaths = 0
        self._deaths = 0

    def start(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Start all workers; returns when the first is ready.

        Raises:
            AnyAnyError: the function cannot be built.
        """
        self._workers = [self._spawn() for _ in range(self._size)]
        while self._description is None and not stopped():
            self._collect(_TICK)
        return self._description or {}

    def run(self, feed: Feed, stopped: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """See Engine.

        Raises:
            AnyAnyError: the source's, or a worker's that stops everything (a full disk).
        """
        while not stopped():
            self._fill(feed)
            at_work = any(worker.windows for worker in self._workers)
            if not at_work and feed.exhausted and not self._troubled and not self._returned:
                yield []
                return
            yield self._collect(_TICK if at_work else 0.02)

    def drain(self, seconds: float) -> list[Outcome]:
        """See Engine."""
        deadline = time.monotonic() + seconds
        found: list[Outcome] = []
        while any(worker.windows for worker in self._workers) and time.monotonic() < deadline:
            found += self._collect(_TICK)
        return found

    def close(self) -> None:
        """See Engine."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.process.close()
        self._workers = []

    def memory(self) -> int:
        """See Engine."""
        return sum(engines.resident_bytes(worker.process.pid) for worker in self._workers)

    def _spawn(self) -> _Worker:
        self._spawned += 1
        ours, theirs = self._context.Pipe()
        name = f"w{self._spawned}"
        process = self._context.Process(
            target=worker_main,
            args=(theirs, self._factory, str(self._work), name, self._metadata, str(self._log)),
            name=f"anyany-{name}",
            daemon=True,
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _fill(self, feed: Feed) -> None:
        """Give every worker that has room a window, or a troubled task of its own."""
        for worker in self._workers:
            while worker.ready and worker.alone is None and len(worker.windows) < _OUTSTANDING:
                tasks = self._take(feed)
                if tasks:
                    self._send(worker, tasks)
                    continue
                if feed.exhausted and not worker.windows:
                    self._send_troubled(worker)
                break

    def _take(self, feed: Feed) -> list[Task]:
        tasks: list[Task] = []
        while len(tasks) < self._window:
            task = self._returned.pop() if self._returned else feed.take()
            if task is None:
                break
            tasks.append(task)
        if len(tasks) > 1 and feed.exhausted and not self._returned:  # the last ones: share them
            share = math.ceil(len(tasks) / max(1, len(self._workers)))
            self._returned += tasks[share:]
            tasks = tasks[:share]
        return tasks

    def _send_troubled(self, worker: _Worker) -> None:
        now = time.monotonic()
        trouble = next((t for t in self._troubled if t.not_before <= now), None)
        if trouble is not None:
            self._troubled.remove(trouble)
            worker.alone = trouble
            self._send(worker, [trouble.task])

    def _send(self, worker: _Worker, tasks: list[Task]) -> None:
        self._sent += 1
        worker.windows[self._sent] = _Sent(tasks, len(tasks))
        try:
            worker.pipe.send(Window(self._sent, tuple(tasks)))
        except OSError:  # it is dying; `_collect` will see that
            return

    def _collect(self, timeout: float) -> list[Outcome]:
        """What the workers say within a time."""
        waiting: dict[Any, _Worker] = {}
        for worker in self._workers:
            waiting[worker.pipe] = worker
            waiting[worker.process.sentinel] = worker
        outcomes: list[Outcome] = []
        seen: list[_Worker] = []
        for source in connection.wait(list(waiting), timeout):
            worker = waiting[source]
            if worker not in seen:
                seen.append(worker)
                outcomes += self._hear(worker)
        return outcomes

    def _hear(self, worker: _Worker) -> list[Outcome]:
        outcomes: list[Outcome] = []
        try:
            while worker.pipe.poll():
                outcomes += self._message(worker, worker.pipe.recv())
        except (EOFError, OSError):
            worker.process.join(5)
            return outcomes + self._buried(worker)
        if not worker.process.is_alive() and not worker.pipe.poll():
            outcomes += self._buried(worker)
        return outcomes

    def _message(self, worker: _Worker, message: tuple[Any, ...]) -> list[Outcome]:
        kind = message[0]
        if kind == "ready":
            worker.ready = True
            self._load_deaths = 0
            self._description = self._description or message[1]
        elif kind == "fatal":
            raise engines.known_error(message[1], message[2])
        elif kind == "done":
            _, number, outcomes, seconds = message
            window = worker.windows[number]
            window.tasks = window.tasks[len(outcomes) :]
            self._deaths = 0
            if seconds is not None:
                del worker.windows[number]
                self._adapt(window.size, seconds)
            return self._settle(worker, outcomes)
        else:
            worker.windows[message[1]].stage = kind
        return []

    def _settle(self, worker: _Worker, outcomes: list[Outcome]) -> list[Outcome]:
        """Keep what is final; put what deserves another try aside."""
        trouble, worker.alone = worker.alone, None if outcomes else worker.alone
        final = []
        for outcome in outcomes:
            earlier = trouble or _Trouble(outcome.task, attempts=0)
            outcome.attempts = earlier.attempts + 1
            if outcome.transient and outcome.attempts < engines.TRANSIENT_TRIES:
                pause = engines.BACK_OFF * 2**earlier.attempts * random.uniform(0.8, 1.2)
                again = _Trouble(
                    outcome.task, earlier.deaths, outcome.attempts, time.monotonic() + pause
                )
                self._troubled.append(again)
                assert outcome.error is not None
                self._tell({"event": "retry", "id": outcome.task.item.id, **outcome.error})
            else:
                final.append(outcome)
        return final

    def _adapt(self, size: int, seconds: float) -> None:
        """Windows long enough to be worth their messages, short enough to lose little by a kill."""
        if size == self._window and seconds < engines.SHORT:
            self._window = min(engines.LARGEST_WINDOW, 2 * self._window)
        elif size == self._window and seconds > engines.LONG:
            self._window = max(1, self._window // 2)

    def _buried(self, worker: _Worker) -> list[Outcome]:
        """Replace a dead worker; its windows are done again."""
        code = worker.process.exitcode
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.close()
        self._deaths += 1
        if not worker.ready:
            self._load_deaths += 1
        if self._load_deaths >= _LOAD_DEATHS or self._deaths >= _DEATHS:
            raise ResourceError(
                "workers die again and again: is there memory enough for the model? Lower "
                f"--workers; what they said is in {self._log.parent.name}/{self._log.name}"
            )
        self._tell({"event": "worker_died", "exit_code": code})
        self._workers.append(self._spawn())
        outcomes: list[Outcome] = []
        for window in worker.windows.values():
            if worker.alone is not None:
                outcomes += self._died_alone(worker.alone)
            elif window.stage in ("reading", "computing"):
                deaths = 0 if code in _KILLED else 1
                self._troubled += [_Trouble(task, deaths) for task in window.tasks]
            else:
                self._returned += window.tasks
        return outcomes

    def _died_alone(self, trouble: _Trouble) -> list[Outcome]:
        trouble.deaths += 1
        trouble.attempts += 1
        if trouble.deaths < engines.TRIES:
            self._troubled.append(trouble)
            return []
        self._deaths = 0
        return [engines.set_aside(trouble.task, trouble.attempts)]
