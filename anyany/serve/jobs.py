"""A job: one request for the engine, and what its client hears of it.

Made in the event loop, carried out in the scheduler's thread. Events cross over as they come; the
answer is a future of the loop.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

from anyany.errors import AnyAnyError, Cancelled
from anyany.messages import Reply
from anyany.requests import DenoisingStep, Event, PartReady, Request

Kind: TypeAlias = Literal["text", "media", "background"]

_numbers = itertools.count()


class Job:
    """One request on its way.

    Args:
        request: for the engine; its `on_event` and `cancelled` are set here.
        kind: "text" makes no media and goes between the steps of long decoding; "background" waits
            for all others.
        seconds: until it is given up, waiting included.
        listen: called in the engine's thread with every event; must be quick.
    """

    def __init__(
        self,
        request: Request,
        *,
        kind: Kind,
        seconds: float,
        listen: Callable[[Event], None] | None = None,
    ) -> None:
        self.number = next(_numbers)
        self.kind = kind
        self.seconds = seconds
        self.made = time.monotonic()
        self.deadline = self.made + seconds
        self.finished: float | None = None
        self.between: Callable[[], None] | None = None  # the scheduler's, between decoding steps
        self._listen = listen
        self._cancelled = False
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Reply | AnyAnyError] = self._loop.create_future()
        hears = listen is not None or kind != "text"  # text by itself is quicker unheard
        self.request = replace(
            request, on_event=self._hear if hears else None, cancelled=lambda: self.gone
        )

    async def answer(self) -> Reply:
        """The reply.

        Raises:
            AnyAnyError: why there is none; Cancelled if it was taken back or late.
        """
        found = await asyncio.shield(self._answer)
        if isinstance(found, AnyAnyError):
            raise found
        if found.finish_reason == "cancelled":
            raise Cancelled("cancelled")
        return found

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more: taken back, or its time is up."""
        return self._cancelled or time.monotonic() > self.deadline

    @property
    def settled(self) -> bool:
        """Whether the loop has the answer."""
        return self._answer.done()

    def cancel(self) -> None:
        """Give it up; what is at work stops at its next step."""
        self._cancelled = True

    def finish(self, answer: Reply | AnyAnyError) -> None:
        """Hand the answer to the loop; from any thread, the first one counts."""
        if self.finished is not None:
            return
        self.finished = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._settle, answer)
        except RuntimeError:  # the loop has ended: nobody listens
            return

    def _settle(self, answer: Reply | AnyAnyError) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _hear(self, event: Event) -> None:
        if self._listen is not None:
            self._listen(event)
        if self.between is not None and isinstance(event, DenoisingStep | PartReady):
            self.between()
