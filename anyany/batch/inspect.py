"""Look at a run's folder without touching it: how far it is, and whether its files are whole."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyany.batch.index import Index
from anyany.batch.ledger import read_ledger
from anyany.batch.lock import running
from anyany.batch.openai_lines import error_line, result_line
from anyany.batch.store import ERRORS, REPORT, RESULTS, STATE, Store


@contextmanager
def indexed(store: Store) -> Iterator[Index]:
    """What a run's ledgers say, in a table that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder) / "items.sqlite")
        try:
            store.load(index)
            yield index
        finally:
            index.close()


def status(store: Store) -> dict[str, Any]:
    """Counts, the reasons of failures, when it was last at work, and by whom."""
    with indexed(store) as index:
        counts = index.counts()
        reasons: dict[str, int] = {}
        for record in store.ordered(index, "failed"):
            reasons[record["error"]["code"]] = reasons.get(record["error"]["code"], 0) + 1
        last = max((known for known in _times(store)), default=None)
    settings = store.settings()
    return {
        "out": str(store.out),
        "model": settings["settings"].get("system.name"),
        "total": settings.get("total"),
        **counts,
        "reasons": dict(sorted(reasons.items())),
        "running": running(store.locks),
        "complete": (store.out / RESULTS).is_file(),
        "last_finished": last,
    }


@dataclass
class Findings:
    """What `verify` found.

    Args:
        items: done ones.
        files: of them.
        faults: one line each: what is wrong with which file.
    """

    items: int = 0
    files: int = 0
    faults: list[str] = field(default_factory=list)


def verify(store: Store) -> Findings:
    """Read every file of a run again and compare it with the ledger.

    Also looked for: folders and files that no ledger line knows, and lists that do not say what the
    ledger says.
    """
    found = Findings()
    with indexed(store) as index:
        for record in store.ordered(index, "done"):
            found.items += 1
            _verify_item(store.out / record["id"], record, found)
        for entry in sorted(os.scandir(store.out), key=lambda entry: entry.name):
            known = index.get(entry.name)
            if entry.name in (STATE, RESULTS, ERRORS, REPORT):
                continue
            if known is None or known.status != "done":
                found.faults.append(f"{entry.name}: no finished item is known by this name")
        model = str(store.settings()["settings"].get("system.name", ""))
        if (store.out / RESULTS).is_file():
            _verify_lists(store, index, model, found)
    return found


def _verify_item(folder: Path, record: dict[str, Any], found: Findings) -> None:
    expected = {name: (size, sha256) for name, size, sha256 in record["files"]}
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for name in sorted(there - expected.keys()):
        found.faults.append(f"{folder.name}/{name}: the ledger does not know it")
    for name, (size, sha256) in expected.items():
        found.files += 1
        if name not in there:
            found.faults.append(f"{folder.name}/{name}: missing")
            continue
        data = (folder / name).read_bytes()
        if len(data) != size:
            found.faults.append(f"{folder.name}/{name}: {len(data):,} bytes, not {size:,}")
        elif hashlib.sha256(data).hexdigest() != sha256:
            found.faults.append(f"{folder.name}/{name}: its content has changed")


def _verify_lists(store: Store, index: Index, model: str, found: Findings) -> None:
    for name, status_ in ((RESULTS, "done"), (ERRORS, "failed")):
        path = store.out / name
        if not path.is_file():
            found.faults.append(f"{name}: missing")
            continue
        with open(path, encoding="utf-8") as file:
            for record in store.ordered(index, status_):
                wanted = (
                    result_line(
                        record["key"], record["id"], model, record["reply"], record["endpoint"]
                    )
                    if status_ == "done"
                    else error_line(record["key"], record["id"], record["error"])
                )
                if _parsed(file.readline()) != wanted:
                    found.faults.append(f"{name}: not what the ledger says, from {record['id']} on")
                    break
            else:
                if file.readline():
                    found.faults.append(f"{name}: it has more lines than the ledger")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _times(store: Store) -> Iterator[float]:
    for path in store.ledgers():
        for _, record in read_ledger(path):
            yield record["time"]
