"""Inputs, disks and ledgers that are broken; and shards, which must not overlap."""

from __future__ import annotations

import functools
import os
import random
import resource
import subprocess
import sys

from batch_faults import PaintFactory, lines, numbered, tree, write_manifest
from batch_kills import started

from anyany.batch import Run, RunOptions, open_manifest
from reliability_checks.setting import (
    ROOT,
    Result,
    Setting,
    is_whole,
    plain,
    wholeness,
)


def corrupt(setting: Setting) -> Result:
    """500 corrupt and 1,500 good pictures."""
    from PIL import Image

    total = setting.total(2000)
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
    total = setting.total(200)
    path = setting.manifest(total)
    expected = setting.expected(path)
    codes = []
    out = setting.folder / "out"
    ledger = (setting.folder / "expected" / ".anyany" / "ledger.jsonl").stat().st_size
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        limit = int(ledger * share)
        command = [sys.executable, str(ROOT / "tests" / "batch" / "batch_runner.py")]
        text = plain(setting.given(path, "out"))
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
    whole = wholeness(out, expected, total)
    return {
        "items": total,
        "exit_codes": codes,
        **whole,
        "passed": is_whole(whole) and codes == [4] * 5 + [0],
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


def shards(setting: Setting) -> Result:
    """Shards 1 to 16 of 16: the union is the whole, the overlap nothing."""
    total = setting.total(2000)
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
