"""What a row may choose next, as an additive mask over all ids.

Few different permissions occur; each has one mask, made once, and a row's mask is only copied
when its permission changes.

Shapes: R rows, K = V + n ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anyany.language.model import LanguageModel
from anyany.language.rules import Permission
from anyany.language.text_stream import decode_text


class ScoreMasks:
    """The masks of R rows.

    Args:
        model: whose ids are masked.
        num_rows: R.
    """

    def __init__(self, model: LanguageModel, num_rows: int) -> None:
        self._model = model
        self._made: dict[Permission, Tensor] = {}
        self._current: list[Permission | None] = [None] * num_rows
        width = model.vocab_size + model.signals.total
        self._matrix = torch.zeros(num_rows, width, device=model.device)

    def of(self, permissions: Sequence[Permission | None]) -> Tensor:
        """The rows' masks.

        Args:
            permissions: one per row; None = an idle row, whatever it chooses.

        Returns:
            0 where an id may come and -inf where not, float32 [R, K].
        """
        for r, permission in enumerate(permissions):
            if permission is not None and permission != self._current[r]:
                self._matrix[r] = self._mask(permission)
                self._current[r] = permission
        return self._matrix

    def _mask(self, permission: Permission) -> Tensor:
        if permission not in self._made:
            self._made[permission] = self._make(permission).to(self._matrix.device)
        return self._made[permission]

    def _make(self, permission: Permission) -> Tensor:
        model = self._model
        allowed = torch.zeros(self._matrix.shape[1], dtype=torch.bool)
        allowed[: min(len(model.tokenizer), model.vocab_size)] = True
        for modality, open_ in zip(model.signals.modalities, permission.spans, strict=True):
            allowed[model.signals.ids(modality)[0]] = open_
        if permission.needs_text:
            allowed[list(model.stop_ids)] = False
            allowed[stop_leads(model)] = False
        if permission.needs_visible:
            allowed[: model.vocab_size] &= ~model.blank_ids
        mask = torch.zeros(len(allowed))
        return mask.masked_fill(~allowed, float("-inf"))


def stop_leads(model: LanguageModel) -> list[int]:
    """The ids with which a stop string can begin; empty where the template has none."""
    stops = [stop.strip() for stop in model.template.stop_strings]
    if not stops:
        return []
    leads: list[int] = []
    for token_id in range(min(len(model.tokenizer), model.vocab_size)):
        text = decode_text(model.tokenizer, [token_id]).strip()
        if text and any(stop.startswith(text) or text.startswith(stop) for stop in stops):
            leads.append(token_id)
    return leads
