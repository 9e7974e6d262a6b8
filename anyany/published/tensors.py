"""Tensors in published files, whatever the container: listed by name, read one at a time.

safetensors are read where they are. A pickle is turned into safetensors once, in a scratch folder,
by a process of its own that can build tensors and nothing else (`pickle_worker`).
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from anyany.errors import CheckpointError
from anyany.published import pickle_worker

logger = logging.getLogger(__name__)

PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
WORKER_TIMEOUT: Final = 3_600  # seconds; a shard of a 7B model has 10 GB


@dataclass(frozen=True)
class Stored:
    """One tensor on disk.

    Args:
        path: the safetensors file that holds it.
        name: in that file.
        dtype: in safetensors' words, such as F16.
        shape: of the tensor.
        origin: the published file, for people.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    origin: str

    def read(self) -> Tensor:
        """The tensor on the CPU, in its own type."""
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop of a matrix; the others are not read."""
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_slice(self.name)[start:stop]
        return tensor


def list_tensors(path: Path, scratch: Path) -> dict[str, Stored]:
    """The tensors of one published file.

    Args:
        path: safetensors, or a pickle of a flat dictionary of tensors.
        scratch: a folder for what a pickle is turned into.

    Raises:
        CheckpointError: the file is missing, torn, of another kind, or a pickle with anything but
            tensors in it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected weights; found no such file")
    held = path
    if path.suffix in PICKLES:
        held = unpickle(path, scratch / f"{len(list(scratch.iterdir()))}.safetensors")
    elif path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: expected .safetensors or a pickle ({', '.join(PICKLES)}), by its name"
        )
    try:
        with safe_open(held, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            listed = {
                name: Stored(held, name, str(s.get_dtype()), tuple(s.get_shape()), path.name)
                for name, s in found.items()
            }
    except (SafetensorError, OSError):
        raise CheckpointError(f"{path}: expected a whole safetensors file; it is torn") from None
    for name, stored in listed.items():
        if stored.dtype not in pickle_worker.DTYPES:
            raise CheckpointError(f"{path}: {name} is {stored.dtype}: expected plain tensors")
    return listed


def unpickle(path: Path, out: Path) -> Path:
    """Turn a pickle into safetensors without trusting it.

    Args:
        path: the pickle.
        out: the file to write.

    Raises:
        CheckpointError: it is torn, or holds anything but tensors.
    """
    command = [sys.executable, "-I", pickle_worker.__file__, str(path), str(out)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=WORKER_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{path}: reading took longer than {WORKER_TIMEOUT} seconds; it was stopped"
        ) from None
    if done.returncode == pickle_worker.REFUSED:
        raise CheckpointError(
            f"{path}: refused: expected a pickle of a flat dictionary of tensors and nothing else"
        )
    if done.returncode == pickle_worker.TORN:
        raise CheckpointError(f"{path}: expected a whole checkpoint file; it is torn or none")
    if done.returncode != 0:
        logger.debug("pickle worker failed: %s", done.stderr)
        raise CheckpointError(
            f"{path}: could not be converted (exit status {done.returncode}); "
            "is there enough memory and disk for a second copy?"
        )
    return out


def list_folder(folder: Path, scratch: Path) -> dict[str, Stored]:
    """The tensors of a folder in transformers' layout: whole or in shards, safetensors first.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or a name comes twice.
    """
    found: dict[str, Stored] = {}
    for path in weight_files(folder):
        for name, stored in list_tensors(path, scratch).items():
            if name in found:
                raise CheckpointError(f"{path}: {name!r} is also in {found[name].origin}")
            found[name] = stored
    return found


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder in transformers' layout, in order; empty if there are none.

    Raises:
        CheckpointError: the list of shards is no such list.
    """
    for stem, ending in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        whole = folder / f"{stem}{ending}"
        index = folder / f"{stem}{ending}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            names = read_object(index).get("weight_map")
            if not isinstance(names, dict) or not all(
                isinstance(name, str) and Path(name).name == name for name in names.values()
            ):
                raise CheckpointError(f"{index}: expected a weight_map of files beside it")
            return [folder / name for name in sorted(set(names.values()))]
    return []


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing or holds none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return record


def write_stored(
    path: Path, tensors: Mapping[str, Stored | Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as one safetensors file in their own types, one in memory at a time."""
    entries = {}
    for name, item in tensors.items():
        dtype = item.dtype if isinstance(item, Stored) else pickle_worker.dtype_name(item)
        assert dtype is not None, item
        entries[name] = (dtype, tuple(item.shape))

    def read(name: str) -> Tensor:
        item = tensors[name]
        return item.read() if isinstance(item, Stored) else item

    path.parent.mkdir(parents=True, exist_ok=True)
    pickle_worker.write_tensors(path, entries, read, metadata)
