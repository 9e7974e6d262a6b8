"""What the trainer trains: a task gives batches and losses, the loop in `trainer` does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyany.alignment.order import Draws
from anyany.alignment.training_state import trainable_parameters


@dataclass(frozen=True)
class LossOutput:
    """The loss of one micro-batch.

    Args:
        total: scalar, the mean over `weight` units; what is minimised.
        named: further scalars for the metrics, means over the same units.
        weight: how many units (tokens or samples) the mean is over. Gradients of an optimizer step
            are the weighted mean over its micro-batches and processes. With weight 0 the total must
            still be finite.
    """

    total: Tensor
    named: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor | float = 1.0


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay.

    Args:
        parameters: trainable ones.
        lr_scale: times the scheduled learning rate.
        weight_decay: None for the config's.
    """

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None


class Task:
    """What is trained: subclasses give `batch` and `loss`.

    Whatever a task changes while it trains, beside trainable parameters, must be a persistent
    buffer of its module, or a resume cannot bring it back.

    Args:
        module: holds every part, frozen or trained; a dict of modules is named by its keys.
        num_samples: size of the set, None if infinite.
    """

    def __init__(
        self, module: nn.Module | Mapping[str, nn.Module], num_samples: int | None
    ) -> None:
        self.module = module if isinstance(module, nn.Module) else nn.ModuleDict(dict(module))
        self.num_samples = num_samples

    @property
    def shardable(self) -> nn.Module | None:
        """A transformers model whose frozen layers may be spread over processes, if there is one.

        A task that has one runs it once a `loss`, or not at all.
        """
        return None

    def batch(self, indices: Sequence[int], draws: Draws) -> Any:
        """Samples by index, augmented with `draws` alone; tensors, or dicts and lists of them."""
        raise NotImplementedError

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """The loss of a batch (on the device); noise comes from `draws` alone."""
        raise NotImplementedError

    def evaluate(self, folder: Path) -> Mapping[str, float]:
        """Figures of the present weights (the EMA's if kept); may write sample media to `folder`.

        Called in evaluation mode without gradients.
        """
        return {}

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Matrices decay; vectors and scalars (norms, biases) do not."""
        trainable = list(trainable_parameters(self.module).values())
        return [
            ParameterGroup([p for p in trainable if p.ndim >= 2]),
            ParameterGroup([p for p in trainable if p.ndim < 2], weight_decay=0.0),
        ]


def moved(batch: Any, device: torch.device) -> Any:
    """A batch's tensors, in dicts, lists and tuples, on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, list):
        return [moved(value, device) for value in batch]
    if isinstance(batch, tuple):
        items = [moved(value, device) for value in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)
    return batch
