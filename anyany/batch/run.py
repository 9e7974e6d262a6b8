"""A run from end to end: validate, lock, load, work, settle, write the results.

The driver owns the ledger. Engines carry items out; whatever comes back is given its final name and
written down at once, so that a run may be killed at any moment and taken up where it was.
"""

from __future__ import annotations

import math
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from anyany.batch.engines import Engine, resident_bytes
from anyany.batch.feed import Feed
from anyany.batch.functions import Factory
from anyany.batch.index import Index
from anyany.batch.inline import InlineEngine
from anyany.batch.lock import Lock
from anyany.batch.manifest import Manifest
from anyany.batch.outcomes import Outcome
from anyany.batch.pool import LocalEngine
from anyany.batch.settings import FORMAT, Settings
from anyany.batch.source import Counts, Source, check_lines
from anyany.batch.store import RunStore, prepare_folder
from anyany.errors import UsageError

GRACE: Final = 5.0  # seconds that items at work get when the run is interrupted
PROGRESS_SECONDS: Final = 0.25

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


class ManifestError(UsageError):
    """Lines of a manifest cannot be used.

    Args:
        name: of the manifest.
        faults: "line 3: why" each.
    """

    def __init__(self, name: str, faults: list[str]) -> None:
        several = f"{len(faults)} lines" if len(faults) > 1 else "one line"
        super().__init__(f"{name}: {several} cannot be used; {faults[0]}")
        self.faults = faults


@dataclass(frozen=True)
class RunOptions:
    """How a run goes; nothing here decides an item's bytes.

    Args:
        workers: processes; 0 = work in this one.
        engine: "local", or "ray" on a cluster.
        address: of the Ray cluster; None = one of its own on this machine.
        insecure: allow a cluster without a token.
        retry_failed: try again what failed in an earlier run.
        force: go on under other settings, and make all items again.
        max_failures: stop when more have failed: a number, or a share such as "5%"; None = never.
    """

    workers: int = 1
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    insecure: bool = False
    retry_failed: bool = False
    force: bool = False
    max_failures: str | None = None

    def __post_init__(self) -> None:
        text = self.max_failures or "0"
        number = text.removesuffix("%")
        if not number.isdecimal() or (text.endswith("%") and int(number) > 100):
            raise UsageError(
                f"--max-failures: expected a number or a share such as 5%; got {text!r}"
            )

    def most_failures(self, total: int) -> float:
        """How many of so many items may fail."""
        if self.max_failures is None:
            return math.inf
        number = int(self.max_failures.removesuffix("%"))
        return number * total / 100 if self.max_failures.endswith("%") else number


@dataclass
class Summary:
    """How a run ended.

    Args:
        counts: of its items.
        seconds: in all.
        load_seconds: until the first worker was ready.
        signal: that interrupted it; 0 = none.
        stopped_by_failures: there were more than `max_failures`.
        model: the system's name.
    """

    counts: Counts
    seconds: float = 0.0
    load_seconds: float = 0.0
    signal: int = 0
    stopped_by_failures: bool = False
    model: str = ""

    @property
    def exit_code(self) -> int:
        """See docs/cli.md."""
        if self.signal:
            return 128 + self.signal
        return 3 if self.counts.failed or self.counts.skipped_failed else 0


@dataclass
class Run:
    """One run.

    Args:
        manifest: what to do.
        out: where to.
        factory: builds the function in every worker.
        common: settings that every line shares; part of the items' content.
        lines: what turns the manifest into lines, for comparison on resume.
        seed: of the run.
        options: how it goes.
        metadata: keep records inside files.
        on_event: told progress, failures, retries and deaths.
    """

    manifest: Manifest
    out: Path
    factory: Factory
    common: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    options: RunOptions = field(default_factory=RunOptions)
    metadata: bool = True
    on_event: OnEvent = lambda event: None

    def __call__(self) -> Summary:
        """Carry it out.

        Raises:
            ManifestError: lines cannot be used; nothing was loaded or written.
            UsageError: the manifest, the folder or the system cannot be used.
            RefusedError: another run is at work, or the settings differ.
            ResourceError: disk or memory ran out; the same run can be started again.
        """
        began = time.monotonic()
        with lines_of(self.manifest) as (total, index):
            summary = self._locked(Counts(total=total), index)
        summary.seconds = time.monotonic() - began
        return summary

    def _locked(self, counts: Counts, index: Index) -> Summary:
        prepare_folder(self.out)
        store = RunStore(self.out, self.manifest.shard)
        lock = Lock(store.locks, self.manifest.shard)
        try:
            with interrupts() as interrupt:
                store.open(index)
                try:
                    return self._work(store, counts, interrupt)
                finally:
                    store.close()
        finally:
            lock.release()

    def _work(self, store: RunStore, counts: Counts, interrupt: Interrupt) -> Summary:
        began = time.monotonic()
        summary = Summary(counts)
        engine = self._engine(store)
        try:
            self.on_event({"event": "loading", "total": counts.total})
            description = engine.start(interrupt)
            summary.load_seconds = time.monotonic() - began
            if not interrupt():
                settings = self._settle_settings(store, description, counts)
                summary.model = str(description["name"])
                self._carry_out(store, engine, settings, summary, interrupt)
        finally:
            engine.close()
        summary.signal = interrupt.signal
        if not interrupt():
            store.finish(summary.model)
        return summary

    def _settle_settings(
        self, store: RunStore, description: dict[str, Any], counts: Counts
    ) -> Settings:
        outputs = description["outputs"]
        for wanted in self.manifest.outputs or ():
            if wanted not in outputs:
                raise UsageError(
                    f"--to: expected outputs among {', '.join(outputs)}; got {wanted}: "
                    f"{description['name']} has no decoder for it"
                )
        common = {**self.common, "metadata": self.metadata}
        settings = Settings(description, common, self.lines, self.seed)
        recorded = {} if self.options.force else store.settings()["settings"]
        settings.refuse_changes(recorded, f"{self.out.name}/")
        whole = self.manifest.shard is None and self.manifest.limit is None
        total = counts.total if whole else None
        store.write_settings({"format": FORMAT, "settings": settings.flat(), "total": total})
        return settings

    def _carry_out(
        self,
        store: RunStore,
        engine: Engine,
        settings: Settings,
        summary: Summary,
        interrupt: Interrupt,
    ) -> None:
        source = Source(
            self.manifest,
            store,
            settings.fingerprint(),
            self.seed,
            self.options.retry_failed,
            summary.counts,
            interrupt,
        )
        feed = Feed(source)
        progress = _Progress(summary.counts, engine, self.on_event)
        try:
            for outcomes in engine.run(feed, interrupt):
                self._settle(store, source, [*feed.outcomes(), *outcomes], summary.counts)
                progress()
                store.sync()
                if self._too_many(summary.counts):
                    summary.stopped_by_failures = True
                    break
            if interrupt() or summary.stopped_by_failures:
                self.on_event({"event": "stopping"})
                rest = engine.drain(GRACE if interrupt.times < 2 else 0.0)
                self._settle(store, source, rest, summary.counts)
        finally:
            engine.close()
            feed.stop()
        self._settle(store, source, feed.outcomes(), summary.counts)
        progress(now=True)

    def _settle(
        self, store: RunStore, source: Source, outcomes: list[Outcome], counts: Counts
    ) -> None:
        """Write outcomes down, and those of identical items after them."""
        while outcomes:
            store.commit(outcomes)
            following: list[Outcome] = []
            for outcome in outcomes:
                if outcome.status == "done":
                    counts.done += 1
                else:
                    counts.failed += 1
                    self.on_event(
                        {"event": "failed", "id": outcome.task.item.id, **(outcome.error or {})}
                    )
                following += source.settle(outcome)
            outcomes = following

    def _too_many(self, counts: Counts) -> bool:
        return counts.failed > self.options.most_failures(counts.total)

    def _engine(self, store: RunStore) -> Engine:
        options = self.options
        if options.engine == "ray":
            from anyany.batch.ray_engine import RayEngine

            return RayEngine(
                self.factory,
                store.work,
                workers=max(1, options.workers),
                log=store.state / "workers.log",
                address=options.address,
                insecure=options.insecure,
                metadata=self.metadata,
            )
        if options.workers == 0:
            return InlineEngine(self.factory, store.work, metadata=self.metadata)
        return LocalEngine(
            self.factory,
            store.work,
            workers=options.workers,
            metadata=self.metadata,
            log=store.state / "workers.log",
            on_event=self.on_event,
        )


def validate(manifest: Manifest) -> int:
    """Read a whole manifest and refuse it if a single line cannot be used.

    Returns:
        How many items a run over it has.

    Raises:
        ManifestError: lines cannot be used.
        UsageError: it cannot be read as a whole.
    """
    with lines_of(manifest) as (total, _):
        return total


@contextmanager
def lines_of(manifest: Manifest) -> Iterator[tuple[int, Index]]:
    """The lines of a manifest without fault: how many a run has, and an index of all.

    Raises:
        ManifestError, UsageError: as `validate`.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder) / "index.sqlite")
        try:
            total, faults = check_lines(manifest, index)
            if faults:
                raise ManifestError(manifest.name, faults)
            yield total, index
        finally:
            index.close()


class Interrupt:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = 0
        self.times = 0

    def __call__(self) -> bool:
        return self.signal != 0

    def take(self, number: int, frame: object) -> None:
        """A signal handler."""
        self.signal = self.signal or number
        self.times += 1


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turn SIGINT and SIGTERM into a question that can be asked, where that is possible."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {n: signal.signal(n, interrupt.take) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """Tells how far the run is, a few times a second."""

    def __init__(self, counts: Counts, engine: Engine, on_event: OnEvent) -> None:
        self._counts = counts
        self._engine = engine
        self._on_event = on_event
        self._began = time.monotonic()
        self._told = 0.0

    def __call__(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        if not now and moment - self._told < PROGRESS_SECONDS:
            return
        self._told = moment
        counts = self._counts
        seconds = moment - self._began
        made = counts.done + counts.failed
        left = max(0, counts.total - made - counts.skipped - counts.skipped_failed)
        rate = made / seconds if seconds > 0 else 0.0
        self._on_event(
            {
                "event": "progress",
                "done": counts.done,
                "failed": counts.failed,
                "skipped": counts.skipped + counts.skipped_failed,
                "total": counts.total,
                "seconds": round(seconds, 3),
                "rate": round(rate, 3),
                "eta": round(left / rate, 1) if rate else None,
                "memory": resident_bytes(None) + self._engine.memory(),
            }
        )
