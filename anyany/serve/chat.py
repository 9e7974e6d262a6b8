"""POST /v1/chat/completions: any mix of media in, any mix out, whole or as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse

from anyany.messages import Message
from anyany.requests import Request
from anyany.serve import answers, bodies
from anyany.serve.errors import invalid
from anyany.serve.guard import Gone
from anyany.serve.jobs import Job
from anyany.serve.openapi import describe
from anyany.serve.service import Service, json_body
from anyany.serve.stream import ChatStream, Mailbox

_OPTIONS = ("temperature", "top_p", "top_k", "truncate")


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", **describe(bodies.ChatBody, "A reply, or its stream."))
    async def chat(http: HttpRequest) -> Response:
        body = bodies.parse(bodies.ChatBody, await json_body(http, service))
        messages, request = await chat_request(service, body)
        mailbox = Mailbox() if body.stream else None
        job = service.job(request, listen=mailbox.put if mailbox else None)
        try:  # while the engine begins
            tokens = await service.count_tokens(messages)
        except BaseException:
            job.cancel()
            raise
        if mailbox:
            return _streamed(service, body, job, mailbox, tokens)
        (reply,) = await service.answer(http, [job])

        def written() -> dict[str, Any]:
            return answers.chat_object(
                reply,
                id=answers.new_id("chatcmpl"),
                model=service.model.name,
                created=int(time.time()),
                prompt_tokens=tokens,
            )

        has_media = any(part.modality != "text" for part in reply.parts)
        return JSONResponse(await service.aside(written) if has_media else written())

    return routes


async def chat_request(service: Service, body: bodies.ChatBody) -> tuple[list[Message], Request]:
    """What a body asks for.

    Raises:
        ApiError: 400, 404 or 413.
    """
    service.check_model(body.model)
    service.check_outputs(body.modalities)
    _check_audio(body.audio)
    messages = await service.read_turns(body.messages)
    options = {n: v for n in _OPTIONS if (v := getattr(body, n)) is not None}
    tokens = body.most_tokens()
    request = service.request(
        messages,
        body,
        outputs=body.modalities,
        **options,
        **({} if tokens is None else {"max_new_tokens": tokens}),
        **_decoding(service, body),
    )
    return messages, request


def _decoding(service: Service, body: bodies.ChatBody) -> dict[str, Any]:
    nested = body.decoding or {}
    for name in nested:
        if name not in service.model.outputs or name == "text":
            raise invalid(
                f"expected media among {', '.join(service.model.outputs[1:])}; got {name[:40]!r}",
                param="decoding",
                code="modality",
            )
    return {**nested, **service.decoding(body, None)}


def _check_audio(audio: Mapping[str, Any] | None) -> None:
    """OpenAI's `audio`: a voice means nothing here, and files are WAV."""
    if audio is None:
        return
    if set(audio) - {"voice", "format"}:
        raise invalid("expected voice and format", param="audio", code="unknown_field")
    if audio.get("format", "wav") != "wav":
        raise invalid("expected wav", param="audio.format", code="unsupported")


class EventResponse(StreamingResponse):
    """A stream that ends with its client, and with its job's time even if the client stops reading.

    Args:
        stream: what is sent.
        job: that is given up with it.
    """

    media_type = "text/event-stream"

    def __init__(self, stream: ChatStream, job: Job) -> None:
        super().__init__(stream.chunks(), headers={"x-accel-buffering": "no"})
        self._job = job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        try:
            async with asyncio.timeout(self._job.seconds + 5.0):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise Gone from None
        finally:
            self._job.cancel()


def _streamed(
    service: Service, body: bodies.ChatBody, job: Job, mailbox: Mailbox, tokens: int
) -> EventResponse:
    stream = ChatStream(
        job,
        mailbox,
        lambda: service.scheduler.position(job),
        model=service.model.name,
        with_usage=bool((body.stream_options or {}).get("include_usage")),
        prompt_tokens=tokens,
    )
    return EventResponse(stream, job)
