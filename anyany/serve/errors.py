"""Errors as OpenAI's clients know them: {"error": {"message", "type", "param", "code"}}.

Only texts of our own are told. What any other exception says goes to the log alone: libraries'
texts carry addresses and paths.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from anyany.errors import (
    AnyAnyError,
    Cancelled,
    CheckpointError,
    ConfigError,
    MediaError,
    PromptError,
    ResourceError,
    UsageError,
)

logger = logging.getLogger(__name__)

INVALID: Final = "invalid_request_error"
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """What a client is told.

    Args:
        status: of HTTP.
        message: one line for people, in our own words.
        code: for programs.
        param: the field that is off.
        headers: further ones of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's object."""
        kind = _TYPES.get(self.status, INVALID)
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be carried out as asked: 400."""
    return ApiError(400, message, code=code, param=param)


def not_found(what: str) -> ApiError:
    """404."""
    return ApiError(404, f"no such {what}", code="not_found")


def too_large(message: str, *, param: str | None = None) -> ApiError:
    """413."""
    return ApiError(413, message, code="too_large", param=param)


def busy(seconds: int) -> ApiError:
    """429: the queue is full."""
    return ApiError(
        429,
        f"too many requests are waiting; try again in {seconds} s",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def draining() -> ApiError:
    """503: the server is about to end."""
    return ApiError(
        503, "the server is shutting down", code="draining", headers={"Retry-After": "10"}
    )


def late(seconds: float) -> ApiError:
    """504: the time is up."""
    return ApiError(504, f"not finished within {seconds:g} s, so it was given up", code="deadline")


def told(error: BaseException, *, param: str | None = None) -> ApiError:
    """What a client is told of any exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MediaError):
        text = str(error).removeprefix("the given bytes: ")
        status = 413 if error.code == "too_large" else 400
        return ApiError(status, text, code=f"media_{error.code}", param=param)
    if isinstance(error, PromptError):
        return invalid(str(error), param=param or "messages", code="prompt")
    if isinstance(error, CheckpointError | ConfigError):  # whose texts name folders
        logger.warning("a request needs what this system lacks", exc_info=error)
        return invalid(
            "this system lacks a part that the request needs", param=param, code="weights"
        )
    if isinstance(error, UsageError):
        return invalid(str(error), param=param, code="usage")
    if isinstance(error, ResourceError):
        return ApiError(
            503, "memory or disk ran out: shorten the request, or try later", code="resource"
        )
    if isinstance(error, Cancelled):
        return ApiError(499, "cancelled", code="cancelled")
    if not isinstance(error, AnyAnyError):  # the engine has logged its own failures
        logger.error("a request failed unexpectedly", exc_info=error)
    return ApiError(500, "an internal error; the server's log has more", code="internal")
