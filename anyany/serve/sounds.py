"""POST /v1/audio/speech and /v1/audio/generations: recordings by themselves.

Models here make sounds of what a text describes. They read nothing aloud: `speech` is the shape
that clients know, and a voice means nothing to it.
"""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from anyany.messages import Message, Reply, TextPart
from anyany.serve import answers, bodies
from anyany.serve.errors import invalid
from anyany.serve.images import check_text
from anyany.serve.openapi import describe
from anyany.serve.service import Service, json_body


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/audio/speech", **describe(bodies.SpeechBody, "A file of sound."))
    async def speech(http: HttpRequest) -> Response:
        body = bodies.parse(bodies.SpeechBody, await json_body(http, service))
        reply = await _sound(service, http, body, body.input, body.seconds)
        ending = f".{body.response_format or 'wav'}"
        data = await service.aside(lambda: answers.encode(reply.audios[0], ending))
        headers = {
            "content-disposition": f'attachment; filename="audio_0{ending}"',
            "x-seed": str(reply.seed),
        }
        return Response(data, media_type=answers.MIME[ending], headers=headers)

    @routes.post("/v1/audio/generations", **describe(bodies.SoundBody, "Sounds."))
    async def generations(http: HttpRequest) -> JSONResponse:
        body = bodies.parse(bodies.SoundBody, await json_body(http, service))
        text = body.prompt or body.input
        if not text:
            raise invalid("prompt: expected a value, got none", param="prompt", code="value")
        seconds = body.seconds if body.seconds is not None else body.audio_length
        reply = await _sound(service, http, body, text, seconds)
        ending = f".{body.response_format or 'wav'}"
        created = int(time.time())
        return JSONResponse(
            await service.aside(lambda: answers.sounds_object(reply, created, ending))
        )

    return routes


async def _sound(
    service: Service, http: HttpRequest, body: bodies.Decoding, text: str, seconds: float | None
) -> Reply:
    service.check_model(body.model)
    service.check_outputs(["audio"])
    check_text(service, text)
    more = {} if seconds is None else {"seconds": seconds}
    request = service.request(
        [Message("user", (TextPart(text),))],
        body,
        outputs={"audio"},
        **service.decoding(body, "audio", more),
    )
    (reply,) = await service.answer(http, [service.job(request)])
    return reply
