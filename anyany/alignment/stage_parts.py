"""The system that a stage works on, under the names that tables and checkpoints use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from anyany.bridges import Bridge
from anyany.decoders import ConditionSpec, Decoder, OutputProjector
from anyany.language import HookedAdapter
from anyany.messages import MEDIA_MODALITIES, Modality


@dataclass(frozen=True, eq=False)
class StageParts:
    """The system that a stage works on.

    Args:
        bridge: encoders, input projectors, language model, signal rows.
        output_projectors: modality -> OutputProjector.
        decoders: modality -> decoder.
    """

    bridge: Bridge
    output_projectors: nn.ModuleDict
    decoders: Mapping[Any, Decoder]

    def module(self) -> nn.ModuleDict:
        """All parts under the names that tables, checkpoints and stage configs use."""
        decoders: dict[str, nn.Module] = {
            m: d for m, d in self.decoders.items() if isinstance(d, nn.Module)
        }
        adapter = self.bridge.language.adapter
        own = {"adapter": adapter} if isinstance(adapter, HookedAdapter) else {}
        return nn.ModuleDict(
            {
                "encoders": self.bridge.encoders,
                "input_projectors": self.bridge.projectors,
                "language_model": self.bridge.language.lm,
                **own,
                "signal_rows": self.bridge.language.rows,
                "output_projectors": self.output_projectors,
                "decoders": nn.ModuleDict(decoders),
            }
        )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those with an output projector."""
        return tuple(m for m in MEDIA_MODALITIES if m in self.output_projectors)

    @property
    def specs(self) -> dict[str, ConditionSpec]:
        """What each output projector writes."""
        return {m: self.output_projector(m).spec for m in self.modalities}

    def output_projector(self, modality: str) -> OutputProjector:
        """The projector of a modality."""
        projector = self.output_projectors[modality]
        assert isinstance(projector, OutputProjector)
        return projector
