"""Multipart forms: fields as their bodies' models want them, files within the limits.

Files spool to unnamed temporary files that the system removes with the request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Request as HttpRequest
from fastapi import UploadFile

from anyany.serve.errors import ApiError, invalid, too_large

MAX_FILES: Final = 16
MAX_FIELDS: Final = 64
FIELD_BYTES: Final = 2**20
_WHOLE: Final = ("seed", "n", "num_inference_steps", "height", "width", "num_frames")
_REAL: Final = ("guidance_scale", "eta", "speed")


@dataclass
class Form:
    """What a form holds.

    Args:
        fields: texts, numbers among them as numbers.
        files: name of the field and the file, in order.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, UploadFile]] = field(default_factory=list)

    async def data(self, names: tuple[str, ...], most: int) -> list[bytes]:
        """The content of the files of these fields, in order.

        Raises:
            ApiError: 400, a file of another field; 413, one is too large.
        """
        found: list[bytes] = []
        for name, file in self.files:
            if name not in names:
                raise invalid(f"unexpected file {name[:60]!r}", param=name[:60])
            content = await file.read(most + 1)
            if len(content) > most:
                raise too_large(f"expected a file of at most {most:,} bytes", param=name)
            found.append(content)
        return found


@asynccontextmanager
async def read_form(http: HttpRequest) -> AsyncIterator[Form]:
    """A request's form; its files are gone afterwards.

    Raises:
        ApiError: 400, it is malformed; 415, it is none.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(415, "expected content of the type multipart/form-data", code="content_type")
    async with http.form(
        max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=FIELD_BYTES
    ) as form:
        found = Form()
        for name, value in form.multi_items():
            if isinstance(value, str):
                found.fields[name] = _typed(name, value)
            else:
                found.files.append((name.removesuffix("[]"), value))  # type: ignore[arg-type]
        yield found


def _typed(name: str, text: str) -> Any:
    try:
        if name in _WHOLE:
            return int(text)
        return float(text) if name in _REAL else text
    except ValueError:
        return text


def clean(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without those that a client left empty."""
    return {name: value for name, value in fields.items() if value != ""}
