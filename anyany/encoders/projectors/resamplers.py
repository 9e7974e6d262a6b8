"""Projectors with learnt queries that look at the features once or a few times, without text.

Shapes: B batch, K tiles, P encoder tokens, E encoder width, M queries, W width inside,
D language width.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from anyany.encoders.projectors.base import ProjectorConfig, ProjectorContext, QueryProjector

INIT_STD = 0.02


class PerceiverProjector(QueryProjector):
    """Flamingo's resampler (2204.14198, section 2.1): M tokens for an item, however many its tiles.

    Tiles of an item pass together, each marked by a learnt embedding of its place in time (of its
    running number for tiles of a picture); a tile without a place is not marked. transformers'
    `IdeficsPerceiverResampler` (ReLU inside, where the paper has squared ReLU) in width E, then a
    norm and a linear layer.

    Args:
        config: E, D, `resampler`.
    """

    joins = True

    def __init__(self, config: ProjectorConfig) -> None:
        from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

        super().__init__(config)
        sizes, width = config.resampler, config.encoder_dim
        settings = SimpleNamespace(
            perceiver_config=SimpleNamespace(qk_layer_norms_perceiver=False),
            vision_config=SimpleNamespace(embed_dim=width),
        )
        head_dim = max(width // sizes.num_heads, 1)
        self.resampler = IdeficsPerceiverResampler(
            settings,  # type: ignore[arg-type]
            width,
            sizes.depth,
            sizes.num_heads,
            head_dim,
            sizes.num_queries,
        )
        self.places = nn.Parameter(torch.randn(sizes.max_tiles, width) * INIT_STD)
        self.out = nn.Linear(width, config.language_dim)

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """All tokens of an item's tiles, one tile after another: [B, K P, E] -> [B, M, D]."""
        marked = features + self._marks(features, context)
        projected: Tensor = self.out(self.resampler(marked))
        return projected

    def without_gradient(self) -> dict[str, str]:
        """The marks, where an item has no tiles or few."""
        return {"places": "only tiles with a place are marked, each by its own row"}

    def _marks(self, features: Tensor, context: ProjectorContext) -> Tensor:
        positions = context.positions or (None,)
        lengths = context.lengths or (features.shape[1],)
        placed = sum(position is not None for position in positions)
        table: Tensor = self.places
        if placed > len(table):  # [1, E, tiles]
            stretched = F.interpolate(table.T[None], size=placed, mode="linear", align_corners=True)
            table = stretched[0].T
        blank, rows, number = table.new_zeros(table.shape[1]), [], 0
        for position, length in zip(positions, lengths, strict=True):
            mark = blank if position is None else table[number]
            number += position is not None
            rows.append(mark.expand(length, -1))
        return torch.cat(rows)


class PositionProjector(QueryProjector):
    """Qwen-VL's position-aware adapter (2308.12966, section 2.1); LLaVA-UHD's and Monkey's, too.

    One cross-attention whose queries and keys carry fixed sines of row and column. The queries lie
    on a square; the features' grid may be any.

    Args:
        config: E, D, `resampler`.
    """

    positions: Tensor

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        sizes = config.resampler
        self.side = math.isqrt(sizes.num_queries)
        self.queries = nn.Parameter(torch.empty(sizes.num_queries, sizes.dim))
        nn.init.trunc_normal_(self.queries, std=INIT_STD)
        self.features_in = nn.Linear(config.encoder_dim, sizes.dim, bias=False)
        self.norm_queries = nn.LayerNorm(sizes.dim)
        self.norm_features = nn.LayerNorm(sizes.dim)
        self.attention = nn.MultiheadAttention(sizes.dim, sizes.num_heads, batch_first=True)
        self.norm_out = nn.LayerNorm(sizes.dim)
        self.out = nn.Linear(sizes.dim, config.language_dim)
        table = sines(self.side, self.side, sizes.dim)
        self.register_buffer("positions", table, persistent=False)

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, M, D]; tokens without rows and columns count as one row."""
        values = self.norm_features(self.features_in(features))  # [B, P, W]
        keys = values + self._positions_at(context.grid, features.shape[1])
        queries = self.norm_queries(self.queries) + self.positions
        looked, _ = self.attention(
            queries.expand(len(features), -1, -1), keys, values, need_weights=False
        )
        projected: Tensor = self.out(self.norm_out(looked))
        return projected

    def _positions_at(self, grid: tuple[int, ...] | None, num_tokens: int) -> Tensor:
        size = grid if grid is not None and len(grid) == 2 else (1, num_tokens)
        if size[0] * size[1] != num_tokens:
            raise ValueError(f"expected {num_tokens} tokens in a grid; got the grid {size}")
        if size == (self.side, self.side):
            return self.positions
        square = rearrange(self.positions, "(y x) w -> 1 w y x", y=self.side)
        resized = F.interpolate(square, size=size, mode="bicubic", align_corners=False)
        return rearrange(resized, "1 w y x -> (y x) w")


def sines(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed two-dimensional positions: half of the width for the column, half for the row.

    Returns:
        [rows * columns, dim], row by row.
    """
    quarter = dim // 4
    rates = 1.0 / 10_000 ** (torch.arange(quarter, dtype=torch.float32) / quarter)

    def along(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # [length, dim / 2]

    across = along(columns)[None].expand(rows, -1, -1)
    down = along(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=-1).flatten(0, 1)
