"""What goes into the decode loop and what comes out of it.

Shapes: T prompt tokens, S tokens of a span, D language width.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from torch import Tensor

from anyany.errors import ConfigError, PromptError
from anyany.language.model import LanguageModel
from anyany.language.rules import check_outputs
from anyany.language.sampling import Sampling
from anyany.messages import Modality

# Measured on one CPU thread with a 1.5 M model (hidden 192, 4 layers): 8 rows cost a lone request a
# quarter more than 1 row would, and make a full batch 3.6 times cheaper a token.
DEFAULT_ROWS: Final = 8


@dataclass(frozen=True)
class DecodeSettings:
    """How requests share the machine.

    Args:
        rows: R, requests decoded side by side. Part of an output's identity in invariant mode.
        max_spans: most spans of one modality in one reply.
        batch_invariant: bit-equal whatever the neighbours: R rows always, prompts and spans one
            by one. False: no more rows than requests, prompts and spans in common passes.
    """

    rows: int = DEFAULT_ROWS
    max_spans: int = 4
    batch_invariant: bool = True

    def __post_init__(self) -> None:
        for key in ("rows", "max_spans"):
            if getattr(self, key) < 1:
                raise ConfigError(f"decode.{key}: expected 1 or more, got {getattr(self, key)}")


@dataclass(frozen=True, eq=False)
class TextDelta:
    """New text of a reply, as it becomes certain."""

    text: str


@dataclass(frozen=True, eq=False)
class Span:
    """A whole signal span.

    Args:
        modality: image, video or audio.
        ids: its ids, separators included, [S].
        hidden: last hidden states at its own positions, [S, D].
        embeddings: its input rows, [S, D]; an output projector reads `hidden + embeddings`.
    """

    modality: Modality
    ids: tuple[int, ...]
    hidden: Tensor
    embeddings: Tensor


@dataclass(frozen=True, eq=False)
class TextPiece:
    """Text between spans."""

    text: str


Event: TypeAlias = TextDelta | Span
Piece: TypeAlias = TextPiece | Span
FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, eq=False)
class DecodeRequest:
    """One prompt to answer.

    Args:
        prompt: embeddings [T, D] of the whole prompt.
        outputs: modalities that must come, "text" among them if asked for, and no others;
            None = the model chooses.
        max_new_tokens: most tokens of the reply, signal tokens included, the stop not counted.
        sampling: greedy by default.
        on_event: told text deltas and spans as they come.
        cancelled: asked before every step; True ends the reply.
        layout: the bridge's layout of the prompt, for adapters that need it.
        visual: what such an adapter attends to.
    """

    prompt: Tensor
    outputs: Set[Modality] | None = None
    max_new_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    on_event: Callable[[Event], None] | None = None
    cancelled: Callable[[], bool] | None = None
    layout: Any = None
    visual: Any = None


@dataclass(frozen=True, eq=False)
class Decoded:
    """An answer.

    Args:
        token_ids: all ids in order, signal ids and separators included, without the stop.
        pieces: text and spans in order; no two texts in a row, no empty text.
        finish_reason: "stop", "length" or "cancelled".
    """

    token_ids: tuple[int, ...]
    pieces: tuple[Piece, ...]
    finish_reason: FinishReason

    @property
    def text(self) -> str:
        """All text, the pieces joined as they were written."""
        return "".join(piece.text for piece in self.pieces if isinstance(piece, TextPiece))

    @property
    def spans(self) -> tuple[Span, ...]:
        """All spans in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Span))


def check_request(model: LanguageModel, request: DecodeRequest) -> None:
    """Refuse a request that cannot be carried out, before anything is computed.

    Raises:
        PromptError: an empty or over-long prompt, wrong outputs, or too small a budget.
    """
    check_outputs(model.signals, request.outputs, request.max_new_tokens)
    shape = tuple(request.prompt.shape)
    if len(shape) != 2 or shape[1] != model.language_dim or shape[0] == 0:
        raise PromptError(
            f"expected prompt embeddings of shape (tokens, {model.language_dim}), got {shape}"
        )
    if shape[0] + request.max_new_tokens > model.context_length:
        raise PromptError(
            f"the prompt has {shape[0]} tokens and max_new_tokens is {request.max_new_tokens}, "
            f"but the language model's context is {model.context_length}: shorten the prompt or "
            "lower max_new_tokens"
        )
