"""What each row may write next: which spans, whether it may stop, and when a span is due.

Pure bookkeeping on the host, a handful of numbers per row, updated as tokens come; the decode
loop turns a row's `permission` into a mask on the logits. The order in which owed spans are
forced is image, video, audio.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final, NamedTuple, get_args

from anyany.errors import PromptError
from anyany.language.signals import SignalSpec
from anyany.messages import MEDIA_MODALITIES, Modality

_ALL: Final = get_args(Modality)


class Permission(NamedTuple):
    """What a row may choose from; equal permissions share one mask.

    Args:
        spans: per modality of the spec, whether its first token may come.
        needs_text: text is owed: stops, and the first tokens of stop strings, are masked.
        needs_visible: the last chance for that text: tokens that show nothing are masked, too.
    """

    spans: tuple[bool, ...]
    needs_text: bool
    needs_visible: bool


def least_budget(signals: SignalSpec, outputs: Set[Modality] | None) -> int:
    """The fewest new tokens that hold everything asked for.

    Args:
        signals: the signal tokens.
        outputs: what is asked for; None = the model chooses.
    """
    if outputs is None:
        return 1
    spans = sum(signals.span_length(m) for m in MEDIA_MODALITIES if m in outputs)
    return max(spans + ("text" in outputs), 1)


def check_outputs(signals: SignalSpec, outputs: Set[Modality] | None, max_new_tokens: int) -> None:
    """Refuse what cannot be carried out, before anything is computed.

    Raises:
        PromptError: an unknown or missing modality, or too small a budget.
    """
    if outputs is not None:
        if not outputs:
            raise PromptError(f"outputs is empty: ask for one or more of {', '.join(_ALL)}")
        if unknown := sorted(outputs - set(_ALL)):
            raise PromptError(f"outputs: expected any of {', '.join(_ALL)}; got {unknown[0]!r}")
        for modality in MEDIA_MODALITIES:
            if modality in outputs and not signals.count(modality):
                raise PromptError(f"outputs: this model has no signal tokens for {modality}")
    least = least_budget(signals, outputs)
    if max_new_tokens < least:
        asked = "a reply" if outputs is None else ", ".join(m for m in _ALL if m in outputs)
        raise PromptError(
            f"max_new_tokens is {max_new_tokens}, but {asked} needs at least {least}: "
            f"set max_new_tokens to {least} or more"
        )


@dataclass
class RowRules:
    """The account of one reply.

    Args:
        modalities: the spec's modalities in order.
        lengths: tokens of a span, per modality.
        remaining: tokens that may still be written.
        owed: spans that must still come, per modality.
        room: spans that may still come, per modality.
        text_owed: text was asked for and none has been written.
    """

    modalities: tuple[Modality, ...]
    lengths: tuple[int, ...]
    remaining: int
    owed: list[bool]
    room: list[int]
    text_owed: bool

    @classmethod
    def open(
        cls,
        signals: SignalSpec,
        outputs: Set[Modality] | None,
        *,
        max_new_tokens: int,
        max_spans: int,
    ) -> RowRules:
        """The account at the beginning of a reply."""
        modalities = signals.modalities
        return cls(
            modalities=modalities,
            lengths=tuple(signals.span_length(m) for m in modalities),
            remaining=max_new_tokens,
            owed=[outputs is not None and m in outputs for m in modalities],
            room=[max_spans if outputs is None or m in outputs else 0 for m in modalities],
            text_owed=outputs is not None and "text" in outputs,
        )

    @property
    def reserve(self) -> int:
        """Tokens that what is owed will take."""
        spans = sum(n for n, owed in zip(self.lengths, self.owed, strict=True) if owed)
        return spans + self.text_owed

    @property
    def due(self) -> Modality | None:
        """The owed span that is first in order."""
        for modality, owed in zip(self.modalities, self.owed, strict=True):
            if owed:
                return modality
        return None

    @property
    def forced(self) -> Modality | None:
        """The span that must come now, because the budget has met the reserve."""
        if self.text_owed or self.remaining > self.reserve:
            return None
        return self.due

    @property
    def permission(self) -> Permission:
        """What may be chosen next."""
        reserve = self.reserve
        spans = tuple(
            room > 0 and self.remaining - length >= reserve - (length if owed else 0)
            for room, length, owed in zip(self.room, self.lengths, self.owed, strict=True)
        )
        return Permission(spans, self.text_owed, self.text_owed and self.remaining <= reserve)

    def wrote_token(self) -> None:
        """Account for one token of text, or a stop."""
        self.remaining -= 1

    def wrote_text(self) -> None:
        """Visible text has been written."""
        self.text_owed = False

    def wrote_span(self, modality: Modality) -> None:
        """Account for a whole span."""
        index = self.modalities.index(modality)
        self.remaining -= self.lengths[index]
        self.owed[index] = False
        self.room[index] -= 1
