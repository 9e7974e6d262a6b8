"""Tilers cut one media item into tiles; each tile is encoded and projected by itself.

A tiler works on media as they come (before `Encoder.prepare`), so it needs no weights.

Shapes: F frames, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from anyany.encoders.preprocessing.videos import checked_frames
from anyany.errors import ConfigError


@dataclass(frozen=True, eq=False)
class FrameTile:
    """A few frames of a video.

    Args:
        frames: uint8 [F, H, W, 3].
    """

    frames: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Tile:
    """A piece of one media item.

    Args:
        media: what `Encoder.prepare` takes.
        position: where it lies, (time,) or (row, column); None for the whole item.
    """

    media: Any
    position: tuple[int, ...] | None = None


class Tiler(Protocol):
    """Cuts an item into tiles; the same number for every item of a configuration."""

    num_tiles: int

    def __call__(self, media: Any) -> list[Tile]: ...


@dataclass(frozen=True)
class TilerConfig:
    """Which tiler, and the sizes of those that have some.

    Args:
        type: a key of TILERS.
        num_tiles: tiles of a video (`frames`).
        frames_per_tile: consecutive sampled frames that share a tile (`frames`).

    Raises:
        ConfigError: a count is not positive.
    """

    type: Literal["single", "frames"] = "single"
    num_tiles: int = 4
    frames_per_tile: int = 2

    def __post_init__(self) -> None:
        for key, value in (
            ("num_tiles", self.num_tiles),
            ("frames_per_tile", self.frames_per_tile),
        ):
            if value < 1:
                raise ConfigError(f"tiler: expected a positive {key}; got {value}")


class SingleTiler:
    """The whole item is the one tile."""

    num_tiles = 1

    def __init__(self, config: TilerConfig | None = None) -> None:
        """Nothing to set; `config` is taken so that all tilers are built alike."""

    def __call__(self, media: Any) -> list[Tile]:
        """One tile with the item itself."""
        return [Tile(media)]


class FramesTiler:
    """A video becomes tiles of a few frames in time order, so that their order reaches the LLM.

    Frames are taken evenly from the first to the last; a video with fewer frames than wanted
    repeats some.

    Args:
        config: how many tiles, and frames in each.
    """

    def __init__(self, config: TilerConfig | None = None) -> None:
        config = config or TilerConfig("frames")
        self.num_tiles = config.num_tiles
        self.frames_per_tile = config.frames_per_tile

    def __call__(self, media: Any) -> list[Tile]:
        """Cut a video.

        Args:
            media: something with uint8 `frames` [F, H, W, 3] and `frames_per_second`.

        Returns:
            `num_tiles` tiles of FrameTile at positions (0,), (1,), ...

        Raises:
            UsageError: it is no usable video.
        """
        frames = checked_frames(media)
        wanted = self.num_tiles * self.frames_per_tile
        indices = np.linspace(0, len(frames) - 1, wanted).round().astype(int)
        groups = indices.reshape(self.num_tiles, self.frames_per_tile)
        return [Tile(FrameTile(frames[group]), (time,)) for time, group in enumerate(groups)]


TILERS: dict[str, Callable[[TilerConfig], Tiler]] = {"single": SingleTiler, "frames": FramesTiler}


def build_tiler(config: TilerConfig) -> Tiler:
    """The tiler that a configuration names.

    Raises:
        ConfigError: no tiler has that name.
    """
    if config.type not in TILERS:
        raise ConfigError(f"tiler.type: expected one of {', '.join(TILERS)}; got {config.type!r}")
    return TILERS[config.type](config)
