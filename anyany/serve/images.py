"""POST /v1/images/generations and /v1/images/edits: pictures by themselves."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from anyany.messages import Message, Part, TextPart
from anyany.serve import answers, bodies
from anyany.serve.errors import invalid, too_large
from anyany.serve.forms import clean, read_form
from anyany.serve.jobs import Job
from anyany.serve.openapi import describe, form
from anyany.serve.service import Service, json_body

_FILES: Final = {"type": "array", "items": {"type": "string", "format": "binary"}}
_EDIT_FIELDS: Final = {
    "image": _FILES,
    "prompt": {"type": "string"},
    "n": {"type": "integer"},
    "size": {"type": "string"},
    "seed": {"type": "integer"},
    "response_format": {"enum": ["b64_json", "url"]},
}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/images/generations", **describe(bodies.ImageBody, "Pictures."))
    async def generations(http: HttpRequest) -> JSONResponse:
        body = bodies.parse(bodies.ImageBody, await json_body(http, service))
        return await _pictures(service, http, body, [TextPart(body.prompt)])

    @routes.post("/v1/images/edits", **form("Pictures.", _EDIT_FIELDS, ["image", "prompt"]))
    async def edits(http: HttpRequest) -> JSONResponse:
        async with read_form(http) as given:
            body = bodies.parse(bodies.ImageBody, clean(given.fields))
            service.check_model(body.model)
            files = await given.data(("image",), service.settings.part_bytes)
        if not files:
            raise invalid("expected at least one picture", param="image")
        parts = [await service.read_picture(data, "image") for data in files]
        return await _pictures(service, http, body, [*parts, TextPart(body.prompt)])

    return routes


async def _pictures(
    service: Service, http: HttpRequest, body: bodies.ImageBody, parts: list[Part]
) -> JSONResponse:
    """N pictures: the k-th has the seed of the first plus k."""
    service.check_model(body.model)
    service.check_outputs(["image"])
    check_text(service, body.prompt)
    number = body.n or 1
    if number > service.settings.images:
        raise too_large(f"expected at most {service.settings.images} pictures", param="n")
    request = service.request(
        [Message("user", tuple(parts))],
        body,
        outputs={"image"},
        **service.decoding(body, "image", size_of(body.size)),
    )
    first = request.seed if body.seed is not None else secrets.randbits(32)
    jobs: list[Job] = []
    try:
        for k in range(number):
            seed = (first + k) % 2**63
            sampling = replace(request.sampling, seed=seed)
            jobs.append(service.job(replace(request, seed=seed, sampling=sampling)))
    except Exception:
        for job in jobs:
            job.cancel()
        raise
    replies = await service.answer(http, jobs)
    ending = f".{body.output_format or 'png'}"
    form_ = body.response_format or "b64_json"
    created = int(time.time())
    return JSONResponse(
        await service.aside(lambda: answers.images_object(replies, created, form_, ending))
    )


def size_of(size: str | None) -> dict[str, Any]:
    """Width and height of "512x512"."""
    if size in (None, "auto"):
        return {}
    width, _, height = str(size).partition("x")
    return {"width": int(width), "height": int(height)}


def check_text(service: Service, text: str) -> None:
    """Refuse a text that is too long.

    Raises:
        ApiError: 413.
    """
    most = service.settings.text_characters
    if len(text) > most:
        raise too_large(f"expected at most {most:,} characters of text", param="prompt")
