"""Keys and values of the cross-attention, computed once a request.

The condition is constant over the trajectory, so the projections of it are as well. Inside
`cached_keys_values(unet)` every cross-attention layer keeps the keys and values of its first call
and reuses them; self-attention is left to diffusers. Off by default in the loop: the sums are the
same, yet their last bits need not be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from einops import rearrange
from torch import Tensor
from torch.nn import functional


class KeyValueCache:
    """What the layers keep, apart for each branch of the guidance.

    `branch` names the pass that is running ("both", "unconditional" or "conditional"); the loop
    sets it before each pass.
    """

    def __init__(self) -> None:
        self.branch = "both"
        self.entries: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}


class CachedKeyValueProcessor:
    """Scaled dot-product cross-attention whose keys and values come from the cache.

    Args:
        cache: shared by all layers of one network.
        layer: this layer's name.
        inner: the processor that stood here; does the self-attention.
    """

    def __init__(self, cache: KeyValueCache, layer: str, inner: AttnProcessor2_0) -> None:
        self.cache = cache
        self.layer = layer
        self.inner = inner

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend from image positions [B, P, C] to condition rows [B, S, C'], as diffusers does."""
        if encoder_hidden_states is None or attention_mask is not None or not _is_plain(attn):
            kept: Tensor = self.inner(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
            return kept
        query = _heads(attn.to_q(hidden_states), attn.heads)
        key, value = self._keys_values(attn, encoder_hidden_states)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = rearrange(mixed, "b h p d -> b p (h d)")
        out: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        if attn.residual_connection:
            out = out + hidden_states
        return torch.div(out, attn.rescale_output_factor)

    def _keys_values(self, attn: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        place = (self.cache.branch, self.layer)
        if place not in self.cache.entries:
            if attn.norm_cross:
                rows = attn.norm_encoder_hidden_states(rows)
            self.cache.entries[place] = (
                _heads(attn.to_k(rows), attn.heads),
                _heads(attn.to_v(rows), attn.heads),
            )
        return self.cache.entries[place]


@contextmanager
def cached_keys_values(unet: Any) -> Iterator[KeyValueCache]:
    """Let a diffusers UNet cache its cross-attention while the block runs, then put all back.

    Not for use by two threads on one network.
    """
    before = dict(unet.attn_processors)
    cache = KeyValueCache()
    unet.set_attn_processor(
        {
            layer: CachedKeyValueProcessor(cache, layer, processor)
            if type(processor) is AttnProcessor2_0
            else processor
            for layer, processor in before.items()
        }
    )
    try:
        yield cache
    finally:
        unet.set_attn_processor(before)


def _heads(projected: Tensor, heads: int) -> Tensor:
    return rearrange(projected, "b p (h d) -> b h p d", h=heads)


def _is_plain(attn: Any) -> bool:
    """Whether the layer is the transformer block's cross-attention without extra norms."""
    return all(
        norm is None for norm in (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k)
    )
