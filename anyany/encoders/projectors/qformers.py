"""Q-Formers, by transformers' own classes, and what LLaMA-VID makes of one.

The words of a question come as the language model's own embeddings, so a projector needs no
vocabulary: where the published InstructBLIP looks words up in BERT's table, a linear layer maps
them in. All masks are float: a boolean one in four axes is added to the logits as 0 and 1.

Shapes: B batch, P encoder tokens, E encoder width, M queries, T words, W width inside,
D language width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from anyany.encoders.projectors.base import (
    Projector,
    ProjectorConfig,
    ProjectorContext,
    QueryProjector,
)

INIT_STD = 0.02


class QFormerProjector(QueryProjector):
    """BLIP-2's Q-Former (2301.12597, section 3.1): M queries look at the features, then a layer.

    Args:
        config: E, D, `resampler`.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        super().__init__(config)
        self.queries = _queries(config)
        self.qformer = Blip2QFormerModel(Blip2QFormerConfig(**_sizes(config)))
        self.out = nn.Linear(config.resampler.dim, config.language_dim)

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, M, D]; the context is not looked at."""
        queries = self.queries.expand(len(features), -1, -1)
        seen = self.qformer(query_embeds=queries, encoder_hidden_states=features)
        projected: Tensor = self.out(seen.last_hidden_state)
        return projected


class InstructQFormerProjector(QueryProjector):
    """InstructBLIP's (2305.06500, section 2.2): the queries also attend to the question's words.

    Without a question the queries look alone.

    Args:
        config: E, D, `resampler`.
    """

    reads_instruction = True

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        self.reader = InstructedQueries(config)
        self.out = nn.Linear(config.resampler.dim, config.language_dim)

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, M, D]."""
        projected: Tensor = self.out(self.reader(features, context))
        return projected

    def without_gradient(self) -> dict[str, str]:
        """What only a word's last state depends on."""
        return self.reader.without_gradient("reader.")


class ContextContentProjector(Projector):
    """LLaMA-VID's two kinds of token (2311.17043, section 3.2): for the question, and for the rest.

    Context: a Q-Former's states, asked with the question, weight the features; their mean is one
    token. Content: the features, averaged down to n.

    Args:
        config: E, D, `resampler` with n as `content_tokens`.
    """

    reads_instruction = True

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        width = config.encoder_dim
        self.reader = InstructedQueries(config)
        self.to_query = nn.Linear(config.resampler.dim, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.layer = nn.Sequential(
            nn.Linear(width, config.language_dim),
            nn.GELU(),
            nn.Linear(config.language_dim, config.language_dim),
        )

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, 1 + n, D], the context token first."""
        queries = self.to_query(self.reader(features, context))  # [B, M, E]
        scores = queries @ self.key(features).transpose(1, 2) / math.sqrt(features.shape[-1])
        asked = (scores.softmax(dim=-1) @ features).mean(dim=1, keepdim=True)
        content = self._content(features, context.grid)
        projected: Tensor = self.layer(torch.cat([self.value(asked), content], dim=1))
        return projected

    def num_outputs(self, num_tokens: int) -> int:
        """1 + n, whatever P is."""
        return 1 + self.config.resampler.content_tokens

    def without_gradient(self) -> dict[str, str]:
        """What only a word's last state depends on."""
        return self.reader.without_gradient("reader.")

    def _content(self, features: Tensor, grid: tuple[int, ...] | None) -> Tensor:
        count = self.config.resampler.content_tokens
        channels = features.transpose(1, 2)  # [B, E, P]
        if grid is None or len(grid) != 2 or grid[0] * grid[1] != features.shape[1]:
            return F.adaptive_avg_pool1d(channels, count).transpose(1, 2)
        side = math.isqrt(count)
        square = rearrange(channels, "b e (y x) -> b e y x", y=grid[0])
        return rearrange(F.adaptive_avg_pool2d(square, side), "b e y x -> b (y x) e")


class InstructedQueries(nn.Module):
    """The queries of an `InstructBlipQFormerModel` after they have read question and features.

    Args:
        config: E, D, `resampler`.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

        super().__init__()
        self.depth, self.max_words = config.resampler.depth, config.resampler.max_words
        self.queries = _queries(config)
        settings = InstructBlipQFormerConfig(
            **_sizes(config), vocab_size=1, max_position_embeddings=self.max_words
        )
        self.qformer = InstructBlipQFormerModel(settings)
        # Words come as embeddings: the table gives way to a map from D.
        words = nn.Linear(config.language_dim, config.resampler.dim)
        self.qformer.embeddings.word_embeddings = words  # type: ignore[assignment]

    def forward(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, M, W]."""
        queries = self.queries.expand(len(features), -1, -1)
        words, keep = context.instruction, context.instruction_mask
        mask = None
        if words is not None:
            words = words[:, : self.max_words].to(queries.dtype)
            shown = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
            shown = shown if keep is None else keep[:, : self.max_words]
            mask = _float_mask(queries, shown)
        seen = self.qformer(
            input_ids=words,
            attention_mask=mask,
            query_embeds=queries,
            encoder_hidden_states=features,
        )
        states: Tensor = seen.last_hidden_state[:, : queries.shape[1]]
        return states

    def without_gradient(self, prefix: str) -> dict[str, str]:
        """What only a word's last state depends on."""
        last = f"{prefix}qformer.encoder.layer.{self.depth - 1}"
        reason = "feed-forward of the words in the last layer, whose states nothing reads"
        return {f"{last}.intermediate": reason, f"{last}.output": reason}


def _queries(config: ProjectorConfig) -> nn.Parameter:
    """Drawn, as zeros would leave all queries equal for ever."""
    sizes = config.resampler
    return nn.Parameter(torch.randn(1, sizes.num_queries, sizes.dim) * INIT_STD)


def _sizes(config: ProjectorConfig) -> dict[str, Any]:
    sizes = config.resampler
    return {
        "hidden_size": sizes.dim,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.mlp_ratio * sizes.dim,
        "encoder_hidden_size": config.encoder_dim,
        "cross_attention_frequency": sizes.cross_every,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _float_mask(queries: Tensor, words: Tensor) -> Tensor:
    """[B, 1, M + T, M + T]: 0 where a key counts, the lowest number where it is padding."""
    batch, num_queries = queries.shape[:2]
    seen = torch.cat([words.new_ones(batch, num_queries), words], dim=1)
    mask = torch.zeros(seen.shape, dtype=queries.dtype, device=queries.device)
    mask = mask.masked_fill(~seen, torch.finfo(queries.dtype).min)
    length = seen.shape[1]
    return mask[:, None, None].expand(batch, 1, length, length)
