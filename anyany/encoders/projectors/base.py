"""The seam of input projectors: encoder features in, language-model tokens out.

A projector knows two widths and nothing else of encoder or language model. One may serve all
modalities, or each modality may have its own.

Shapes: B batch, P encoder tokens, E encoder width, M language tokens, D language width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

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
class ProjectorConfig:
    """Type and widths of an input projector; stored with its weights.

    Args:
        type: a key of PROJECTORS.
        encoder_dim: E.
        language_dim: D.
        grouped: sizes that only the type "grouped" uses.

    Raises:
        ConfigError: a width is not positive.
    """

    type: Literal["linear", "mlp", "grouped"] = "linear"
    encoder_dim: int = 1024
    language_dim: int = 4096
    grouped: GroupedConfig = field(default_factory=GroupedConfig)

    def __post_init__(self) -> None:
        for key in ("encoder_dim", "language_dim"):
            if getattr(self, key) < 1:
                raise ConfigError(f"projector: expected a positive {key}; got {getattr(self, key)}")


@dataclass(frozen=True)
class ProjectorContext:
    """What a projector may look at besides the features.

    Args:
        modality: of the media that the features come from.
        grid: how the P tokens lie, if they have a layout.
        position: the tile's place in its item; None for a whole item.
    """

    modality: str
    grid: tuple[int, ...] | None = None
    position: tuple[int, ...] | None = None


class Projector(nn.Module):
    """Base of input projectors; its subclasses add the mechanism.

    Args:
        config: type and widths, stored with the weights.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> Projector:
        """Build from stored sizes."""
        raise NotImplementedError(f"{cls.__name__} does not define from_config")

    def forward(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """Project.

        Args:
            features: [B, P, E].
            context: where they come from.

        Returns:
            [B, M, D].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def num_outputs(self, num_tokens: int) -> int:
        """M for a given P."""
        return num_tokens

    def _check_width(self, features: Tensor) -> None:
        if features.ndim != 3 or features.shape[-1] != self.config.encoder_dim:
            raise ValueError(
                f"expected features [batch, tokens, {self.config.encoder_dim}]; "
                f"got {list(features.shape)}"
            )
