"""What carries out items: a function that a factory builds anew in every worker.

The system's function is the one that users run; `dry` computes nothing and is for measuring the
runner itself. A factory is a small picklable value, for it travels to other processes.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from anyany.batch.items import Task
from anyany.batch.names import read_below, shown
from anyany.errors import AnyAnyError, MediaError
from anyany.messages import (
    AudioPart,
    ImagePart,
    Message,
    Part,
    Reply,
    TextPart,
    VideoPart,
)
from anyany.residency import ResidencyKind


class Function(Protocol):
    """Answers tasks; lives in one worker."""

    def describe(self) -> dict[str, Any]:
        """What of it decides bytes, as plain JSON; "name" and "outputs" are always there."""

    def prepare(self, task: Task) -> Any:
        """Read a task's media; may run beside `answer`. Raises AnyAnyError if it cannot."""

    def answer(self, prepared: Sequence[Any]) -> Iterable[Reply | AnyAnyError]:
        """A reply, or the error for which it alone failed, per prepared task, in order."""


class Factory(Protocol):
    """Builds a function in a worker."""

    def __call__(self) -> Function:
        """The function, its model loaded. Raises AnyAnyError if it cannot."""


@dataclass(frozen=True)
class SystemFactory:
    """Loads an AnyToAny and answers with it.

    Args:
        source: as `AnyToAny.from_pretrained` takes it; likewise device, dtype and threads.
        root: of the tasks' relative paths.
        device: where to run.
        dtype: of the weights.
        threads: of torch on the CPU.
        common: options of `AnyToAny.generate` for every task that does not give its own.
        overrides: of denoising, for every medium that a task may make.
        residency: as `AnyToAny.from_pretrained` takes it.
    """

    source: str
    root: str
    device: str = "auto"
    dtype: str | None = None
    threads: int = 2
    common: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    residency: ResidencyKind = "resident"

    def __call__(self) -> Function:
        """Load the system."""
        from transformers.utils import logging as transformers_logging

        from anyany.system import AnyToAny

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        system = AnyToAny.from_pretrained(
            self.source,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            residency=self.residency,
        )
        return SystemFunction(system, Path(self.root), self.common, self.overrides)


class SystemFunction:
    """Answers with a loaded system.

    Args:
        system: an AnyToAny.
        root: of the tasks' relative paths.
        common: see SystemFactory, likewise `overrides`.
        overrides: of denoising.
    """

    def __init__(
        self,
        system: Any,
        root: Path,
        common: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.system = system
        self.root = root
        self.common = dict(common or {})
        self.overrides = dict(overrides or {})

    def describe(self) -> dict[str, Any]:
        """Model, weights, configuration, device, threads and micro-batches."""
        import torch

        from anyany.records import config_sha256

        system, settings = self.system, self.system.settings
        return {
            "name": system.config.name,
            "model_sha256": system.model_sha256,
            "config_sha256": config_sha256(system.config),
            "device": system.device.type,
            "dtype": str(system.language.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "rows": settings.language.rows,
            "max_spans": settings.language.max_spans,
            "batch_invariant": settings.batch_invariant,
            "micro_batch": {
                modality: settings.micro_batch or decoder.micro_batch
                for modality, decoder in system.decoders.items()
            },
            "outputs": ["text", *system.decoders],
        }

    def prepare(self, task: Task) -> Any:
        """The task as a Request, its media read and found to be those that were hashed."""
        item = task.item
        messages = read_messages(task, self._read)
        options = {**self.common, **{k: v for k, v in item.options.items() if k != "decoding"}}
        wanted = [m for m in self.system.decoders if item.outputs is None or m in item.outputs]
        decoding: dict[str, Any] = dict(item.options.get("decoding", {}))
        if self.overrides:
            decoding = {
                **decoding,
                **{m: {**self.overrides, **decoding.get(m, {})} for m in wanted},
            }
        return self.system.request(
            messages, outputs=item.outputs, seed=task.seed, **options, **decoding
        )

    def answer(self, prepared: Sequence[Any]) -> Iterator[Reply | AnyAnyError]:
        """All of them through the engine together."""
        answers: Iterator[Reply | AnyAnyError] = self.system.generate_batch(
            prepared, errors="return"
        )
        return answers

    def _read(self, kind: str, place: Mapping[str, str]) -> Part:
        name, data = read_input(self.root, place)
        if hashlib.sha256(data).hexdigest() != place["sha256"]:
            raise MediaError(
                "corrupt", f"{shown(name)}: the file changed while the run was at work"
            )
        try:
            if kind == "image":
                return ImagePart.read(data)
            if kind == "video":
                return VideoPart.read(data)
            return AudioPart.read(data) if kind == "audio" else read_part_of_bytes(data)
        except MediaError as error:
            told = str(error).removeprefix("the given bytes: ")
            raise MediaError(error.code, f"{shown(name)}: {told}") from None


def read_messages(task: Task, read: Callable[[str, Mapping[str, str]], Part]) -> list[Message]:
    """A task's turns.

    Args:
        task: its inputs are the media in their order.
        read: from the kind and the place of an input to a part.
    """
    media = iter(task.inputs)
    return [
        Message(
            turn["role"],
            tuple(
                TextPart(part["text"])
                if part["type"] == "text"
                else read(part["type"], next(media))
                for part in turn["content"]
            ),
        )
        for turn in task.item.turns
    ]


def read_input(root: Path, place: Mapping[str, str]) -> tuple[str, bytes]:
    """An input's name and bytes.

    Args:
        root: of relative paths.
        place: {"path"}, {"file"} or {"data"}.

    Raises:
        MediaError: it is missing, empty, too large or refused.
    """
    if "path" in place:
        return place["path"].rpartition("/")[2], read_below(root, place["path"])
    if "file" in place:
        file = Path(place["file"])
        return place.get("name", file.name), read_below(file.parent, file.name)
    return "the data", base64.b64decode(place["data"])


def read_part_of_bytes(data: bytes) -> Part:
    """A medium of whatever kind its content says.

    Raises:
        MediaError: it is none.
    """
    from anyany import media

    kind = media.sniff(data)
    if kind == "image":
        return ImagePart.read(data)
    return VideoPart.read(data) if kind == "video" else AudioPart.read(data)


@dataclass(frozen=True)
class DryFactory:
    """Builds a function that computes nothing: it says what it was asked.

    Args:
        seconds: that an item takes.
    """

    seconds: float = 0.0

    def __call__(self) -> Function:
        """The function."""
        return DryFunction(self.seconds)


class DryFunction:
    """Says what it was asked; see DryFactory."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def describe(self) -> dict[str, Any]:
        """A name, and that it makes text."""
        return {"name": "dry", "outputs": ["text", "image", "video", "audio"]}

    def prepare(self, task: Task) -> Any:
        """Nothing to read."""
        return task

    def answer(self, prepared: Sequence[Any]) -> Iterator[Reply | AnyAnyError]:
        """The last words of each task, and its seed."""
        for task in prepared:
            if self.seconds:
                time.sleep(self.seconds)
            words = [p["text"] for p in task.item.turns[-1]["content"] if p["type"] == "text"]
            yield Reply(
                (TextPart(f"{' '.join(words)} (seed {task.seed})"),),
                raw_text="",
                seed=task.seed,
                timings={"total": self.seconds},
            )


__all__ = [
    "DryFactory",
    "DryFunction",
    "Factory",
    "Function",
    "SystemFactory",
    "SystemFunction",
    "read_input",
]
