"""Choosing the next token: the largest score, or a draw by temperature, top-k and top-p.

Every row draws from its own CPU generator, all its numbers at once, so its choices depend on its
seed alone and a step moves nothing but the chosen ids.

Shapes: R rows, K ids to choose from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anyany.errors import PromptError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 = always the largest score; else scores are divided by it.
        top_k: draw among this many best; 0 = all.
        top_p: draw among the best that together reach this probability.
        seed: of the row's own generator.

    Raises:
        PromptError: a value is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise PromptError(f"temperature: expected 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise PromptError(f"top_k: expected 0 (all) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise PromptError(f"top_p: expected 0 < top_p <= 1, got {self.top_p}")

    def uniforms(self, count: int) -> list[float]:
        """The row's numbers in [0, 1), one for each token that it may write."""
        if self.temperature == 0:
            return []
        generator = torch.Generator().manual_seed(self.seed % 2**63)
        drawn: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
        return drawn


def choose(
    scores: Tensor, settings: Sequence[Sampling | None], uniforms: Sequence[float]
) -> Tensor:
    """Choose one id per row.

    Args:
        scores: masked logits, float32 [R, K]; -inf = forbidden.
        settings: each row's sampling; None = an idle row.
        uniforms: each row's next number in [0, 1).

    Returns:
        Ids, long [R], on the scores' device.
    """
    best = scores.argmax(dim=-1)
    if all(one is None or one.temperature == 0 for one in settings):
        return best
    rows = [Sampling() if one is None else one for one in settings]
    numbers = torch.tensor(
        [
            [one.temperature or 1.0, one.top_k or scores.shape[1], one.top_p, uniform]
            for one, uniform in zip(rows, uniforms, strict=True)
        ],
        dtype=torch.float32,
    ).to(scores.device)
    temperature, top_k, top_p, uniform = numbers[:, :, None].unbind(1)  # [R, 1] each
    ordered, ids = (scores / temperature).sort(dim=-1, descending=True, stable=True)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability  # of all better ids
    rank = torch.arange(scores.shape[1], device=scores.device)
    probability = probability.masked_fill((before >= top_p) | (rank >= top_k), 0.0)
    probability[:, 0] = probability[:, 0].clamp(min=torch.finfo(torch.float32).tiny)
    total = probability.cumsum(dim=-1)
    place = torch.searchsorted(total, uniform * total[:, -1:], right=True)  # [R, 1]
    last = (probability > 0).sum(dim=-1, keepdim=True) - 1
    drawn = ids.gather(1, torch.minimum(place, last)).squeeze(1)
    greedy = torch.tensor([one.temperature == 0 for one in rows]).to(scores.device)
    return torch.where(greedy, best, drawn)
