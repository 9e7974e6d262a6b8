"""Encoded tiles through a projector, and the projected tiles to one row of tokens.

Shapes: B items alike, K tiles of an item, P encoder tokens, E encoder width, M language tokens,
D language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from anyany.bridges.media import Encoded
from anyany.encoders import Merge, MergeContext, Position, Projector, ProjectorContext


@dataclass(frozen=True, eq=False)
class ProjectedTile:
    """One tile of each of B items.

    Args:
        tokens: [B, M, D].
        position: in its item; None for the whole.
        grid: how the M tokens lie, if the projector left them so.
    """

    tokens: Tensor
    position: Position
    grid: tuple[int, ...] | None


def project_tiles(
    projector: Projector, items: Sequence[Encoded], instructions: Sequence[Tensor | None]
) -> list[ProjectedTile]:
    """The tiles of B alike items; those of one size in one pass.

    Args:
        projector: of their modality.
        items: that agree in `Encoded.shape`.
        instructions: of each, its question [words, D]; for all or for none.
    """
    links = list(zip(*(item.links for item in items), strict=True))  # of B each
    if projector.joins:
        return [_project_joined(projector, links, instructions)]
    tiles: list[ProjectedTile] = []
    for link in links:
        first, count = link[0], len(link[0].positions)
        tokens = rearrange([one.tokens for one in link], "b k p e -> (b k) p e")
        words, mask = _padded(instructions, tokens, repeats=count)
        places = first.positions * len(link)
        context = ProjectorContext(first.modality, first.grid, places, None, words, mask)
        projected = rearrange(projector(tokens, context), "(b k) m d -> k b m d", k=count)
        grid = first.grid if projector.keeps_grid else None
        tiles += [
            ProjectedTile(own, position, grid)
            for own, position in zip(projected, first.positions, strict=True)
        ]
    return tiles


def merge_tiles(
    merge: Merge,
    tiles: Sequence[ProjectedTile],
    *,
    size: tuple[int, int] | None,
    separators: Tensor | None,
) -> Tensor:
    """The B items' rows of tokens: [B, M, D]."""
    positions, grids = [tile.position for tile in tiles], [tile.grid for tile in tiles]
    return merge([t.tokens for t in tiles], MergeContext(positions, grids, size, separators))


def _project_joined(
    projector: Projector,
    links: Sequence[Sequence[Encoded]],
    instructions: Sequence[Tensor | None],
) -> ProjectedTile:
    firsts = [link[0] for link in links]
    joined = [rearrange([one.tokens for one in link], "b k p e -> b (k p) e") for link in links]
    tokens = torch.cat(joined, dim=1)
    positions = tuple(place for first in firsts for place in first.positions)
    lengths = tuple(first.tokens.shape[1] for first in firsts for _ in first.positions)
    words, mask = _padded(instructions, tokens, repeats=1)
    context = ProjectorContext(firsts[0].modality, None, positions, lengths, words, mask)
    return ProjectedTile(projector(tokens, context), None, None)


def _padded(
    instructions: Sequence[Tensor | None], tokens: Tensor, *, repeats: int
) -> tuple[Tensor | None, Tensor | None]:
    """Questions [B, words, D] with their mask, each repeated for its item's tiles."""
    words = [one.to(tokens.device, tokens.dtype) for one in instructions if one is not None]
    if not words:
        return None, None
    padded = pad_sequence(words, batch_first=True)
    lengths = torch.tensor([len(one) for one in words], device=tokens.device)
    mask = torch.arange(padded.shape[1], device=tokens.device)[None] < lengths[:, None]
    return padded.repeat_interleave(repeats, dim=0), mask.repeat_interleave(repeats, dim=0)
