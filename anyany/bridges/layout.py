"""Where everything of one conversation lies in the language model's input.

Segments (ids, media slots, signal spans) are laid out in a row once the number of tokens of each
medium is known. Training, generation and caching all start from this.

Shapes: T tokens of the conversation, S tokens of a span, M tokens of a medium.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anyany.language import MediaSlot, Segment, TokenSegment
from anyany.messages import Modality

SLOT_ID = 0  # stands in `token_ids` where a medium's features go; never looked at


@dataclass(frozen=True)
class Place:
    """Consecutive positions of one medium.

    Args:
        index: the medium's place among `media_parts` of the conversation.
        modality: image, video or audio.
        start: first position.
        length: number of positions.
    """

    index: int
    modality: Modality
    start: int
    length: int

    @property
    def positions(self) -> slice:
        """The positions."""
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True, eq=False)
class Layout:
    """One conversation, laid out.

    Args:
        token_ids: int64 [T]; `SLOT_ID` in the slots.
        loss_mask: bool [T], True = the token is to be predicted.
        slots: where media of the user stand.
        spans: where media of the assistant are signalled.
    """

    token_ids: Tensor
    loss_mask: Tensor
    slots: tuple[Place, ...]
    spans: tuple[Place, ...]

    @classmethod
    def build(cls, segments: Sequence[Segment], num_tokens: dict[int, int]) -> Layout:
        """Lay segments out.

        Args:
            segments: of `language.render`.
            num_tokens: M of every slot, by its medium's index.
        """
        ids: list[int] = []
        loss: list[bool] = []
        slots: list[Place] = []
        spans: list[Place] = []
        for segment in segments:
            if isinstance(segment, MediaSlot):
                length = num_tokens[segment.index]
                slots.append(Place(segment.index, segment.modality, len(ids), length))
                ids += [SLOT_ID] * length
                loss += [False] * length
                continue
            if not isinstance(segment, TokenSegment):
                place = Place(segment.index, segment.modality, len(ids), len(segment.ids))
                spans.append(place)
            ids += segment.ids
            loss += [segment.loss] * len(segment.ids)
        return cls(torch.tensor(ids), torch.tensor(loss), tuple(slots), tuple(spans))

    def __len__(self) -> int:
        return len(self.token_ids)
