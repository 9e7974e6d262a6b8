"""A server as a process: one socket, uvicorn without its banners, an orderly end.

SIGTERM and Ctrl-C close the door, finish what is at work within the drain time and end with 0; a
second one ends at once.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

import uvicorn

from anyany.errors import UsageError
from anyany.serve.app import Server
from anyany.serve.protocol import protocol

BACKLOG: Final = 512
KEEP_ALIVE: Final = 15  # seconds


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: address or name.
        port: 0 = any free one.

    Raises:
        UsageError: the address is not this machine's, or the port is taken.
    """
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Head and body go out apart; with Nagle's delay the body would wait 40 ms for a receipt.
        # asyncio turns it off only for sockets that were made with the protocol's number.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.bind((name, port))
        opened.listen(BACKLOG)
    except (OSError, OverflowError):
        opened.close()
        raise UsageError(
            f"cannot listen on {name[:60]} port {port}: it is taken, or the address is not ours"
        ) from None
    opened.setblocking(False)
    return opened


def address(opened: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(server: Server, opened: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until a signal ends it.

    Args:
        server: the app.
        opened: the listening socket.
        ready: called once it answers.
    """
    settings = server.settings
    config = uvicorn.Config(
        server.app,
        http=protocol(settings.header_seconds, settings.connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )
    try:
        _Uvicorn(config, ready).run(sockets=[opened])
    finally:
        server.close()  # a second signal leaves the app's own end out


class _Uvicorn(uvicorn.Server):
    """Tells when it answers, and does not raise its signals again at the end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn.Server; a second signal of any kind ends at once, and not as an error."""
        if self.should_exit:
            self.force_exit = True
            logging.getLogger("uvicorn.error").disabled = True
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn.Server."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def announce(url: str) -> None:
    """Tell the one who started it."""
    print(f"anyany serve: {url}", flush=True)
