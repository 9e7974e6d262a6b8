"""One reply in the making: what a row of the decode loop has written and still owes.

Host-side bookkeeping only; the loop owns every tensor but the spans' states.
"""

from __future__ import annotations

from anyany.language.model import LanguageModel
from anyany.language.requests import (
    Decoded,
    DecodeRequest,
    FinishReason,
    Piece,
    Span,
    TextDelta,
    TextPiece,
)
from anyany.language.rules import RowRules
from anyany.language.text_stream import UNFINISHED, TextStream
from anyany.messages import Modality


class Row:
    """One reply in the making.

    Args:
        index: the request's place among all requests.
        request: what is asked.
        model: for its tokenizer, template and signal tokens.
        max_spans: most spans of one modality.
    """

    def __init__(
        self, index: int, request: DecodeRequest, model: LanguageModel, *, max_spans: int
    ) -> None:
        self.index = index
        self.request = request
        self.rules = RowRules.open(
            model.signals,
            request.outputs,
            max_new_tokens=request.max_new_tokens,
            max_spans=max_spans,
        )
        self.uniforms = request.sampling.uniforms(request.max_new_tokens)
        self.position = request.prompt.shape[0]  # the next slot
        self.token_ids: list[int] = []
        self.pieces: list[Piece] = []
        self.finish_reason: FinishReason | None = None
        self._model = model
        self._stream = self._new_stream()

    def next_uniform(self) -> float:
        """The row's own random number for the token to come."""
        return self.uniforms[len(self.uniforms) - self.rules.remaining] if self.uniforms else 0.0

    def write_token(self, token_id: int) -> Modality | None:
        """Take a chosen id of text.

        Returns:
            The span that comes instead, if the text ran into a stop string with spans still owed.
        """
        self.rules.wrote_token()
        stream = self._stream
        held = len(stream.token_ids)
        self._emit(stream.push(token_id))
        self.token_ids.append(token_id)
        if stream.stopped:
            dropped = held + 1 - len(stream.token_ids)
            del self.token_ids[len(self.token_ids) - dropped :]
            self.position -= dropped - 1  # the token at hand has no slot yet
            if self.rules.due is None:
                self.finish("stop")
            return self.rules.due
        if self.rules.text_owed and self._shows_text():
            self.rules.wrote_text()
        if self.rules.remaining == 0:
            self.finish("length")
        return None

    def write_span(self, span: Span) -> None:
        """Take a whole span."""
        self._close_text()
        self.rules.wrote_span(span.modality)
        self.token_ids.extend(span.ids)
        self.pieces.append(span)
        self.position += len(span.ids)
        if self.request.on_event:
            self.request.on_event(span)
        if self.rules.remaining == 0:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the reply."""
        self._close_text()
        self.finish_reason = reason

    def answer(self) -> Decoded:
        """The finished reply."""
        assert self.finish_reason is not None, "the reply is not finished"
        return Decoded(tuple(self.token_ids), tuple(self.pieces), self.finish_reason)

    def _shows_text(self) -> bool:
        """Whether a reader sees something; half a character is nothing."""
        return bool(self._stream.text.replace(UNFINISHED, "").strip())

    def _close_text(self) -> None:
        self._emit(self._stream.finish())
        if text := self._stream.text:
            self.pieces.append(TextPiece(text))
        self._stream = self._new_stream()

    def _emit(self, text: str) -> None:
        if text and self.request.on_event:
            self.request.on_event(TextDelta(text))

    def _new_stream(self) -> TextStream:
        return TextStream(
            self._model.tokenizer,
            self._model.template.stop_strings,
            eager=self.request.on_event is not None,
        )
