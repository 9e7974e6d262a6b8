"""Fixed slots for keys and values: R rows of L positions that every pass writes into.

A row's position p lives in slot p of that row, for ever; there is no left padding and nothing
moves. A pass says beforehand which rows and slots it fills (`prefill`, `step`, `span`), and the
float mask of the pass says what it may see. So the shapes of a pass never depend on the
neighbours, and neither do its bits.

Shapes: R rows, N rows of a pass, W its width, L slots, H heads, d head width.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from anyany.errors import ConfigError

_FULL: Final = "full_attention"
_SLIDING: Final = "sliding_attention"


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, [R, H, L, d] each, behind transformers' cache-layer seam."""

    def __init__(self, num_rows: int, num_slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_rows = num_rows
        self.num_slots = num_slots
        self.rows: Tensor | None = None  # [N, 1], the rows that the pass writes
        self.slots: Tensor | None = None  # [N, W], the slots that it writes
        self.own_only = False  # prefill: attend within the pass alone

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate zeros on first use, when heads, width, dtype and device are known."""
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(self.num_rows, heads, self.num_slots, width)
        _, heads, _, width = value_states.shape
        self.values = value_states.new_zeros(self.num_rows, heads, self.num_slots, width)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the pass's keys and values [N, H, W, d] and hand back what it attends to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        assert self.rows is not None
        self.keys[self.rows, :, self.slots] = key_states.transpose(1, 2)
        self.values[self.rows, :, self.slots] = value_states.transpose(1, 2)
        if self.own_only:
            return key_states, value_states
        if len(self.rows) == self.num_rows:
            return self.keys, self.values
        picked = self.rows[:, 0]
        return self.keys.index_select(0, picked), self.values.index_select(0, picked)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys; the loop brings its own masks."""
        return (query_length if self.own_only else self.num_slots), 0

    def get_seq_length(self) -> int:
        """0: positions are always passed in, never counted here."""
        return 0

    def get_max_length(self) -> int:
        """L."""
        return self.num_slots


class SlotCache(Cache):
    """The slots of all layers.

    Args:
        config: the language model's own configuration.
        num_rows: R.
        num_slots: L.
        device: of the masks.
        dtype: of the masks, the model's own.

    Raises:
        ConfigError: the architecture keeps something other than keys and values per position.
    """

    def __init__(
        self,
        config: Any,
        *,
        num_rows: int,
        num_slots: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.num_rows = num_rows
        self.num_slots = num_slots
        self.slot_layers = [SlotLayer(num_rows, num_slots) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=list(self.slot_layers))
        self._kinds = _attention_kinds(config)
        self._window = int(getattr(config, "sliding_window", None) or 0)
        self._positions = torch.arange(num_slots, device=device)
        self._hidden = torch.full((), torch.finfo(dtype).min, device=device, dtype=dtype)
        self._seen = torch.zeros((), device=device, dtype=dtype)
        self._all_rows = torch.arange(num_rows, device=device)[:, None]

    def prefill(self, rows: Tensor, width: int) -> tuple[Any, Tensor]:
        """Announce a pass over slots 0..W-1 of these rows that attends within itself.

        Args:
            rows: long [N].
            width: W.

        Returns:
            The float mask [1, 1, W, W] (per kind of attention where the model has two), and the
            positions [N, W].
        """
        positions = self._positions[:width].expand(len(rows), width)
        self._announce(rows[:, None], positions, own_only=True)
        return self._masks(positions[:1], self._positions[:width]), positions

    def step(self, starts: Tensor) -> tuple[Any, Tensor]:
        """Announce a pass of width 1 over all rows.

        An idle row writes to its own next slot, which its next real pass overwrites before
        anything reads it.

        Args:
            starts: long [R], each row's next slot.

        Returns:
            The float mask [R, 1, 1, L] and the positions [R, 1].
        """
        positions = starts[:, None]
        self._announce(self._all_rows, positions, own_only=False)
        return self._masks(positions, self._positions), positions

    def span(self, rows: Tensor, starts: Tensor, width: int) -> tuple[Any, Tensor]:
        """Announce a pass over the next W slots of these rows.

        Args:
            rows: long [N].
            starts: long [N], each row's next slot.
            width: W.

        Returns:
            The float mask [N, 1, W, L] and the positions [N, W].
        """
        positions = starts[:, None] + self._positions[:width]
        self._announce(rows[:, None], positions, own_only=False)
        return self._masks(positions, self._positions), positions

    def _announce(self, rows: Tensor, slots: Tensor, *, own_only: bool) -> None:
        for layer in self.slot_layers:
            layer.rows, layer.slots, layer.own_only = rows, slots, own_only

    def _masks(self, positions: Tensor, keys: Tensor) -> Any:
        """The float mask [N, 1, W, K] from query positions [N, W] and key positions [K]."""
        visible = keys <= positions[:, None, :, None]
        masks: dict[str, Tensor] = {}
        for kind in self._kinds:
            seen = visible
            if kind == _SLIDING:
                seen = visible & (keys > positions[:, None, :, None] - self._window)
            masks[kind] = torch.where(seen, self._seen, self._hidden)
        return masks if len(masks) > 1 else masks[self._kinds[0]]


def _attention_kinds(config: Any) -> tuple[str, ...]:
    """The kinds of attention that a model's layers use.

    Transformers states them per layer in `layer_types`; older configurations have a
    `sliding_window` for all layers, or nothing.
    """
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return (_SLIDING,) if getattr(config, "sliding_window", None) else (_FULL,)
    if unknown := sorted(set(kinds) - {_FULL, _SLIDING}):
        raise ConfigError(
            f"expected a language model with {_FULL} or {_SLIDING} layers; "
            f"{config.model_type} has {', '.join(unknown)}"
        )
    return tuple(sorted(set(kinds)))
