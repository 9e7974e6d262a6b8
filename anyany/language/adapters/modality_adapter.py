"""Modality adapter (LaVIN, "Cheap and Quick", Luo et al. 2023, section 3.2, equations 2 to 5).

Before the attention and before the feed-forward part of every layer stands a bottleneck with two
ways up, f(x) = x + w0 B(Ax) + w1 D(Ax). Their weights w come from a modality token, which says what
a conversation consists of: in the paper it stands at position 0 and no other token may attend to
it. A token that nobody attends to and that attends to itself alone is a sequence of its own; so it
is run here as one, and the model's masks, positions and cache stay as they are.

Shapes: N rows of a pass, K distinct sets of modalities in it, W its width, D language width, r
rank.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from anyany.errors import ConfigError
from anyany.language.adapters.hooked import (
    HookedAdapter,
    expect_dropout,
    expect_positive,
    hidden_input,
    with_input,
)
from anyany.language.adapters.seam import PassLayout, Visual
from anyany.messages import MEDIA_MODALITIES

MODALITIES: Final = ("text", *MEDIA_MODALITIES)
PARTS: Final = ("self_attn", "mlp")


@dataclass(frozen=True)
class ModalityAdapterSettings:
    """Bottlenecks whose two ways up are mixed by a modality token.

    Args:
        r: rank.
        temperature: of the mixture; high is even.
        groups: of the ways up.
        dropout: behind the way down, in training.

    Raises:
        ConfigError: a value is out of range.
    """

    r: int = 8
    temperature: float = 10.0
    groups: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        expect_positive("modality_adapter", self, "r", "groups")
        expect_dropout("modality_adapter", self.dropout)
        if self.temperature <= 0:
            raise ConfigError(
                "language.modality_adapter.temperature: expected more than 0, "
                f"got {self.temperature}"
            )
        if self.r % self.groups:
            raise ConfigError(
                f"language.modality_adapter.groups: expected a divisor of r = {self.r}, "
                f"got {self.groups}"
            )


@dataclass(frozen=True, eq=False)
class Mixture:
    """The weights of the ways up, [N, 2] for each bottleneck; None while they are being made."""

    weights: list[Tensor] | None


class ModalityAdapter(HookedAdapter[ModalityAdapterSettings, Mixture]):
    """LaVIN's mixture-of-modality adapter.

    A conversation of several kinds of media has the mean of their tokens.

    Args:
        settings: sizes and temperature.
    """

    kind = "modality_adapter"

    def __init__(self, settings: ModalityAdapterSettings) -> None:
        super().__init__(settings)
        self.bottlenecks = nn.ModuleList()
        self._making: dict[int, Tensor] = {}
        self._kept: dict[int, list[Tensor]] = {}  # by cache row, while it decodes

    def build(self, lm: Any, layers: Sequence[Any]) -> None:
        """A bottleneck before both parts of every layer, and the modality tokens."""
        embedding: Tensor = lm.get_input_embeddings().weight
        width = int(embedding.shape[1])
        if width % self.settings.groups:
            raise ConfigError(
                f"language.modality_adapter.groups: expected a divisor of {width}, the model's "
                f"width; got {self.settings.groups}"
            )
        scale = 1.0 if embedding.is_meta else float(embedding.detach().float().std())
        self.tokens = nn.Parameter(scale * torch.randn(len(MODALITIES), width))
        for layer in layers:
            for part in PARTS:
                hook = functools.partial(self._adapt, len(self.bottlenecks))
                getattr(layer, part).register_forward_pre_hook(hook, with_kwargs=True)
                self.bottlenecks.append(Bottleneck(width, self.settings))

    def prepare(self, layout: PassLayout, visual: Visual) -> Mixture:
        """The weights of every row: made when it begins, then kept."""
        rows = zip(layout.rows, layout.starts, layout.layouts, strict=True)
        made = {
            n: self._made_of(own)
            for n, (row, start, own) in enumerate(rows)
            if own is not None and (start == 0 or row not in self._kept)
        }
        distinct = sorted(set(made.values()))
        fresh = self._run_tokens(distinct) if distinct else []
        idle = [self.tokens.new_zeros(2)] * len(self.bottlenecks)
        mixtures: list[list[Tensor]] = []
        for n, (row, own) in enumerate(zip(layout.rows, layout.layouts, strict=True)):
            if n in made:
                place = distinct.index(made[n])
                weights = [each[place] for each in fresh]
                if row >= 0:
                    self._kept[row] = weights
            else:
                weights = idle if own is None else self._kept[row]
            mixtures.append(weights)
        return Mixture([torch.stack(each) for each in zip(*mixtures, strict=True)])

    def reset(self, rows: Sequence[int]) -> None:
        """Forget the weights of these rows."""
        for row in rows:
            self._kept.pop(row, None)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing kept, either."""
        return {**super().__getstate__(), "_making": {}, "_kept": {}}

    def _made_of(self, layout: Any) -> tuple[int, ...]:
        """The modalities of a prompt's media, else text, as places in `MODALITIES`."""
        found = {slot.modality for slot in layout.slots} or {"text"}
        return tuple(sorted(MODALITIES.index(modality) for modality in found))

    def _run_tokens(self, distinct: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Run modality tokens through the model as sequences of one token: [K, 2] a bottleneck."""
        tokens = torch.stack([self.tokens[list(one)].mean(0) for one in distinct])[:, None]
        self._making = {}
        self._pending = Mixture(None)
        positions = torch.zeros(len(distinct), 1, dtype=torch.long, device=tokens.device)
        keep = torch.ones_like(positions, dtype=torch.bool)
        self.body(
            inputs_embeds=tokens, attention_mask=keep, position_ids=positions, use_cache=False
        )
        return [self._making[number] for number in range(len(self.bottlenecks))]

    def _adapt(
        self, number: int, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        hidden = hidden_input(args, kwargs)
        bottleneck = self.bottlenecks[number]
        assert isinstance(bottleneck, Bottleneck)
        weights = self.told.weights
        # The second clause is for layers computed again in the backward pass, which comes when
        # the main pass is told of; no sequence that is learnt from has one token.
        if weights is None or (torch.is_grad_enabled() and hidden.shape[1] == 1):
            mixed = bottleneck.mix(hidden[:, 0])
            self._making[number] = mixed
        else:
            mixed = weights[number]
        return with_input(args, kwargs, bottleneck(hidden, mixed))


class Bottleneck(nn.Module):
    """One site: down to rank r and two ways up, which begin at zero.

    Args:
        width: D.
        settings: rank, groups, dropout, temperature.
    """

    def __init__(self, width: int, settings: ModalityAdapterSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.down = nn.Linear(width, settings.r)
        self.dropout = nn.Dropout(settings.dropout)
        self.ups = nn.ModuleList(
            nn.Conv1d(settings.r, width, 1, groups=settings.groups) for _ in range(2)
        )
        self.router = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        for up in self.ups.parameters():
            nn.init.zeros_(up)

    def mix(self, token: Tensor) -> Tensor:
        """The weights of the ways up from the modality token's state: [K, D] -> [K, 2]."""
        return torch.softmax(self.router(token).float() / self.temperature, dim=-1).to(token.dtype)

    def forward(self, hidden: Tensor, weights: Tensor) -> Tensor:
        """Add both ways up, weighted: [N, W, D], [N, 2] -> [N, W, D]."""
        low = self.dropout(self.down(hidden)).transpose(1, 2)  # [N, r, W]
        ways = torch.stack([up(low) for up in self.ups], dim=1)  # [N, 2, D, W]
        update = (weights[:, :, None, None] * ways).sum(1)
        return hidden + update.transpose(1, 2)
