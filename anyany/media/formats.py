"""What a file is, by its first bytes, and whether it ends where its own headers say.

Plain walks over PNG chunks, GIF blocks, RIFF chunks, MP4 boxes, Matroska elements and Ogg pages.
No decoder runs here; decoders are then told the one format to expect and never guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

# What people call each format, for messages.
TITLES: Final[Mapping[str, str]] = {
    "png": "a PNG picture",
    "jpeg": "a JPEG picture",
    "webp": "a WebP file",
    "gif": "a GIF file",
    "bmp": "a BMP picture",
    "mov": "an MP4 or MOV file",
    "matroska": "a WebM or Matroska file",
    "avi": "an AVI file",
    "wav": "a WAV recording",
    "flac": "a FLAC recording",
    "mp3": "an MP3 recording",
    "aac": "an AAC recording",
    "ogg": "an Ogg file",
    "tiff": "a TIFF picture",
    "playlist": "a list of other files",
}


def detect(data: bytes) -> str | None:
    """The key in TITLES of the format that the content opens with, or None."""
    for name, prefix in _PREFIXES:
        if data.startswith(prefix):
            return name
    if data[:4] in (b"RIFF", b"RIFX"):
        return {b"WEBP": "webp", b"AVI ": "avi", b"WAVE": "wav"}.get(data[8:12])
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    text = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"ffconcat", b"#EXTM3U", b"v=0")) or b"<MPD" in text:
        return "playlist"
    return _detect_mpeg_audio(data)


_PREFIXES: Final = (
    ("png", PNG_SIGNATURE),
    ("jpeg", b"\xff\xd8\xff"),
    ("gif", b"GIF87a"),
    ("gif", b"GIF89a"),
    ("bmp", b"BM"),
    ("matroska", b"\x1aE\xdf\xa3"),
    ("flac", b"fLaC"),
    ("ogg", b"OggS"),
    ("mp3", b"ID3"),
    ("tiff", b"II*\0"),
    ("tiff", b"MM\0*"),
)


def _detect_mpeg_audio(data: bytes) -> str | None:
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    if data[1] & 0xF6 == 0xF0:
        return "aac"  # an ADTS frame
    layer_three = data[1] & 0x06 == 0x02
    valid = data[2] >> 4 != 15 and data[2] >> 2 & 3 != 3  # bit rate and sample rate
    return "mp3" if layer_three and valid else None


def ends_early(data: bytes, name: str) -> bool:
    """Whether the file is shorter than its own headers say.

    MP3 and AAC declare no length: such a file cut between two frames is just a shorter recording.
    JPEG, BMP and FLAC are checked by their decoders.
    """
    if name == "png":
        return not any(kind == b"IEND" for kind, _, _ in png_chunks(data))
    if name == "gif":
        return not walk_gif(data).complete
    if name in ("webp", "avi", "wav"):
        return _riff_ends_early(data, name)
    if name == "mov":
        return _boxes_end_early(data)
    if name == "matroska":
        return _matroska_ends_early(data)
    return name == "ogg" and _ogg_ends_early(data)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each complete chunk of a PNG up to IEND, as (type, start, end of its content)."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if at + 12 + size > len(data):
            return
        yield kind, at + 8, at + 8 + size
        if kind == b"IEND":
            return
        at += 12 + size


def riff_chunks(data: bytes, start: int = 12, stop: int | None = None) -> Iterator[_Chunk]:
    """Each chunk of a RIFF file, as (type, start, end of its content); the last may be cut."""
    order = "big" if data[:4] == b"RIFX" else "little"
    at, stop = start, len(data) if stop is None else stop
    while at + 8 <= stop:
        size = int.from_bytes(data[at + 4 : at + 8], order)  # type: ignore[arg-type]
        yield data[at : at + 4], at + 8, at + 8 + size
        at += 8 + size + size % 2


_Chunk = tuple[bytes, int, int]


class GifWalk(NamedTuple):
    """What a GIF's blocks say, without decoding.

    Args:
        width: of the canvas that holds the screen and every frame.
        height: likewise.
        num_frames: pictures in the file.
        comments: all comment blocks, joined.
        complete: the closing byte was reached.
    """

    width: int
    height: int
    num_frames: int
    comments: bytes
    complete: bool


def walk_gif(data: bytes) -> GifWalk:
    """Walk a GIF's blocks."""
    width, height = _two(data, 6)
    frames, comments, at = 0, b"", 13 + _palette_bytes(data, 10)
    while at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x21:  # an extension: its label, then sub-blocks
            label, at = data[at + 1 : at + 2], at + 2
        else:  # a picture: position, size, palette, code size, then sub-blocks
            left, top = _two(data, at + 1)
            frame_width, frame_height = _two(data, at + 5)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            frames, label = frames + 1, b""
            at += 11 + _palette_bytes(data, at + 9)
        while at < len(data) and data[at]:
            if label == b"\xfe":
                comments += data[at + 1 : at + 1 + data[at]]
            at += 1 + data[at]
        at += 1
    return GifWalk(width, height, frames, comments, data[at : at + 1] == b";")


def _two(data: bytes, at: int) -> tuple[int, int]:
    first, second = data[at : at + 2], data[at + 2 : at + 4]
    return int.from_bytes(first, "little"), int.from_bytes(second, "little")


def _palette_bytes(data: bytes, at: int) -> int:
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class WebPWalk(NamedTuple):
    """What a WebP's chunks say: canvas size (0 if it cannot be told) and number of frames."""

    width: int
    height: int
    num_frames: int


def walk_webp(data: bytes) -> WebPWalk:
    """Walk a WebP's chunks."""
    width = height = frames = 0
    for kind, start, _ in riff_chunks(data):
        head = data[start : start + 10]
        if kind == b"ANMF":
            frames += 1
        if width or len(head) < 10:
            continue
        if kind == b"VP8X":
            width = 1 + int.from_bytes(head[4:7], "little")
            height = 1 + int.from_bytes(head[7:10], "little")
        elif kind == b"VP8L":
            bits = int.from_bytes(head[1:5], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 ":
            width, height = (side & 0x3FFF for side in _two(head, 6))
    return WebPWalk(width, height, max(frames, 1))


def num_frames(data: bytes, name: str) -> int:
    """How many frames a GIF or WebP holds; 1 for other pictures."""
    if name == "gif":
        return walk_gif(data).num_frames
    return walk_webp(data).num_frames if name == "webp" else 1


def _riff_ends_early(data: bytes, name: str) -> bool:
    if name != "wav":
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    for kind, start, end in riff_chunks(data):  # many programs write a wrong total
        if kind == b"data":
            unknown = end - start in (0, 2**32 - 1)  # written to a pipe
            return end > len(data) and not unknown
    return True


def _boxes_end_early(data: bytes) -> bool:
    at, seen = 0, set()
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # by definition, up to the end of the file
            size = len(data) - at
        if size < 8 or at + size > len(data):
            return kind in (b"moov", b"mdat", b"moof") or b"moov" not in seen
        seen.add(kind)
        at += size
    return b"moov" not in seen


def _matroska_ends_early(data: bytes) -> bool:
    at = 0
    for element in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # EBML, Segment
        length = 9 - data[at + 4].bit_length() if at + 12 <= len(data) else 9
        if length > 8 or not data.startswith(element, at):
            return True
        mask = (1 << 7 * length) - 1
        size = int.from_bytes(data[at + 4 : at + 4 + length], "big") & mask
        if size == mask:
            return False  # a live stream: its length was never known
        at += 4 + length + size
    return at > len(data)


def _ogg_ends_early(data: bytes) -> bool:
    at, last = 0, False
    while at + 27 <= len(data) and data.startswith(b"OggS", at):
        last = bool(data[at + 5] & 4)
        segments = data[at + 27 : at + 27 + data[at + 26]]
        at += 27 + data[at + 26] + sum(segments)
    return at > len(data) or (at < len(data) and not last)
