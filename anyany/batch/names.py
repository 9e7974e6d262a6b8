"""Which ids may name a folder, and which paths of a manifest may be read.

An id becomes `out/<id>/`; a path is read below the manifest's root and nowhere else. Both come from
files that strangers may have written, so everything that could leave its folder, on any system, is
refused here: see the tests for the list of attacks.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Final

from anyany.errors import MediaError, UsageError
from anyany.media import DEFAULT_LIMITS, Limits

MAX_NAME_BYTES: Final = 200
MAX_PATH_BYTES: Final = 2_000
RESERVED: Final = ("results.jsonl", "errors.jsonl", "report.html")

_DEVICES: Final = re.compile(
    r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?"
)
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:")
_FORBIDDEN: Final = '<>:"|?*\\'
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\- ]*")
_SIMPLE: Final = re.compile(r"[A-Za-z0-9_\-]([A-Za-z0-9_.\-]{0,120}[A-Za-z0-9_\-])?")


def is_url(text: str) -> bool:
    """Whether a reference names a scheme (`https:`, `data:`), not a path."""
    return _URL.match(text) is not None


def check_id(text: str) -> str:
    """An id, if `out/<id>/` is a folder directly in `out` on any system.

    Raises:
        UsageError: it is not; the line says why.
    """
    reason = _component_fault(text)
    if reason is None and "/" in text:
        reason = "holds a slash"
    if reason is None and text.casefold() in RESERVED:
        reason = "is the name of a file that is written beside the items"
    if reason is not None:
        raise UsageError(f"the id {shown(text)} cannot name a folder: it {reason}")
    return text


def folded(text: str) -> str:
    """What two ids share if some file system takes them for one name."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def check_relative(text: str) -> str:
    """A relative path with forward slashes that stays below whatever it is put under.

    Raises:
        UsageError: it is absolute, climbs, or holds what no file's name should.
    """
    reason = None
    if is_url(text):
        reason = "is a URL or a drive"
    elif text.startswith(("/", "\\", "~")):
        reason = "is absolute; give it relative to the root (--root)"
    elif len(text.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        reason = f"is longer than {MAX_PATH_BYTES} bytes"
    else:
        parts = text.split("/")
        reason = next((why for part in parts if (why := _component_fault(part, path=True))), None)
    if reason is not None:
        raise UsageError(f"the path {shown(text)} cannot be read: it {reason}")
    return text


def check_no_links(root: Path, relative: str) -> None:
    """Refuse a path with a symbolic link below the root, whether it stays inside or not.

    Args:
        root: a resolved folder.
        relative: what `check_relative` let pass.

    Raises:
        UsageError: a link is in the way; `read_below` would refuse it, too, but only at work.
    """
    if os.path.realpath(root / relative) != os.path.join(root, os.path.normpath(relative)):
        raise UsageError(f"the path {shown(relative)} cannot be read: it goes through a link")


def read_below(root: Path, relative: str, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """A regular file's content, reached from the root folder by folder, never through a link.

    Args:
        root: a folder; a link is allowed here and nowhere below.
        relative: a path under it; of a manifest, what `check_relative` let pass.
        limits: `file_bytes`.

    Raises:
        MediaError: it is missing, empty, too large or refused.
    """
    name = relative.rpartition("/")[2]
    parts = relative.split("/")
    if "\0" in relative or any(part in ("", ".", "..") for part in parts):
        raise MediaError("refused", f"{shown(name)}: expected a path below the root")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(parts[-1], flags, dir_fd=folder), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise MediaError("refused", f"{shown(name)}: expected a regular file")
            data = file.read(limits.file_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError("missing", f"{shown(name)}: no such file") from None
    except IsADirectoryError:
        raise MediaError("unsupported", f"{shown(name)}: expected a file, got a folder") from None
    except OSError:
        raise MediaError("refused", f"{shown(name)}: the file may not be opened") from None
    finally:
        os.close(folder)
    if not data:
        raise MediaError("empty", f"{shown(name)}: the file is empty (0 bytes)")
    if len(data) > limits.file_bytes:
        raise MediaError(
            "too_large", f"{shown(name)}: over the limit of {limits.file_bytes:,} bytes"
        )
    return data


def id_of_path(relative: str) -> str:
    """The id of a folder's file: its path with `__` for slashes, or a safe likeness and a hash.

    Distinct paths get distinct ids, and a path's id does not depend on its neighbours.
    """
    joined = relative.replace("/", "__")
    plain = _PLAIN.fullmatch(joined) and "__" not in relative and len(joined) <= 120
    if plain and _component_fault(joined) is None and joined.casefold() not in RESERVED:
        return joined
    safe = re.sub(r"[^A-Za-z0-9_.\-]+", "_", joined).strip("._- ")[:100] or "file"
    safe = f"_{safe}" if _DEVICES.fullmatch(safe) else safe
    return f"{safe}-{hashlib.sha256(relative.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def shown(text: str) -> str:
    """Text in quotes for one line of a message: printable, at most 80 characters."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return repr(clean if len(clean) <= 80 else f"{clean[:38]}...{clean[-38:]}")


def _component_fault(text: str, *, path: bool = False) -> str | None:
    """Why a name cannot stand between two slashes; None if it can."""
    if _SIMPLE.fullmatch(text):  # nearly all of them
        return "is the name of a device" if _DEVICES.fullmatch(text) else None
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return "holds half a character"
    if not text:
        return "has an empty part" if path else "is empty"
    if size > (255 if path else MAX_NAME_BYTES):
        return f"is longer than {255 if path else MAX_NAME_BYTES} bytes"
    for form in {text, unicodedata.normalize("NFKC", text)}:  # a wide slash is a slash to some
        if "/" in form or set(form) & set(_FORBIDDEN):
            return "holds a slash or one of " + " ".join(_FORBIDDEN)
        if not path and form.startswith((".", "~")):
            return "begins with a dot or a tilde"
        if form in (".", "..") or form.startswith("~"):
            return "climbs out of its folder"
        if form.endswith((".", " ")) or form.startswith(" "):
            return "begins or ends with a blank, or ends with a dot"
        if _DEVICES.fullmatch(form):
            return "is the name of a device"
    strange = next(
        (c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")), ""
    )
    if strange:
        return f"holds an invisible character (U+{ord(strange):04X})"
    return None
