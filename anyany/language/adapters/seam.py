"""The seam between a language model and what a bridge changes inside it.

An adapter installs itself by hooks and never owns a forward. It is told before every pass what the
pass will compute, prefill and decode alike; what it is told holds for that one pass.

Shapes: N rows of a pass, W its width, M tokens of a medium, D language width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"


class Slot(Protocol):
    """Where a medium stands in a prompt; a bridge's `Place` is one."""

    @property
    def index(self) -> int: ...
    @property
    def modality(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def length(self) -> int: ...


class LaidOut(Protocol):
    """A prompt that knows where its media stand; a bridge's `Layout` is one."""

    @property
    def slots(self) -> Sequence[Slot]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class PassLayout:
    """Which part of which prompts a pass computes.

    Args:
        rows: the cache rows of the pass, in the order of its batch; -1 where nothing is cached.
        starts: the first position that each computes.
        width: how many positions each computes.
        layouts: the prompts' own layouts as the bridge made them; None for idle rows.
    """

    rows: tuple[int, ...]
    starts: tuple[int, ...]
    width: int
    layouts: tuple[Any, ...]

    def positions(self) -> Tensor:
        """Of every computed token in its prompt: long [N, W]."""
        return torch.tensor(self.starts)[:, None] + torch.arange(self.width)

    def slots(self) -> Iterator[tuple[int, Slot]]:
        """Every slot with the place of its row in the batch."""
        for n, layout in enumerate(self.layouts):
            for slot in layout.slots if layout is not None else ():
                yield n, slot

    def in_media(self) -> Tensor | None:
        """Which tokens stand in a slot: bool [N, W]; None if none does."""
        positions = self.positions()
        found = torch.zeros_like(positions, dtype=torch.bool)
        for n, slot in self.slots():
            offset = positions[n] - slot.start
            found[n] |= (offset >= 0) & (offset < slot.length)
        return found if found.any() else None

    def last_media(self) -> Tensor:
        """How many media have begun up to each token, itself included: long [N, W].

        It is the phi of Flamingo (Alayrac et al. 2022, section 2.3): 0 before the first medium.
        """
        positions = self.positions()
        begun = torch.zeros_like(positions)
        for n, slot in self.slots():
            begun[n] += positions[n] >= slot.start
        return begun

    def shared_positions(self) -> Tensor:
        """Positions if all tokens of a medium share one: long [N, W]."""
        positions = self.positions()
        shared = positions.clone()
        for n, slot in self.slots():
            shared[n] -= (positions[n] - slot.start).clamp(0, max(slot.length - 1, 0))
        return shared

    def real(self) -> Tensor:
        """Which tokens are no padding behind their prompt: bool [N, W]."""
        positions = self.positions()
        kept = torch.zeros_like(positions, dtype=torch.bool)
        for n, (start, layout) in enumerate(zip(self.starts, self.layouts, strict=True)):
            if layout is not None:
                kept[n] = (positions[n] < len(layout)) | (start >= len(layout))
        return kept


@dataclass(frozen=True)
class PlainText:
    """A prompt without media: what an adapter takes a pass for that nobody announced."""

    length: int
    slots: tuple[Slot, ...] = ()

    def __len__(self) -> int:
        return self.length


Visual = Sequence[Mapping[int, Tensor] | None]  # of every row, media [M, D] by their index


class Adapter(Protocol):
    """The seam; `needs_layout` spares the others the call before every pass."""

    needs_layout: bool

    def install(self, lm: nn.Module) -> None:
        """Put the adapter into a language model, once."""

    def in_place(self, media: Tensor) -> Tensor:
        """What stands in the sequence for a medium: [M, D] -> [any number, D]."""

    def before(self, layout: Any, visual: Any) -> None:
        """Told before every pass, prefill and decode alike, what it is about to compute."""

    def reset(self, rows: Sequence[int]) -> None:
        """Forget what was kept for these cache rows."""

    def aux(self) -> Tensor:
        """An auxiliary loss of the last pass, else 0. Scalar."""

    def trainable(self) -> Iterable[nn.Parameter]:
        """The adapter's own parameters."""


class NoAdapter:
    """Leaves the language model as it is."""

    needs_layout = False

    def install(self, lm: nn.Module) -> None:
        """Nothing to put in."""

    def in_place(self, media: Tensor) -> Tensor:
        """The medium itself."""
        return media

    def before(self, layout: Any, visual: Any) -> None:
        """Nothing to prepare."""

    def reset(self, rows: Sequence[int]) -> None:
        """Nothing kept."""

    def aux(self) -> Tensor:
        """No loss of its own: 0."""
        return torch.zeros(())

    def trainable(self) -> Iterable[nn.Parameter]:
        """No parameters."""
        return ()
