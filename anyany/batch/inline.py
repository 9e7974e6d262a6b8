"""The engine without processes: `--workers 0`, for tests, debuggers and little memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anyany.batch import engines
from anyany.batch.feed import Feed
from anyany.batch.functions import Factory
from anyany.batch.items import Task
from anyany.batch.outcomes import Outcome
from anyany.batch.worker import Carrier


class InlineEngine:
    """One worker in this process: nothing survives a crash, and nothing else is started.

    Args:
        factory: builds the function.
        work: where items' folders are made.
        metadata: keep records inside files.
    """

    def __init__(self, factory: Factory, work: Path, *, metadata: bool = True) -> None:
        self._factory = factory
        self._work = work
        self._metadata = metadata
        self._carrier: Carrier | None = None
        self._window = engines.FIRST_WINDOW

    def start(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """See Engine."""
        self._carrier = Carrier(self._factory(), self._work, "here", metadata=self._metadata)
        return self._carrier.function.describe()

    def run(self, feed: Feed, stopped: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """See Engine."""
        assert self._carrier is not None, "expected start before run"
        tries: list[tuple[Task, int]] = []
        while not stopped():
            window: list[Task] = []
            while len(window) < self._window and (task := feed.take()) is not None:
                window.append(task)
            if not window and feed.exhausted:
                break
            if not window:
                time.sleep(0.002)
            began = time.perf_counter()
            outcomes = self._carrier.carry(window)
            if len(window) == self._window and time.perf_counter() - began < engines.SHORT:
                self._window = min(engines.LARGEST_WINDOW, 2 * self._window)
            tries += [(outcome.task, 1) for outcome in outcomes if outcome.transient]
            yield [outcome for outcome in outcomes if not outcome.transient]
        for task, attempts in tries:
            if stopped():
                return
            yield self._again(task, attempts, stopped)
        yield []

    def _again(self, task: Task, attempts: int, stopped: Callable[[], bool]) -> list[Outcome]:
        assert self._carrier is not None
        while True:
            time.sleep(engines.BACK_OFF * 2 ** (attempts - 1))
            (outcome,) = self._carrier.carry([task])
            attempts += 1
            outcome.attempts = attempts
            if not outcome.transient or attempts >= engines.TRANSIENT_TRIES or stopped():
                return [outcome]

    def drain(self, seconds: float) -> list[Outcome]:
        """See Engine."""
        return []

    def close(self) -> None:
        """See Engine."""

    def memory(self) -> int:
        """See Engine; this process is counted by its owner."""
        return 0
