"""How many parameters the parts of a system have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from anyany.bridges import Bridge
from anyany.encoders import adapter_parameters
from anyany.language import HookedAdapter, LoraAdapter


def count_parameters(
    bridge: Bridge, decoders: Mapping[Any, Any], output_projectors: nn.ModuleDict
) -> dict[str, int]:
    """Parameters per part; "encoder_adapter" only where there is one."""
    language = bridge.language
    own = language.adapter
    adapter = sum(p.numel() for p in own.trainable())
    beside = isinstance(own, HookedAdapter)
    merged = isinstance(own, LoraAdapter) and own.merged  # then it is no part of the model
    updates = sum(p.numel() for p in adapter_parameters(bridge.encoders))
    counts = {
        "encoder": _count(bridge.encoders) - updates,
        **({"encoder_adapter": updates} if updates else {}),
        "input_projector": _count(bridge.projectors),
        "language": _count(language.lm) - (0 if merged or beside else adapter),
        "adapter": adapter,
        "signal_rows": _count(language.rows),
    }
    for modality, projector in output_projectors.items():
        counts[f"output_projectors.{modality}"] = _count(projector)
    for modality, decoder in decoders.items():
        counts[f"decoders.{modality}"] = _count(decoder)
    return counts


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
