"""What stands before every route: who asks, from where, and how much.

A plain ASGI layer, so that bytes are counted as they come, whatever reads them. It also puts the
headers on every answer and turns whatever goes wrong into OpenAI's error object.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from anyany.serve.errors import ApiError, told, too_large
from anyany.serve.metrics import Metrics
from anyany.serve.settings import LOOPBACK_NAMES, ServeSettings

logger = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = ("/", "/healthz", "/readyz", "/favicon.ico")
UPLOADS: Final = "/v1/files"
_PAGE_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_API_CSP: Final = "default-src 'none'; frame-ancestors 'none'"
_HEADERS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
}


class Gone(Exception):
    """The client has left."""


class Guard:
    """The layer around an app.

    Args:
        app: the routes.
        settings: of the server.
        metrics: told every request.
    """

    def __init__(self, app: App, settings: ServeSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = [key.encode() for key in settings.api_keys]
        self.held = 0  # bytes of bodies in memory
        metrics.gauge("anyany_body_bytes", lambda: self.held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(self, scope, receive, send)
        began = time.monotonic()
        try:
            await self._guarded(scope, call)
        except Gone:
            call.status = call.status or 499
        except Exception as error:
            if call.started:  # the status is out: end the connection, in the log if it is ours
                logger.error("an answer broke off", exc_info=error)
                raise
            await call.refuse(told(error))
        finally:
            self.held -= call.bytes
            # A disconnect cancels nothing here: it is told by `receive`.
            route = str(getattr(scope.get("route"), "path", "other"))
            self._metrics.count(
                "anyany_requests_total", route=route, status=str(call.status or 499)
            )
            seconds = time.monotonic() - began
            self._metrics.observe("anyany_request_seconds", seconds, route=route)

    async def _guarded(self, scope: Scope, call: _Call) -> None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        self._check_host(headers)
        self._check_origin(headers, call)
        if call.is_preflight:
            await call.send_plain(204)
            return
        scope.setdefault("state", {})["owner"] = self._owner(scope["path"], headers)
        self._check_length(headers, call)
        await self._app(scope, call.receive, call.send)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """A page on a foreign name that points to this address must not reach it."""
        settings = self._settings
        if "*" in settings.allow_hosts or (not settings.is_local and not settings.allow_hosts):
            return  # others reach it and it has keys
        name = _host_name(headers.get("host", ""))
        if name not in (*LOOPBACK_NAMES, settings.host.lower(), *settings.allow_hosts):
            raise ApiError(403, "this server does not answer to that host name", code="host")

    def _check_origin(self, headers: Mapping[str, str], call: _Call) -> None:
        origin = headers.get("origin")
        if origin is None:
            return
        if origin in self._settings.allow_origins:
            call.cors_origin = origin
            call.is_preflight = (
                call.method == "OPTIONS" and "access-control-request-method" in headers
            )
            return
        try:
            own = urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
        except ValueError:
            own = False
        if not own:
            raise ApiError(403, "pages of other origins may not ask this server", code="origin")

    def _owner(self, path: str, headers: Mapping[str, str]) -> str:
        """Whose things the request may see: one name per key.

        Raises:
            ApiError: 401.
        """
        if not self._keys:
            return "local"
        if path in OPEN_PATHS or path.startswith("/page/"):
            return ""
        kind, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip().encode() if kind.lower() == "bearer" else b""
        matches = [hmac.compare_digest(key, known) for known in self._keys]  # every one, always
        if not any(matches):
            raise ApiError(
                401,
                "expected a valid API key (Authorization: Bearer KEY)",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return hashlib.sha256(key).hexdigest()[:16]

    def _check_length(self, headers: Mapping[str, str], call: _Call) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > call.limit:
            raise _over(call.limit)

    def make_room(self, more: int) -> None:
        """Count bytes that came in.

        Raises:
            ApiError: 429, all requests together hold too much.
        """
        self.held += more
        if self.held > self._settings.bodies_bytes:
            self._metrics.count("anyany_rejected_total", reason="bodies")
            raise ApiError(
                429,
                "the server is reading too many large requests; try again in 5 s",
                code="busy",
                headers={"Retry-After": "5"},
            )

    @property
    def settings(self) -> ServeSettings:
        """Of the server."""
        return self._settings


class _Call:
    """One request on its way through the guard."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard = guard
        self._receive, self._send = receive, send
        self._scope = scope
        self._until = asyncio.get_running_loop().time() + guard.settings.body_seconds
        self._whole = False  # the body is in
        self.method = str(scope["method"])
        upload = scope["path"] == UPLOADS
        self.limit = guard.settings.file_bytes if upload else guard.settings.body_bytes
        self.bytes = 0
        self.started = False
        self.status = 0
        self.cors_origin = ""
        self.is_preflight = False

    async def receive(self) -> Message:
        """The next piece of the body, counted; then the client's leaving."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                408, "the request's body did not come in time", code="body_timeout"
            ) from None
        if message["type"] == "http.request":
            more = len(message.get("body", b""))
            self.bytes += more
            self._guard.make_room(more)
            if self.bytes > self.limit:
                raise _over(self.limit)
            self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """An answer's piece, with the headers that all have."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = int(message["status"])
            present = {name.lower() for name, _ in message.get("headers", [])}
            added = [
                (name.encode(), value.encode())
                for name, value in self._headers().items()
                if name.encode() not in present
            ]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error; a body that is still coming in is not waited for."""
        data = json.dumps(error.body()).encode()
        close = {} if self._whole else {"connection": "close"}
        await self.send_plain(error.status, data, {**error.headers, **close})

    async def send_plain(
        self, status: int, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer of JSON, or of nothing."""
        kind = {"content-type": "application/json"} if data else {}
        all_headers = {**kind, "content-length": str(len(data)), **(headers or {})}
        told_headers = [(k.lower().encode(), v.encode()) for k, v in all_headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": told_headers})
        await self.send({"type": "http.response.body", "body": data})

    def _headers(self) -> dict[str, str]:
        path = self._scope["path"]
        is_page = path == "/" or path.startswith("/page/")
        found = {
            **_HEADERS,
            "x-request-id": f"req-{secrets.token_hex(12)}",
            "content-security-policy": _PAGE_CSP if is_page else _API_CSP,
            "cache-control": "no-cache" if is_page else "no-store",
        }
        if self.cors_origin:
            found |= {
                "access-control-allow-origin": self.cors_origin,
                "vary": "Origin",
                "access-control-allow-methods": "GET, POST, DELETE",
                "access-control-allow-headers": "authorization, content-type",
                "cross-origin-resource-policy": "cross-origin",
            }
        return found


def _over(limit: int) -> ApiError:
    return too_large(f"expected a request of at most {limit:,} bytes")


def _host_name(value: str) -> str:
    """A Host header without its port, in lower case."""
    value = value.strip().lower()
    if value.startswith("["):
        return value.partition("]")[0] + "]"
    return value.partition(":")[0]
