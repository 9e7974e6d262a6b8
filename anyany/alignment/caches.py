"""Tensors that need computing once: stores in memory or on disk, keyed by content.

A key is the SHA-256 of everything that a value depends on (weights, settings, input), so nothing is
ever stale: a change of one number is another key. On disk, entries gather in safetensors shards
that are mapped, not read; each has a SHA-256, and one that does not verify is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from anyany.errors import ResourceError

logger = logging.getLogger(__name__)

FORMAT: Final = 1
Entry = dict[str, Tensor]


class TensorStore(Protocol):
    """Named tensors by key."""

    def get(self, key: str) -> Entry | None:
        """The tensors under a key; None if they are not there."""

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors; a key is written once."""

    def flush(self) -> None:
        """Make what was put last beyond the process."""


class MemoryStore:
    """Keeps tensors while the process lives.

    Args:
        max_bytes: past this nothing more is kept.
    """

    def __init__(self, max_bytes: int = 2 << 30) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The tensors under a key; None if they are not there."""
        return self._entries.get(key)

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, while there is room."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        if key not in self._entries and self.num_bytes + size <= self.max_bytes:
            self._entries[key] = {name: t.detach().clone() for name, t in tensors.items()}
            self.num_bytes += size

    def flush(self) -> None:
        """Nothing lasts."""


class DiskStore:
    """Keeps tensors in a folder of shards.

    Each `NAME.safetensors` has a `NAME.json` beside it that lists its entries with their SHA-256
    and seals itself; a shard counts only once that file stands. Several processes may write.

    Args:
        folder: made if missing.
        shard_bytes: a shard is written when so much waits.
    """

    def __init__(self, folder: str | Path, *, shard_bytes: int = 256 << 20) -> None:
        self.folder = Path(folder)
        self.shard_bytes = shard_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._waiting: dict[str, Entry] = {}
        self._waiting_bytes = 0
        self._entries: dict[str, tuple[str, dict[str, str]]] = {}  # key -> shard, name -> sha256
        self._open: dict[str, Any] = {}
        for index in sorted(self.folder.glob("*.json")):
            self._read_index(index)

    def __len__(self) -> int:
        return len(self._entries) + len(self._waiting)

    def get(self, key: str) -> Entry | None:
        """The tensors under a key; None if they are not there or do not verify."""
        if key in self._waiting:
            return self._waiting[key]
        if key not in self._entries:
            return None
        shard, digests = self._entries[key]
        try:
            if shard not in self._open:
                path = self.folder / f"{shard}.safetensors"
                self._open[shard] = safetensors.safe_open(path, framework="pt")
            found = {name: self._open[shard].get_tensor(f"{key}/{name}") for name in digests}
        except (OSError, safetensors.SafetensorError):
            found = {}
        if not found or any(hash_tensors({"": found[n]}) != digests[n] for n in digests):
            logger.warning("cache shard %s: entry %s is damaged, computed again", shard, key[:12])
            del self._entries[key]
            return None
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors; they reach the disk with their shard."""
        if key in self._entries or key in self._waiting:
            return
        kept = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        self._waiting[key] = kept
        self._waiting_bytes += sum(tensor.nbytes for tensor in kept.values())
        if self._waiting_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one shard.

        Raises:
            ResourceError: the disk is full.
        """
        if not self._waiting:
            return
        shard = f"shard-{secrets.token_hex(8)}"
        digests = {
            key: {name: hash_tensors({"": tensor}) for name, tensor in entry.items()}
            for key, entry in self._waiting.items()
        }
        flat = {f"{k}/{n}": t for k, entry in self._waiting.items() for n, t in entry.items()}
        listing = {"format": FORMAT, "entries": digests}
        try:
            self._write(f"{shard}.safetensors", lambda p: safetensors.torch.save_file(flat, p))
            sealed = json.dumps({**listing, "seal": _seal(listing)})
            self._write(f"{shard}.json", lambda p: p.write_text(sealed, encoding="utf-8"))
        except OSError:
            raise ResourceError(
                f"cannot write the cache in {self.folder}: free some space, or choose another "
                "folder; what was cached before is whole"
            ) from None
        self._entries |= {key: (shard, names) for key, names in digests.items()}
        self._waiting.clear()
        self._waiting_bytes = 0

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        partial = self.folder / f".{name}.part"
        try:
            write(partial)
            with open(partial, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(partial, self.folder / name)
        finally:
            partial.unlink(missing_ok=True)

    def _read_index(self, path: Path) -> None:
        try:
            listing = json.loads(path.read_text(encoding="utf-8"))
            seal = listing.pop("seal")
            whole = seal == _seal(listing) and listing["format"] == FORMAT
        except (OSError, ValueError, KeyError, AttributeError):
            whole = False
        if not whole:
            logger.warning("cache index %s is damaged or of another format: left out", path.name)
            return
        for key, names in listing["entries"].items():
            self._entries[key] = (path.stem, names)


def hash_tensors(named: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in named.items() if isinstance(named, Mapping) else named:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        if flat.numel():
            data: Any = flat.view(torch.uint8).numpy()
            digest.update(data)
    return digest.hexdigest()


def hash_text(*pieces: object) -> str:
    """SHA-256 over the texts of some values, kept apart."""
    return hashlib.sha256("\x1f".join(str(piece) for piece in pieces).encode()).hexdigest()


def _seal(listing: Mapping[str, Any]) -> str:
    return hash_text(json.dumps(listing, sort_keys=True))
