"""Checkpoints that are whole or refused: safetensors and JSON in a folder, no pickles.

`save` writes into `step-N.tmp`, syncs every file, writes a manifest with the SHA-256 of each, and
only then renames to `step-N`; a kill at any moment leaves the older checkpoints as they were.
`load_latest` verifies before it reads, names what it refuses and falls back to the one before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import Tensor

from anyany.errors import CheckpointError, RefusedError, ResourceError

logger = logging.getLogger(__name__)

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
RECORD: Final = "state.json"
_STEP: Final = re.compile(r"step-(\d+)")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory.

    Args:
        path: its folder.
        step: the optimizer step after which it was written.
        tensors: group name -> tensor name -> tensor, on the CPU.
        record: everything else, as JSON.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    record: dict[str, Any]


def save(
    folder: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    record: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write `folder/step-N` whole, then drop all but the newest `keep` checkpoints.

    Args:
        folder: holds the checkpoints; made if missing.
        step: N.
        tensors: group name -> tensor name -> tensor; each group becomes one file.
        record: JSON values.
        keep: how many stay, at least 1.

    Raises:
        ResourceError: the disk is full; older checkpoints stay as they were.
    """
    final, temporary = folder / f"step-{step}", folder / f"step-{step}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        files = {
            f"{group}.safetensors": _serialize(named) for group, named in tensors.items() if named
        }
        files[RECORD] = _dumps(record)
        listing = {
            name: {"sha256": _write(temporary / name, data), "bytes": len(data)}
            for name, data in files.items()
        }
        manifest = {"format": FORMAT, "step": step, "files": listing}
        _write(temporary / MANIFEST, _dumps({**manifest, "seal": _seal(manifest)}))
        _sync_folder(temporary)
        if final.exists():  # only a refused or an identical one can stand here
            shutil.rmtree(final)
        temporary.rename(final)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in _FULL:
            raise ResourceError(
                f"no room on the disk for checkpoint {final.name} in {folder}; the older "
                "checkpoints are whole: free some space and start again to resume"
            ) from None
        raise
    for old in list_checkpoints(folder)[: -max(keep, 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, oldest first; torn `.tmp` folders do not count."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _STEP.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def load(path: Path) -> Checkpoint:
    """Read one checkpoint after verifying every byte of it.

    Raises:
        CheckpointError: it is torn, altered, or of another format; the message names the file.
    """
    manifest = _read_manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    record: dict[str, Any] = {}
    for name, expected in manifest["files"].items():
        data = _read_verified(path, name, expected)
        if name == RECORD:
            record = json.loads(data)
        else:
            tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
    return Checkpoint(path, manifest["step"], tensors, record)


def load_latest(folder: Path, *, set_aside: bool = False) -> Checkpoint | None:
    """The newest checkpoint that verifies; None if there is none at all.

    A checkpoint that does not verify is logged by name.

    Args:
        folder: holds the checkpoints.
        set_aside: rename a refused one to `step-N.refused`, so that it neither counts among the
            kept ones nor stands in the way of a new one; for the process that will write.

    Raises:
        CheckpointError: there are checkpoints, and all are refused.
    """
    refused: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load(path)
        except CheckpointError as error:
            logger.warning("refused: %s; trying the one before", error)
            refused.append(path.name)
            if set_aside:
                aside = path.with_name(f"{path.name}.refused")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
    if refused:
        raise CheckpointError(
            f"expected a whole checkpoint in {folder}, but {', '.join(refused)} "
            "did not verify; restore one from a copy or delete the folder to start over"
        )
    return None


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for one process; the lock ends with the process, also after kill -9.

    Raises:
        RefusedError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such call on Windows: the user keeps runs apart
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RefusedError(
                f"another process is training in {folder}; stop it, or choose another folder"
            ) from None
        yield


def _serialize(named: Mapping[str, Tensor]) -> bytes:
    host = {name: tensor.detach().to("cpu").contiguous() for name, tensor in named.items()}
    return bytes(safetensors.torch.save(host))


def _dumps(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _seal(manifest: Mapping[str, Any]) -> str:
    """The manifest's own SHA-256, so that a flipped digit in it is not blamed on another file."""
    return hashlib.sha256(_dumps(manifest)).hexdigest()


def _write(path: Path, data: bytes) -> str:
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    return hashlib.sha256(data).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _step_of(path: Path) -> int:
    match = _STEP.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        data = (path / MANIFEST).read_bytes()
        manifest = json.loads(data)
        whole = (
            data == _dumps(manifest)
            and manifest.pop("seal") == _seal(manifest)
            and manifest["format"] == FORMAT
            and manifest["step"] == _step_of(path)
            and RECORD in manifest["files"]
            and all("/" not in name for name in manifest["files"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path.name}/{MANIFEST} is missing, torn or of another format")
    return dict(manifest)


def _read_verified(path: Path, name: str, expected: Mapping[str, Any]) -> bytes:
    try:
        data = (path / name).read_bytes()
    except OSError:
        raise CheckpointError(f"{path.name}/{name} is missing or cannot be read") from None
    if len(data) != expected["bytes"]:
        raise CheckpointError(
            f"{path.name}/{name} is torn: expected {expected['bytes']} bytes, got {len(data)}"
        )
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise CheckpointError(f"{path.name}/{name} was altered: its SHA-256 is not the manifest's")
    return data
