"""What every check works with, and what "whole" means of a run's folder."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from batch_faults import PaintFactory, tree, write_manifest

from anyany.batch import (
    Factory,
    Run,
    RunOptions,
    Store,
    SystemFactory,
    open_manifest,
)
from anyany.batch.inspect import verify

ROOT: Final = Path(__file__).resolve().parents[2]
COLORS: Final = ("red", "green", "blue", "yellow", "purple", "orange")
THINGS: Final = ("bell", "drum", "bird", "bee", "siren", "clock", "horn", "cloud")

Result: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What a check works with.

    Args:
        folder: an empty one of its own.
        scale: of items and kills; 1 = those of the goals.
        pocket: real models with two steps, not the painting function.
        items: instead of those of the goals.
        threads: of the real models.
        seconds: that the painting function takes an item.
    """

    folder: Path
    scale: float = 1.0
    pocket: bool = True
    items: int | None = None
    threads: int = 1
    seconds: float = 0.01

    def count(self, full: int) -> int:
        """How often something is done, at this scale."""
        return max(1, round(full * self.scale))

    def total(self, full: int) -> int:
        """How many items there are."""
        return self.count(full) if self.items is None else self.items

    def records(self, count: int) -> list[Result]:
        """Requests that are all different."""
        return [
            {"id": f"r{i:05d}", "text": f"draw a {COLORS[i % 6]} {THINGS[i // 6 % 8]}", "seed": i}
            for i in range(count)
        ]

    def manifest(self, count: int) -> Path:
        """A file of so many requests."""
        return write_manifest(self.folder / "m.jsonl", self.records(count))

    def factory(self) -> Factory:
        """The same function that the runner builds."""
        if not self.pocket:
            return PaintFactory(str(self.folder), self.seconds)
        return SystemFactory(
            "pocket",
            str(self.folder),
            "cpu",
            threads=self.threads,
            common={"max_new_tokens": 24},
            overrides={"num_inference_steps": 2},
        )

    def given(self, path: Path, name: str, **more: Any) -> Result:
        """Arguments of the runner."""
        own = (
            {"system": True, "threads": self.threads} if self.pocket else {"seconds": self.seconds}
        )
        return {"path": path, "out": self.folder / name, **own, **more}

    def expected(self, path: Path) -> dict[str, str]:
        """The tree of a run that nobody kills."""
        out = self.folder / "expected"
        Run(open_manifest(path), out, self.factory(), options=RunOptions(workers=1))()
        return tree(out)


def wholeness(out: Path, expected: dict[str, str], total: int) -> Result:
    """What was lost, done twice or torn, against a tree that nobody interrupted."""
    found = tree(out)
    done = [record["id"] for record in Store(out).records()]
    return {
        "lost": total - len(set(done)),
        "duplicated": len(done) - len(set(done)),
        "faults": len(verify(Store(out)).faults),
        "same_tree": found == expected,
    }


def is_whole(found: Mapping[str, Any]) -> bool:
    """Whether `wholeness` found nothing."""
    counts = (found["lost"], found["duplicated"], found["faults"])
    return counts == (0, 0, 0) and bool(found["same_tree"])


def plain(given: Mapping[str, Any]) -> str:
    """Arguments of the runner as JSON."""
    return json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in given.items()})


def cpu_seconds() -> float:
    """Of this process and of those that it has ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def machine() -> Result:
    """Cores, and how busy they are."""
    return {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
