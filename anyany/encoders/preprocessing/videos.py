"""Decoded videos to tensors, equal to the published (decord, pytorchvideo) preprocessing.

Reading files is `anyany.media`'s work; here frames come in as bytes.

Shapes: S views (clips x crops, clip by clip), F frames, H W height and width.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from anyany.encoders.preprocessing.clips import clip_spans
from anyany.encoders.preprocessing.config import VideoPreprocessing
from anyany.encoders.preprocessing.images import check_aspect, normalise_channels
from anyany.errors import UsageError


class VideoLike(Protocol):
    """Decoded video, as `anyany.media.Video`, `VideoPart` and `VideoTile` are.

    `frames` is uint8 [F, H, W, 3]; `frames_per_second` is positive.
    """

    @property
    def frames(self) -> npt.NDArray[np.uint8]: ...

    @property
    def frames_per_second(self) -> float: ...


def prepare_video(video: VideoLike, config: VideoPreprocessing) -> Tensor:
    """Take even clips, a few frames of each, resize (bilinear), normalise, crop.

    Args:
        video: frames and their rate.
        config: counts, sizes, normalisation.

    Returns:
        float32 [S, 3, F, H, W], crops of a clip next to each other.

    Raises:
        UsageError: there is no frame, a wrong shape or type, or no positive rate.
    """
    frames = checked_frames(video)
    views: list[Tensor] = []
    crops: dict[tuple[int, ...], list[Tensor]] = {}  # short media repeat the same clip
    for indices in clip_frame_indices(len(frames), video.frames_per_second, config):
        key = tuple(indices)
        if key not in crops:
            crops[key] = _crops(np.ascontiguousarray(frames[indices]), config)
        views.extend(crops[key])
    return torch.stack(views)


def prepare_frames(frames: npt.NDArray[np.uint8], config: VideoPreprocessing) -> Tensor:
    """Make one view of all the given frames: resized as in a clip, centre crop.

    Args:
        frames: uint8 [n, H, W, 3] with n = `frames_per_clip`, or n = 1, which is repeated.
        config: counts, sizes, normalisation.

    Returns:
        float32 [1, 3, F, H, W].

    Raises:
        UsageError: another number of frames.
    """
    if len(frames) not in (1, config.frames_per_clip):
        raise UsageError(
            f"expected 1 or {config.frames_per_clip} frames per tile; got {len(frames)}"
        )
    indices = [min(index, len(frames) - 1) for index in range(config.frames_per_clip)]
    return _crops(frames[indices], dataclasses.replace(config, num_crops=1))[0][None]


def clip_frame_indices(
    num_frames: int, frames_per_second: float, config: VideoPreprocessing
) -> list[list[int]]:
    """Which frames each clip takes.

    Args:
        num_frames: of the video.
        frames_per_second: of the video.
        config: counts and clip length.

    Returns:
        One list of `frames_per_clip` indices per clip.
    """
    spans = clip_spans(
        num_frames / frames_per_second,
        num_clips=config.num_clips,
        clip_seconds=config.clip_seconds,
    )
    chosen = []
    for span in spans:
        first = min(math.ceil(frames_per_second * float(span.start)), num_frames - 1)
        stop = min(math.ceil(frames_per_second * float(span.end)), num_frames)
        offsets = torch.linspace(0, max(stop - first, 1) - 1, config.frames_per_clip)
        chosen.append([first + int(offset) for offset in offsets])
    return chosen


def checked_frames(video: Any) -> npt.NDArray[np.uint8]:
    """The frames of a video, after a look at them.

    Raises:
        UsageError: there is no frame, a wrong shape or type, or no positive rate.
    """
    frames = getattr(video, "frames", None)
    rate = getattr(video, "frames_per_second", None)
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4:
        got = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(video)
        raise UsageError(f"expected a video with uint8 frames [frames, H, W, 3]; got {got}")
    if len(frames) == 0 or frames.shape[-1] != 3:
        raise UsageError(f"expected at least one frame of RGB pixels; got shape {frames.shape}")
    if not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise UsageError(f"expected a positive number of frames per second; got {rate}")
    check_aspect(frames.shape[1], frames.shape[2])
    return frames


def _crops(frames: npt.NDArray[np.uint8], config: VideoPreprocessing) -> list[Tensor]:
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)  # [3, F, H, W]
    resized = _resize_short_side(clip.to(torch.float32) / 255.0, config.size)
    normalised = normalise_channels(resized, config.mean, config.std)
    return [
        normalised[..., top : top + config.size, left : left + config.size]
        for top, left in _crop_corners(normalised.shape[-2], normalised.shape[-1], config)
    ]


def _resize_short_side(clip: Tensor, size: int) -> Tensor:
    height, width = clip.shape[-2:]
    if width < height:
        target = (math.floor(height / width * size), size)
    else:
        target = (size, math.floor(width / height * size))
    return F.interpolate(clip, size=target, mode="bilinear", align_corners=False)


def _crop_corners(height: int, width: int, config: VideoPreprocessing) -> list[tuple[int, int]]:
    free_rows, free_columns = height - config.size, width - config.size
    centre = (math.ceil(free_rows / 2), math.ceil(free_columns / 2))
    if config.num_crops == 1:
        return [centre]
    if height > width:
        return [(0, centre[1]), centre, (free_rows, centre[1])]
    return [(centre[0], 0), centre, (centre[0], free_columns)]
