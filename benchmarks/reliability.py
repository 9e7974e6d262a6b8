"""The long reliability checks of `anyany convert`: kills, full disks, scale, throughput.

    python benchmarks/reliability.py                      all, at full size (hours on two cores)
    python benchmarks/reliability.py --only scale         one of them
    python benchmarks/reliability.py --function paint     without a model: the runner alone
    python benchmarks/reliability.py --scale 0.1          a tenth of the items and kills

Prints one JSON object a check; docs/reliability.md has the last results. The fast version of each
is in tests/batch.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "batch")]

from batch_faults import PaintFactory, lines, numbered, tree, tries, write_manifest  # noqa: E402
from batch_kills import children, kill_and_resume, started, wait_for_items  # noqa: E402

from anyany.batch import (  # noqa: E402
    DryFactory,
    Factory,
    Run,
    RunOptions,
    Store,
    SystemFactory,
    open_manifest,
)
from anyany.batch.engines import LARGEST_WINDOW, resident_bytes  # noqa: E402
from anyany.batch.estimate import estimate  # noqa: E402
from anyany.batch.inspect import verify  # noqa: E402

COLORS: Final = ("red", "green", "blue", "yellow", "purple", "orange")
THINGS: Final = ("bell", "drum", "bird", "bee", "siren", "clock", "horn", "cloud")


@dataclass(frozen=True)
class Setting:
    """What a check works with.

    Args:
        folder: an empty one of its own.
        scale: of items and kills; 1 = those of the goals.
        pocket: real models with two steps, not the painting function.
        seconds: that the painting function takes an item.
    """

    folder: Path
    scale: float = 1.0
    pocket: bool = True
    seconds: float = 0.01

    def count(self, full: int) -> int:
        """A number at this scale."""
        return max(1, round(full * self.scale))

    def manifest(self, count: int) -> Path:
        """Requests that are all different."""
        records = (
            {"id": f"r{i:05d}", "text": f"draw a {COLORS[i % 6]} {THINGS[i // 6 % 8]}", "seed": i}
            for i in range(count)
        )
        return write_manifest(self.folder / "m.jsonl", records)

    def factory(self) -> Factory:
        """The same function that the runner builds."""
        if not self.pocket:
            return PaintFactory(str(self.folder), self.seconds)
        return SystemFactory(
            "pocket",
            str(self.folder),
            "cpu",
            threads=1,
            common={"max_new_tokens": 24},
            overrides={"num_inference_steps": 2},
        )

    def given(self, path: Path, name: str, **more: Any) -> dict[str, Any]:
        """Arguments of the runner."""
        own = {"seconds": self.seconds} if not self.pocket else {"system": True}
        return {"path": path, "out": self.folder / name, **own, **more}

    def expected(self, path: Path) -> dict[str, str]:
        """The tree of a run that nobody kills."""
        out = self.folder / "expected"
        Run(open_manifest(path), out, self.factory(), options=RunOptions(workers=1))()
        return tree(out)


Result = dict[str, Any]


def driver_kills(setting: Setting) -> Result:
    """kill -9 of the driver at seeded random moments."""
    total, times = setting.count(2000), setting.count(20)
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
    repeated = sum(tries(notes).values()) - total if not setting.pocket else None
    whole = _whole(setting.folder / "out", expected, total)
    return {
        "items": total,
        "kills": found.codes.count(-9),
        **whole,
        "repeated": repeated,
        "passed": _ok(whole) and (repeated or 0) <= times * 3 * LARGEST_WINDOW,
    }


def interrupts(setting: Setting) -> Result:
    """SIGINT and SIGTERM."""
    total, times = setting.count(2000), setting.count(10)
    path = setting.manifest(total)
    expected = setting.expected(path)
    result: Result = {"items": total, "passed": True}
    for kind in (signal.SIGINT, signal.SIGTERM):
        found = kill_and_resume(
            **setting.given(path, kind.name), total=total, times=times, kind=kind, seed=kind
        )
        whole = _whole(setting.folder / kind.name, expected, total)
        codes = found.codes[:-1]
        result[kind.name] = {
            **whole,
            "sent": times,
            "exit_codes": sorted(set(codes)),
            "slowest_seconds": round(max(found.seconds), 2),
        }
        result["passed"] &= _ok(whole) and set(codes) == {128 + kind} and max(found.seconds) < 10
    return result


def worker_kills(setting: Setting, engine: str = "local") -> Result:
    """kill -9 of workers while the run goes on."""
    total, times = setting.count(2000), setting.count(20)
    path = setting.manifest(total)
    expected = setting.expected(path)
    draw = random.Random(1)
    killed = 0
    out = setting.folder / "out"
    with started(**setting.given(path, "out", workers=2, engine=engine)) as process:
        for moment in sorted(draw.sample(range(1, total * 4 // 5), times)):
            if not wait_for_items(process, out, moment):
                break
            victims = children(process.pid) if engine == "local" else _actors()
            if victims:
                os.kill(draw.choice(victims), signal.SIGKILL)
                killed += 1
        assert process.stdout is not None
        process.stdout.read()
        code = process.wait()
    whole = _whole(out, expected, total)
    passed = _ok(whole) and code == 0
    return {"items": total, "kills": killed, "exit_code": code, **whole, "passed": passed}


def ray_kills(setting: Setting) -> Result:
    """kill -9 of Ray's actors."""
    return worker_kills(setting, "ray")


def corrupt(setting: Setting) -> Result:
    """500 corrupt and 1,500 good pictures."""
    from PIL import Image

    total = setting.count(2000)
    draw = random.Random(2)
    records = []
    for i in range(total):
        name = f"{i:05d}.png"
        picture = Image.new("RGB", (64, 64), tuple(draw.randrange(256) for _ in range(3)))
        picture.save(setting.folder / name)
        data = (setting.folder / name).read_bytes()
        if i % 4 == 0:
            spoilt = (b"broken", data[: draw.randrange(1, len(data) - 1)], b"", b"GIF89a" + data)
            (setting.folder / name).write_bytes(
                b"broken" if not setting.pocket else spoilt[i // 4 % 4]
            )
        records.append({"id": f"r{i:05d}", "images": [name], "outputs": ["text"]})
    path = write_manifest(setting.folder / "m.jsonl", records)
    with started(**setting.given(path, "out")) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        code = process.wait()
    done = len(lines(setting.folder / "out" / "results.jsonl"))
    errors = [line["error"] for line in lines(setting.folder / "out" / "errors.jsonl")]
    bad = -(-total // 4)
    return {
        "items": total,
        "outputs": done,
        "errors": len(errors),
        "classes": sorted({error["code"] for error in errors}),
        "exit_code": code,
        "tracebacks": output.count("Traceback"),
        "passed": (done, len(errors), code) == (total - bad, bad, 3) and "Traceback" not in output,
    }


def full_disk(setting: Setting) -> Result:
    """A limit on file sizes (RLIMIT_FSIZE) that falls at five points of the ledger's growth."""
    total = setting.count(200)
    path = setting.manifest(total)
    expected = setting.expected(path)
    codes = []
    out = setting.folder / "out"
    ledger = (setting.folder / "expected" / ".anyany" / "ledger.jsonl").stat().st_size
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        limit = int(ledger * share)
        command = [sys.executable, str(ROOT / "tests" / "batch" / "batch_runner.py")]
        text = json.dumps(
            {k: str(v) if isinstance(v, Path) else v for k, v in setting.given(path, "out").items()}
        )
        done = subprocess.run(
            [*command, text],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
            text=True,
            check=False,
        )
        codes.append(done.returncode)
    with started(**setting.given(path, "out")) as process:
        assert process.stdout is not None
        process.stdout.read()
        codes.append(process.wait())
    whole = _whole(out, expected, total)
    return {
        "items": total,
        "exit_codes": codes,
        **whole,
        "passed": _ok(whole) and codes == [4] * 5 + [0],
    }


def cut_ledger(setting: Setting) -> Result:
    """The ledger cut at random points, then resumed."""
    total, times = 60, setting.count(100)
    path = setting.manifest(total)
    options = RunOptions(workers=0)
    factory = PaintFactory(str(setting.folder))
    out = setting.folder / "out"
    Run(open_manifest(path), out, factory, options=options)()
    expected = tree(out)
    ledger = out / ".anyany" / "ledger.jsonl"
    whole = ledger.read_bytes()
    draw = random.Random(3)
    recovered = 0
    for _ in range(times):
        ledger.write_bytes(whole[: draw.randrange(len(whole))])
        Run(open_manifest(path), out, factory, options=options)()
        recovered += tree(out) == expected
    return {"items": total, "cuts": times, "recovered": recovered, "passed": recovered == times}


def scale(setting: Setting) -> Result:
    """100,000 lines with a function that computes nothing."""
    total = setting.count(100_000)
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
        wall, cpu = time.monotonic(), _cpu()
        summary = run()
        return time.monotonic() - wall, _cpu() - cpu, summary

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
        "passed": growth < 100 and cpu / total <= 1e-3 and scan_cpu < 5 and not left,
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


def throughput(setting: Setting) -> Result:
    """End to end, against the engine in memory on the same items; the model loaded in both."""
    from anyany.batch.functions import SystemFunction
    from anyany.batch.items import Task

    total = setting.count(200)
    path = setting.manifest(total)
    factory = SystemFactory("pocket", str(setting.folder), "cpu", threads=1)
    function = factory()
    assert isinstance(function, SystemFunction)
    items = [line.item for line in open_manifest(path).selected() if line.item is not None]
    tasks = [Task(item, "", item.seed or 0, 0) for item in items]
    list(function.answer([function.prepare(task) for task in tasks[:4]]))  # warm
    began = time.monotonic()
    replies = list(function.answer([function.prepare(task) for task in tasks]))
    memory = time.monotonic() - began
    run = Run(open_manifest(path), setting.folder / "out", factory, options=RunOptions(workers=1))
    summary = run()
    batch = summary.seconds - summary.load_seconds
    share = memory / batch
    return {
        "items": len(replies),
        "engine_seconds": round(memory, 2),
        "convert_seconds": round(batch, 2),
        "share": round(share, 3),
        "passed": share >= 0.97,
    }


def shards(setting: Setting) -> Result:
    """Shards 1 to 16 of 16: the union is the whole, the overlap nothing."""
    total = setting.count(2000)
    path = write_manifest(setting.folder / "m.jsonl", numbered(total))
    seen: list[str] = []
    for k in range(1, 17):
        manifest = open_manifest(path, shard=(k, 16))
        seen += [line.item.id for line in manifest.selected() if line.item is not None]
    whole = len(set(seen)) == total
    overlap = len(seen) - len(set(seen))
    return {
        "items": total,
        "union": len(set(seen)),
        "overlap": overlap,
        "passed": whole and not overlap,
    }


def estimates(setting: Setting) -> Result:
    """`--dry-run` against the truth on 200 items."""
    total = setting.count(200)
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


CHECKS: Final[Mapping[str, Callable[[Setting], Result]]] = {
    "driver_kills": driver_kills,
    "interrupts": interrupts,
    "worker_kills": worker_kills,
    "ray_kills": ray_kills,
    "corrupt": corrupt,
    "full_disk": full_disk,
    "cut_ledger": cut_ledger,
    "scale": scale,
    "throughput": throughput,
    "shards": shards,
    "estimates": estimates,
}


def run_check(name: str, *, scale: float = 1.0, pocket: bool = True) -> Result:
    """One check in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result = CHECKS[name](Setting(Path(folder), scale, pocket))
        seconds = round(time.monotonic() - began, 1)
    return {"check": name, **result, "seconds": seconds}


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; exit code 1 if a check fell short."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=CHECKS, action="append")
    parser.add_argument("--function", choices=("pocket", "paint"), default="pocket")
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args(argv)
    passed = True
    for name in given.only or CHECKS:
        result = run_check(name, scale=given.scale, pocket=given.function == "pocket")
        print(json.dumps(result), flush=True)
        passed &= bool(result["passed"])
    return 0 if passed else 1


def _whole(out: Path, expected: dict[str, str], total: int) -> Result:
    found = tree(out)
    done = [record["id"] for record in Store(out).records()]
    return {
        "lost": total - len(set(done)),
        "duplicated": len(done) - len(set(done)),
        "faults": len(verify(Store(out)).faults),
        "same_tree": found == expected,
    }


def _ok(whole: Mapping[str, Any]) -> bool:
    counts = (whole["lost"], whole["duplicated"], whole["faults"])
    return counts == (0, 0, 0) and bool(whole["same_tree"])


def _actors() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(b"ray::") and b"RayWorker" in words:
                found.append(int(entry))
    return found


def _cpu() -> float:
    """Seconds of this process and of those that it has ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


if __name__ == "__main__":
    sys.exit(main())
