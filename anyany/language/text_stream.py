"""From token ids to text, piece by piece: what a reader may see now, and where a stop string hits.

A token is not a character: a letter may take three tokens, and the text of a token depends on the
one before it. `TextStream` shows only what can no longer change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

UNFINISHED: Final = "\ufffd"  # what a tokenizer writes for a character that is not yet whole


def decode_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of ids of the vocabulary, special tokens left out."""
    text = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)


class TextStream:
    """One run of text tokens on its way to a reader.

    Args:
        tokenizer: a Hugging Face tokenizer.
        stops: strings that end the text; neither they nor what follows are shown.
        eager: decode at every token (a reader waits, or a stop string may come); else only when
            asked for the text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), *, eager: bool = True) -> None:
        self.token_ids: list[int] = []
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._eager = eager or bool(stops)
        self._text = ""  # decoded so far
        self._shown = 0  # characters of it that were handed out
        self._ends: list[int] = []  # length of the text after each token
        self._window = 0  # tokens before this one no longer touch new text
        self._read = 0  # tokens whose text is in self._text

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that became certain, often a word, sometimes nothing."""
        self.token_ids.append(token_id)
        if not self._eager:
            return ""
        before = decode_text(self._tokenizer, self.token_ids[self._window : self._read])
        after = decode_text(self._tokenizer, self.token_ids[self._window :])
        if len(after) > len(before) and not after.endswith(UNFINISHED):
            self._text += after[len(before) :]
            self._window, self._read = self._read, len(self.token_ids)
        self._ends.append(len(self._text))
        return self._show(self._stop_at())

    def finish(self) -> str:
        """End the run; returns the text that was still held back."""
        if not self._eager:
            self._text, self._eager = decode_text(self._tokenizer, self.token_ids), True
        elif not self.stopped and self._read < len(self.token_ids):
            before = decode_text(self._tokenizer, self.token_ids[self._window : self._read])
            after = decode_text(self._tokenizer, self.token_ids[self._window :])
            self._text += after[len(before) :]
            self._read = len(self.token_ids)
        return self._show(len(self._text))

    @property
    def text(self) -> str:
        """All text so far, held-back characters included."""
        if self._eager:
            return self._text
        return decode_text(self._tokenizer, self.token_ids)

    def _stop_at(self) -> int:
        """How many characters may be shown; cuts the text at a stop string."""
        hits = [self._text.find(stop, self._shown) for stop in self._stops]
        hits = [hit for hit in hits if hit >= 0]
        if hits:
            self.stopped = True
            self._text = self._text[: min(hits)]
            while self.token_ids and self._ends[-1] > len(self._text):
                self.token_ids.pop()
                self._ends.pop()
            return len(self._text)
        held = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._text)), held, -1):
                if self._text.endswith(stop[:size]):
                    held = size
                    break
        return len(self._text) - held

    def _show(self, end: int) -> str:
        delta = self._text[self._shown : end]
        self._shown = max(self._shown, end)
        return delta
