"""From a path or bytes to bytes in memory: the one place that opens a user's media file.

Only regular local files are opened, within the byte limit, and decoders are then fed bytes, never
paths: whatever a file says inside, no second file and no socket is opened on its behalf.
"""

from __future__ import annotations

import io
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from anyany.errors import MediaError
from anyany.media.limits import Limits

MediaSource: TypeAlias = str | Path | bytes

_URL: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.\-]+:/|data:|//|\\\\)")
_UNNAMED: Final = "the given bytes"


@dataclass(frozen=True)
class Source:
    """A file's content and the name that errors call it by.

    Args:
        data: the whole content.
        name: the file's last path component, fit for one line; never its folder.
        extension: the name's ending in lower case (".png"), or "".
    """

    data: bytes = field(repr=False)
    name: str = _UNNAMED
    extension: str = ""

    def stream(self) -> io.BytesIO:
        """A fresh readable stream over the content."""
        return io.BytesIO(self.data)

    def error(self, code: str, text: str) -> MediaError:
        """An error about this file: one of MEDIA_CODES and one line."""
        return MediaError(code, f"{self.name}: {text}")


def load(source: MediaSource | bytearray | memoryview, limits: Limits) -> Source:
    """Read a media file whole, if it is one that may be read.

    Raises:
        MediaError: it is missing, empty, over the byte limit, or refused: a URL, a device, a
            symbolic link (unless `limits.allow_links`), or not readable by this user.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        loaded = Source(bytes(source))
    elif isinstance(source, str | Path):
        loaded = _load_file(source, limits)
    else:
        kind = type(source).__name__
        raise MediaError("unsupported", f"expected a path or bytes of a media file, got {kind}")
    if not loaded.data:
        raise loaded.error("empty", "the file is empty (0 bytes)")
    if len(loaded.data) > limits.file_bytes:
        raise loaded.error("too_large", _over(limits))
    return loaded


def display_name(path: str | Path) -> str:
    """A path's last component for use in messages: printable, at most 80 characters."""
    name = re.split(r"[/\\]", str(path).rstrip("/\\"))[-1] or "(no name)"
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= 80 else f"{name[:38]}...{name[-38:]}"


def _load_file(path: str | Path, limits: Limits) -> Source:
    if _URL.match(str(path)):
        raise MediaError("refused", "expected a local file, got a URL; download the file first")
    named = Source(b"", display_name(path), Path(path).suffix.lower())
    try:
        found = os.stat(path, follow_symlinks=limits.allow_links)
        _check_kind(named, found, limits)
        links = 0 if limits.allow_links else getattr(os, "O_NOFOLLOW", 0)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | links
        with open(os.open(path, flags), "rb") as file:
            _check_kind(named, os.fstat(file.fileno()), limits)  # what was opened, not what was
            data = file.read(limits.file_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise named.error("missing", "no such file") from None
    except ValueError as error:
        if isinstance(error, MediaError):
            raise
        raise named.error("refused", "the path is not a valid file name") from None
    except PermissionError:
        raise named.error("refused", "the file may not be read by this user") from None
    except OSError:
        raise named.error("missing", "the file cannot be opened") from None
    return Source(data, named.name, named.extension)


def _check_kind(named: Source, found: os.stat_result, limits: Limits) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise named.error("refused", "a symbolic link; give the file that it points to")
    if stat.S_ISDIR(found.st_mode):
        raise named.error("unsupported", "expected a media file, got a folder")
    if not stat.S_ISREG(found.st_mode):
        raise named.error("refused", "expected a regular file, got a device, pipe or socket")
    if found.st_size > limits.file_bytes:
        raise named.error("too_large", _over(limits))


def _over(limits: Limits) -> str:
    return f"the file is over the limit of {limits.file_bytes:,} bytes"
