"""Which parts of a system are on its device: all of them, or the one at work alone.

"resident" keeps every part there. "staged" keeps the others in the machine's memory: a window of
requests then moves each part in and out once, and the device need only hold the largest of them.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import nn

logger = logging.getLogger(__name__)

ResidencyKind: TypeAlias = Literal["resident", "staged"]
ENCODERS: Final = "encoders"
LANGUAGE: Final = "language"


class Residency:
    """Moves parts to the device that computes, and out of one another's way.

    Args:
        parts: name -> the modules that work together; no module is in two of them.
        home: the device that computes.
        kind: how to begin; "staged" expects the parts in the machine's memory or at home.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[nn.Module]],
        home: torch.device,
        kind: ResidencyKind = "resident",
    ) -> None:
        self.home = home
        self.kind: ResidencyKind = kind
        self._parts = {name: tuple(modules) for name, modules in parts.items()}
        self._away = set(self._parts) if kind == "staged" else set[str]()

    @property
    def staged(self) -> bool:
        """Whether one part alone is at home."""
        return self.kind == "staged"

    def take(self, name: str) -> None:
        """Have a part at home before it computes; the others leave first if they must."""
        if not self.staged:
            return
        leaving = [other for other in self._parts if other != name and other not in self._away]
        for other in leaving:
            self._move(other, torch.device("cpu"))
        self._away.update(leaving)
        if leaving and self.home.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        if name in self._away:
            self._move(name, self.home)
            self._away.discard(name)

    def give_way(self) -> bool:
        """After memory ran out: stage from now on.

        Returns:
            Whether that frees anything, so that it is worth another try.
        """
        if self.staged or self.home.type == "cpu":
            return False
        self.kind = "staged"
        logger.warning("out of memory: parts that are not at work leave the %s", self.home.type)
        return True

    def _move(self, name: str, place: torch.device) -> None:
        for module in self._parts[name]:
            module.to(place)


def residency_of(
    bridge: Any,
    decoders: Mapping[Any, Any],
    output_projectors: Any,
    home: torch.device,
    kind: ResidencyKind,
) -> Residency:
    """The parts of a system: its encoders with their projectors, its language model, its decoders.

    Args:
        bridge: encoders, input projectors and language model.
        decoders: modality -> decoder.
        output_projectors: modality -> output projector.
        home: see Residency, likewise `kind`.
    """
    parts: dict[str, list[nn.Module]] = {
        ENCODERS: [bridge.encoders, bridge.projectors],
        LANGUAGE: [] if getattr(bridge.language.lm, "is_quantized", False) else [bridge.language],
    }
    for modality, decoder in decoders.items():
        parts[modality] = [
            decoder,
            *([output_projectors[modality]] if modality in output_projectors else []),
        ]
    for module in (bridge.language, *decoders.values()):
        module.home = home
    return Residency(parts, home, kind)
