"""A projector whose tokens are mixtures of the rows of one learnt table.

Shapes: B batch, P encoder tokens, E encoder width, M language tokens, R rows, D language width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anyany.encoders.projectors.base import Projector, ProjectorConfig, ProjectorContext

ROWS = 64
MODALITIES = ("image", "video", "audio")


class MixtureProjector(Projector):
    """M tokens, each a mixture of a table's rows: Ovis's visual words (2405.20797, section 3).

    Unlike there, the mixtures are read from the mean of an item's features, not patch by patch.
    Up to the softmax a token is linear in the features, and a confident one is a word: what it says
    of one attribute does not depend on the others, so that pairs that were never shown are read.
    One projector may serve all modalities: each has a mark that is added to its tokens.

    Args:
        config: E, D, `resampler.num_queries` (M), `hidden_dim` (R; 0 = 64).
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        rows, width = config.hidden_dim or ROWS, config.language_dim
        self.norm = nn.LayerNorm(config.encoder_dim)
        self.logits = nn.Linear(config.encoder_dim, config.resampler.num_queries * rows)
        self.table = nn.Parameter(torch.randn(rows, width) / math.sqrt(width))
        self.marks = nn.Parameter(torch.zeros(len(MODALITIES), width))

    @classmethod
    def from_config(cls, config: ProjectorConfig) -> MixtureProjector:
        """Build from stored sizes."""
        return cls(config)

    def forward(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, M, D]; of the context, the modality alone is looked at.

        Raises:
            ValueError: the features have another width than E.
        """
        self._check_width(features)
        logits = self.logits(self.norm(features.mean(1)))
        weights = logits.unflatten(-1, (-1, len(self.table))).softmax(-1)  # [B, M, R]
        mark = self.marks[MODALITIES.index(context.modality)]
        projected: Tensor = weights @ self.table + mark
        return projected

    def num_outputs(self, num_tokens: int) -> int:
        """M, whatever P is."""
        return self.config.resampler.num_queries
