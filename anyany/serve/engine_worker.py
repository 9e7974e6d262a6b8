"""The engine's process at work: calls of the server, carried out by a system loaded here."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from anyany.errors import InternalError
from anyany.language import Span
from anyany.requests import DenoisingStep, Event, PartReady, Request
from anyany.serve.engine_process import WAITING
from anyany.serve.model import SystemModel

if TYPE_CHECKING:
    from anyany.system import AnyToAny

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """A request as it travels.

    Args:
        request: without its callbacks.
        mark: its place among the marks, where it is told that nobody waits for it any more.
        hears: events are wanted.
    """

    request: Request
    mark: int
    hears: bool


class EngineWorker:
    """The child's side of calls.

    Args:
        pipe: to the parent.
        marks: see EngineProcess.
        system: loaded.
    """

    def __init__(self, pipe: Connection, marks: Sequence[bool], system: AnyToAny) -> None:
        self._pipe = pipe
        self._marks = marks
        self._model = SystemModel(system)

    def work(self) -> None:
        """Carry out calls.

        Raises:
            EOFError, ConnectionError: the parent has gone.
        """
        self._pipe.send(("ready", self._model.facts))
        while True:
            self._carry(*self._pipe.recv()[1:])

    def _carry(self, sent: Sequence[Sent], joins: bool) -> None:
        """One call, or one within another."""
        numbers = itertools.count()

        def unpacked(sent: Sequence[Sent]) -> list[Request]:
            return [self._unpacked(next(numbers), one) for one in sent]

        def more() -> list[Request]:
            if not self._marks[WAITING]:  # asking costs a millisecond
                return []
            self._pipe.send(("more",))
            return unpacked(self._pipe.recv()[1])

        error: Exception | None = None
        try:
            for number, answer in self._model.run(unpacked(sent), more if joins else None):
                self._pipe.send(("answer", number, answer))
        except (EOFError, ConnectionError):
            raise
        except Exception as found:
            logger.error("the engine failed", exc_info=found)
            error = InternalError("the engine failed")
        self._pipe.send(("end", error))

    def _unpacked(self, number: int, sent: Sent) -> Request:
        return replace(
            sent.request,
            on_event=partial(self._tell, number) if sent.hears else None,
            cancelled=lambda: self._marks[sent.mark],
        )

    def _tell(self, number: int, event: Event) -> None:
        if isinstance(event, Span):  # its states stay here
            self._pipe.send(("span", number, event.modality, event.ids))
            return
        waits = isinstance(event, DenoisingStep | PartReady)
        self._pipe.send(("step" if waits else "event", number, event))
        while waits and (message := self._pipe.recv())[0] != "go":
            self._carry(*message[1:])
