"""Start runs in processes of their own, kill them and their workers, and look at what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

RUNNER: Final = Path(__file__).with_name("batch_runner.py")
PIPE_BYTES: Final = 2**20  # a run that is watched by its ledger must not wait for a reader
ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass
class Kills:
    """What a series of kills and resumes showed.

    Args:
        codes: exit codes of the runs, the last of which was left alone.
        before: finished items in the ledger before each run, and after the last.
        seconds: from a signal to the end, for signals that may be heeded.
    """

    codes: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@contextmanager
def started(**given: Any) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own; ended, if it has not, when the block is left."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{RUNNER.parent}"}
    with subprocess.Popen(
        [sys.executable, str(RUNNER), json.dumps({k: _plain(v) for k, v in given.items()})],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pipesize=PIPE_BYTES,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def finished_items(out: Path) -> int:
    """Whole lines of the ledger."""
    path = out / ".anyany" / "ledger.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_items(process: subprocess.Popen[str], out: Path, count: int) -> bool:
    """Wait until the ledger has so many; False if the run ends before."""
    while process.poll() is None:
        if finished_items(out) >= count:
            return True
        time.sleep(0.005)
    return False


def kill_and_resume(
    *, out: Path, total: int, times: int, kind: signal.Signals, seed: int, **given: Any
) -> Kills:
    """Send a signal at seeded random moments of the work, resume each time, then let it end."""
    draw = random.Random(seed)
    found = Kills()
    moments = sorted(draw.sample(range(1, total - 1), times))
    for moment in moments:
        found.before.append(finished_items(out))
        with started(out=out, **given) as process:
            assert process.stdout is not None
            process.stdout.readline()  # from here on it heeds signals
            if wait_for_items(process, out, moment):
                time.sleep(draw.random() * 0.05)
                sent = time.monotonic()
                process.send_signal(kind)
                _drain(process)
                found.seconds.append(time.monotonic() - sent)
            _drain(process)
            found.codes.append(process.wait())
    found.before.append(finished_items(out))
    with started(out=out, **given) as process:
        output = _drain(process)
        found.codes.append(process.wait())
        assert found.codes[-1] in (0, 3), output
    found.before.append(finished_items(out))
    return found


def children(pid: int) -> list[int]:
    """The worker processes of a run, as Linux tells them."""
    found = _processes()
    return [
        own for own, (parent, words) in found.items() if parent == pid and b"spawn_main" in words
    ]


def actors(pid: int) -> list[int]:
    """The processes of a run's own Ray cluster that run its function."""
    found = _processes()

    def descends(own: int) -> bool:
        while own in found and own != pid:
            own = found[own][0]
        return own == pid

    return [
        own
        for own, (_, words) in found.items()
        if words.startswith(b"ray::") and b"RayWorker" in words and descends(own)
    ]


def _processes() -> dict[int, tuple[int, bytes]]:
    """Every process's parent and command line."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                status = Path(f"/proc/{entry}/stat").read_text(encoding="ascii", errors="replace")
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            found[int(entry)] = (int(status.rpartition(")")[2].split()[1]), words)
    return found


def _drain(process: subprocess.Popen[str]) -> str:
    """Everything that it still says, read until it has ended."""
    assert process.stdout is not None
    return process.stdout.read() if not process.stdout.closed else ""


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
