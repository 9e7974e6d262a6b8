"""One run at a time in a folder: a lock that dies with its owner.

The lock is the kernel's (flock), so a killed owner leaves nothing behind and the next one takes
over at once. Shards of one split lock each other out only if they are the same shard; runs of
another split, or of none, are kept out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

from anyany.errors import RefusedError

_WHOLE: Final = "whole"
_TRIES: Final = 4
_PAUSE: Final = 0.05  # seconds


class Lock:
    """Held until `release`, or until the process ends.

    Args:
        folder: of the locks.
        shard: (k, n), or None for a run over everything.

    Raises:
        RefusedError: another run holds a lock that excludes this one.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = _WHOLE if shard is None else f"shard-{shard[0]}-of-{shard[1]}"
        self._file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        if not _acquire(self._file):
            owner = _owner(self._file)
            os.close(self._file)
            raise RefusedError(_refusal(owner))
        record = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(record).encode(), 0)
        for other in sorted(folder.iterdir()):
            alike = shard is not None and other.name.endswith(f"-of-{shard[1]}")
            holder = None if alike or other.name == name else owner_of(other)
            if holder is not None:
                self.release()
                raise RefusedError(_refusal(holder))

    def release(self) -> None:
        """Let others in."""
        with contextlib.suppress(OSError):
            os.close(self._file)


def owner_of(path: Path) -> dict[str, Any] | None:
    """Who holds a lock; None if nobody does."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return _owner(file)
    finally:
        os.close(file)


def running(folder: Path) -> dict[str, Any] | None:
    """Any run that holds a lock in the folder."""
    if not folder.is_dir():
        return None
    return next((owner for path in sorted(folder.iterdir()) if (owner := owner_of(path))), None)


def _acquire(file: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(_PAUSE)  # `owner_of` asks by holding it for a moment
    return False


def _owner(file: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(file, 1_000, 0) or b"{}")
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _refusal(owner: dict[str, Any]) -> str:
    return (
        f"another run is at work in this folder (process {owner.get('pid', 'unknown')} on "
        f"{owner.get('host', 'an unknown machine')}): wait for it, or take another folder"
    )
