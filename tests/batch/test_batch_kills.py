"""Kills: whatever is killed and whenever, the same command ends with the same tree.

A fast version of benchmarks/reliability.py, which does the same with more items and more kills.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from batch_faults import PaintFactory, lines, numbered, tree, tries, write_manifest
from batch_kills import children, finished_items, kill_and_resume, started, wait_for_items

from anyany.batch import Run, RunOptions, Store, open_manifest
from anyany.batch.inspect import verify

TOTAL = 120


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "m.jsonl", numbered(TOTAL))


def expected_tree(path: Path) -> dict[str, str]:
    """What a run that nobody kills makes."""
    out = path.parent / "expected"
    Run(open_manifest(path), out, PaintFactory(str(path.parent)), options=RunOptions(workers=0))()
    return tree(out)


def is_whole(out: Path, expected: dict[str, str]) -> None:
    """Nothing lost, nothing twice, nothing torn."""
    assert tree(out) == expected
    assert verify(Store(out)).faults == []
    done = [record["id"] for record in Store(out).records()]
    assert len(done) == len(set(done)) == TOTAL


def test_kill_9_of_the_driver(manifest: Path, tmp_path: Path) -> None:
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()
    found = kill_and_resume(
        path=manifest,
        out=out,
        total=TOTAL,
        times=3,
        kind=signal.SIGKILL,
        seed=0,
        seconds=0.004,
        notes=notes,
    )
    assert found.codes == [-signal.SIGKILL] * 3 + [0]
    is_whole(out, expected_tree(manifest))
    repeated = sum(tries(notes).values()) - TOTAL
    assert repeated <= 3 * (2 * 64 + 64)  # at most what was at work, three times
    assert sorted(os.listdir(out / ".anyany")) == [
        "ledger.jsonl",
        "lists.json",
        "locks",
        "run.json",
        "workers.log",
    ]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_are_graceful(kind: signal.Signals, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = kill_and_resume(
        path=manifest, out=out, total=TOTAL, times=1, kind=kind, seed=1, seconds=0.01
    )
    assert found.codes == [128 + kind, 0]
    assert max(found.seconds) < 10
    assert found.before[1] > 0
    is_whole(out, expected_tree(manifest))


def test_an_interrupt_does_not_wait_for_slow_items(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", numbered(4))
    with started(path=path, out=tmp_path / "out", seconds=60.0) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"progress"' in line and children(process.pid):
                break
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait() == 143
    assert time.monotonic() - sent < 10
    assert finished_items(tmp_path / "out") == 0


def test_kill_9_of_workers(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    draw = random.Random(2)
    killed = 0
    with started(path=manifest, out=out, workers=2, seconds=0.02) as process:
        for moment in sorted(draw.sample(range(1, TOTAL - 40), 3)):
            assert wait_for_items(process, out, moment)
            victims = children(process.pid)
            if victims:
                os.kill(draw.choice(victims), signal.SIGKILL)
                killed += 1
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == 0, output
    assert killed >= 2
    assert output.count('"worker_died"') >= 2
    is_whole(out, expected_tree(manifest))


def test_workers_end_with_their_driver(manifest: Path, tmp_path: Path) -> None:
    with started(path=manifest, out=tmp_path / "out", workers=2, seconds=0.5) as process:
        assert wait_for_items(process, tmp_path / "out", 1)
        workers = children(process.pid)
        assert len(workers) == 2
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline, "workers outlive their driver"
            time.sleep(0.05)


def test_corrupt_inputs_among_good_ones(tmp_path: Path) -> None:
    """B4, small: every corrupt input is one error record with class and reason."""
    records = []
    for i in range(40):
        name = f"{i:02d}.png"
        (tmp_path / name).write_bytes(b"broken" if i % 4 == 0 else b"good %d" % i)
        records.append({"id": f"r{i:02d}", "images": [name]})
    path = write_manifest(tmp_path / "m.jsonl", records)
    with started(path=path, out=tmp_path / "out") as process:
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == 3
    assert "Traceback" not in output
    failed = lines(tmp_path / "out" / "errors.jsonl")
    assert {line["error"]["code"] for line in failed} == {"corrupt"}
    assert {line["error"]["type"] for line in failed} == {"MediaError"}
    assert (len(failed), len(lines(tmp_path / "out" / "results.jsonl"))) == (10, 30)
