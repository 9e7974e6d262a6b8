"""Tilers along time: frames of a video, pieces of a recording; and the tiler that does not cut.

Shapes: F frames, H W height and width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from anyany.encoders.preprocessing.audios import checked_waveform
from anyany.encoders.preprocessing.videos import checked_frames
from anyany.encoders.tilers.base import AudioTile, FrameTile, Tile, TilerConfig


class SingleTiler:
    """The whole item is the one tile."""

    num_tiles = 1
    num_placed = 0
    pads = False

    def __init__(self, config: TilerConfig | None = None) -> None:
        """Nothing to set; `config` is taken so that all tilers are built alike."""

    def __call__(self, media: Any) -> list[Tile]:
        """One tile with the item itself."""
        return [Tile(media)]


class FramesTiler:
    """A video becomes tiles of a few frames in time order, so that their order reaches the LLM.

    Frames are taken evenly from the first to the last; a video with fewer frames than wanted
    repeats some. A tile of neighbouring frames is a view: it costs no memory of its own.

    Args:
        config: how many tiles, and frames in each.
    """

    num_placed = 0
    pads = False

    def __init__(self, config: TilerConfig | None = None) -> None:
        config = config or TilerConfig("frames")
        self.num_tiles = config.num_tiles
        self.frames_per_tile = config.frames_per_tile
        self.tiles_per_second = config.tiles_per_second

    def __call__(self, media: Any) -> list[Tile]:
        """Cut a video.

        Args:
            media: something with uint8 `frames` [F, H, W, 3] and `frames_per_second`.

        Returns:
            Tiles of FrameTile at positions (0,), (1,), ...

        Raises:
            UsageError: it is no usable video.
        """
        frames = checked_frames(media)
        seconds = len(frames) / media.frames_per_second
        num_tiles = _count(seconds, self.tiles_per_second, self.num_tiles)
        wanted = num_tiles * self.frames_per_tile
        indices = np.linspace(0, len(frames) - 1, wanted).round().astype(int)
        groups = indices.reshape(num_tiles, self.frames_per_tile)
        return [Tile(FrameTile(_frames_at(frames, g)), (time,)) for time, g in enumerate(groups)]


class ClipsTiler:
    """A recording becomes tiles of a few seconds in time order: one spectrogram each.

    Pieces start evenly from the beginning to the last full piece; those of a short recording
    overlap.

    Args:
        config: how many tiles, and how long they are.
    """

    num_placed = 0
    pads = False

    def __init__(self, config: TilerConfig | None = None) -> None:
        config = config or TilerConfig("clips")
        self.num_tiles = config.num_tiles
        self.clip_seconds = config.clip_seconds
        self.tiles_per_second = config.tiles_per_second

    def __call__(self, media: Any) -> list[Tile]:
        """Cut a recording.

        Args:
            media: something with a float32 `waveform` [channels, samples] and a `sample_rate`.

        Returns:
            Tiles of AudioTile at positions (0,), (1,), ...

        Raises:
            UsageError: it is no usable recording.
        """
        waveform = checked_waveform(media)
        rate: int = media.sample_rate
        length = max(round(self.clip_seconds * rate), 1)
        count = _count(waveform.shape[1] / rate, self.tiles_per_second, self.num_tiles)
        starts = np.linspace(0, max(waveform.shape[1] - length, 0), count).round().astype(int)
        return [
            Tile(AudioTile(waveform[:, start : start + length], rate), (time,))
            for time, start in enumerate(starts)
        ]


def _count(seconds: float, tiles_per_second: float, most: int) -> int:
    if tiles_per_second == 0:
        return most
    return min(max(math.ceil(seconds * tiles_per_second - 1e-6), 1), most)


def _frames_at(
    frames: npt.NDArray[np.uint8], indices: npt.NDArray[np.int_]
) -> npt.NDArray[np.uint8]:
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 == len(indices):
        return frames[first : last + 1]
    return frames[indices]
