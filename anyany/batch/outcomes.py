"""What became of a task: a folder of files ready to be taken over, or why there is none.

A worker writes an item's files into a folder of its own and makes them durable; the driver then
gives the folder its final name. The bytes are those that `Reply.save` writes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from anyany import media
from anyany.batch.items import Task
from anyany.batch.urls import TransientError
from anyany.errors import AnyAnyError, InternalError, MediaError, ResourceError
from anyany.messages import AudioPart, ImagePart, Reply, TextPart, VideoPart

FEW: Final = 3  # item folders that are flushed one by one rather than all at once
_CODES: Final[Mapping[str, str]] = {
    "PromptError": "prompt",
    "UsageError": "usage",
    "ConfigError": "usage",
    "CheckpointError": "weights",
    "ResourceError": "resource",
    "TransientError": "network",
    "Cancelled": "cancelled",
}

Status: TypeAlias = Literal["done", "failed"]


@dataclass
class Outcome:
    """What became of one task.

    Args:
        task: it.
        status: "done" or "failed".
        folder: where its files are; None if it failed.
        files: [name, bytes, sha256] of each.
        reply: {"parts", "seed", "finish_reason", "tokens"}.
        error: {"code", "type", "message"} of a failure.
        transient: another try may succeed.
        attempts: how often it was tried.
        seconds: per stage.
        worker: who did it.
    """

    task: Task
    status: Status
    folder: str | None = None
    files: list[list[Any]] = field(default_factory=list)
    reply: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    transient: bool = False
    attempts: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    worker: str = ""


def failure(task: Task, error: BaseException, **more: Any) -> Outcome:
    """The outcome of a task that raised.

    Args:
        task: it.
        error: what was raised; a library's own text is never repeated.
        more: further fields of the outcome.
    """
    transient = isinstance(error, ResourceError | TransientError | MemoryError)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        error, transient = (
            ResourceError("out of memory: lower --workers, or shorten the item"),
            True,
        )
    if isinstance(error, MediaError):
        code = error.code
    elif isinstance(error, AnyAnyError):
        code = _CODES.get(type(error).__name__, "internal")
    else:
        code = "internal"
        error = InternalError(f"internal error ({type(error).__name__}): worth a bug report")
    told = {"code": code, "type": type(error).__name__, "message": " ".join(str(error).split())}
    return Outcome(task, "failed", error=told, transient=transient, **more)


def write_reply(reply: Reply, folder: Path, *, metadata: bool = True) -> list[list[Any]]:
    """Write a reply's files as `Reply.save` does, without flushing them.

    Args:
        reply: of the model.
        folder: made here.
        metadata: keep the record of how it was made inside the files.

    Returns:
        [name, bytes, sha256] of each, `reply.json` last.
    """
    folder.mkdir(parents=True)
    files: list[list[Any]] = []
    counts: dict[str, int] = {}
    listed: list[dict[str, Any]] = []
    for part in reply.parts:
        if isinstance(part, TextPart):
            listed.append({"type": "text", "text": part.text})
            continue
        index = counts.get(part.modality, 0)
        counts[part.modality] = index + 1
        name = f"{part.modality}_{index}{part.extension}"
        files.append(_write(folder / name, _encode(part, metadata)))
        listed.append({"type": part.modality, "file": name})
    record = {"parts": listed, "seed": reply.seed, "finish_reason": reply.finish_reason}
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    files.append(_write(folder / "reply.json", f"{text}\n".encode()))
    return files


def reply_record(reply: Reply) -> dict[str, Any]:
    """A reply as the ledger keeps it."""
    parts: list[dict[str, str]] = []
    counts: dict[str, int] = {}
    for part in reply.parts:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            index = counts.get(part.modality, 0)
            counts[part.modality] = index + 1
            name = f"{part.modality}_{index}{part.extension}"
            parts.append({"type": part.modality, "file": name})
    return {
        "parts": parts,
        "seed": reply.seed,
        "finish_reason": reply.finish_reason,
        "tokens": len(reply.token_ids),
    }


def flush_folders(folders: Sequence[Path]) -> None:
    """Make folders and the files in them durable; many at once where the system can."""
    if len(folders) > FEW and (syncfs := _syncfs()) is not None:
        handle = os.open(folders[0], os.O_RDONLY)
        try:
            if syncfs(handle) == 0:
                return
        finally:
            os.close(handle)
    for folder in folders:
        for path in (*folder.iterdir(), folder):
            flush(path)


def flush(path: Path) -> None:
    """Make a file, or a folder's names, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_folder(source: Path, target: Path) -> None:
    """Copy an item's files, and make them durable."""
    shutil.copytree(source, target)
    flush_folders([target])


@functools.cache
def _syncfs() -> Callable[[int], int] | None:
    """Linux's call that flushes one whole file system, which Python does not offer."""
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    return lambda handle: int(call(ctypes.c_int(handle)))


def _write(path: Path, data: bytes) -> list[Any]:
    with open(path, "xb") as file:
        file.write(data)
    return [path.name, len(data), hashlib.sha256(data).hexdigest()]


def _encode(part: ImagePart | VideoPart | AudioPart, metadata: bool) -> bytes:
    record = part.provenance if metadata else None
    if isinstance(part, ImagePart):
        return media.encode_image(part.image, record, extension=part.extension)
    if isinstance(part, VideoPart):
        return media.encode_video(
            part.frames, part.frames_per_second, record, extension=part.extension
        )
    return media.encode_audio(part.waveform, part.sample_rate, record, extension=part.extension)
