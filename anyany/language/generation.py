"""THE decode loop: prompts as embeddings in, text and whole signal spans out, in order.

A span can only start with its modality's first token; the rest is then forced, in one pass that
yields all its states. Rows live in fixed slots (`cache.py`); a pass is a prompt by itself, a span
by itself, or one token of every row, so a row's numbers never depend on its neighbours nor on its
place among them. Finished rows make room at once, for requests that came meanwhile too.

Shapes: R rows, T prompt tokens, S tokens of a span, D language width, V vocabulary, n signal
tokens, L slots.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence

from anyany.language.adapters import PassLayout
from anyany.language.cache import SlotCache
from anyany.language.masks import ScoreMasks
from anyany.language.model import LanguageModel
from anyany.language.reply import Row
from anyany.language.requests import (
    Decoded,
    DecodeRequest,
    DecodeSettings,
    Span,
    check_request,
)
from anyany.language.sampling import choose
from anyany.messages import Modality

_SMALLEST_CACHE: Final = 128  # slots; grows by doubling


def generate(
    model: LanguageModel,
    requests: Sequence[DecodeRequest],
    settings: DecodeSettings | None = None,
) -> list[Decoded]:
    """Answer requests, in their order.

    Raises:
        PromptError: one of them cannot be carried out; nothing has been computed then.
    """
    answers = dict(generate_iter(model, requests, settings))
    return [answers[index] for index in range(len(requests))]


def generate_iter(
    model: LanguageModel,
    requests: Sequence[DecodeRequest],
    settings: DecodeSettings | None = None,
    *,
    more: Callable[[], Iterable[DecodeRequest]] | None = None,
) -> Iterator[tuple[int, Decoded]]:
    """Answer requests, each as soon as it is finished.

    Args:
        model: the language model.
        requests: any mix of lengths, outputs and sampling.
        settings: rows and mode.
        more: asked whenever a row is free and nothing waits: requests that came meanwhile, counted
            on from the others; checked by whoever gives them.

    Yields:
        A request's index and its answer.

    Raises:
        PromptError: one of them cannot be carried out; nothing has been computed then.
    """
    settings = settings or DecodeSettings()
    for request in requests:
        check_request(model, request)
    line = _Line(requests, more, own_size=settings.batch_invariant)
    while num_slots := line.cache_size():
        rows = settings.rows if settings.batch_invariant or more else min(settings.rows, len(line))
        loop = _DecodeLoop(model, settings, num_rows=rows, num_slots=num_slots)
        yield from loop.run(functools.partial(line.take, num_slots))


class _Line:
    """Requests that wait, by the slots that they need.

    Args:
        requests: that are there.
        more: gives those that came meanwhile.
        own_size: a request runs in a cache of the size that it needs by itself, no larger one.
    """

    def __init__(
        self,
        requests: Sequence[DecodeRequest],
        more: Callable[[], Iterable[DecodeRequest]] | None,
        *,
        own_size: bool,
    ) -> None:
        self._more = more
        self._own_size = own_size
        self._count = 0
        self._waiting: dict[int, deque[tuple[int, DecodeRequest]]] = {}
        self._add(requests)

    def __len__(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    def cache_size(self) -> int:
        """Slots of the next cache; 0 = nothing waits."""
        sizes = [size for size, line in self._waiting.items() if line]
        if not sizes:
            return 0
        return sizes[0] if self._own_size else max(sizes)

    def take(self, num_slots: int) -> tuple[int, DecodeRequest] | None:
        """The next request for a cache of this size, if there is one."""
        line = self._line_for(num_slots)
        if not line and self._more is not None:
            self._add(self._more())
            line = self._line_for(num_slots)
        return line.popleft() if line else None

    def _add(self, requests: Iterable[DecodeRequest]) -> None:
        for request in requests:
            size = _SMALLEST_CACHE
            while size < request.prompt.shape[0] + request.max_new_tokens:
                size *= 2
            self._waiting.setdefault(size, deque()).append((self._count, request))
            self._count += 1

    def _line_for(self, num_slots: int) -> deque[tuple[int, DecodeRequest]] | None:
        if self._own_size:
            return self._waiting.get(num_slots)
        fitting = [line for size, line in self._waiting.items() if line and size <= num_slots]
        return min(fitting, key=lambda line: line[0][0], default=None)


class _DecodeLoop:
    """R rows over one slot cache."""

    def __init__(
        self, model: LanguageModel, settings: DecodeSettings, *, num_rows: int, num_slots: int
    ) -> None:
        self.model = model
        self.settings = settings
        self.device = model.device
        self.rows: list[Row | None] = [None] * num_rows
        self.cache = SlotCache(
            model.lm.config,
            num_rows=num_rows,
            num_slots=num_slots,
            device=model.device,
            dtype=model.dtype,
        )
        self.masks = ScoreMasks(model, num_rows)
        self.last_hidden = torch.zeros(
            num_rows, model.language_dim, device=model.device, dtype=model.dtype
        )
        self.span_embeddings: dict[Modality, Tensor] = {}

    @torch.no_grad()
    def run(
        self, take: Callable[[], tuple[int, DecodeRequest] | None]
    ) -> Iterator[tuple[int, Decoded]]:
        self._refill(take)
        while any(self.rows):
            self._poll_cancelled()
            spans = self._choose()
            yield from self._retire()
            self._step([r for r, row in enumerate(self.rows) if row and r not in spans])
            self._write_spans(spans)
            yield from self._retire()
            self._refill(take)

    def _refill(self, take: Callable[[], tuple[int, DecodeRequest] | None]) -> None:
        fresh: list[int] = []
        for r, row in enumerate(self.rows):
            if row is None:
                if (found := take()) is None:
                    break
                self.rows[r] = Row(*found, self.model, max_spans=self.settings.max_spans)
                fresh.append(r)
        if fresh:
            self.model.adapter.reset(fresh)
        for group in self._groups(fresh):
            self._prefill(group)

    def _groups(self, rows: list[int]) -> list[list[int]]:
        """Rows that share a wide pass: each by itself in invariant mode."""
        if not rows:
            return []
        return [[r] for r in rows] if self.settings.batch_invariant else [rows]

    def _prefill(self, group: list[int]) -> None:
        prompts = [self._row(r).request.prompt.to(self.device, self.model.dtype) for r in group]
        padded = pad_sequence(prompts, batch_first=True)  # [N, W, D]
        rows = torch.tensor(group).to(self.device)
        self._announce(group, [0] * len(group), padded.shape[1])
        mask, positions = self.cache.prefill(rows, padded.shape[1])
        hidden = self.model(padded, attention_mask=mask, position_ids=positions, cache=self.cache)
        for r, prompt, states in zip(group, prompts, hidden, strict=True):
            self.last_hidden[r] = states[len(prompt) - 1]

    def _poll_cancelled(self) -> None:
        for row in self.rows:
            if row and row.request.cancelled and row.request.cancelled():
                row.finish("cancelled")

    def _choose(self) -> dict[int, Modality]:
        """Let every row choose; returns the rows whose next pass is a span."""
        live = [row if row and row.finish_reason is None else None for row in self.rows]
        spans = {r: row.rules.forced for r, row in enumerate(live) if row and row.rules.forced}
        if len(spans) < sum(row is not None for row in live):
            mask = self.masks.of([row.rules.permission if row else None for row in live])
            scores = self.model.logits(self.last_hidden).float() + mask
            chosen = choose(
                scores,
                [row.request.sampling if row else None for row in live],
                [row.next_uniform() if row else 0.0 for row in live],
            ).tolist()  # the one wait for the device
            for r, row in enumerate(live):
                if row and r not in spans and (due := self._take(row, chosen[r])):
                    spans[r] = due
        return {r: modality for r, modality in spans.items() if modality}

    def _take(self, row: Row, token_id: int) -> Modality | None:
        """Account for a chosen id; returns the span that it starts or makes due."""
        if token_id >= self.model.vocab_size:
            return self.model.signals.modality_of(token_id)
        if token_id in self.model.stop_ids:
            if row.rules.due is None:
                row.finish("stop")
            return row.rules.due
        return row.write_token(token_id)

    def _step(self, active: list[int]) -> None:
        """One token of every active row, in one pass of width 1 over all rows."""
        if not active:
            return
        ids = [0] * len(self.rows)
        for r in active:
            ids[r] = self._row(r).token_ids[-1]
        starts = [row.position if row else 0 for row in self.rows]
        self._announce(list(range(len(starts))), starts, 1)
        token_ids, slots = torch.tensor([ids, starts]).to(self.device)
        mask, positions = self.cache.step(slots)
        embedded = self.model.lm.get_input_embeddings()(token_ids[:, None])  # [R, 1, D]
        with self._attention_by_row():
            hidden = self.model(
                embedded, attention_mask=mask, position_ids=positions, cache=self.cache
            )
        self.last_hidden = hidden[:, 0]  # rows about to write a span get theirs after it
        for r in active:
            self._row(r).position += 1

    def _attention_by_row(self) -> AbstractContextManager[None]:
        """One query a row: the CPU's fused attention rounds by the thread that a row falls to."""
        if self.settings.batch_invariant and self.device.type == "cpu":
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()

    def _write_spans(self, spans: dict[int, Modality]) -> None:
        for modality in self.model.signals.modalities:
            for group in self._groups([r for r, wanted in spans.items() if wanted == modality]):
                self._write_span(group, modality)

    def _write_span(self, group: list[int], modality: Modality) -> None:
        """A whole span for these rows in one pass of width S."""
        ids = self.model.signals.span(modality)
        if modality not in self.span_embeddings:
            token_ids = torch.tensor([ids]).to(self.device)
            self.span_embeddings[modality] = self.model.embed(token_ids)[0]  # [S, D]
        embeddings = self.span_embeddings[modality]
        starts = [self._row(r).position for r in group]
        rows, slots = torch.tensor([group, starts]).to(self.device)
        self._announce(group, starts, len(ids))
        mask, positions = self.cache.span(rows, slots, len(ids))
        hidden = self.model(
            embeddings.expand(len(group), -1, -1),
            attention_mask=mask,
            position_ids=positions,
            cache=self.cache,
        )  # [N, S, D]
        for r, states in zip(group, hidden, strict=True):
            self.last_hidden[r] = states[-1]
            self._row(r).write_span(Span(modality, ids, states, embeddings))

    def _retire(self) -> Iterator[tuple[int, Decoded]]:
        for r, row in enumerate(self.rows):
            if row and row.finish_reason:
                self.rows[r] = None
                yield row.index, row.answer()

    def _announce(self, rows: list[int], starts: list[int], width: int) -> None:
        adapter = self.model.adapter
        if adapter.needs_layout:
            requests = [row.request if (row := self.rows[r]) else None for r in rows]
            layout = PassLayout(
                tuple(rows),
                tuple(starts),
                width,
                tuple(request.layout if request else None for request in requests),
            )
            adapter.before(layout, tuple(one.visual if one else None for one in requests))

    def _row(self, r: int) -> Row:
        row = self.rows[r]
        assert row is not None, f"row {r} is idle"
        return row
