"""What a bridge changes inside the language model: nothing, or one of five adapters.

`lora` is peft's; `gated_attention` (Flamingo), `modality_adapter` (LaVIN), `modality_expert`
(CogVLM) and `experts` (MoE-LLaVA) are modules beside the model that reach into it by hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from anyany.errors import ConfigError
from anyany.language.adapters.experts import ExpertsAdapter, ExpertsSettings
from anyany.language.adapters.gated_attention import GatedAttentionAdapter, GatedAttentionSettings
from anyany.language.adapters.hooked import HookedAdapter
from anyany.language.adapters.lora import LoraAdapter, LoraSettings, read_settings
from anyany.language.adapters.modality_adapter import ModalityAdapter, ModalityAdapterSettings
from anyany.language.adapters.modality_expert import ModalityExpertAdapter, ModalityExpertSettings
from anyany.language.adapters.seam import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Adapter,
    LaidOut,
    NoAdapter,
    PassLayout,
    PlainText,
    Slot,
)

ADAPTERS: Final[Mapping[str, Callable[[Any], Adapter]]] = {
    "lora": LoraAdapter,
    "gated_attention": GatedAttentionAdapter,
    "modality_adapter": ModalityAdapter,
    "modality_expert": ModalityExpertAdapter,
    "experts": ExpertsAdapter,
}


def chosen_adapter(config: Any, *, where: str = "language") -> str | None:
    """The name of the one adapter that has settings; None if none has.

    Args:
        config: a `LanguageConfig`, or another with a field of every name in `ADAPTERS`.
        where: its key, for the error.

    Raises:
        ConfigError: two have.
    """
    named = [name for name in ADAPTERS if getattr(config, name) is not None]
    if len(named) > 1:
        raise ConfigError(
            f"{where}.{named[0]} and {where}.{named[1]}: expected one adapter at most: set either "
            "to null"
        )
    return named[0] if named else None


def build_adapter(config: Any) -> Adapter:
    """The adapter that a `LanguageConfig` names; see `chosen_adapter`."""
    name = chosen_adapter(config)
    return NoAdapter() if name is None else ADAPTERS[name](getattr(config, name))


__all__ = [
    "ADAPTERS",
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "Adapter",
    "ExpertsAdapter",
    "ExpertsSettings",
    "GatedAttentionAdapter",
    "GatedAttentionSettings",
    "HookedAdapter",
    "LaidOut",
    "LoraAdapter",
    "LoraSettings",
    "ModalityAdapter",
    "ModalityAdapterSettings",
    "ModalityExpertAdapter",
    "ModalityExpertSettings",
    "NoAdapter",
    "PassLayout",
    "PlainText",
    "Slot",
    "build_adapter",
    "chosen_adapter",
    "read_settings",
]
