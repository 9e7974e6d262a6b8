"""The grouped projector of NExT-GPT v1.5: any number of encoder tokens become a few.

Stages of transformer blocks run over encoder tokens and learnt group tokens together; after each
stage but the last, every token is assigned to one group, and the groups go on as the new tokens
(GroupViT, Xu et al. 2022, arXiv 2202.11094, section 3). Parameter names are NExT-GPT's.

Shapes: B batch, P tokens of a stage, G groups, W width inside, H heads, E encoder width,
D language width, M tokens out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from anyany.encoders.projectors.base import (
    GroupedConfig,
    Projector,
    ProjectorConfig,
    ProjectorContext,
)

INIT_STD = 0.02


class GroupedProjector(Projector):
    """[B, P, E] -> [B, M, D] with M fixed, whatever P is.

    While training, tokens are assigned by hard Gumbel draws (torch's random state, straight-through
    gradient); in evaluation by the largest weight.

    Args:
        config: E, D, `grouped`.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        sizes = config.grouped
        self.in_fc = nn.Linear(config.encoder_dim, sizes.dim)
        self.layers = nn.ModuleList(
            GroupingStage(sizes, stage) for stage in range(len(sizes.depths))
        )
        self.norm = nn.LayerNorm(sizes.dim)
        self.out_fc = nn.Linear(sizes.dim, config.language_dim)
        self.apply(_init_linear)

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, M, D]; the context is not looked at."""
        tokens = self.in_fc(features)
        groups: Tensor | None = None
        for stage in self.layers:
            tokens, groups = stage(tokens, groups)
        projected: Tensor = self.out_fc(self.norm(tokens))
        return projected

    def num_outputs(self, num_tokens: int) -> int:
        """M, whatever P is."""
        return self.config.grouped.num_groups[-1]


class GroupingStage(nn.Module):
    """Blocks over tokens and groups together, then the assignment of tokens to groups.

    Args:
        sizes: all stages' sizes.
        stage: this one's index; the last has no groups and assigns nothing.
    """

    def __init__(self, sizes: GroupedConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(sizes.dim, sizes.num_heads, sizes.mlp_ratio) for _ in range(sizes.depths[stage])
        )
        self.group_token: nn.Parameter | None = None
        self.downsample: GroupingBlock | None = None
        self.group_projector: nn.Sequential | None = None
        if stage == len(sizes.num_groups):
            return
        num_groups = sizes.num_groups[stage]
        self.group_token = nn.Parameter(torch.zeros(1, num_groups, sizes.dim))
        self.downsample = GroupingBlock(sizes, num_groups)
        if stage == 0:
            nn.init.trunc_normal_(self.group_token, std=INIT_STD)
        else:  # starts as a mix of the stage before, so its own tokens start at zero
            self.group_projector = nn.Sequential(
                nn.LayerNorm(sizes.dim),
                TokenMixer(sizes.num_groups[stage - 1], sizes.dim // 2, num_groups),
            )

    def forward(self, tokens: Tensor, previous_groups: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the stage.

        Args:
            tokens: [B, P, W].
            previous_groups: [B, G', W], group tokens after the stage before; None at the first.

        Returns:
            The groups as new tokens [B, G, W] (the last stage: its tokens [B, P, W]), and the group
            tokens [B, G, W] after the blocks.
        """
        num_tokens = tokens.shape[1]
        hidden = torch.cat([tokens, self._groups(tokens, previous_groups)], dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        tokens, groups = hidden[:, :num_tokens], hidden[:, num_tokens:]
        if self.downsample is not None:
            tokens = self.downsample(tokens, groups)
        return tokens, groups

    def _groups(self, tokens: Tensor, previous_groups: Tensor | None) -> Tensor:
        if self.group_token is None:
            return tokens[:, :0]
        groups = self.group_token.expand(len(tokens), -1, -1)
        if self.group_projector is not None:
            groups = groups + self.group_projector(previous_groups)
        return groups


class GroupingBlock(nn.Module):
    """Assign every token to one group and average (GroupViT, equations 3 to 5).

    Args:
        sizes: widths.
        num_groups: G.
    """

    def __init__(self, sizes: GroupedConfig, num_groups: int) -> None:
        super().__init__()
        dim = sizes.dim
        self.norm_tokens = nn.LayerNorm(dim)
        self.mlp_inter = TokenMixer(num_groups, dim // 2, num_groups)
        self.norm_post_tokens = nn.LayerNorm(dim)
        self.norm_x = nn.LayerNorm(dim)
        self.pre_assign_attn = CrossBlock(dim, sizes.num_heads, sizes.mlp_ratio)
        self.assign = Assignment(dim)
        self.norm_new_x = nn.LayerNorm(dim)
        self.mlp_channels = FeedForward(dim, sizes.mlp_ratio * dim, dim)

    def forward(self, tokens: Tensor, groups: Tensor) -> Tensor:
        """Tokens [B, P, W] and groups [B, G, W] -> [B, G, W]."""
        tokens = self.norm_x(tokens)
        groups = self.norm_post_tokens(self.mlp_inter(self.norm_tokens(groups)))
        groups = self.pre_assign_attn(groups, tokens)
        merged = groups + self.assign(groups, tokens)
        output: Tensor = merged + self.mlp_channels(self.norm_new_x(merged))
        return output


class Assignment(nn.Module):
    """Single-head attention whose weights are one-hot over the groups.

    A group's values are summed and divided by its count plus one, so an empty group gives zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, groups: Tensor, tokens: Tensor) -> Tensor:
        """Groups [B, G, W] and tokens [B, P, W] -> [B, G, W]."""
        logits = self.q_proj(groups) @ self.k_proj(tokens).transpose(1, 2) * self.scale  # [B, G, P]
        member = self._hard_weights(logits)
        means = member / (member.sum(dim=-1, keepdim=True) + 1.0)
        gathered: Tensor = self.proj(means @ self.v_proj(tokens))
        return gathered

    def _hard_weights(self, logits: Tensor) -> Tensor:
        """One-hot along G in value, softmax in gradient."""
        if self.training:
            return F.gumbel_softmax(logits, tau=1.0, hard=True, dim=1)
        soft = logits.softmax(dim=1)
        hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
        return hard + (soft - soft.detach())


class SelfAttention(nn.Module):
    """Multi-head self-attention; queries, keys and values in one layer without bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, P, W] -> [B, P, W]."""
        query, key, value = rearrange(
            self.qkv(tokens), "b p (three h w) -> three b h p w", three=3, h=self.num_heads
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(rearrange(attended, "b h p w -> b p (h w)"))
        return output


class CrossAttention(nn.Module):
    """Multi-head attention of groups over tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, groups: Tensor, tokens: Tensor) -> Tensor:
        """Groups [B, G, W] and tokens [B, P, W] -> [B, G, W]."""
        query, key, value = (
            rearrange(part, "b n (h w) -> b h n w", h=self.num_heads)
            for part in (self.q_proj(groups), self.k_proj(tokens), self.v_proj(tokens))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(rearrange(attended, "b h n w -> b n (h w)"))
        return output


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, P, W] -> [B, P, W]."""
        tokens = tokens + self.attn(self.norm1(tokens))
        output: Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class CrossBlock(nn.Module):
    """A cross-attention block whose inputs are normed by the caller; norm at its end."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio * dim, dim)
        self.norm_post = nn.LayerNorm(dim)

    def forward(self, groups: Tensor, tokens: Tensor) -> Tensor:
        """Groups [B, G, W] and tokens [B, P, W] -> [B, G, W]."""
        groups = groups + self.attn(groups, tokens)
        output: Tensor = self.norm_post(groups + self.mlp(self.norm2(groups)))
        return output


class FeedForward(nn.Module):
    """Two linear layers around an exact GELU, along the last axis."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        output: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return output


class TokenMixer(FeedForward):
    """The same along the token axis: mixes, and may change the number of, group tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, in, W] -> [B, out, W]."""
        return super().forward(tokens.transpose(1, 2)).transpose(1, 2)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
