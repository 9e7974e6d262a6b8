"""What the runner costs: a line, a resume, against the engine in memory; and what it foretells."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_faults import numbered, write_manifest

from anyany.batch import DryFactory, Function, Run, RunOptions, Store, SystemFactory, open_manifest
from anyany.batch.engines import resident_bytes
from anyany.batch.estimate import estimate
from anyany.batch.functions import SystemFunction
from anyany.batch.items import Task
from reliability_checks.setting import Result, Setting, cpu_seconds, machine


def scale(setting: Setting) -> Result:
    """100,000 lines with a function that computes nothing."""
    total = setting.total(100_000)
    path = write_manifest(setting.folder / "m.jsonl", numbered(total))
    before = resident_bytes(None)
    most = [0]

    def watch(event: Mapping[str, Any]) -> None:
        most[0] = max(most[0], resident_bytes(None))

    def once() -> tuple[float, float, Any]:
        run = Run(
            open_manifest(path),
            setting.folder / "out",
            DryFactory(),
            options=RunOptions(workers=1),
            on_event=watch,
        )
        wall, cpu = time.monotonic(), cpu_seconds()
        summary = run()
        return time.monotonic() - wall, cpu_seconds() - cpu, summary

    wall, cpu, first = once()
    again_wall, again_cpu, second = once()
    growth = (most[0] - before) / 1e6
    scan_wall, scan_cpu, left = _resume_scan(path, setting.folder / "out")
    return {
        "lines": total,
        "done": first.counts.done,
        "wall_ms_a_line": round(wall / total * 1e3, 3),
        "cpu_ms_a_line": round(cpu / total * 1e3, 3),
        "driver_growth_mb": round(growth, 1),
        "scan_wall_seconds": round(scan_wall, 2),
        "scan_cpu_seconds": round(scan_cpu, 2),
        "resume_wall_seconds": round(again_wall, 2),
        "resume_cpu_seconds": round(again_cpu, 2),
        "resume_skipped": second.counts.skipped,
        "passed": growth < 100 and cpu / total <= 1e-3 and scan_cpu < 5e-5 * total and not left,
    }


def _resume_scan(path: Path, out: Path) -> tuple[float, float, int]:
    """Seconds (wall, CPU) to read a ledger and find what is to be done, and how much that is."""
    from anyany.batch.run import lines_of
    from anyany.batch.source import Counts, Source
    from anyany.batch.store import RunStore

    fingerprint = next(Store(out).records())["settings"]
    with lines_of(open_manifest(path)) as (_, index):
        wall, cpu = time.monotonic(), time.process_time()
        store = RunStore(out)
        store.open(index)
        source = Source(open_manifest(path), store, fingerprint, 0, False, Counts(), _never)
        left = sum(1 for _ in source)
        spent = time.monotonic() - wall, time.process_time() - cpu
        store.close()
    return *spent, left


def _never() -> bool:
    return False


@dataclass(frozen=True)
class TimedFactory(SystemFactory):
    """Notes how much CPU time a worker took to load, so that it can be left out.

    Args:
        notes: a folder.
    """

    notes: str = ""

    def __call__(self) -> Function:
        """The system."""
        function = super().__call__()
        name = f"{time.monotonic_ns()}.txt"
        (Path(self.notes) / name).write_text(str(time.process_time()), encoding="ascii")
        return function


def throughput(setting: Setting) -> Result:
    """End to end against the engine in memory: the same items, turn by turn, loading left out.

    CPU seconds of the whole process tree are what other work on the machine hardly changes; wall
    seconds mean something on a quiet one.
    """
    rounds = setting.count(5)
    path = setting.manifest(max(4, setting.total(200) // rounds))
    function = SystemFactory("pocket", str(setting.folder), "cpu", threads=setting.threads)()
    assert isinstance(function, SystemFunction)
    items = [line.item for line in open_manifest(path).selected() if line.item is not None]
    tasks = [Task(item, "", item.seed or 0, 0) for item in items]
    list(function.answer([function.prepare(task) for task in tasks[:4]]))  # warm
    engine: list[tuple[float, float]] = []
    convert: list[tuple[float, float]] = []
    for number in range(rounds):
        sides = [
            lambda: engine.append(_in_memory(function, tasks)),
            lambda n=number: convert.append(_end_to_end(setting, path, n)),  # type: ignore[misc]
        ]
        for side in sides if number % 2 == 0 else sides[::-1]:
            side()
    cpu = sum(c for _, c in engine) / sum(c for _, c in convert)
    wall = statistics.median(e / c for (e, _), (c, _) in zip(engine, convert, strict=True))
    return {
        "items": len(tasks) * rounds,
        "rounds": rounds,
        "engine_wall": [round(w, 2) for w, _ in engine],
        "convert_wall": [round(w, 2) for w, _ in convert],
        "engine_cpu": [round(c, 2) for _, c in engine],
        "convert_cpu": [round(c, 2) for _, c in convert],
        "share_by_cpu": round(cpu, 3),
        "share_by_wall": round(wall, 3),
        **machine(),
        "passed": max(cpu, wall) >= 0.97,
    }


def _in_memory(function: SystemFunction, tasks: list[Task]) -> tuple[float, float]:
    """Wall and CPU seconds of the engine alone."""
    wall, cpu = time.monotonic(), time.process_time()
    replies = list(function.answer([function.prepare(task) for task in tasks]))
    assert len(replies) == len(tasks)
    return time.monotonic() - wall, time.process_time() - cpu


def _end_to_end(setting: Setting, path: Path, number: int) -> tuple[float, float]:
    """Wall and CPU seconds of a run with one worker, from when that is ready."""
    notes = setting.folder / f"load-{number}"
    notes.mkdir()
    factory = TimedFactory(
        "pocket", str(setting.folder), "cpu", threads=setting.threads, notes=str(notes)
    )
    run = Run(open_manifest(path), setting.folder / f"out-{number}", factory)
    cpu = cpu_seconds()
    summary = run()
    assert summary.exit_code == 0
    (load,) = (float(note.read_text(encoding="ascii")) for note in notes.iterdir())
    return summary.seconds - summary.load_seconds, cpu_seconds() - cpu - load


def estimates(setting: Setting) -> Result:
    """`--dry-run` against the truth on 200 items."""
    total = setting.total(200)
    path = setting.manifest(total)

    def run(name: str) -> Run:
        options = RunOptions(workers=1)
        return Run(open_manifest(path), setting.folder / name, setting.factory(), options=options)

    plan = estimate(run("out"))
    summary = run("out")()
    factor = plan["seconds"] / summary.seconds
    return {
        "items": total,
        "estimate_seconds": plan["seconds"],
        "truth_seconds": round(summary.seconds, 1),
        "factor": round(factor, 2),
        "passed": 0.5 <= factor <= 2,
    }
