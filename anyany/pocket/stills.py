"""Media as still pictures: for sheets of samples, reports and the gallery.

A picture stays itself, a clip becomes its frames side by side, a recording its mel picture with
low tones below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Frames: TypeAlias = npt.NDArray[np.uint8]  # [F, H, W, 3]
Recording: TypeAlias = npt.NDArray[np.float32]  # [samples] at 16 kHz


def still(medium: Any) -> Image.Image:
    """A medium as one picture.

    Args:
        medium: a PIL picture, uint8 frames [F, H, W, 3], or a waveform float32 [samples].

    Raises:
        ValueError: an array of another shape.
    """
    if not isinstance(medium, np.ndarray):
        return cast("Image.Image", medium)
    if medium.ndim == 4:
        return strip(medium)
    if medium.ndim == 1:
        return spectrogram(medium)
    raise ValueError(f"expected frames [F, H, W, 3] or samples [N], got {list(medium.shape)}")


def strip(frames: Frames) -> Image.Image:
    """All frames side by side: F * W x H pixels."""
    from PIL import Image

    return Image.fromarray(np.concatenate(list(frames), axis=1))


def spectrogram(waveform: Recording) -> Image.Image:
    """The mel picture of a recording: a column each 10 ms, 64 rows."""
    import torch
    from PIL import Image

    from anyany.pocket.mel import log_mel

    mel = log_mel(torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))[None])[0]
    levels = ((mel.clamp(-1, 4) + 1) * 51).round().to(torch.uint8)  # [frames, 64]
    return Image.fromarray(levels.T.flip(0).contiguous().numpy()).convert("RGB")
