"""The ledger of a run: one JSON line per finished item, appended and never rewritten.

A line is written after the item's folder stands under its final name, so whatever is in the ledger
is whole on disk. A process that is killed loses nothing that it wrote; a machine that loses power
loses at most `SYNC_SECONDS` of lines, whose items are then done again. A torn last line is cut off.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from anyany.errors import ResourceError

SYNC_SECONDS: Final = 1.0
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Ledger:
    """An open ledger.

    Args:
        path: the file; made if it is not there, and its torn last line cut off.

    Raises:
        ResourceError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = _whole_bytes(self._file)
        if os.fstat(self._file).st_size != self._size:
            os.ftruncate(self._file, self._size)
        self._synced = time.monotonic()
        self._dirty = False

    def append(self, records: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add lines in one write.

        Returns:
            Where each begins.

        Raises:
            ResourceError: the disk is full; nothing was added.
        """
        lines = [_encode(record).encode() + b"\n" for record in records]
        data = b"".join(lines)
        try:
            if data and _write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, "short write")
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise_if_full(error, "the ledger")
            raise
        offsets = []
        for line in lines:
            offsets.append(self._size)
            self._size += len(line)
        self._dirty = self._dirty or bool(data)
        return offsets

    def due(self, *, now: bool = False) -> bool:
        """Whether there is something to flush, and a second has passed or it must be `now`."""
        return self._dirty and (now or time.monotonic() - self._synced >= SYNC_SECONDS)

    def sync(self) -> None:
        """Flush to the disk.

        Raises:
            ResourceError: the disk is full.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise_if_full(error, "the ledger")
            raise
        self._dirty = False
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_ledger(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a ledger, each with where it begins; what is no record is passed over."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        offset = 0
        for raw in file:
            if raw.endswith(b"\n") and (record := _record(raw)) is not None:
                yield offset, record
            offset += len(raw)


def read_at(file: Any, offset: int) -> dict[str, Any]:
    """The record that begins at an offset of a ledger opened for reading bytes."""
    file.seek(offset)
    record = _record(file.readline())
    assert record is not None, f"expected a record at {offset}"
    return record


def raise_if_full(error: OSError, what: str) -> None:
    """Turn a full disk into the error that says so.

    Raises:
        ResourceError: it is one.
    """
    if error.errno in _NO_SPACE:
        raise ResourceError(
            f"{what} cannot be written, the disk is full: make room and run the same again"
        ) from None


def _record(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    whole = isinstance(record, dict) and {"id", "key", "status"} <= record.keys()
    return record if whole else None


def _write(file: int, data: bytes) -> int:
    """All of it, or as much as there is room for."""
    written = 0
    while written < len(data):
        step = os.write(file, data[written:])
        if step == 0:
            break
        written += step
    return written


def _whole_bytes(file: int) -> int:
    """The length up to and with the last line end."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - 65_536)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
