"""`--dry-run`: what a run would do, and what it would take, by a probe of three items.

Nothing is written into the run's folder; the probe works in a temporary one.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from anyany.batch.engines import FIRST_WINDOW, resident_bytes
from anyany.batch.functions import read_input
from anyany.batch.items import Item, Task, derived_seed
from anyany.batch.outcomes import Outcome
from anyany.batch.run import Run, lines_of, validate
from anyany.batch.settings import Settings
from anyany.batch.store import STATE, Store
from anyany.batch.worker import Carrier
from anyany.errors import AnyAnyError

PROBES: Final = 3
_MEGABYTE: Final = 1_000_000


@dataclass
class _Kind:
    """Items of one kind: same inputs' and outputs' modalities, same number of steps.

    Args:
        count: how many there are.
        samples: some of them, for the probe.
    """

    count: int = 0
    samples: list[Item] = field(default_factory=list)


def estimate(run: Run) -> dict[str, Any]:
    """The plan of a run, as plain JSON.

    Args:
        run: it is not started, and its folder is not touched.

    Raises:
        ManifestError: lines cannot be used; nothing was loaded.
        AnyAnyError: the system cannot be loaded.
        RefusedError: the folder was made with other settings.
    """
    validate(run.manifest)
    began = time.monotonic()
    before = resident_bytes(None)
    function = run.factory()
    load_seconds = time.monotonic() - began
    description = function.describe()
    settings = Settings(description, {**run.common, "metadata": run.metadata}, run.lines, run.seed)
    store = Store(run.out) if (run.out / STATE).is_dir() else None
    if store is not None and not run.options.force:
        settings.refuse_changes(store.settings()["settings"], f"{run.out.name}/")
    plan: dict[str, Any] = {"model": description["name"], "device": description.get("device")}
    kinds: dict[str, _Kind] = {}
    found = {"total": 0, "done_before": 0, "failed_before": 0, "to_do": 0, "missing_inputs": 0}
    for item, state in _states(run, store, settings.fingerprint()):
        found["total"] += 1
        found[state] += 1
        if state == "to_do":
            found["missing_inputs"] += _is_missing(item, run.manifest.root)
            kind = kinds.setdefault(_kind_of(item), _Kind())
            kind.count += 1
            if len(kind.samples) < PROBES or kind.count % 97 == 0:  # some from further down
                kind.samples = [*kind.samples[-PROBES + 1 :], item]
    plan |= found
    with tempfile.TemporaryDirectory() as folder:
        carrier = Carrier(function, Path(folder), "probe", metadata=run.metadata)
        probes = _probe(run, carrier, kinds)
    plan["kinds"] = {name: kind.count for name, kind in kinds.items()}
    return plan | _figures(run, kinds, probes, load_seconds, resident_bytes(None) - before)


def plan_text(plan: dict[str, Any]) -> str:
    """A plan in words."""
    lines = [
        f"{plan['model']} on {plan['device'] or 'no device'}, {plan['workers']} workers",
        f"{plan['total']} items: {plan['to_do']} to do, {plan['done_before']} done before, "
        f"{plan['failed_before']} failed before",
    ]
    lines += [f"  {count} x {name}" for name, count in plan["kinds"].items()]
    if plan["missing_inputs"]:
        lines.append(f"  {plan['missing_inputs']} name files that are not there, and would fail")
    if plan["seconds"] is None:
        lines.append("nothing could be probed: no estimate of time and disk")
    else:
        lines.append(
            f"about {_duration(plan['seconds'])} ({plan['load_seconds']:.1f} s of it to load), "
            f"{plan['disk_bytes'] / _MEGABYTE:,.1f} MB of disk "
            f"({plan['free_disk_bytes'] / _MEGABYTE:,.0f} MB free)"
        )
    lines.append(f"about {plan['memory_bytes'] / _MEGABYTE:,.0f} MB of memory")
    lines += [f"the probe of {name} failed: {why}" for name, why in plan["probe_failures"].items()]
    return "\n".join([*lines, "nothing was written"])


def _states(run: Run, store: Store | None, fingerprint: str) -> Iterator[tuple[Item, str]]:
    """Every item, and what a run would do with it."""
    with lines_of(run.manifest) as (_, index):
        if store is not None:
            store.load(index)
        for line in run.manifest.selected():
            assert line.item is not None
            known = index.get(line.item.id)
            mine = (line.item.digest(), fingerprint)
            if known is None or (known.digest, known.settings) != mine:
                yield line.item, "to_do"
            elif known.status == "done":
                yield line.item, "done_before"
            else:
                yield line.item, "to_do" if run.options.retry_failed else "failed_before"


def _kind_of(item: Item) -> str:
    inputs = [part["type"] for turn in item.turns for part in turn["content"]]
    counts = [f"{inputs.count(name)} {name}" for name in dict.fromkeys(inputs)]
    outputs = ", ".join(item.outputs) if item.outputs else "as the model chooses"
    decoding = item.options.get("decoding")
    return f"{' + '.join(counts)} to {outputs}" + (f" {decoding}" if decoding else "")


def _is_missing(item: Item, root: Path) -> bool:
    paths = [part["path"] for part in item.references() if "path" in part]
    return any(not (root / path).is_file() for path in paths)


@dataclass
class _Probe:
    """What probing one kind showed: seconds and bytes an item, or why it failed."""

    seconds: float = 0.0
    size: float = 0.0
    failure: str = ""


def _probe(run: Run, carrier: Carrier, kinds: dict[str, _Kind]) -> dict[str, _Probe]:
    """Three items, of the kinds with most items; one more beforehand, to warm up."""
    most = sorted(kinds.items(), key=lambda entry: -entry[1].count)[:PROBES]
    found: dict[str, _Probe] = {}
    for place, (name, kind) in enumerate(most):
        share = PROBES // len(most) + (place < PROBES % len(most))
        tasks = [_task(run, item) for item in kind.samples]
        tasks = [tasks[i % len(tasks)] for i in range(share)] if tasks else []
        if place == 0:
            carrier.carry(tasks[:1])
        began = time.monotonic()
        outcomes = carrier.carry(tasks)
        seconds = (time.monotonic() - began) / max(1, len(tasks))
        found[name] = _probe_of(outcomes, seconds)
    return found


def _probe_of(outcomes: list[Outcome], seconds: float) -> _Probe:
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    if not done:
        error = outcomes[0].error if outcomes else None
        return _Probe(seconds, 0.0, error["message"] if error else "nothing to probe")
    size = sum(4096 * math.ceil(entry[1] / 4096) for o in done for entry in o.files) / len(done)
    return _Probe(seconds, size + 4096 + 600)  # the folder, and the ledger's line


def _task(run: Run, item: Item) -> Task:
    """A task whose inputs may be missing: then it fails in the probe as it would in the run."""
    inputs = []
    for part in item.references():
        place: dict[str, str] = {name: part[name] for name in ("path", "data") if name in part}
        try:
            _, data = read_input(run.manifest.root, place) if place else ("", b"")
        except AnyAnyError:
            data = b""
        inputs.append({**place, "sha256": hashlib.sha256(data).hexdigest()})
    key = item.content_key("probe", [place["sha256"] for place in inputs], run.seed)
    seed = derived_seed(run.seed, key) if item.seed is None else item.seed
    return Task(item, key, seed, 0, tuple(inputs))


def _figures(
    run: Run, kinds: dict[str, _Kind], probes: dict[str, _Probe], load: float, memory: int
) -> dict[str, Any]:
    measured = {name: probe for name, probe in probes.items() if probe.size}
    left = sum(kind.count for kind in kinds.values())
    seconds = disk = None
    if measured and left:
        known = sum(kinds[name].count for name in measured)
        seconds = sum(kinds[n].count * p.seconds for n, p in measured.items()) * left / known
        disk = sum(kinds[n].count * p.size for n, p in measured.items()) * left / known
        seconds = load + seconds / _speed_up(run, left)
    elif not left:
        seconds, disk = load, 0.0
    workers = max(1, run.options.workers)
    place = run.out.absolute()
    while not place.exists():
        place = place.parent
    space = os.statvfs(place)
    return {
        "workers": run.options.workers,
        "load_seconds": round(load, 2),
        "seconds": None if seconds is None else round(seconds, 1),
        "disk_bytes": None if disk is None else round(disk),
        "free_disk_bytes": space.f_bavail * space.f_frsize,
        "memory_bytes": memory * workers + resident_bytes(None) * (run.options.workers == 0),
        "probe_failures": {name: p.failure for name, p in probes.items() if p.failure},
    }


def _speed_up(run: Run, left: int) -> float:
    """How many workers really work side by side."""
    workers = max(1, run.options.workers)
    if getattr(run.factory, "device", "cpu") not in ("auto", "cpu"):
        return 1.0
    threads = getattr(run.factory, "threads", 1)
    cores = len(os.sched_getaffinity(0))
    return float(max(1, min(workers, cores // threads, math.ceil(left / FIRST_WINDOW))))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
