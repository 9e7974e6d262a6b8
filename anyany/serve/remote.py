"""The model in a process of its own, so that HTTP's Python and the engine's do not take turns.

The scheduler's thread drives it: it sends a call, then hears what the child has to say until the
call has ended. The child asks back twice: for requests that may join, and whether to go on after a
step of denoising, when the scheduler may send a further call first. What is cancelled is marked in
memory that both see. A child that dies takes its call along; the next call starts another.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from anyany.errors import AnyAnyError, InternalError
from anyany.language import Span
from anyany.messages import Modality, Reply
from anyany.requests import Request
from anyany.serve.engine_process import NUM_MARKS, WAITING, EngineProcess
from anyany.serve.engine_worker import Sent
from anyany.serve.model import KnownModel, ModelFacts

logger = logging.getLogger(__name__)

_WATCH: Final = 0.02  # seconds between looks at what is cancelled


class RemoteModel(KnownModel):
    """A system in a child process. Not for several threads at once, but `run` may nest.

    Args:
        process: the child; this waits until it has loaded.

    Raises:
        AnyAnyError: it could not load; or whatever else stopped it from that.
    """

    def __init__(self, process: EngineProcess) -> None:
        self._process = process
        self._free = itertools.cycle(range(WAITING + 1, NUM_MARKS))
        self._looked = 0.0
        super().__init__(self._ready())

    def notice(self) -> None:
        """See Model."""
        self._process.marks[WAITING] = True

    def run(
        self, requests: Sequence[Request], more: Callable[[], Iterable[Request]] | None = None
    ) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        """See Model.

        Raises:
            InternalError: the child ended, or its engine failed.
        """
        if not self._process.alive:
            logger.warning("the engine's process has ended; another is started")
            self._process.restart()
            self._ready()
        call: list[tuple[Request, int]] = []  # requests by their number, and their marks
        ended = False
        try:
            self.notice()
            self._process.send("run", self._packed(call, requests), more is not None)
            while not ended:
                kind, *values = self._hear(call)
                if kind == "answer":
                    yield values[0], values[1]
                elif kind == "more":
                    self._process.marks[WAITING] = False  # first: who comes now marks it again
                    joined = self._packed(call, more() if more else ())
                    if joined:
                        self.notice()
                    self._process.send("more", joined)
                elif kind == "end":
                    ended = True
                    if values[0] is not None:
                        raise values[0]
                else:
                    number, *event = values
                    on_event = call[number][0].on_event
                    if on_event is not None:
                        on_event(_span(*event) if kind == "span" else event[0])
                    if kind == "step":
                        self._process.send("go")
        except (EOFError, OSError):
            raise InternalError("the engine's process has ended") from None
        finally:
            if not ended:  # in the middle of something: nobody could go on from there
                self._process.kill()

    def _ready(self) -> ModelFacts:
        """Wait until the child has loaded.

        Raises:
            AnyAnyError: it could not; or whatever else stopped it.
        """
        try:
            kind, value = self._hear([])
        except (EOFError, OSError):
            raise InternalError("the engine's process ended while it loaded the model") from None
        if kind == "failed":
            raise value
        found: ModelFacts = value
        return found

    def _packed(self, call: list[tuple[Request, int]], requests: Iterable[Request]) -> list[Sent]:
        """Requests for the child; they become part of the call."""
        packed: list[Sent] = []
        for request in requests:
            mark = next(self._free)
            self._process.marks[mark] = False
            bare = replace(request, on_event=None, cancelled=None)
            packed.append(Sent(bare, mark, request.on_event is not None))
            call.append((request, mark))
        return packed

    def _hear(self, call: Sequence[tuple[Request, int]]) -> Any:
        """The child's next message; marks what is cancelled meanwhile."""
        while True:
            message = self._process.hear(_WATCH)
            if time.monotonic() - self._looked >= _WATCH:
                self._looked = time.monotonic()
                for request, mark in call:
                    if request.cancelled is not None and request.cancelled():
                        self._process.marks[mark] = True
            if message is not None:
                return message


def _span(modality: Modality, ids: tuple[int, ...]) -> Span:
    """A signal span without the states, which clients have no use for."""
    return Span(modality, ids, torch.empty(0), torch.empty(0))
