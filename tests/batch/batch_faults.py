"""Functions that misbehave on purpose, told by an item's own words, and what tests of runs share.

Importable from other processes: workers are spawned with this folder on their path.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyany.batch import Factory, Function
from anyany.batch.items import Task
from anyany.batch.names import read_below
from anyany.errors import AnyAnyError, MediaError, ResourceError
from anyany.messages import ImagePart, Reply, TextPart


@dataclass(frozen=True)
class PaintFactory:
    """Builds a function that paints noise of the seed, and does what its words say.

    Args:
        root: of the tasks' paths.
        seconds: that an item takes.
        notes: a folder where every try leaves a file.
        name: of the model.
        broken: the function cannot be built.
    """

    root: str = ""
    seconds: float = 0.0
    notes: str = ""
    name: str = "paint"
    broken: bool = False

    def __call__(self) -> Function:
        if self.broken:
            raise ResourceError("there is no room for the model")
        return PaintFunction(self)


class PaintFunction:
    """See PaintFactory."""

    def __init__(self, factory: PaintFactory) -> None:
        self.factory = factory

    def describe(self) -> dict[str, Any]:
        return {"name": self.factory.name, "outputs": ["text", "image"]}

    def prepare(self, task: Task) -> Any:
        for place in task.inputs:
            if "path" in place:
                data = read_below(Path(self.factory.root), place["path"])
                if data.startswith(b"broken"):
                    raise MediaError("corrupt", f"{place['path']}: the file is damaged")
        return task

    def answer(self, prepared: Sequence[Any]) -> Iterator[Reply | AnyAnyError]:
        for task in prepared:
            yield self._one(task)

    def _one(self, task: Task) -> Reply | AnyAnyError:
        words = [p["text"] for p in task.item.turns[-1]["content"] if p["type"] == "text"]
        text = " ".join(words)
        time.sleep(self.factory.seconds)
        tries = self._note(task)
        if "abort" in text:
            os.abort()
        if "sigkill" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "bug" in text:
            raise RuntimeError("a bug with /secret/path")
        if "oom" in text:
            return ResourceError("out of memory in decode.image: lower micro_batch")
        if "memory once" in text and tries < 2:
            raise MemoryError
        noise = np.random.default_rng(task.seed).integers(0, 256, (8, 8, 3), np.uint8)
        parts = (TextPart(f"{text}!"), ImagePart(Image.fromarray(noise)))
        return Reply(parts, raw_text=text, seed=task.seed, timings={"total": self.factory.seconds})

    def _note(self, task: Task) -> int:
        """Leave a file for this try; returns how many there are."""
        if not self.factory.notes:
            return 0
        folder = Path(self.factory.notes)
        (folder / f"{task.item.id}.{time.monotonic_ns()}.{os.getpid()}").touch()
        return len(list(folder.glob(f"{task.item.id}.*")))


@dataclass(frozen=True)
class NotedFactory:
    """Another factory's function, which leaves a file for every answer.

    Args:
        factory: the other.
        notes: a folder.
    """

    factory: Factory
    notes: str

    def __call__(self) -> Function:
        return NotedFunction(self.factory(), Path(self.notes))


class NotedFunction:
    """See NotedFactory."""

    def __init__(self, function: Function, notes: Path) -> None:
        self.function = function
        self.notes = notes

    def describe(self) -> dict[str, Any]:
        return self.function.describe()

    def prepare(self, task: Task) -> Any:
        return task, self.function.prepare(task)

    def answer(self, prepared: Sequence[Any]) -> Iterator[Reply | AnyAnyError]:
        answers = self.function.answer([one for _, one in prepared])
        for (task, _), answer in zip(prepared, answers, strict=True):
            (self.notes / f"{task.item.id}.{time.monotonic_ns()}.{os.getpid()}").touch()
            yield answer


def tries(notes: Path) -> dict[str, int]:
    """How often each item was tried."""
    found: dict[str, int] = {}
    for path in notes.iterdir():
        name = path.name.split(".")[0]
        found[name] = found.get(name, 0) + 1
    return found


def write_manifest(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """A JSONL of records."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def numbered(count: int, **more: Any) -> Iterator[dict[str, Any]]:
    """Records of different words."""
    for i in range(count):
        yield {"id": f"r{i:05d}", "text": f"number {i}", **more}


def tree(out: Path) -> dict[str, str]:
    """A run's files by path: what must not depend on how it was carried out."""
    found = {}
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out)
        if path.is_file() and relative.parts[0] not in (".anyany", "report.html"):
            found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    """A JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
