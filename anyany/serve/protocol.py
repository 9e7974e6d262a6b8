"""uvicorn's HTTP connection, with an end to clients that never finish their sentence.

uvicorn waits for a request's head for ever, and reads a refused body to its end; both tie up a
socket each.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LINGER: float = 2.0  # seconds in which a client may still read why its body was refused


class PatientProtocol(H11Protocol):
    """An HTTP/1.1 connection whose heads must come in time, and of which there are not too many."""

    header_seconds: ClassVar[float] = 10.0
    most_connections: ClassVar[int] = 512
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.close()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None:  # the beginning of a further head
            self._expect_head()

    def on_response_complete(self) -> None:
        """See H11Protocol."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(LINGER, self._close)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_seconds, self._close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def protocol(header_seconds: float, connections: int) -> type[Any]:
    """The class for uvicorn, with these limits."""
    limits = {"header_seconds": header_seconds, "most_connections": connections}
    return type("LimitedProtocol", (PatientProtocol,), limits)
