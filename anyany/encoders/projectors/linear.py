"""Projectors that map every encoder token by itself: one linear layer, or two around a GELU.

Shapes: B batch, P encoder tokens, E encoder width, D language width.
"""

from __future__ import annotations

from torch import Tensor, nn

from anyany.encoders.projectors.base import Projector, ProjectorConfig, ProjectorContext


class LinearProjector(Projector):
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

    def forward(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, P, D]; the context is not looked at.

        Raises:
            ValueError: the features have another width than E.
        """
        self._check_width(features)
        projected: Tensor = self.layer(features)
        return projected


class MLPProjector(Projector):
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

    def forward(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, P, D]; the context is not looked at.

        Raises:
            ValueError: the features have another width than E.
        """
        self._check_width(features)
        projected: Tensor = self.layer(features)
        return projected
