"""Speed and memory of anyany against a plain per-request flow, all in one run.

    python benchmarks/run.py --quick                 # minutes: does it work?
    python benchmarks/run.py -o runs/bench --write-docs

Every side runs in a process of its own, the sides take turns, and figures are medians over the
rounds. Ratios of one run mean something; seconds of different machines do not. This process loads
no torch, so that a child's memory is the child's own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from tables import markdown

from anyany.media import write_json
from anyany.pocket.figures import replace_between

HERE: Final = Path(__file__).resolve().parent
DOCS: Final = HERE.parent / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- benchmarks:begin -->"
END: Final = "<!-- benchmarks:end -->"
PARTS: Final = ("mix", "accuracy", "overhead", "reply", "invariance", "startup", "profile")
LIBRARIES: Final = ("anyany", "torch", "diffusers", "transformers", "numpy")
CLI: Final = "import sys; from anyany.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        per_kind: requests of each kind in the mix.
        rounds: of the interleaved sides.
        repeats: of short measurements.
        steps: of the equal-steps comparison.
        accuracy: pictures a preset.
    """

    per_kind: int = 16
    rounds: int = 3
    repeats: int = 15
    steps: int = 50
    accuracy: int = 500


QUICK: Final = Size(per_kind=1, rounds=1, repeats=1, steps=4, accuracy=8)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write results.json (and the docs, if asked)."""
    arguments = _parse(argv)
    size = QUICK if arguments.quick else Size()
    results: dict[str, Any] = {
        "format": 1,
        "quick": arguments.quick,
        "machine": _machine(),
        "threads": arguments.threads,
        "guidance_scale": arguments.guidance,
        "size": vars(size),
    }
    measures = {
        "mix": measure_mix,
        "accuracy": measure_accuracy,
        "overhead": measure_overhead,
        "reply": measure_reply,
        "invariance": measure_invariance,
        "startup": measure_startup,
        "profile": measure_profile,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in arguments.only or PARTS:
        _note(f"{part} ...")
        began = time.perf_counter()
        results[part] = measures[part](arguments, size)
        _note(f"{part}: {time.perf_counter() - began:.0f} s")
        write_json(results, arguments.out / "results.json")
    text = markdown(results)
    print(text)
    if arguments.write_docs:
        replace_between(DOCS, text, begin=BEGIN, end=END)
    return 0


def measure_mix(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """The fixed mix: the reference, and our two modes at equal steps and at the shipped preset."""
    equal = ["--steps", str(size.steps), "--guidance", str(arguments.guidance)]
    sides = {
        "reference": ["reference", *equal],
        "invariant": ["invariant", *equal],
        "throughput": ["throughput", *equal],
        "invariant, shipped preset": ["invariant", "--shipped"],
        "throughput, shipped preset": ["throughput", "--shipped"],
    }
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: Path(folder) / f"{index}.npy" for index, name in enumerate(sides)}
        for number in range(size.rounds):
            for name, options in sides.items():
                _note(f"  round {number + 1} of {size.rounds}: {name}")
                rounds[name].append(
                    _child(
                        "side.py",
                        arguments,
                        *options,
                        "--per-kind",
                        str(size.per_kind),
                        "--pictures",
                        str(kept[name]),
                    )
                )
        agreement = _agreement(rounds, kept)
    return {"rounds": _without_ids(rounds), "agreement": agreement}


def measure_accuracy(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """The shipped preset less the reference preset, held-out scenes."""
    return _child("accuracy.py", arguments, "--n", str(size.accuracy))


def measure_overhead(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """`generate` for one picture over the bare loop."""
    return _child("overhead.py", arguments, "--repeats", str(size.repeats))


def measure_reply(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """One reply with every medium."""
    return _child("reply.py", arguments, "--repeats", str(min(size.repeats, 5)))


def measure_invariance(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Hashes in several contexts, and the mode's cost."""
    batch = str(4 * min(size.per_kind, 4))
    return _child("invariance.py", arguments, "--repeats", str(size.rounds), "--batch", batch)


def measure_profile(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Seconds inside each network."""
    return _child("profile_mix.py", arguments, "--per-kind", str(size.per_kind))


def measure_startup(arguments: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Seconds from the start of a process to its end; the file cache is warm after the first."""
    python = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as folder:
        drawing = [
            "generate",
            "draw a small red bell on the left",
            "--to",
            "text,image",
            "--seed",
            "7",
            "--model",
            arguments.model,
            "--threads",
            str(arguments.threads),
            "-o",
            folder,
            "-q",
        ]
        commands = {
            "python -c pass": [*python, "pass"],
            "import anyany": [*python, "import anyany"],
            "anyany --help": [*python, CLI, "--help"],
            "import torch": [*python, "import torch"],
            "anyany generate, to a saved picture": [*python, CLI, *drawing],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(min(size.repeats, 5)):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - began)
        if not (Path(folder) / "image_0.png").is_file():
            raise RuntimeError("expected a saved picture from anyany generate")
    return {name: {"first": values[0], "runs": values} for name, values in seconds.items()}


def _agreement(rounds: dict[str, list[dict[str, Any]]], kept: dict[str, Path]) -> dict[str, Any]:
    """That both sides did the same work: replies token by token, pictures level by level."""
    theirs = rounds["reference"][0]["token_ids"]
    pictures = {name: np.load(path).astype(int) for name, path in kept.items()}
    found: dict[str, Any] = {"replies": len(theirs), "pictures": len(pictures["reference"])}
    for name in ("invariant", "throughput"):
        ours = rounds[name][0]["token_ids"]
        levels = np.abs(pictures[name] - pictures["reference"]).max(axis=(1, 2, 3))
        found[name] = {
            "same_replies": sum(a == b for a, b in zip(ours, theirs, strict=True)),
            "pictures_within_2_levels": int((levels <= 2).sum()),
        }
    return found


def _without_ids(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{k: v for k, v in one.items() if k != "token_ids"} for one in runs]
        for name, runs in rounds.items()
    }


def _child(script: str, arguments: argparse.Namespace, *options: str) -> dict[str, Any]:
    command = [
        sys.executable,
        str(HERE / "measures" / script),
        *options,
        "--model",
        arguments.model,
        "--threads",
        str(arguments.threads),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report


def _machine() -> dict[str, Any]:
    found = {"platform": platform.platform(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that is not installed
            found[name] = "checkout"
    return {**found, "cpu": _cpu_model(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work?")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeat")
    parser.add_argument("--model", default="pocket", help="a system of the pocket world")
    parser.add_argument("--threads", type=int, default=2, help="of torch in every child")
    parser.add_argument("--guidance", type=float, default=7.5, help="of the equal-steps comparison")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--write-docs", action="store_true", help=f"into {DOCS.name}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
