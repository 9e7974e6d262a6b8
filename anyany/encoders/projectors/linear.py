"""Projectors that map every encoder token by itself: linear layers and what stands between them.

Shapes: B batch, P encoder tokens, E encoder width, D language width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from anyany.encoders.projectors.base import Projector, ProjectorConfig, ProjectorContext

BOTTLENECK_DIM = 128  # LaVIN's visual neck


class TokenProjector(Projector):
    """Base: `layer` maps tokens one by one."""

    keeps_grid = True
    layer: nn.Module

    def forward(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, P, D]; the context is not looked at.

        Raises:
            ValueError: the features have another width than E.
        """
        self._check_width(features)
        projected: Tensor = self.layer(features)
        return projected


class LinearProjector(TokenProjector):
    """One linear layer (NExT-GPT's first version, LLaVA).

    Args:
        encoder_dim: E.
        language_dim: D.
    """

    def __init__(self, encoder_dim: int, language_dim: int) -> None:
        super().__init__(ProjectorConfig("linear", encoder_dim, language_dim))
        self.layer = nn.Linear(encoder_dim, language_dim)

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> LinearProjector:
        """Build from stored sizes."""
        return cls(config.encoder_dim, config.language_dim)


class PatchLinearProjector(TokenProjector):
    """One linear layer over raw patches: Fuyu's and OtterHD's way in without an encoder.

    Args:
        config: E = 3 p p, D.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        self.layer = nn.Linear(config.encoder_dim, config.language_dim)

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> PatchLinearProjector:
        """Build from stored sizes."""
        return cls(config)


class MLPProjector(TokenProjector):
    """Two linear layers around an exact GELU, the inner width being D (LLaVA-1.5's mlp2x).

    Args:
        encoder_dim: E.
        language_dim: D.
    """

    def __init__(self, encoder_dim: int, language_dim: int) -> None:
        super().__init__(ProjectorConfig("mlp", encoder_dim, language_dim))
        self.layer = nn.Sequential(
            nn.Linear(encoder_dim, language_dim),
            nn.GELU(),
            nn.Linear(language_dim, language_dim),
        )

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> MLPProjector:
        """Build from stored sizes."""
        return cls(config.encoder_dim, config.language_dim)


class NormedMLPProjector(TokenProjector):
    """The same with a norm after each linear layer (Yi-VL, 2403.04652, section 5).

    Args:
        config: E, D.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        width = config.language_dim
        self.layer = nn.Sequential(
            nn.Linear(config.encoder_dim, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
        )

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> NormedMLPProjector:
        """Build from stored sizes."""
        return cls(config)


class BottleneckProjector(TokenProjector):
    """Down to a few numbers, SiLU, up to D (LaVIN's visual neck, over class tokens).

    Args:
        config: E, D, `hidden_dim`.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        inner = config.hidden_dim or BOTTLENECK_DIM
        self.layer = nn.Sequential(
            nn.Linear(config.encoder_dim, inner),
            nn.SiLU(),
            nn.Linear(inner, config.language_dim),
        )

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> BottleneckProjector:
        """Build from stored sizes."""
        return cls(config)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(in_dim, hidden_dim, bias=False)
        self.up = nn.Linear(in_dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, out_dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        output: Tensor = self.down(F.silu(self.gate(tokens)) * self.up(tokens))
        return output


class SwiGLUProjector(TokenProjector):
    """CogVLM's adapter (2311.03079, section 2.1): a gated MLP.

    Args:
        config: E, D, `hidden_dim`.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        inner = config.hidden_dim or 2 * config.language_dim
        self.layer = SwiGLU(config.encoder_dim, inner, config.language_dim)

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> SwiGLUProjector:
        """Build from stored sizes."""
        return cls(config)
