"""Tilers that cut pictures and recordings: published slicings, places, sizes, token counts."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anyany.encoders import (
    Encoder,
    MergeContext,
    PixelEncoder,
    Tile,
    TilerConfig,
    build_tiler,
    get_merge,
)
from anyany.encoders.tilers.base import AudioTile
from anyany.errors import ConfigError, UsageError


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height))


def places(tiles: list[Tile]) -> list[tuple[int, ...] | None]:
    return [tile.position for tile in tiles]


def count(tiles: list[Tile], merge: str, patch: int, size: tuple[int, int] | None = None) -> int:
    """Tokens of an item whose patches are kept: no weights involved."""
    grids = [(t.media.image.height // patch, t.media.image.width // patch) for t in tiles]
    rows = [torch.zeros(1, math.prod(grid), 1) for grid in grids]
    context = MergeContext(places(tiles), grids, size, torch.zeros(2, 1))
    return get_merge(merge)(rows, context).shape[1]


@pytest.mark.parametrize(
    ("width", "height", "columns", "rows"),
    [
        *((672, 672, 2, 2), (672, 1008, 2, 3), (1008, 336, 3, 1), (1344, 336, 4, 1)),
        *((336, 2016, 1, 6), (640, 480, 2, 2), (1920, 1080, 3, 2)),
    ],
)
def test_uhd_cuts_as_the_paper_says(width: int, height: int, columns: int, rows: int) -> None:
    tiler = build_tiler(TilerConfig("uhd", size=336, patch_size=14))
    tiles = tiler(blank(width, height))
    grid = [(y, x) for y in range(rows) for x in range(columns)]
    assert places(tiles) == [None, *grid]
    own = (width / columns) / (height / rows)
    for tile in tiles[1:]:
        w, h = tile.media.image.size
        assert w % 14 == h % 14 == 0
        assert abs(w * h / 336**2 - 1) < 0.06
        assert abs(math.log(w / h / own)) < 0.1
        assert abs(math.log(w / h)) < 0.35 + 0.1
    tokens = [torch.zeros(1, 64, 1)] * len(tiles)  # a resampler makes 64 of each
    context = MergeContext(places(tiles), [None] * len(tiles), None, torch.tensor([[1.0], [2.0]]))
    merged = get_merge("schema")(tokens, context)[0, :, 0]
    assert (merged == 1).sum() == rows * (columns - 1)
    assert (merged == 2).sum() == rows
    assert len(merged) == 64 * (rows * columns + 1) + rows * columns


def test_uhd_leaves_a_small_picture_whole() -> None:
    tiler = build_tiler(TilerConfig("uhd", size=336, patch_size=14))
    (tile,) = tiler(blank(336, 336))
    assert (tile.position, tile.media.image.size) == (None, (336, 336))
    (tile,) = tiler(blank(400, 200))
    assert tile.media.image.size == (476, 238)


@pytest.mark.parametrize(
    ("height", "width", "canvas"),
    [
        (500, 1000, (1, 2)),
        (480, 640, (2, 2)),
        (1000, 300, (3, 1)),
        (336, 336, (1, 2)),
        (37, 1200, (1, 3)),
    ],
)
def test_anyres_counts_are_llava_nexts_own(
    height: int, width: int, canvas: tuple[int, int]
) -> None:
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

    config = TilerConfig("anyres", size=336, patch_size=14)
    tiles = build_tiler(config)(blank(width, height))
    assert places(tiles) == [None, *np.ndindex(canvas)]
    assert {tile.media.image.size for tile in tiles} == {(336, 336)}
    pins = [[rows * 336, columns * 336] for rows, columns in config.pins]
    truth: Any = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=pins),
        patch_size=14,
        num_additional_image_tokens=0,
    )
    truth._get_unpadded_features = partial(LlavaNextProcessor._get_unpadded_features, truth)
    expected = LlavaNextProcessor._get_number_of_features(truth, height, width, 336, 336)
    assert count(tiles, "newline", 14, (height, width)) == expected
    if (height, width) == (480, 640):
        assert expected == 576 + 36 * (48 + 1)


def test_the_map_is_in_raster_order_over_all_tiles() -> None:
    picture = Image.new("RGB", (64, 32))
    picture.paste((255, 255, 255), (40, 16, 48, 24))  # row 2 and column 5 of 4 x 8 patches
    tiles = build_tiler(TilerConfig("anyres", size=16, pins=((2, 4),)))(picture)
    encoder = PixelEncoder("image", patch_size=8)
    features = encoder(torch.stack([encoder.prepare(tile.media) for tile in tiles]))
    assert features.grid == (2, 2)
    rows = list(features.tokens.mean(dim=-1, keepdim=True)[:, None])  # 9 of [1, 4, 1]
    context = MergeContext(places(tiles), [features.grid] * 9, (32, 64), torch.full((1, 1), -99.0))
    merged = get_merge("newline")(rows, context)[0, :, 0]
    assert len(merged) == 4 + 4 * (8 + 1)
    assert merged[4:].argmax() == 2 * 9 + 5
    assert (merged[4:].view(4, 9)[:, 8] == -99).all()


def test_anyres_unpads_what_it_padded_and_nothing_else() -> None:
    picture = Image.new("RGB", (60, 20), (255, 255, 255))
    tiles = build_tiler(TilerConfig("anyres", size=32, pins=((1, 2),), overview=False))(picture)
    encoder = PixelEncoder("image", patch_size=4)
    features = encoder(torch.stack([encoder.prepare(tile.media) for tile in tiles]))
    rows = list(features.tokens.mean(dim=-1, keepdim=True)[:, None])
    context = MergeContext(places(tiles), [features.grid] * 2, (20, 60), torch.zeros(1, 1))
    merged = get_merge("newline")(rows, context)[0, :, 0].view(-1, 17)[:, :16]
    assert len(merged) == 6  # 21 of 32 pixels are the picture: 5.3 rows of patches
    assert (merged[1:-1] > 1.9).all()


def test_grid_tiles_come_before_the_whole() -> None:
    config = TilerConfig("grid", rows=2, columns=3, size=16)
    picture = Image.new("RGB", (48, 32))
    picture.paste((255, 0, 0), (32, 16, 48, 32))
    tiler = build_tiler(config)
    tiles = tiler(picture)
    assert tiler.num_tiles == len(tiles) == 7
    assert places(tiles) == [*np.ndindex(2, 3), None]
    assert [tile.media.image.getpixel((8, 8))[0] for tile in tiles[:6]] == [0, 0, 0, 0, 0, 255]
    assert tiles[-1].media.image.size == (16, 16)
    assert count(tiles, "flat", 8) == 7 * 4


@pytest.mark.parametrize(("width", "height"), [(30, 30), (31, 90), (200, 61)])
def test_native_counts_rows_and_columns_of_any_size(width: int, height: int) -> None:
    tiler = build_tiler(TilerConfig("native", patch_size=30, max_side=150))
    tiles = tiler(Image.new("RGB", (width, height), (9, 9, 9)))
    if max(width, height) > 150:
        width, height = 150, round(height * 150 / width)
    rows, columns = math.ceil(height / 30), math.ceil(width / 30)
    assert count(tiles, "newline", 30) == rows * (columns + 1)
    (tile,) = tiles
    assert tile.media.image.getpixel((0, 0)) == (9, 9, 9)
    if width % 30:
        assert tile.media.image.getpixel((30 * columns - 1, 0)) == (255, 255, 255)


def test_frames_and_clips_follow_the_length_up_to_a_limit() -> None:
    clip = SimpleNamespace(frames=np.zeros((30, 2, 2, 3), np.uint8), frames_per_second=10.0)
    config = TilerConfig("frames", num_tiles=8, frames_per_tile=1, tiles_per_second=2.0)
    tiles = build_tiler(config)(clip)
    assert places(tiles) == [(t,) for t in range(6)]
    assert all(tile.media.frames.base is not None for tile in tiles)  # views, no copies
    fast = TilerConfig("frames", num_tiles=4, frames_per_tile=1, tiles_per_second=9.0)
    assert len(build_tiler(fast)(clip)) == 4
    sound = SimpleNamespace(waveform=np.arange(1000, dtype=np.float32)[None], sample_rate=100)
    tiles = build_tiler(TilerConfig("clips", num_tiles=3, clip_seconds=2.0))(sound)
    assert [tile.media.waveform[0, 0] for tile in tiles] == [0, 400, 800]
    assert all(isinstance(tile.media, AudioTile) for tile in tiles)
    assert {tile.media.waveform.shape for tile in tiles} == {(1, 200)}
    with pytest.raises(UsageError, match="expected audio with a float32 waveform"):
        build_tiler(TilerConfig("clips"))(clip)


def test_sizes_come_from_the_encoder_or_are_asked_for() -> None:
    encoder = Encoder()
    encoder.image_size, encoder.patch_size = 32, 8
    tiles = build_tiler(TilerConfig("grid"), encoder)(blank(50, 50))
    assert {tile.media.image.size for tile in tiles} == {(32, 32)}
    with pytest.raises(ConfigError, match=r"tiler\.size: tiler grid needs it"):
        build_tiler(TilerConfig("grid"))
    with pytest.raises(ConfigError, match="a multiple of the encoder's patch 8; got 20"):
        build_tiler(TilerConfig("anyres", size=20), encoder)
    for values, message in (
        ({"pins": ()}, "expected pins as positive"),
        ({"size": -1}, "expected size of 0 or more; got -1"),
        ({"max_slices": 0}, "expected a positive max_slices; got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            TilerConfig("uhd", **values)  # type: ignore[arg-type]
    for kind in ("grid", "anyres", "uhd", "native"):
        with pytest.raises(TypeError, match="expected a PIL image; got str"):
            build_tiler(TilerConfig(kind), encoder)("photo.png")  # type: ignore[arg-type]
