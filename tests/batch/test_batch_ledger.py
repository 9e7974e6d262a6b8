"""The ledger, the index and the lock: what survives a torn write, a full disk and a dead owner."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anyany.batch.index import Index, Known
from anyany.batch.ledger import Ledger, read_at, read_ledger
from anyany.batch.lock import Lock, owner_of, running
from anyany.errors import RefusedError, ResourceError


def record(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "key": "k", "status": "done", "note": "ü" * number, **more}


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.jsonl")
    places = ledger.append([record(0), record(1)]) + ledger.append([]) + ledger.append([record(2)])
    assert ledger.due(now=True)
    ledger.sync()
    assert not ledger.due(now=True)
    ledger.close()
    found = list(read_ledger(tmp_path / "l.jsonl"))
    assert [entry for _, entry in found] == [record(0), record(1), record(2)]
    assert [place for place, _ in found] == places
    with open(tmp_path / "l.jsonl", "rb") as file:
        assert read_at(file, places[1]) == record(1)


def test_a_ledger_cut_anywhere_recovers(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path)
    ends = []
    for number in range(40):
        ledger.append([record(number)])
        ends.append(path.stat().st_size)
    ledger.close()
    whole = path.read_bytes()
    draw = random.Random(0)
    for cut in [
        0,
        1,
        len(whole) - 1,
        len(whole),
        *(draw.randrange(len(whole)) for _ in range(100)),
    ]:
        path.write_bytes(whole[:cut])
        again = Ledger(path)
        kept = sum(end <= cut for end in ends)
        again.append([record(99)])
        again.close()
        found = [entry["id"] for _, entry in read_ledger(path)]
        assert found == [f"r{number}" for number in range(kept)] + ["r99"]


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path)
    ledger.append([record(1)])
    ledger.close()
    with open(path, "ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"id": "x"}\n')
    assert [entry["id"] for _, entry in read_ledger(path)] == ["r1"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path)
    ledger.append([record(1)])
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 30:
            return write(file, data[:30])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceError, match="make room and run the same again"):
        ledger.append([record(2), record(3)])
    monkeypatch.undo()
    ledger.append([record(4)])
    ledger.close()
    assert [entry["id"] for _, entry in read_ledger(path)] == ["r1", "r4"]


def known(place: int, time: float = 0.0, key: str = "k") -> Known:
    return Known("done", "d", "s", key, 0, place, "", "[]", time)


def test_the_index_finds_by_id_by_content_and_in_order(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    assert index.see(1, "a", "digest", "") is None
    assert index.see(2, "A", "digest", "") == ("a", 1)
    assert index.see(3, "z", "digest", "") is None
    for place, name in enumerate(["b", "a", "é", "B"]):
        index.put(name, known(place, key=f"k{place}"))
    assert [row[0] for row in index.ordered("done")] == sorted(["b", "a", "é", "B"])
    assert index.get("b") == known(0, key="k0")
    assert index.get("c") is None
    assert list(index.lines()) == [
        (1, "a", "digest", "", known(1, key="k1")),
        (3, "z", "digest", "", None),
    ]
    assert index.holder("k1") == "a"
    assert index.holder("k9") is None
    index.put("b", known(9, time=5.0))
    index.put("b", known(8, time=4.0))  # an older line of another ledger
    found = index.get("b")
    assert found is not None
    assert found.place == 9
    assert index.counts() == {"done": 4, "failed": 0}
    index.follow("k", 2, "second")
    index.follow("k", 1, "first")
    assert index.release("k") == ["first", "second"]
    assert index.release("k") == []
    index.close()
    assert not (tmp_path / "i.sqlite").exists()


def test_the_index_pages_through_many(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    for number in range(2500):
        index.put(f"{number:05d}", known(number))
    assert [row[2] for row in index.ordered("done")] == list(range(2500))
    index.close()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    for shard in (None, (1, 2)):
        with pytest.raises(RefusedError, match=f"process {os.getpid()}"):
            Lock(tmp_path, shard)
    assert running(tmp_path) is not None
    first.release()
    assert running(tmp_path) is None
    shards = [Lock(tmp_path, (k, 3)) for k in (1, 2)]
    for other in ((1, 3), (1, 2), None):
        with pytest.raises(RefusedError):
            Lock(tmp_path, other)
    for lock in shards:
        lock.release()
    Lock(tmp_path).release()


def test_a_dead_owner_is_taken_over_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, os, pathlib; from anyany.batch.lock import Lock\n"
        f"lock = Lock(pathlib.Path({str(tmp_path)!r})); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(RefusedError, match=f"process {owner.pid}"):
            Lock(tmp_path)
        found = owner_of(tmp_path / "whole")
        assert found is not None
        assert found["pid"] == owner.pid
        owner.kill()
        owner.wait()
        Lock(tmp_path).release()
