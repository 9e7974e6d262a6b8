"""Where a provenance record sits in each kind of file, and how to get it out again.

PNG has a text chunk of our own ("anyany"). The other formats have one comment field that anybody
may use, so the record stands there behind "AI-generated with anyany; anyany:".
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anyany.errors import AnyAnyError
from anyany.media import formats
from anyany.media.containers import open_container
from anyany.media.exif import description
from anyany.media.images import open_picture
from anyany.media.limits import DEFAULT_LIMITS, Limits
from anyany.media.provenance import AI_MARK, Provenance
from anyany.media.source import Source, load

PNG_KEYWORD: Final = "anyany"
_OPENING: Final = f"{AI_MARK}; anyany:"


def comment_text(provenance: Provenance) -> str:
    """The comment that carries a record: a mark for people, then the record; ASCII."""
    return _OPENING + provenance.to_json()


def software_text(provenance: Provenance) -> str:
    """The program's name and version, for the usual "software" field."""
    return f"anyany {provenance.versions.get('anyany', '')}".strip()


def read_provenance(
    path: str | Path | bytes, *, limits: Limits = DEFAULT_LIMITS
) -> Provenance | None:
    """Read the record of a file that anyany wrote.

    Args:
        path: a PNG, JPEG, WebP, GIF, MP4, WAV or FLAC, or its content.
        limits: `file_bytes` and, for JPEG and WebP, `image_pixels` apply.

    Returns:
        The record, or None if the file holds none.

    Raises:
        MediaError: the file cannot be read, or its record is malformed ("corrupt").
    """
    source = load(path, limits)
    name = formats.detect(source.data)
    if name == "png":
        record = _from_png(source)
    else:
        comment = _comment(source, name, limits)
        record = comment[len(_OPENING) :] if comment and comment.startswith(_OPENING) else None
    return None if record is None else Provenance.from_json(record, source=source.name)


def _from_png(source: Source) -> str | None:
    for kind, start, end in formats.png_chunks(source.data):
        keyword, _, rest = source.data[start:end].partition(b"\0")
        if kind == b"iTXt" and keyword == PNG_KEYWORD.encode():
            if rest[:1] != b"\0":  # compressed; never written so
                raise source.error("corrupt", "the provenance record is malformed")
            text = rest[2:].split(b"\0", 2)[-1]  # past the language and the translated keyword
            return text.decode("utf-8", errors="replace")
    return None


def _comment(source: Source, name: str | None, limits: Limits) -> str | None:
    if name in ("jpeg", "webp"):
        return description(open_picture(source, name, limits).info.get("exif", b""))
    if name == "gif":
        return formats.walk_gif(source.data).comments.decode("utf-8", errors="replace")
    if name == "wav":
        return _wav_comment(source.data)
    if name == "flac":
        return _flac_comment(source)
    if name == "mov":
        with open_container(source, name) as container:
            return container.metadata.get("comment")
    return None


def _wav_comment(data: bytes) -> str | None:
    for kind, start, end in formats.riff_chunks(data):
        if kind == b"LIST" and data[start : start + 4] == b"INFO":
            for tag, first, last in formats.riff_chunks(data, start + 4, min(end, len(data))):
                if tag == b"ICMT":
                    return data[first:last].rstrip(b"\0").decode("utf-8", errors="replace")
    return None


def _flac_comment(source: Source) -> str | None:
    import soundfile

    try:
        with soundfile.SoundFile(source.stream()) as file:
            return str(file.comment)
    except AnyAnyError:
        raise
    except Exception:  # whatever libsndfile throws; its text is never repeated
        raise source.error("corrupt", "the file is damaged and cannot be decoded") from None
