"""Merges join the projected tiles of one item into the row of tokens that the LLM reads.

Shapes: B batch, M tokens of a tile, D language width, H W rows and columns of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from anyany.encoders.tilers.base import Position
from anyany.errors import ConfigError, UsageError


@dataclass(frozen=True, eq=False)
class MergeContext:
    """What a merge may look at besides the tokens.

    Args:
        positions: of the tiles; None for a whole item.
        grids: how each tile's tokens lie; None if they have no rows and columns.
        size: height and width of a picture that lies centred in the tiles' canvas; None if it
            fills the canvas.
        separators: learnt rows [n, D], n as in NUM_SEPARATORS.
    """

    positions: Sequence[Position]
    grids: Sequence[tuple[int, ...] | None]
    size: tuple[int, int] | None = None
    separators: Tensor | None = None


Merge: TypeAlias = Callable[[Sequence[Tensor], MergeContext], Tensor]


def merge_flat(tiles: Sequence[Tensor], context: MergeContext | None = None) -> Tensor:
    """Put the tiles' tokens one after another.

    Args:
        tiles: [B, M, D] each; M may differ.
        context: not looked at.

    Returns:
        [B, sum of M, D].

    Raises:
        ValueError: there is no tile.
    """
    if not tiles:
        raise ValueError("expected at least one tile to merge; got none")
    return torch.cat(list(tiles), dim=1)


def merge_newline(tiles: Sequence[Tensor], context: MergeContext) -> Tensor:
    """Put tiles back to one map, cut its padding off, end each row with a learnt token.

    LLaVA-NeXT's: tiles without a position (the overview) stay as they are, in their order before or
    after the map. An item that is one tile is its own map; frames lie below one another.

    Args:
        tiles: [B, M, D] each; those with a position alike.
        context: positions, grids, the picture's size, one separator.

    Returns:
        [B, M of the others + rows * (columns + 1), D].

    Raises:
        UsageError: a tile's tokens have no rows and columns.
    """
    assert context.separators is not None, "the newline merge has one learnt row"
    placed = [i for i, position in enumerate(context.positions) if position is not None]
    if not placed and len(tiles) == 1:
        placed = [0]
    if not placed:
        return merge_flat(tiles)
    rows = _with_newlines(_map_of(tiles, placed, context), context)
    pieces = [*tiles[: placed[0]], rows, *tiles[placed[-1] + 1 :]]
    return torch.cat(pieces, dim=1)


def merge_schema(tiles: Sequence[Tensor], context: MergeContext) -> Tensor:
    """One learnt token between the slices of a row, another after each row (LLaVA-UHD).

    Tiles without a position stay as they are; frames and pieces of a recording are one row.

    Args:
        tiles: [B, M, D] each.
        context: positions and two separators.

    Returns:
        [B, sum of M + rows * columns, D].
    """
    assert context.separators is not None, "the schema merge has two learnt rows"
    between, end = (row.expand(len(tiles[0]), 1, -1) for row in context.separators)
    pieces: list[Tensor] = []
    places = [_row_and_column(position, below=False) for position in context.positions]
    for number, (tile, place) in enumerate(zip(tiles, places, strict=True)):
        pieces.append(tile)
        if place is None:
            continue
        following = places[number + 1] if number + 1 < len(places) else None
        same_row = following is not None and following[0] == place[0]
        pieces.append(between if same_row else end)
    return torch.cat(pieces, dim=1)


MERGES: dict[str, Merge] = {
    "flat": merge_flat,
    "newline": merge_newline,
    "schema": merge_schema,
}
NUM_SEPARATORS = {"flat": 0, "newline": 1, "schema": 2}


def get_merge(name: str) -> Merge:
    """The merge of that name.

    Raises:
        ConfigError: no merge has that name.
    """
    if name not in MERGES:
        raise ConfigError(f"merge: expected one of {', '.join(MERGES)}; got {name!r}")
    return MERGES[name]


def _row_and_column(position: Position, *, below: bool) -> tuple[int, int] | None:
    if position is None:
        return None
    if len(position) == 1:
        return (position[0], 0) if below else (0, position[0])
    return position[0], position[1]


def _map_of(tiles: Sequence[Tensor], placed: Sequence[int], context: MergeContext) -> Tensor:
    """The tiles at `placed` as one map: [B, H, W, D]."""
    rows: dict[int, list[Tensor]] = {}
    for index in placed:
        grid = context.grids[index]
        if grid is None or len(grid) != 2 or grid[0] * grid[1] != tiles[index].shape[1]:
            raise UsageError(
                "the merge newline needs tokens in rows and columns; these have none: take the "
                "merge flat or schema"
            )
        place = _row_and_column(context.positions[index], below=True) or (0, 0)
        square = rearrange(tiles[index], "b (y x) d -> b y x d", y=grid[0])
        rows.setdefault(place[0], []).append(square)
    return torch.cat([torch.cat(row, dim=2) for row in rows.values()], dim=1)


def _with_newlines(whole: Tensor, context: MergeContext) -> Tensor:
    """[B, H, W, D] -> [B, h (w + 1), D], h and w without padding."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    assert context.separators is not None
    if context.size is not None:
        batch = len(whole)
        channels = rearrange(whole, "b y x d -> (b d) y x")
        cut: Tensor = unpad_image(channels, context.size)  # type: ignore[no-untyped-call]
        whole = rearrange(cut, "(b d) y x -> b y x d", b=batch)
    ends = context.separators[0].expand(*whole.shape[:2], 1, -1)
    return rearrange(torch.cat([whole, ends], dim=2), "b y x d -> b (y x) d")
