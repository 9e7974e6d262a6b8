"""The two EXIF entries that matter here: orientation and description, read without Pillow's TIFF.

EXIF is a small TIFF directory; these few lines read its first level, ignore everything odd, and
never follow an offset out of the given bytes.
"""

from __future__ import annotations

from typing import Final, Literal

_ORIENTATION: Final = 0x0112
_DESCRIPTION: Final = 0x010E
_ENTRY_BYTES: Final = 12


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none or it makes no sense."""
    entry = _find(exif, _ORIENTATION)
    if entry is None:
        return 1
    value = int.from_bytes(entry[8:10], _order(exif))
    return value if 1 <= value <= 8 else 1


def description(exif: bytes) -> str | None:
    """The EXIF image description, if there is one."""
    entry = _find(exif, _DESCRIPTION)
    if entry is None:
        return None
    tiff = exif.removeprefix(b"Exif\0\0")
    size = int.from_bytes(entry[4:8], _order(exif))
    start = int.from_bytes(entry[8:12], _order(exif))
    raw = entry[8 : 8 + size] if size <= 4 else tiff[start : start + size]
    return raw.rstrip(b"\0").decode("utf-8", errors="replace")


def _order(exif: bytes) -> Literal["little", "big"]:
    return "little" if exif.removeprefix(b"Exif\0\0").startswith(b"II") else "big"


def _find(exif: bytes, tag: int) -> bytes | None:
    tiff, order = exif.removeprefix(b"Exif\0\0"), _order(exif)
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return None
    at = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[at : at + 2], order)
    for start in range(at + 2, at + 2 + count * _ENTRY_BYTES, _ENTRY_BYTES):
        entry = tiff[start : start + _ENTRY_BYTES]
        if len(entry) < _ENTRY_BYTES:
            return None
        if int.from_bytes(entry[:2], order) == tag:
            return entry
    return None
