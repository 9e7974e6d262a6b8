"""Tilers cut, merges join; both by name."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import anyany.encoders
from anyany.config import from_dict, to_dict
from anyany.encoders import (
    FrameTile,
    ImageBindConfig,
    PreprocessingConfig,
    ProjectorConfig,
    TilerConfig,
    build_tiler,
    get_merge,
    merge_flat,
)
from anyany.errors import ConfigError, UsageError


def _video(num_frames: int) -> SimpleNamespace:
    frames = np.zeros((num_frames, 2, 2, 3), np.uint8) + np.arange(num_frames)[:, None, None, None]
    return SimpleNamespace(frames=frames.astype(np.uint8), frames_per_second=8.0)


def test_single_keeps_the_item() -> None:
    tiler = build_tiler(TilerConfig())
    media = object()
    tiles = tiler(media)
    assert tiler.num_tiles == 1
    assert [(tile.media, tile.position) for tile in tiles] == [(media, None)]


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (15, [[0, 2], [4, 6], [8, 10], [12, 14]]),
        (1, [[0, 0], [0, 0], [0, 0], [0, 0]]),
    ],
)
def test_frames_are_taken_evenly_and_in_order(num_frames: int, expected: list[list[int]]) -> None:
    tiler = build_tiler(TilerConfig("frames", num_tiles=4, frames_per_tile=2))
    tiles = tiler(_video(num_frames))
    assert tiler.num_tiles == 4
    assert [tile.position for tile in tiles] == [(0,), (1,), (2,), (3,)]
    assert all(isinstance(tile.media, FrameTile) for tile in tiles)
    assert [tile.media.frames[:, 0, 0, 0].tolist() for tile in tiles] == expected


def test_tiler_errors() -> None:
    with pytest.raises(UsageError, match="expected a video with uint8 frames"):
        build_tiler(TilerConfig("frames"))("clip.mp4")
    with pytest.raises(ConfigError, match="expected a positive num_tiles; got 0"):
        TilerConfig("frames", num_tiles=0)
    with pytest.raises(ConfigError, match=r"one of single, frames, clips, .* got 'spiral'"):
        build_tiler(TilerConfig("spiral"))  # type: ignore[arg-type]


def test_flat_merge_keeps_the_order() -> None:
    first, second = torch.zeros(2, 3, 4), torch.ones(2, 1, 4)
    merged = merge_flat([first, second])
    assert torch.equal(merged[:, :3], first)
    assert torch.equal(merged[:, 3:], second)
    assert get_merge("flat") is merge_flat
    with pytest.raises(ConfigError, match="expected one of flat, newline, schema; got 'spiral'"):
        get_merge("spiral")
    with pytest.raises(ValueError, match="at least one tile to merge"):
        merge_flat([])


@pytest.mark.parametrize(
    "config",
    [ImageBindConfig.huge(), PreprocessingConfig(), ProjectorConfig("grouped"), TilerConfig()],
    ids=lambda config: type(config).__name__,
)
def test_configurations_survive_the_loader(config: object) -> None:
    assert from_dict(to_dict(config), type(config), source="test") == config


def test_public_names_exist() -> None:
    names = anyany.encoders.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(anyany.encoders, name) for name in names)
