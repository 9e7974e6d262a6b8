"""Media out, to files: whole or not at all.

Bytes go to a temporary file in the same folder, are flushed to the disk, and take the final name in
one step. A reader or a crash never sees half a file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anyany.errors import ResourceError, UsageError
from anyany.media.encode import encode_audio, encode_image, encode_video
from anyany.media.source import display_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from anyany.media.provenance import Provenance

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_image(
    image: Image.Image, path: str | Path, *, provenance: Provenance | None = None
) -> Path:
    """Write a PNG, WebP or JPEG, by the path's ending.

    Args:
        image: any picture that `as_rgb` accepts.
        path: where to; its folder must exist.
        provenance: its record; None writes no metadata at all.

    Returns:
        The path.

    Raises:
        UsageError: the ending is unknown, or the place cannot be written to.
        ResourceError: the disk is full.
    """
    path = Path(path)
    return write_bytes(encode_image(image, provenance, extension=path.suffix), path)


def write_video(
    frames: npt.NDArray[np.uint8],
    frames_per_second: float,
    path: str | Path,
    *,
    provenance: Provenance | None = None,
) -> Path:
    """Write an MP4, GIF or WebP, by the path's ending.

    Args:
        frames: uint8 [F, H, W, 3]; for MP4, H and W even.
        frames_per_second: playing rate.
        path: where to; its folder must exist.
        provenance: its record; None writes no metadata at all.

    Returns:
        The path.

    Raises:
        UsageError: the ending is unknown, the frames do not fit it, or the place cannot be
            written to.
        ResourceError: the disk is full.
    """
    path = Path(path)
    data = encode_video(frames, frames_per_second, provenance, extension=path.suffix)
    return write_bytes(data, path)


def write_audio(
    waveform: npt.NDArray[np.float32],
    sample_rate: int,
    path: str | Path,
    *,
    provenance: Provenance | None = None,
) -> Path:
    """Write a WAV or FLAC at 16 bits, by the path's ending.

    Args:
        waveform: float [channels, samples] in [-1, 1].
        sample_rate: Hz.
        path: where to; its folder must exist.
        provenance: its record; None writes no metadata at all.

    Returns:
        The path.

    Raises:
        UsageError: the ending is unknown, the waveform is malformed, or the place cannot be
            written to.
        ResourceError: the disk is full.
    """
    path = Path(path)
    return write_bytes(encode_audio(waveform, sample_rate, provenance, extension=path.suffix), path)


def write_json(record: Any, path: str | Path) -> Path:
    """Write plain values as indented UTF-8 JSON; NaN and infinity are an error.

    Returns:
        The path.

    Raises:
        UsageError: the record is not plain JSON, or the place cannot be written to.
        ResourceError: the disk is full.
    """
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise UsageError(f"{display_name(path)}: expected plain, finite JSON values") from None
    return write_bytes(f"{text}\n".encode(), path)


def write_bytes(data: bytes, path: str | Path) -> Path:
    """Write a file whole or not at all; an existing one is replaced.

    Returns:
        The path.

    Raises:
        UsageError: the place cannot be written to.
        ResourceError: the disk is full.
    """
    path, name = Path(path), display_name(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp-{os.getpid()}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except FileNotFoundError:
        raise UsageError(f"{name}: cannot be written, its folder does not exist") from None
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise ResourceError(f"{name}: cannot be written, the disk is full") from None
        raise UsageError(f"{name}: cannot be written here; check the folder's rights") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system allows it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
