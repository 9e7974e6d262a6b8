"""Experts (MoE-LLaVA, Lin et al. 2024, section 3): several feed-forward parts and a router.

In every second layer the feed-forward part gives way to E copies of itself, of which a router picks
k for each token. Learning adds a loss that keeps the experts evenly used, and an expert takes only
so many tokens of a micro-batch; generation drops none, so that a token never depends on others.

Shapes: N rows of a pass, W its width, T = N W tokens, E experts, k of them a token, D language
width.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anyany.errors import ConfigError
from anyany.language.adapters.hooked import HookedAdapter, expect_positive
from anyany.language.adapters.seam import PassLayout, Visual


@dataclass(frozen=True)
class ExpertsSettings:
    """Experts and their router.

    Args:
        num: E.
        top_k: k.
        every: in layers 1, 1 + every, ...
        balance: times the balance loss of each such layer.
        capacity: an expert takes at most this times its even share of a micro-batch's tokens, in
            training; null for no limit.

    Raises:
        ConfigError: a value is out of range.
    """

    num: int = 4
    top_k: int = 2
    every: int = 2
    balance: float = 0.01
    capacity: float | None = 1.5

    def __post_init__(self) -> None:
        expect_positive("experts", self, "num", "top_k", "every")
        if self.top_k > self.num:
            raise ConfigError(
                f"language.experts.top_k: expected at most num = {self.num}, got {self.top_k}"
            )
        if self.balance < 0:
            raise ConfigError(f"language.experts.balance: expected 0 or more, got {self.balance}")
        if self.capacity is not None and self.capacity <= 0:
            raise ConfigError(
                f"language.experts.capacity: expected more than 0, got {self.capacity}"
            )


class ExpertsAdapter(HookedAdapter[ExpertsSettings, Tensor]):
    """A mixture of experts in place of feed-forward parts.

    Args:
        settings: how many, where, and how they are kept even.
    """

    kind = "experts"

    def __init__(self, settings: ExpertsSettings) -> None:
        super().__init__(settings)
        self.mixtures = nn.ModuleList()

    def build(self, lm: Any, layers: Sequence[Any]) -> None:
        """Copy feed-forward parts; what stood there keeps its weights and is not run."""
        width = int(lm.get_input_embeddings().weight.shape[1])
        for layer in layers[:: self.settings.every]:
            mixture = Experts(layer.mlp, width, self.settings)
            self.mixtures.append(mixture)
            layer.mlp.forward = functools.partial(self._routed, mixture)

    def prepare(self, layout: PassLayout, visual: Visual) -> Tensor:
        """Which tokens are no padding: bool [N, W]."""
        return layout.real().to(next(self.parameters()).device)

    def aux(self) -> Tensor:
        """The balance losses of the last pass with gradients, summed over the layers."""
        losses = [one.loss for one in self.mixtures if isinstance(one, Experts)]
        found = [loss for loss in losses if loss is not None]
        return self.settings.balance * torch.stack(found).sum() if found else torch.zeros(())

    def without_gradient(self) -> dict[str, str]:
        """Experts that no token of a batch chose."""
        reason = "only an expert that a token of the batch chose learns from it"
        return {
            f"mixtures.{number}.experts.{expert}": reason
            for number in range(len(self.mixtures))
            for expert in range(self.settings.num)
        }

    def _routed(self, mixture: nn.Module, hidden: Tensor) -> Tensor:
        made: Tensor = mixture(hidden, self.told)
        return made


class Experts(nn.Module):
    """The experts of one layer.

    Args:
        ffn: copied E times.
        width: D.
        settings: of the adapter.
    """

    def __init__(self, ffn: nn.Module, width: int, settings: ExpertsSettings) -> None:
        super().__init__()
        self.settings = settings
        self.router = nn.Linear(width, settings.num, bias=False)
        self.experts = nn.ModuleList(
            copy.deepcopy(ffn).requires_grad_(True) for _ in range(settings.num)
        )
        self.loss: Tensor | None = None

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Route each token: [N, W, D], bool [N, W] -> [N, W, D].

        Where gradients flow, an expert runs its own tokens; elsewhere every expert runs all, so
        that shapes, and with them bits, do not depend on what neighbours chose.
        """
        tokens = hidden.flatten(0, 1)  # [T, D]
        scores = self.router(tokens).float()
        chances, chosen = scores.softmax(-1).topk(self.settings.top_k, dim=-1)  # [T, k]
        learning = torch.is_grad_enabled()
        self.loss = self.balance_loss(scores, real) if learning else None
        kept = self.within_capacity(chosen, real.flatten()) if self.training else chances > 0
        share = chances * kept
        share = share / share.sum(-1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
        share = torch.zeros_like(scores).scatter(1, chosen, share).to(hidden.dtype)  # [T, E]
        if learning:
            each = [self._own(e, tokens, share) for e in range(self.settings.num)]
        else:
            each = [expert(hidden).flatten(0, 1) for expert in self.experts]
        made = torch.stack(each, dim=1)  # [T, E, D]
        first = share.argmax(-1)[:, None, None].expand(-1, 1, made.shape[-1])
        leading = made.gather(1, first)  # [T, 1, D]
        # The same as the weighted sum, for shares sum to 1; equal experts give it to the bit.
        mixed = leading[:, 0] + (share[..., None] * (made - leading)).sum(1)
        return (mixed * kept.any(-1, keepdim=True)).view_as(hidden)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no loss of a pass that it did not see."""
        return {**self.__dict__, "loss": None}

    def balance_loss(self, scores: Tensor, real: Tensor) -> Tensor:
        """E sum_i F_i G_i (equation 7): 1 where experts are evenly used.

        Args:
            scores: of the router, [T, E].
            real: bool [N, W], which tokens count.
        """
        from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

        top_k = self.settings.top_k
        loss = load_balancing_loss_func((scores,), self.settings.num, top_k, real)
        assert isinstance(loss, Tensor)
        return loss / top_k

    def within_capacity(self, chosen: Tensor, real: Tensor) -> Tensor:
        """Which choices an expert still takes; earlier tokens go first, and first choices before.

        Args:
            chosen: long [T, k].
            real: bool [T]; padding takes no place.

        Returns:
            Bool [T, k].
        """
        settings = self.settings
        taken = nn.functional.one_hot(chosen, settings.num) * real[:, None, None]  # [T, k, E]
        if settings.capacity is None:
            return torch.ones_like(chosen, dtype=torch.bool)
        number = int(real.sum())
        limit = math.ceil(settings.capacity * settings.top_k * number / settings.num)
        in_order = taken.transpose(0, 1).flatten(0, 1)  # first choices of all tokens, then second
        place = (in_order.cumsum(0) * in_order).sum(-1).view(settings.top_k, -1).T  # from 1
        return place <= limit

    def _own(self, number: int, tokens: Tensor, share: Tensor) -> Tensor:
        """What an expert makes of the tokens that it has a share in; 0 of the others."""
        own = share[:, number].nonzero()[:, 0]
        made: Tensor = self.experts[number](tokens[own])
        return tokens.new_zeros(tokens.shape).index_copy(0, own, made)
