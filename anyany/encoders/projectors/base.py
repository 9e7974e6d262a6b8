"""The seam of input projectors: encoder features in, language-model tokens out.

A projector knows two widths and nothing else of encoder or language model. One may serve all
modalities, or each modality may have its own.

Shapes: B batch, P encoder tokens, E encoder width, M language tokens, D language width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from anyany.encoders.tilers.base import Position
from anyany.errors import ConfigError


@dataclass(frozen=True)
class GroupedConfig:
    """Sizes of the grouped projector; the defaults are NExT-GPT v1.5's.

    Args:
        dim: width inside.
        num_heads: of the self- and cross-attention.
        depths: transformer blocks per stage.
        num_groups: group tokens per stage but the last, which has none; the last count is the
            number of tokens that come out.
        mlp_ratio: hidden width of feed-forward layers, as a multiple of `dim`.

    Raises:
        ConfigError: the sizes do not fit one another.
    """

    dim: int = 512
    num_heads: int = 8
    depths: tuple[int, ...] = (6, 3, 3)
    num_groups: tuple[int, ...] = (64, 8)
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if self.dim < 2 or self.num_heads < 1 or self.dim % self.num_heads:
            raise ConfigError(
                "projector.grouped: expected dim to be a positive multiple of num_heads; "
                f"got {self.dim} and {self.num_heads}"
            )
        if len(self.num_groups) < 1 or len(self.depths) != len(self.num_groups) + 1:
            raise ConfigError(
                "projector.grouped: expected one more of depths than of num_groups; "
                f"got {list(self.depths)} and {list(self.num_groups)}"
            )
        if min(*self.depths, *self.num_groups, self.mlp_ratio) < 1:
            raise ConfigError(
                "projector.grouped: expected positive depths, num_groups and mlp_ratio; "
                f"got {list(self.depths)}, {list(self.num_groups)}, {self.mlp_ratio}"
            )


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of the projectors that ask with learnt queries.

    Args:
        num_queries: tokens that come out (of a tile; of the whole item for the perceiver).
        dim: width inside (the perceiver works in E).
        num_heads: of the attention.
        depth: blocks.
        mlp_ratio: hidden width of feed-forward layers, as a multiple of `dim`.
        cross_every: a Q-Former's block of so many looks at the features.
        max_tiles: tiles that the perceiver has a learnt place for; for more they are interpolated.
        max_words: tokens of an instruction that a Q-Former has places for; later ones are left out.
        content_tokens: n of "context_content"; a square.

    Raises:
        ConfigError: a size is not positive, or does not fit another.
    """

    num_queries: int = 32
    dim: int = 768
    num_heads: int = 12
    depth: int = 2
    mlp_ratio: int = 4
    cross_every: int = 2
    max_tiles: int = 8
    max_words: int = 512
    content_tokens: int = 1

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"projector.resampler: expected a positive {key}; got {value}")
        if self.dim % self.num_heads:
            raise ConfigError(
                "projector.resampler: expected dim to be a multiple of num_heads; "
                f"got {self.dim} and {self.num_heads}"
            )
        if math.isqrt(self.content_tokens) ** 2 != self.content_tokens:
            raise ConfigError(
                f"projector.resampler: expected a square as content_tokens; "
                f"got {self.content_tokens}"
            )


ProjectorType: TypeAlias = Literal[
    "linear",
    "mlp",
    "grouped",
    "mlp_norm",
    "bottleneck",
    "swiglu",
    "patch_linear",
    "perceiver",
    "qformer",
    "instruct_qformer",
    "position2d",
    "context_content",
    "mixture",
]


@dataclass(frozen=True)
class ProjectorConfig:
    """Type and widths of an input projector; stored with its weights.

    Args:
        type: a key of PROJECTORS.
        encoder_dim: E.
        language_dim: D.
        grouped: sizes that only the type "grouped" uses.
        hidden_dim: width inside "bottleneck" and "swiglu", rows of "mixture"; 0 = 128, 2 D and 64.
        resampler: sizes of the types with learnt queries.
        separators: learnt rows that a merge puts between tiles; the bridge sets it.
        given_table: the rows of "mixture" are given (as words of the language model), not learnt.

    Raises:
        ConfigError: a width is not positive, or sizes do not fit the type.
    """

    type: ProjectorType = "linear"
    encoder_dim: int = 1024
    language_dim: int = 4096
    grouped: GroupedConfig = field(default_factory=GroupedConfig)
    hidden_dim: int = 0
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    separators: int = 0
    given_table: bool = False

    def __post_init__(self) -> None:
        for key in ("encoder_dim", "language_dim"):
            if getattr(self, key) < 1:
                raise ConfigError(f"projector: expected a positive {key}; got {getattr(self, key)}")
        for key in ("hidden_dim", "separators"):
            if getattr(self, key) < 0:
                raise ConfigError(
                    f"projector: expected {key} of 0 or more; got {getattr(self, key)}"
                )
        if self.type == "position2d":
            sizes = self.resampler
            if math.isqrt(sizes.num_queries) ** 2 != sizes.num_queries or sizes.dim % 4:
                raise ConfigError(
                    "projector.resampler: expected a square as num_queries and dim as a multiple "
                    f"of 4 for position2d; got {sizes.num_queries} and {sizes.dim}"
                )


@dataclass(frozen=True, eq=False)
class ProjectorContext:
    """What a projector may look at besides the features.

    Args:
        modality: of the media that the features come from.
        grid: how the P tokens of a row lie, if they have a layout.
        positions: the place of each of the B rows' tiles in its item, None for a whole item; for a
            projector that joins, of the tiles in the row, one after another.
        lengths: tokens of each of these tiles, for a projector that joins.
        instruction: the question's embeddings, [B, words, D], right-padded; None = none is known.
        instruction_mask: bool [B, words], True = a word.
    """

    modality: str
    grid: tuple[int, ...] | None = None
    positions: tuple[Position, ...] | None = None
    lengths: tuple[int, ...] | None = None
    instruction: Tensor | None = None
    instruction_mask: Tensor | None = None


class Projector(nn.Module):
    """Base of input projectors; its subclasses add the mechanism.

    `keeps_grid` says that token p out belongs to token p in; `joins` that it takes all tiles of an
    item at once; `reads_instruction` that the question changes what comes out.

    Args:
        config: type and widths, stored with the weights.
    """

    keeps_grid: ClassVar[bool] = False
    joins: ClassVar[bool] = False
    reads_instruction: ClassVar[bool] = False
    separators: nn.Parameter | None

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.register_parameter("separators", None)

    def add_separators(self, count: int) -> None:
        """Learnt rows [count, D] for the merge, drawn as LLaVA-NeXT draws its newline."""
        self.config = replace(self.config, separators=count)
        if count:
            width = self.config.language_dim
            self.separators = nn.Parameter(torch.randn(count, width) / math.sqrt(width))

    def without_gradient(self) -> dict[str, str]:
        """Parameters that get no gradient by construction: name of a part -> reason."""
        return {}

    def forward(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """Project.

        Args:
            features: [B, P, E].
            context: where they come from.

        Returns:
            [B, M, D].

        Raises:
            ValueError: the features have another width than E.
        """
        if features.ndim != 3 or features.shape[-1] != self.config.encoder_dim:
            raise ValueError(
                f"expected features [batch, tokens, {self.config.encoder_dim}]; "
                f"got {list(features.shape)}"
            )
        return self.project(features, context)

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """The mechanism: as `forward`, for features of the right width."""
        raise NotImplementedError(f"{type(self).__name__} does not define project")

    def num_outputs(self, num_tokens: int) -> int:
        """M for a given P."""
        return num_tokens


class QueryProjector(Projector):
    """Base of those that ask with M learnt queries, so many tokens whatever P is."""

    def num_outputs(self, num_tokens: int) -> int:
        """M."""
        return self.config.resampler.num_queries
