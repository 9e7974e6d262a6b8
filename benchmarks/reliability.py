"""The long reliability checks of `anyany convert`: kills, full disks, scale, throughput.

    python benchmarks/reliability.py                      all, at full size (hours on two cores)
    python benchmarks/reliability.py --only scale         one of them
    python benchmarks/reliability.py --function paint     without a model: the runner alone
    python benchmarks/reliability.py --scale 0.1          a tenth of the items and kills
    python benchmarks/reliability.py --items 60           so many items, and all the kills

Prints one JSON object a check; docs/reliability.md has the last results. The fast version of each
is in tests/batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reliability_checks import faults, kills, speed
from reliability_checks.setting import Result, Setting

CHECKS: Final[Mapping[str, Callable[[Setting], Result]]] = {
    "driver_kills": kills.driver_kills,
    "interrupts": kills.interrupts,
    "worker_kills": kills.worker_kills,
    "ray_kills": kills.ray_kills,
    "same_bytes": kills.same_bytes,
    "corrupt": faults.corrupt,
    "full_disk": faults.full_disk,
    "cut_ledger": faults.cut_ledger,
    "scale": speed.scale,
    "throughput": speed.throughput,
    "shards": faults.shards,
    "estimates": speed.estimates,
}


def run_check(
    name: str,
    *,
    scale: float = 1.0,
    pocket: bool = True,
    items: int | None = None,
    threads: int = 1,
) -> Result:
    """One check in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result = CHECKS[name](Setting(Path(folder), scale, pocket, items, threads))
        seconds = round(time.monotonic() - began, 1)
    return {"check": name, **result, "seconds": seconds}


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; exit code 1 if a check fell short."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=CHECKS, action="append")
    parser.add_argument("--function", choices=("pocket", "paint"), default="pocket")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--items", type=int)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    passed = True
    for name in given.only or CHECKS:
        result = run_check(
            name,
            scale=given.scale,
            pocket=given.function == "pocket",
            items=given.items,
            threads=given.threads,
        )
        print(json.dumps(result), flush=True)
        passed &= bool(result["passed"])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
