"""ImageBind's transformer trunk: pre-norm blocks, published parameter names.

Attention runs on PyTorch's fused kernel but keeps the names and shapes of
`torch.nn.MultiheadAttention`, because those are the names in the published weights.

Shapes: B batch, T tokens, D tower width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

BLOCK_NORM_EPS = 1e-6
MLP_RATIO = 4
INIT_STD = 0.02


class SelfAttention(nn.Module):
    """Multi-head self-attention, optionally with one learnt key and value after the tokens.

    Args:
        dim: D.
        num_heads: H; divides `dim`.
        bias_kv: append the learnt key and value (all towers but vision and text).
    """

    def __init__(self, dim: int, num_heads: int, *, bias_kv: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.bias_k = nn.Parameter(torch.empty(1, 1, dim)) if bias_kv else None
        self.bias_v = nn.Parameter(torch.empty(1, 1, dim)) if bias_kv else None
        self.out_proj = nn.Linear(dim, dim)
        init_normal(self.in_proj_weight)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init_normal(bias)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            tokens: [B, T, D].
            mask: [T, T], added to the attention logits; not with `bias_kv`.

        Returns:
            [B, T, D].
        """
        projected = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)  # [B, T, 3 D]
        query, key, value = rearrange(
            projected, "b t (three h d) -> three b h t d", three=3, h=self.num_heads
        )
        if self.bias_k is not None and self.bias_v is not None:
            key = torch.cat([key, self._per_head(self.bias_k, len(tokens))], dim=2)
            value = torch.cat([value, self._per_head(self.bias_v, len(tokens))], dim=2)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        merged: Tensor = self.out_proj(rearrange(attended, "b h t d -> b t (h d)"))
        return merged

    def _per_head(self, bias: Tensor, batch: int) -> Tensor:
        return repeat(bias, "1 1 (h d) -> b h 1 d", b=batch, h=self.num_heads)


class FeedForward(nn.Module):
    """Two linear layers around an exact GELU; the hidden width is four times D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        hidden: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return hidden


class StochasticDepth(nn.Module):
    """Drop a residual branch per item while training (Huang et al. 2016, section 3).

    A kept branch is scaled by 1 / (1 - rate), so that evaluation needs no scaling.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        kept = torch.empty(len(branch), 1, 1, device=branch.device).bernoulli_(keep)
        return branch * (kept / keep).to(branch.dtype)


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, dim: int, num_heads: int, *, bias_kv: bool, drop_path: float) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, num_heads, bias_kv=bias_kv)
        self.drop_path = StochasticDepth(drop_path)
        self.norm_1 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.mlp = FeedForward(dim)
        self.norm_2 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        tokens = tokens + self.drop_path(self.attn(self.norm_1(tokens), mask))
        output: Tensor = tokens + self.drop_path(self.mlp(self.norm_2(tokens)))
        return output


class Trunk(nn.Module):
    """A stack of blocks; no final norm (the head has it).

    Args:
        dim: D.
        num_blocks: depth.
        num_heads: H.
        bias_kv: learnt key and value in every block.
        pre_norm: a norm before the first block (vision alone).
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        dim: int,
        num_blocks: int,
        num_heads: int,
        *,
        bias_kv: bool,
        pre_norm: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        norms = [nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)] if pre_norm else []
        self.pre_transformer_layer = nn.Sequential(*norms)
        last = max(num_blocks - 1, 1)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, bias_kv=bias_kv, drop_path=drop_path * index / last)
            for index in range(num_blocks)
        )
        self.apply(_init_linear)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run all blocks.

        Args:
            tokens: [B, T, D].
            mask: [T, T], added to the attention logits.

        Returns:
            [B, T, D].
        """
        hidden: Tensor = self.pre_transformer_layer(tokens)
        for block in self.blocks:
            hidden = block(hidden, mask)
        return hidden

    def states(self, tokens: Tensor) -> Iterator[Tensor]:
        """The state after each block in turn, [B, T, D]; blocks run as they are asked for."""
        hidden: Tensor = self.pre_transformer_layer(tokens)
        for block in self.blocks:
            hidden = block(hidden)
            yield hidden


def init_normal(weight: Tensor, std: float = INIT_STD) -> None:
    """Fill with a truncated normal; on the meta device do nothing.

    Drawing on meta has no effect but makes PyTorch load its symbolic stack: 1.7 s at every start.
    """
    if not weight.is_meta:
        nn.init.trunc_normal_(weight, std=std)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        init_normal(module.weight)
        nn.init.zeros_(module.bias)
