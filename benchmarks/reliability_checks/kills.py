"""Kills and interrupts: the driver, workers, Ray actors; and the same bytes however it is run."""

from __future__ import annotations

import os
import random
import signal
import time

from batch_faults import tree, tries, write_manifest
from batch_kills import actors, children, kill_and_resume, started, wait_for_items

from anyany.batch.engines import LARGEST_WINDOW
from reliability_checks.setting import Result, Setting, is_whole, wholeness

AT_WORK = 2 * LARGEST_WINDOW  # items that a worker may have


def driver_kills(setting: Setting) -> Result:
    """kill -9 of the driver at seeded random moments."""
    total, times = setting.total(2000), setting.count(20)
    path = setting.manifest(total)
    expected = setting.expected(path)
    notes = setting.folder / "notes"
    notes.mkdir()
    found = kill_and_resume(
        **setting.given(path, "out", notes=notes),
        total=total,
        times=times,
        kind=signal.SIGKILL,
        seed=0,
    )
    repeated = sum(tries(notes).values()) - total
    whole = wholeness(setting.folder / "out", expected, total)
    return {
        "items": total,
        "kills": found.codes.count(-9),
        **whole,
        "repeated": repeated,
        "passed": is_whole(whole) and repeated <= times * AT_WORK,
    }


def interrupts(setting: Setting) -> Result:
    """SIGINT and SIGTERM."""
    total, times = setting.total(2000), setting.count(10)
    path = setting.manifest(total)
    expected = setting.expected(path)
    result: Result = {"items": total, "passed": True}
    for kind in (signal.SIGINT, signal.SIGTERM):
        found = kill_and_resume(
            **setting.given(path, kind.name), total=total, times=times, kind=kind, seed=kind
        )
        whole = wholeness(setting.folder / kind.name, expected, total)
        codes = found.codes[:-1]
        result[kind.name] = {
            **whole,
            "sent": times,
            "exit_codes": sorted(set(codes)),
            "slowest_seconds": round(max(found.seconds), 2),
        }
        result["passed"] &= (
            is_whole(whole) and set(codes) == {128 + kind} and max(found.seconds) < 10
        )
    return result


def worker_kills(setting: Setting, engine: str = "local") -> Result:
    """kill -9 of workers while the run goes on."""
    total, times = setting.total(2000), setting.count(20)
    path = setting.manifest(total)
    expected = setting.expected(path)
    draw = random.Random(1)
    killed = 0
    out = setting.folder / "out"
    with started(**setting.given(path, "out", workers=2, engine=engine)) as process:
        for moment in sorted(draw.sample(range(1, total * 4 // 5), times)):
            if not wait_for_items(process, out, moment):
                break
            victims: list[int] = []
            while not victims and process.poll() is None:  # the last one's successor may be to come
                time.sleep(0.02)
                victims = children(process.pid) if engine == "local" else actors(process.pid)
            if victims:
                os.kill(draw.choice(victims), signal.SIGKILL)
                killed += 1
        assert process.stdout is not None
        process.stdout.read()
        code = process.wait()
    whole = wholeness(out, expected, total)
    passed = is_whole(whole) and code == 0 and killed == times
    return {"items": total, "kills": killed, "exit_code": code, **whole, "passed": passed}


def ray_kills(setting: Setting) -> Result:
    """kill -9 of Ray's actors."""
    return worker_kills(setting, "ray")


def same_bytes(setting: Setting) -> Result:
    """Workers, order, shards and Ray, at one thread and at two: one tree for each of the two."""
    result: Result = {"passed": True}
    for threads in (1, 2) if setting.pocket else (1,):
        own = Setting(setting.folder / str(threads), setting.scale, setting.pocket, threads=threads)
        own.folder.mkdir()
        total = setting.total(48)
        path = own.manifest(total)
        records = own.records(total)
        random.Random(4).shuffle(records)
        shuffled = write_manifest(own.folder / "shuffled.jsonl", records)
        _finish(own.given(path, "one"))
        _finish(own.given(shuffled, "two", workers=2))
        for k in (2, 1):
            _finish(own.given(path, "shards", shard=(k, 2)))
        _finish(own.given(path, "ray", workers=2, engine="ray"))
        expected = tree(own.folder / "one")
        alike = {name: tree(own.folder / name) == expected for name in ("two", "shards", "ray")}
        result[f"threads_{threads}"] = {"items": total, "files": len(expected), "same": alike}
        result["passed"] &= all(alike.values())
    return result


def _finish(given: Result) -> None:
    """A run to its end."""
    with started(**given) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == 0, output
