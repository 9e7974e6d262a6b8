"""A projector whose tokens are mixtures of the rows of one table.

Shapes: B batch, P encoder tokens, E encoder width, M language tokens, R rows, D language width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anyany.encoders.projectors.base import ProjectorConfig, ProjectorContext, QueryProjector

ROWS = 64
SHARPNESS = 3.0  # of mixtures of given rows: a word said softly is overruled by what is usual
MODALITIES = ("image", "video", "audio")


class MixtureProjector(QueryProjector):
    """M tokens, each a mixture of a table's rows: Ovis's visual words (2405.20797, section 3).

    Unlike there, the mixtures are read from the mean of an item's features, not patch by patch.
    Up to the softmax a token is linear in the features, and a confident one is a word: what it says
    of one attribute does not depend on the others, so that pairs that were never shown are read.
    Rows that are learnt can come to stand for pairs after all; given ones, words of the language
    model, cannot. One projector may serve all modalities: each has a mark, added to its tokens.

    Args:
        config: E, D, `resampler.num_queries` (M), `hidden_dim` (R; 0 = 64), `given_table`: the
            rows are then a buffer, to be filled in.
    """

    table: Tensor

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        rows, width = config.hidden_dim or ROWS, config.language_dim
        self.sharpness = SHARPNESS if config.given_table else 1.0
        self.norm = nn.LayerNorm(config.encoder_dim)
        self.logits = nn.Linear(config.encoder_dim, config.resampler.num_queries * rows)
        table = torch.randn(rows, width) / math.sqrt(width)
        if config.given_table:
            self.register_buffer("table", table)
        else:
            self.table = nn.Parameter(table)
        self.marks = nn.Parameter(torch.zeros(len(MODALITIES), width))

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, M, D]; of the context, the modality alone is looked at."""
        logits = self.sharpness * self.logits(self.norm(features.mean(1)))
        weights = logits.unflatten(-1, (-1, len(self.table))).softmax(-1)  # [B, M, R]
        mark = self.marks[MODALITIES.index(context.modality)]
        projected: Tensor = weights @ self.table + mark
        return projected
