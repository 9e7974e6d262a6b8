"""From lines to tasks: what is done already is passed over, the rest is hashed and made ready.

Runs in the feed's thread, beside the work. Identical items are computed once: the others wait for
the first, or take over what it made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Final

from anyany.batch.functions import read_input
from anyany.batch.index import Index, Known
from anyany.batch.items import Item, Task, derived_seed, task_from_json, task_to_json
from anyany.batch.manifest import Line, Manifest
from anyany.batch.outcomes import Outcome, failure
from anyany.batch.store import RunStore, dumps
from anyany.batch.urls import TransientError
from anyany.errors import AnyAnyError, MediaError, UsageError

FETCH_TRIES: Final = 3
_BACK_OFF: Final = 1.0  # seconds

Stamp = tuple[int, int] | None


@dataclass
class Counts:
    """How a run stands.

    Args:
        total: items of the shard, up to the limit.
        done: carried out by this run, copies of identical items included.
        failed: by this run.
        skipped: done by an earlier run.
        skipped_failed: failed in an earlier run, and not tried again.
        copied: of `done`, taken over from an identical item.
        changed: done before, and done again since their line or input is another.
    """

    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    skipped_failed: int = 0
    copied: int = 0
    changed: int = 0


@dataclass
class Source:
    """Makes tasks of a manifest's lines.

    Args:
        manifest: already found free of faults.
        store: what is done.
        fingerprint: of the settings.
        seed: of the run.
        retry_failed: try again what failed.
        counts: told what was passed over.
        stopped: asked between lines.
    """

    manifest: Manifest
    store: RunStore
    fingerprint: str
    seed: int
    retry_failed: bool
    counts: Counts
    stopped: Callable[[], bool]
    _inflight: dict[str, str] = field(default_factory=dict)  # content key -> id that computes it
    _lock: Any = field(default_factory=Lock)

    def __iter__(self) -> Iterator[Task | Outcome]:
        for line in self.manifest.lines(self._numbers()):
            if line.item is None:
                raise UsageError(f"{self.manifest.name}: it changed while the run was at work")
            yield from self._made(line)

    def _numbers(self) -> Iterator[int]:
        """The lines that something is to be done for."""
        taken = 0
        for number, id, digest, paths, known in self.store.index.lines():
            if self.stopped() or taken == self.manifest.limit:
                return
            if self.manifest.takes(id):
                taken += 1
                if known is None or not self._is_settled(id, digest, paths, known):
                    yield number

    def settle(self, outcome: Outcome) -> list[Outcome]:
        """What an outcome that is in the ledger now means for items that waited for it."""
        with self._lock:
            self._inflight.pop(outcome.task.key, None)
            waiting = self.store.index.release(outcome.task.key)
        for place in outcome.task.inputs:
            if "file" in place:
                os.unlink(place["file"])
        found = []
        for text in waiting:
            copy = self.store.copy(outcome.task.item.id, task_from_json(text))
            self.counts.copied += copy.status == "done"
            found.append(copy)
        return found

    def _is_settled(self, id: str, digest: str, paths: str, known: Known) -> bool:
        same = (known.digest, known.settings) == (digest, self.fingerprint)
        if not same or known.stamps != (self._stamps(paths) if paths else "[]"):
            self.counts.changed += known.status == "done"
            return False
        if known.status == "done" and self.store.is_whole(id, known):
            self.counts.skipped += 1
            return True
        if known.status == "failed" and not self.retry_failed:
            self.counts.skipped_failed += 1
            return True
        return False

    def _stamps(self, paths: str) -> str:
        return dumps([self._stamp(path) for path in json.loads(paths)])

    def _made(self, line: Line) -> Iterator[Task | Outcome]:
        assert line.item is not None
        item = line.item
        digest = item.digest()
        stamps = tuple(self._stamp(part.get("path")) for part in item.references())
        try:
            inputs = self._inputs(item, line.number)
        except AnyAnyError as error:
            key = hashlib.sha256(f"unread:{digest}".encode()).hexdigest()
            yield failure(
                Task(item, key, 0, line.number, (), stamps, digest, self.fingerprint), error
            )
            return
        key = item.content_key(self.fingerprint, [place["sha256"] for place in inputs], self.seed)
        seed = derived_seed(self.seed, key) if item.seed is None else item.seed
        task = Task(
            _without_data(item), key, seed, line.number, inputs, stamps, digest, self.fingerprint
        )
        with self._lock:
            if key in self._inflight:
                self.store.index.follow(key, line.number, task_to_json(task))
                return
            like = self._finished(key, item.id)
            if like is None:
                self._inflight[key] = item.id
        if like is None:
            yield task
        else:
            copy = self.store.copy(like, task)
            self.counts.copied += copy.status == "done"
            yield copy

    def _finished(self, key: str, id: str) -> str | None:
        """Another item that has this content already."""
        holder = self.store.index.holder(key)
        if holder is None or holder == id:
            return None
        known: Known | None = self.store.index.get(holder)
        if known is None or known.key != key:
            return None
        if known.status == "failed":
            return None if self.retry_failed else holder
        return holder if self.store.is_whole(holder, known) else None

    def _stamp(self, path: str | None) -> Stamp:
        if path is None:
            return None
        try:
            found = os.stat(self.manifest.root / path, follow_symlinks=False)
        except (OSError, ValueError):
            return None
        return found.st_size, found.st_mtime_ns

    def _inputs(self, item: Item, number: int) -> tuple[dict[str, str], ...]:
        """Where each reference's bytes are, and their hash.

        Raises:
            MediaError: one cannot be read.
            TransientError: the network failed, again and again.
        """
        found = []
        for index, part in enumerate(item.references()):
            if "path" in part:
                place = {"path": part["path"]}
                _, data = read_input(self.manifest.root, place)
            else:
                data = self._fetch(part["url"]) if "url" in part else _decoded(part["data"])
                file = self.store.work / f"input-{number}-{index}"
                file.write_bytes(data)
                place = {"file": str(file), "name": _name(part)}
            found.append({**place, "sha256": hashlib.sha256(data).hexdigest()})
        return tuple(found)

    def _fetch(self, url: str) -> bytes:
        for attempt in range(1, FETCH_TRIES + 1):
            try:
                return self.manifest.urls.fetch(url)
            except TransientError:
                if attempt == FETCH_TRIES or self.stopped():
                    raise
                time.sleep(_BACK_OFF * 2 ** (attempt - 1))
        raise AssertionError("unreachable: the last try returns or raises")


def _decoded(data: str) -> bytes:
    decoded = base64.b64decode(data)
    if not decoded:
        raise MediaError("empty", "the data: the file is empty (0 bytes)")
    return decoded


def _name(part: Mapping[str, Any]) -> str:
    if "url" not in part:
        return "the data"
    return str(part["url"]).partition("?")[0].rstrip("/").rpartition("/")[2][:80] or "the URL"


def _without_data(item: Item) -> Item:
    """The item without bytes that are in a file by now: it goes to other processes."""
    if not any("data" in part for part in item.references()):
        return item
    turns = tuple(
        {
            **turn,
            "content": [
                {**part, "data": ""} if "data" in part else part for part in turn["content"]
            ],
        }
        for turn in item.turns
    )
    return replace(item, turns=turns)


def check_lines(manifest: Manifest, index: Index) -> tuple[int, list[str]]:
    """Read the whole manifest and find every mistake in it.

    Args:
        manifest: to read.
        index: is told every line.

    Returns:
        How many items the run will have, and the faults, "line 3: why", the first hundred.

    Raises:
        UsageError: it cannot be read as a whole, or holds nothing.
    """
    faults: list[str] = []
    lines = total = 0
    for line in manifest.lines():
        lines += 1
        fault = line.fault
        if line.item is not None:
            item = line.item
            total += manifest.takes(item.id)
            earlier = index.see(line.number, item.id, item.digest(), item.paths())
            if earlier is not None:
                same = (
                    "the id of" if earlier[0] == item.id else "an id that differs only in case from"
                )
                fault = f"{same} line {earlier[1]}"
        if fault and len(faults) < 100:
            faults.append(f"line {line.number}: {fault}")
    if not lines:
        what = "no media in it" if manifest.is_folder else "no lines in it"
        raise UsageError(f"{manifest.name}: there are {what}")
    return min(total, manifest.limit if manifest.limit is not None else total), faults
