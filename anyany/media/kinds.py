"""Which modality a file holds, by content; a name that says otherwise is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from anyany.media import formats
from anyany.media.containers import stream_kinds
from anyany.media.limits import DEFAULT_LIMITS, Limits
from anyany.media.source import MediaSource, Source, load

MediaKind: TypeAlias = Literal["image", "video", "audio"]

_EXPECTED: Final[Mapping[MediaKind, str]] = {
    "image": "a picture (PNG, JPEG, WebP, GIF or BMP)",
    "video": "a clip (MP4, MOV, WebM, Matroska, AVI, GIF or WebP)",
    "audio": "a recording (WAV, FLAC, MP3, AAC, M4A, Ogg, or a clip with sound)",
}
_STILL: Final = frozenset[MediaKind]({"image"})
_TIMED: Final = frozenset[MediaKind]({"video", "audio"})
_READABLE: Final[Mapping[str, frozenset[MediaKind]]] = {
    **dict.fromkeys(("png", "jpeg", "bmp"), _STILL),
    **dict.fromkeys(("gif", "webp"), frozenset[MediaKind]({"image", "video"})),
    **dict.fromkeys(("mov", "matroska", "avi", "ogg"), _TIMED),
    **dict.fromkeys(("wav", "flac", "mp3", "aac"), frozenset[MediaKind]({"audio"})),
}
_STILL_ENDINGS: Final = (".png", ".jpg", ".jpeg", ".bmp")
_TIMED_ENDINGS: Final = (
    *(".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".ogv"),
    *(".wav", ".flac", ".mp3", ".aac", ".m4a", ".ogg", ".oga", ".opus"),
)


def sniff(source: MediaSource, *, limits: Limits = DEFAULT_LIMITS) -> MediaKind:
    """Tell a file's modality by its content: "image", "video" or "audio".

    A GIF or WebP with more than one frame is a video; a container without moving pictures (cover
    art does not count) is audio.

    Raises:
        MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
    """
    loaded = load(source, limits)
    name = formats.detect(loaded.data)
    if name is None or name not in _READABLE:
        raise _unsupported(loaded, name, "a picture, a clip or a recording")
    _check(loaded, name)
    if name in ("gif", "webp"):
        return "video" if formats.num_frames(loaded.data, name) > 1 else "image"
    if len(_READABLE[name]) == 1:
        return next(iter(_READABLE[name]))
    found = stream_kinds(loaded, name)
    if not found:
        raise loaded.error("unsupported", "neither moving pictures nor sound inside")
    return "video" if "video" in found else "audio"


def require(loaded: Source, kind: MediaKind) -> str:
    """The format of a file that is to be read as `kind`.

    Raises:
        MediaError: it holds something else ("unsupported"), names other files ("refused"), or
            ends before its own headers say ("corrupt").
    """
    name = formats.detect(loaded.data)
    if name is None or kind not in _READABLE.get(name, ()):
        raise _unsupported(loaded, name, _EXPECTED[kind])
    _check(loaded, name)
    return name


def _check(loaded: Source, name: str) -> None:
    kinds = _READABLE[name]
    still_name = loaded.extension in _STILL_ENDINGS and "image" not in kinds
    timed_name = loaded.extension in _TIMED_ENDINGS and not kinds & {"audio"}
    if still_name or timed_name:
        raise loaded.error(
            "unsupported",
            f"the name says {loaded.extension}, the content is {formats.TITLES[name]}; rename it",
        )
    if formats.ends_early(loaded.data, name):
        raise loaded.error("corrupt", "the file is cut short")


def _unsupported(loaded: Source, name: str | None, expected: str) -> Exception:
    if name == "playlist":
        return loaded.error("refused", "it names other files to read, which is never done")
    got = formats.TITLES[name] if name else "something else"
    hint = "; save it as PNG" if name == "tiff" else ""
    return loaded.error("unsupported", f"expected {expected}, got {got}{hint}")
