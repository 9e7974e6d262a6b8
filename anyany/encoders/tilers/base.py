"""The seam of tilers: one media item in, its tiles with their places out.

A tiler works on media as they come (before `Encoder.prepare`), so it needs no weights.

Shapes: F frames, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from anyany.errors import ConfigError

Position: TypeAlias = tuple[int, ...] | None

# LLaVA-NeXT's, counted in tiles down and across.
NEXT_PINS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))


@dataclass(frozen=True, eq=False)
class FrameTile:
    """A few frames of a video.

    Args:
        frames: uint8 [F, H, W, 3].
    """

    frames: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ImageTile:
    """A picture, or a piece of one, that has the size in which it is to be encoded.

    Args:
        image: RGB; its sides are multiples of the encoder's patch.
    """

    image: Image.Image


@dataclass(frozen=True, eq=False)
class AudioTile:
    """A piece of a recording that becomes one spectrogram.

    Args:
        waveform: float32 [channels, samples].
        sample_rate: Hz.
    """

    waveform: npt.NDArray[np.float32]
    sample_rate: int


@dataclass(frozen=True, eq=False)
class Tile:
    """A piece of one media item.

    Args:
        media: what `Encoder.prepare` takes.
        position: where it lies, (time,) or (row, column); None for the whole item.
    """

    media: Any
    position: Position = None


class Tiler(Protocol):
    """Cuts an item into tiles.

    `num_tiles` is the most that it makes, an overview included; `num_placed` how many of these have
    a row and a column in a picture; `pads` says that they make up a canvas in which the picture
    lies centred, with padding around it.
    """

    num_tiles: int
    num_placed: int
    pads: bool

    def __call__(self, media: Any) -> list[Tile]: ...


@dataclass(frozen=True)
class TilerConfig:
    """Which tiler, and the sizes of those that have some.

    Args:
        type: a key of TILERS.
        num_tiles: tiles of a video or recording (`frames`, `clips`).
        frames_per_tile: consecutive sampled frames that share a tile (`frames`).
        tiles_per_second: 0 always makes `num_tiles`; otherwise so many for each second, spread
            wider where that would be more than `num_tiles` (`frames`, `clips`).
        clip_seconds: length of a piece of a recording (`clips`).
        size: side of a tile in pixels, 0 = the encoder's own (`grid`, `anyres`, `uhd`).
        patch_size: what sides are multiples of, 0 = the encoder's own (`uhd`, `native`).
        rows: of tiles (`grid`).
        columns: of tiles (`grid`).
        pins: allowed canvases in tiles down and across (`anyres`).
        max_slices: the most slices (`uhd`).
        max_side: pixels; longer pictures are scaled down (`native`).
        overview: also the whole picture as a tile without a position (`grid`, `anyres`, `uhd`).

    Raises:
        ConfigError: a count is not positive.
    """

    type: Literal["single", "frames", "clips", "grid", "anyres", "uhd", "native"] = "single"
    num_tiles: int = 4
    frames_per_tile: int = 2
    tiles_per_second: float = 0.0
    clip_seconds: float = 2.0
    size: int = 0
    patch_size: int = 0
    rows: int = 2
    columns: int = 2
    pins: tuple[tuple[int, int], ...] = NEXT_PINS
    max_slices: int = 6
    max_side: int = 1024
    overview: bool = True

    def __post_init__(self) -> None:
        for key in (
            *("num_tiles", "frames_per_tile", "clip_seconds", "rows", "columns"),
            *("max_slices", "max_side"),
        ):
            if getattr(self, key) <= 0:
                raise ConfigError(f"tiler: expected a positive {key}; got {getattr(self, key)}")
        for key in ("tiles_per_second", "size", "patch_size"):
            if getattr(self, key) < 0:
                raise ConfigError(f"tiler: expected {key} of 0 or more; got {getattr(self, key)}")
        if not self.pins or min(min(pin) for pin in self.pins) < 1:
            raise ConfigError(f"tiler: expected pins as positive rows and columns; got {self.pins}")
