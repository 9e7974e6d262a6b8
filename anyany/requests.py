"""What the engine takes and tells: a request, the events of its way, and how work is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from anyany.language import DecodeSettings, Sampling, Span, TextDelta
from anyany.messages import Message, Modality, Part
from anyany.residency import ResidencyKind

THROUGHPUT_MICRO_BATCH: Final = 16  # parts a decoder call where neighbours may matter


@dataclass(frozen=True)
class DenoisingStep:
    """One step of one micro-batch of a decoder is done.

    Args:
        modality: of the decoder.
        index: of the part among the reply's parts of its modality.
        step: from 1.
        total: steps in all.
    """

    modality: Modality
    index: int
    step: int
    total: int


@dataclass(frozen=True, eq=False)
class PartReady:
    """A part of the reply is finished.

    Args:
        part: it.
        index: its place among the reply's parts.
    """

    part: Part
    index: int


Event: TypeAlias = TextDelta | Span | DenoisingStep | PartReady
ConditionSource: TypeAlias = Literal["signal", "caption"]


@dataclass(frozen=True, eq=False)
class Request:
    """One conversation to answer.

    Args:
        messages: its turns; the last is the user's.
        outputs: exactly these modalities must come; None = the model chooses.
        max_new_tokens: most tokens of the reply, signal tokens included.
        sampling: of the text; greedy by default.
        seed: resolved; decides every byte of the media.
        decoding: per modality, what overrides the decoder's default preset.
        condition: what decoders are told: the signal tokens' states, or the caption in words that
            stands before them.
        truncate: "oldest_turns" drops turns of an over-long conversation; None = an error.
        on_event: told text, spans, denoising steps and parts as they come.
        cancelled: asked between steps; True ends the reply with what is there.
    """

    messages: tuple[Message, ...]
    outputs: frozenset[Modality] | None = None
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    decoding: Mapping[Modality, Mapping[str, Any]] = field(default_factory=dict)
    condition: ConditionSource = "signal"
    truncate: Literal["oldest_turns"] | None = None
    on_event: Callable[[Event], None] | None = None
    cancelled: Callable[[], bool] | None = None


@dataclass(frozen=True)
class EngineSettings:
    """How work shares the machine.

    Args:
        language: rows decoded side by side, spans of a reply.
        batch_invariant: bytes do not depend on neighbours; False is faster in batches.
        micro_batch: parts a decoder call; None = the decoder's own number where bytes must not
            depend on neighbours, else THROUGHPUT_MICRO_BATCH.
        residency: "resident" keeps every part on the device; "staged" the one at work alone.
    """

    language: DecodeSettings = field(default_factory=DecodeSettings)
    batch_invariant: bool = True
    micro_batch: int | None = None
    residency: ResidencyKind = "resident"
