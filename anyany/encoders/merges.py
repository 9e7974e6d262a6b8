"""Merges join the projected tiles of one item into the row of tokens that the LLM reads.

Shapes: B batch, M tokens of a tile, D language width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from anyany.errors import ConfigError


def merge_flat(tiles: Sequence[Tensor]) -> Tensor:
    """Put the tiles' tokens one after another.

    Args:
        tiles: [B, M, D] each; M may differ.

    Returns:
        [B, sum of M, D].

    Raises:
        ValueError: there is no tile.
    """
    if not tiles:
        raise ValueError("expected at least one tile to merge; got none")
    return torch.cat(list(tiles), dim=1)


MERGES: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"flat": merge_flat}


def get_merge(name: str) -> Callable[[Sequence[Tensor]], Tensor]:
    """The merge of that name.

    Raises:
        ConfigError: no merge has that name.
    """
    if name not in MERGES:
        raise ConfigError(f"merge: expected one of {', '.join(MERGES)}; got {name!r}")
    return MERGES[name]
