"""Gradient checkpointing: decoder layers keep their input alone and compute the rest again.

transformers' own switch only works on layers in training mode; ours are often frozen, and still
have to pass gradients on to signal rows and projectors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from anyany.errors import ConfigError


@contextmanager
def recomputed_layers(lm: nn.Module) -> Iterator[None]:
    """While this lasts, backward passes compute a language model's layers a second time.

    Args:
        lm: of transformers.

    Raises:
        ConfigError: it has no layers that can be computed again by themselves.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [m for m in lm.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"gradient_checkpointing: expected a language model of transformers' decoder layers; "
            f"{type(lm).__name__} has none: set it to false"
        )
    for layer in layers:
        layer.forward = functools.partial(_recomputed, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own again


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
