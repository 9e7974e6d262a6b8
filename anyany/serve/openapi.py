"""How routes describe themselves in /openapi.json: bodies from their models, errors as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from anyany.serve.bodies import Body

ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REFUSALS: Final = {
    "400": "The request cannot be carried out as asked.",
    "401": "The key is missing or wrong.",
    "404": "There is no such thing.",
    "408": "The body did not come in time.",
    "413": "Something is too large.",
    "415": "The content is of another type.",
    "429": "Too many wait; see Retry-After.",
    "503": "The server is ending, or out of memory.",
    "504": "Not finished in time.",
}


def describe(kind: type[Body] | None, answer: str, **more: Any) -> dict[str, Any]:
    """Keyword arguments of a route.

    Args:
        kind: of its JSON body; None = none.
        answer: what comes.
        more: further keys of the operation.
    """
    extra: dict[str, Any] = {**more}
    if kind is not None:
        content = {"application/json": {"schema": kind.model_json_schema()}}
        extra["requestBody"] = {"required": True, "content": content}
    return {"openapi_extra": extra, "responses": responses(answer), "response_model": None}


def form(answer: str, fields: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    """Keyword arguments of a route that takes a form."""
    schema = {"type": "object", "properties": dict(fields), "required": required}
    content = {"multipart/form-data": {"schema": schema}}
    extra = {"requestBody": {"required": True, "content": content}}
    return {"openapi_extra": extra, "responses": responses(answer), "response_model": None}


def responses(answer: str) -> dict[int | str, dict[str, Any]]:
    """The answer, and the errors that every route may give."""
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": about, "content": {"application/json": {"schema": ERROR}}}
        for status, about in _REFUSALS.items()
    }
    return {"200": {"description": answer}, **refusals}
