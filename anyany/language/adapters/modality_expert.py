"""Modality expert (CogVLM, Wang et al. 2023, section 2.1): media get weights of their own.

In every layer the tokens of media pass copies of the frozen model's own linear layers and of its
feed-forward part, one attention joins them with the text, and all tokens of a medium share one
position. Text never meets the copies: without media the model stays the frozen one to the bit.

Shapes: N rows of a pass, W its width, D language width.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anyany.errors import ConfigError
from anyany.language.adapters.hooked import (
    HookedAdapter,
    every_kth,
    expect_positive,
    hidden_input,
)
from anyany.language.adapters.seam import PassLayout, Visual


@dataclass(frozen=True)
class ModalityExpertSettings:
    """Weights for the tokens of media.

    Args:
        modules: which modules of a layer are copied, by the last part of their names.
        every: in every k-th layer.
        shared_position: all tokens of a medium have one position.

    Raises:
        ConfigError: a value is out of range.
    """

    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp")
    every: int = 1
    shared_position: bool = True

    def __post_init__(self) -> None:
        expect_positive("modality_expert", self, "every")
        if not self.modules:
            raise ConfigError("language.modality_expert.modules: expected at least one name")
        object.__setattr__(self, "modules", tuple(sorted(self.modules)))


@dataclass(frozen=True, eq=False)
class MediaColumns:
    """Of a pass: which tokens are media's, bool [N, W, 1] or None; positions, long [N, W]."""

    media: Tensor | None
    positions: Tensor | None


class ModalityExpertAdapter(HookedAdapter[ModalityExpertSettings, MediaColumns]):
    """Copies of the model's modules for the tokens of media.

    Args:
        settings: what is copied where.
    """

    kind = "modality_expert"

    def __init__(self, settings: ModalityExpertSettings) -> None:
        super().__init__(settings)
        self.experts = nn.ModuleDict()
        self._is_last = False  # whether the last of the model's layers is among them

    def build(self, lm: Any, layers: Sequence[Any]) -> None:
        """Copy the named modules of the layers.

        Raises:
            ConfigError: a layer has none of a name.
        """
        chosen = every_kth(self.kind, self.settings.every, layers)
        self._is_last = chosen[-1] is layers[-1]
        for number, layer in enumerate(chosen):
            named = {name.rpartition(".")[2]: part for name, part in layer.named_modules()}
            if missing := sorted(set(self.settings.modules) - named.keys()):
                raise ConfigError(
                    f"language.modality_expert.modules: the model has no {', '.join(missing)}"
                )
            for name in self.settings.modules:
                expert = copy.deepcopy(named[name]).requires_grad_(True)
                self.experts[f"{number}_{name}"] = expert
                hook = functools.partial(self._replace, expert)
                named[name].register_forward_hook(hook, with_kwargs=True)

    def prepare(self, layout: PassLayout, visual: Visual) -> MediaColumns:
        """Mask and positions; without media neither."""
        device = next(self.parameters()).device
        positions = None
        if self.settings.shared_position and any(True for _ in layout.slots()):
            positions = layout.shared_positions().to(device)
        media = layout.in_media()
        return MediaColumns(None if media is None else media[..., None].to(device), positions)

    def without_gradient(self) -> dict[str, str]:
        """Of the last layer, what only the states of media's own tokens depend on."""
        if not self.experts or not self._is_last:
            return {}
        last = max(int(name.partition("_")[0]) for name in self.experts)
        reason = "in the last layer text reads nothing of media but their keys and values"
        read = ("k_proj", "v_proj")
        names = (name for name in self.settings.modules if name not in read)
        return {f"experts.{last}_{name}": reason for name in names}

    def rotary_positions(self, positions: Tensor | None) -> Tensor | None:
        """One position for all tokens of a medium."""
        return self.told.positions

    def _replace(
        self,
        expert: nn.Module,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Tensor,
    ) -> Tensor | None:
        media = self.told.media
        if media is None:
            return None
        return torch.where(media, expert(hidden_input(args, kwargs)), output)
