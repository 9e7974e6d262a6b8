"""From prepared tensors to trunk tokens: patches, a class token, positions.

Each modality's stem carries the parameter names of the published weights.

Shapes: B batch, P patches, D tower width, F frames, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from anyany.encoders.imagebind.config import (
    AudioConfig,
    DepthConfig,
    IMUConfig,
    TextConfig,
    ThermalConfig,
    VisionConfig,
)
from anyany.encoders.imagebind.transformer import init_normal


@dataclass(frozen=True, eq=False)
class StemOutput:
    """What a trunk takes.

    Args:
        tokens: [B, 1 + P, D] with the class token first; [B, T, D] for text, which has none.
        grid: layout of the P patches; None for text.
        mask: [T, T] to add to attention logits; None but for text.
    """

    tokens: Tensor
    grid: tuple[int, ...] | None
    mask: Tensor | None = None


class RepeatFrame(nn.Module):
    """Give a still picture a time axis by repeating it; leave clips as they are."""

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] or [B, 3, F, H, W] -> [B, 3, F, H, W]."""
        if pixels.ndim == 4:
            return repeat(pixels, "b c h w -> b c f h w", f=self.num_frames)
        return pixels


class PatchStem(nn.Module):
    """A convolution that makes patches, and a norm for every modality but vision."""

    def __init__(self, proj: nn.Module, norm_layer: nn.LayerNorm | None) -> None:
        super().__init__()
        self.proj = proj
        self.norm_layer = norm_layer

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Cut into patches.

        Returns:
            Tokens [B, P, D] and their grid (rows, columns); patches of several time steps follow
            one another in time order.
        """
        patches: Tensor = self.proj(pixels)  # [B, D, (F,) rows, columns]
        grid = (patches.shape[-2], patches.shape[-1])
        tokens = patches.flatten(2).transpose(1, 2)
        if self.norm_layer is not None:
            tokens = self.norm_layer(tokens)
        return tokens, grid


class PositionTable(nn.Module):
    """Learnt positions of the class token and a grid of patches.

    Args:
        grid: rows and columns that the table was made for.
        dim: D.
    """

    def __init__(self, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], dim))
        init_normal(self.pos_embed)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Positions for a grid, resized with bicubic interpolation if it is another one.

        Returns:
            [1, 1 + rows * columns, D].
        """
        if grid == self.grid:
            return self.pos_embed
        patches = rearrange(
            self.pos_embed[:, 1:], "1 (h w) d -> 1 d h w", h=self.grid[0], w=self.grid[1]
        )
        resized = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], rearrange(resized, "1 d h w -> 1 (h w) d")], dim=1)


class PatchTokens(nn.Module):
    """Pictures, clips, spectrograms, depth and thermal maps to trunk tokens.

    Args:
        stem_name: the attribute under which the published weights keep the stem.
        stem: the convolution.
        grid: the native rows and columns.
        dim: D.
        sample_shapes: accepted shapes of one item, for the error; -1 is free.
        patch_size: what H and W must be multiples of (1 = anything).
    """

    def __init__(
        self,
        stem_name: str,
        stem: PatchStem,
        *,
        grid: tuple[int, int],
        dim: int,
        sample_shapes: tuple[tuple[int, ...], ...],
        patch_size: int,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        init_normal(self.cls_token)
        self.stem_name = stem_name
        self.add_module(stem_name, stem)
        self.pos_embedding_helper = PositionTable(grid, dim)
        self.sample_shapes = sample_shapes
        self.patch_size = patch_size

    def forward(self, pixels: Tensor) -> StemOutput:
        """Tokens of a batch.

        Args:
            pixels: [B, ...], each item of one of `sample_shapes`.

        Raises:
            ValueError: the items have another shape.
        """
        _check_shape(pixels, self.sample_shapes)
        height, width = pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"expected height and width in multiples of the patch size {self.patch_size}; "
                f"got {height} x {width}"
            )
        tokens, grid = self.get_submodule(self.stem_name)(pixels)
        classes = self.cls_token.expand(len(tokens), -1, -1)
        tokens = torch.cat([classes, tokens], dim=1) + self.pos_embedding_helper(grid)
        return StemOutput(tokens, grid)


class TextTokens(nn.Module):
    """Token ids to trunk tokens, with the causal mask that the published weights carry."""

    mask: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        length = config.context_length
        self.pos_embed = nn.Parameter(torch.empty(1, length, config.dim))
        self.register_buffer("mask", _causal_mask(length))
        # nn.Embedding's own initialisation draws, which `init_normal` avoids on the meta device.
        table = torch.empty(config.vocab_size, config.dim)
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim, _weight=table)
        self.sample_shapes = ((length,),)
        init_normal(self.pos_embed, std=0.01)
        init_normal(self.token_embedding.weight)

    def forward(self, token_ids: Tensor) -> StemOutput:
        """[B, T] int64 -> tokens [B, T, D].

        Raises:
            ValueError: T is not the context length.
        """
        _check_shape(token_ids, self.sample_shapes)
        return StemOutput(self.token_embedding(token_ids) + self.pos_embed, None, self.mask)


class IMUStem(nn.Module):
    """A linear map of a piece of all channels, and a norm."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, dim, bias=False)
        self.norm_layer = nn.LayerNorm(dim)

    def forward(self, pieces: Tensor) -> Tensor:
        """[B, P, channels * kernel] -> [B, P, D]."""
        tokens: Tensor = self.norm_layer(self.proj(pieces))
        return tokens


class IMUTokens(nn.Module):
    """Motion-sensor series to trunk tokens."""

    def __init__(self, config: IMUConfig) -> None:
        super().__init__()
        self.kernel_size = config.kernel_size
        self.grid = config.grid
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.grid[0], config.dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.imu_stem = IMUStem(config.num_channels * config.kernel_size, config.dim)
        self.sample_shapes = ((config.num_channels, config.num_samples),)
        init_normal(self.pos_embed)
        init_normal(self.cls_token)
        init_normal(self.imu_stem.proj.weight)

    def forward(self, series: Tensor) -> StemOutput:
        """[B, channels, samples] -> tokens [B, 1 + P, D].

        Raises:
            ValueError: the items have another shape.
        """
        _check_shape(series, self.sample_shapes)
        pieces = rearrange(series, "b c (p k) -> b p (c k)", k=self.kernel_size)
        classes = self.cls_token.expand(len(series), -1, -1)
        tokens = torch.cat([classes, self.imu_stem(pieces)], dim=1) + self.pos_embed
        return StemOutput(tokens, self.grid)


def vision_tokens(config: VisionConfig) -> PatchTokens:
    """The stem for pictures [B, 3, H, W] and clips [B, 3, F, H, W]."""
    kernel = (config.num_frames, config.patch_size, config.patch_size)
    conv = nn.Conv3d(3, config.dim, kernel, stride=kernel, bias=False)
    stem = PatchStem(nn.Sequential(RepeatFrame(config.num_frames), conv), None)
    return PatchTokens(
        "rgbt_stem",
        stem,
        grid=config.grid,
        dim=config.dim,
        sample_shapes=((3, -1, -1), (3, config.num_frames, -1, -1)),
        patch_size=config.patch_size,
    )


def audio_tokens(config: AudioConfig) -> PatchTokens:
    """The stem for log-mel pictures [B, 1, mel bins, frames], patches overlapping."""
    return PatchTokens(
        "rgbt_stem",
        _one_channel_stem(config.dim, config.patch_size, config.stride),
        grid=config.grid,
        dim=config.dim,
        sample_shapes=((1, config.num_mel_bins, config.num_frames),),
        patch_size=1,
    )


def map_tokens(stem_name: str, config: DepthConfig | ThermalConfig) -> PatchTokens:
    """The stem for depth or thermal maps [B, 1, H, W]."""
    return PatchTokens(
        stem_name,
        _one_channel_stem(config.dim, config.patch_size, config.patch_size),
        grid=config.grid,
        dim=config.dim,
        sample_shapes=((1, -1, -1),),
        patch_size=config.patch_size,
    )


def _one_channel_stem(dim: int, patch_size: int, stride: int) -> PatchStem:
    return PatchStem(nn.Conv2d(1, dim, patch_size, stride, bias=False), nn.LayerNorm(dim))


def _causal_mask(length: int) -> Tensor:
    """0 up to and on the diagonal, -inf above; left empty on the meta device."""
    mask = torch.empty(length, length)
    return mask if mask.is_meta else mask.fill_(float("-inf")).triu_(1)


def _check_shape(batch: Tensor, sample_shapes: tuple[tuple[int, ...], ...]) -> None:
    got = tuple(batch.shape[1:])
    for expected in sample_shapes:
        if len(got) == len(expected) and all(
            want in (-1, size) for want, size in zip(expected, got, strict=True)
        ):
            return
    wanted = " or ".join(
        f"[batch, {', '.join('*' if size == -1 else str(size) for size in shape)}]"
        for shape in sample_shapes
    )
    raise ValueError(f"expected a tensor {wanted}; got {list(batch.shape)}")
