"""Tilers that cut a picture into rows and columns: grid, anyres, uhd, native.

Every tile has the size in which it is encoded. An overview is a tile without a position.

Shapes: H W height and width.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from PIL import Image, ImageOps

from anyany.encoders.preprocessing.images import checked_picture
from anyany.encoders.tilers.base import ImageTile, Tile, TilerConfig

WHITE = (255, 255, 255)
BICUBIC = Image.Resampling.BICUBIC


class GridTiler:
    """Monkey's (2311.06607, section 3.1): rows x columns tiles, then the whole at a tile's size.

    Args:
        config: rows, columns and the side of a tile.
    """

    pads = False

    def __init__(self, config: TilerConfig) -> None:
        self.config = config
        self.num_placed = config.rows * config.columns
        self.num_tiles = self.num_placed + config.overview

    def __call__(self, media: Any) -> list[Tile]:
        """Cut a PIL picture.

        Raises:
            TypeError: it is no PIL picture.
            UsageError: one side is more than 64 times the other.
        """
        image, config = checked_picture(media), self.config
        canvas = image.resize((config.columns * config.size, config.rows * config.size), BICUBIC)
        tiles = _cut(canvas, config.rows, config.columns)
        return [*tiles, *_overview(image, config)]


class AnyresTiler:
    """LLaVA-NeXT's: the pin that keeps most of the picture, padded; before it the whole.

    Args:
        config: pins in tiles, and the side of a tile.
    """

    pads = True

    def __init__(self, config: TilerConfig) -> None:
        self.config = config
        self.num_placed = max(rows * columns for rows, columns in config.pins)
        self.num_tiles = self.num_placed + config.overview

    def __call__(self, media: Any) -> list[Tile]:
        """Cut a PIL picture.

        Raises:
            TypeError: it is no PIL picture.
            UsageError: one side is more than 64 times the other.
        """
        from transformers.image_processing_utils import select_best_resolution

        image, size = checked_picture(media), self.config.size
        pins = [(rows * size, columns * size) for rows, columns in self.config.pins]
        height, width = select_best_resolution((image.height, image.width), pins)
        canvas = ImageOps.pad(image, (width, height), BICUBIC, color=(0, 0, 0))
        tiles = _cut(canvas, height // size, width // size)
        return [*_overview(image, self.config), *tiles]


class UhdTiler:
    """LLaVA-UHD's (2403.11703, section 3.1): slices near the encoder's area, in their own aspect.

    The slicing is MiniCPM-V's in transformers, by the same authors. A picture that needs no
    slices is its overview alone, so an overview is always made.

    Args:
        config: the most slices, the side of the area, the patch.
    """

    pads = False

    def __init__(self, config: TilerConfig) -> None:
        self.config = config
        self.num_placed = config.max_slices
        self.num_tiles = config.max_slices + 1

    def __call__(self, media: Any) -> list[Tile]:
        """Cut a PIL picture.

        Raises:
            TypeError: it is no PIL picture.
            UsageError: one side is more than 64 times the other.
        """
        image, config = checked_picture(media), self.config
        grid = _slicer().get_sliced_grid(
            (image.height, image.width), config.max_slices, config.size
        )
        overview = Tile(ImageTile(image.resize(self._fit(image.width, image.height), BICUBIC)))
        if grid is None or tuple(grid) == (1, 1):
            return [overview]
        rows, columns = grid
        width, height = self._fit(image.width / columns, image.height / rows)
        canvas = image.resize((width * columns, height * rows), BICUBIC)
        slices = _cut(canvas, rows, columns)
        return [overview, *slices] if config.overview else slices

    def _fit(self, width: float, height: float) -> tuple[int, int]:
        """Sides in whole patches with about the encoder's area and the given aspect."""
        area, patch = self.config.size**2, self.config.patch_size
        scale = math.sqrt(area / (width * height))
        most = area // patch**2  # patches of a slice one patch high
        columns, rows = (min(max(round(side * scale / patch), 1), most) for side in (width, height))
        return columns * patch, rows * patch


class NativeTiler:
    """Fuyu's and OtterHD's: the picture as it is, white up to whole patches, as one tile.

    Args:
        config: the patch and the longest side.
    """

    num_tiles = 1
    num_placed = 1
    pads = False

    def __init__(self, config: TilerConfig) -> None:
        self.config = config

    def __call__(self, media: Any) -> list[Tile]:
        """One tile at position (0, 0).

        Raises:
            TypeError: it is no PIL picture.
            UsageError: one side is more than 64 times the other.
        """
        image, config = checked_picture(media), self.config
        longest = max(image.size)
        if longest > config.max_side:
            scale = config.max_side / longest
            sides = [max(round(side * scale), 1) for side in image.size]
            image = image.resize(sides, BICUBIC)
        width, height = (math.ceil(s / config.patch_size) * config.patch_size for s in image.size)
        canvas = Image.new("RGB", (width, height), WHITE)
        canvas.paste(image, (0, 0))
        return [Tile(ImageTile(canvas), (0, 0))]


def _cut(canvas: Image.Image, rows: int, columns: int) -> list[Tile]:
    width, height = canvas.width // columns, canvas.height // rows
    return [
        Tile(
            ImageTile(
                canvas.crop((x * width, y * height, (x + 1) * width, (y + 1) * height)),
            ),
            (y, x),
        )
        for y in range(rows)
        for x in range(columns)
    ]


def _overview(image: Image.Image, config: TilerConfig) -> list[Tile]:
    if not config.overview:
        return []
    return [Tile(ImageTile(image.resize((config.size, config.size), BICUBIC)))]


@functools.cache
def _slicer() -> Any:
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import (
        MiniCPMV4_6ImageProcessorPil,
    )

    return MiniCPMV4_6ImageProcessorPil()  # type: ignore[no-untyped-call]
