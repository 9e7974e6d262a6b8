"""/v1/videos: clips as jobs that are made, asked after, fetched and deleted.

A clip is kept in memory for a while and is gone with the server; whoever has another key does not
see it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from anyany.messages import Message, Part, TextPart
from anyany.requests import DenoisingStep, Event
from anyany.serve import answers, bodies
from anyany.serve.errors import ApiError, invalid, late, not_found, told
from anyany.serve.forms import clean, read_form
from anyany.serve.images import check_text, size_of
from anyany.serve.jobs import Job
from anyany.serve.openapi import describe
from anyany.serve.service import Service, json_body, owner_of

_FINISHED: Final = ("completed", "failed")


@dataclass
class Clip:
    """One job.

    Args:
        id: of it.
        owner: who made it.
        prompt: what was asked for.
        seed: of it.
        job: at work.
        created: seconds since 1970.
    """

    id: str
    owner: str
    prompt: str
    seed: int
    job: Job
    created: int
    status: str = "queued"
    progress: int = 0
    completed: int | None = None
    data: bytes = b""
    error: dict[str, Any] | None = None
    watcher: asyncio.Task[None] | None = None

    def listen(self, event: Event) -> None:
        """Told by the engine's thread."""
        if self.status == "queued":
            self.status = "in_progress"
        if isinstance(event, DenoisingStep):
            self.progress = min(99, 100 * event.step // event.total)


class Clips:
    """The jobs of a server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._clips: dict[str, Clip] = {}
        service.metrics.gauge("anyany_stored", lambda: len(self._clips), kind="videos")

    def start(self, owner: str, parts: list[Part], body: bodies.VideoBody) -> Clip:
        """Queue a clip.

        Raises:
            ApiError: as `Service.request` and `Service.job`; 429, too many are kept.
        """
        service = self._service
        self._forget()
        if sum(clip.owner == owner for clip in self._clips.values()) >= service.settings.keep_files:
            raise ApiError(
                429,
                "too many clips are kept: delete some",
                code="full",
                headers={"Retry-After": "60"},
            )
        request = service.request(
            [Message("user", tuple(parts))],
            body,
            outputs={"video"},
            **service.decoding(body, "video", _length(body)),
        )
        heard: list[Callable[[Event], None]] = []

        def listen(event: Event) -> None:
            for hear in heard:
                hear(event)

        job = service.job(request, listen=listen, seconds=service.settings.job_seconds)
        clip = Clip(
            answers.new_id("video"), owner, body.prompt, request.seed, job, int(time.time())
        )
        heard.append(clip.listen)
        self._clips[clip.id] = clip
        clip.watcher = asyncio.create_task(self._watch(clip))
        return clip

    def get(self, owner: str, id: str) -> Clip:
        """A clip of an owner.

        Raises:
            ApiError: 404.
        """
        clip = self._clips.get(id)
        if clip is None or clip.owner != owner:
            raise not_found("video")
        return clip

    def of(self, owner: str) -> list[Clip]:
        """An owner's clips, the newest first."""
        self._forget()
        return [clip for clip in reversed(self._clips.values()) if clip.owner == owner]

    def delete(self, clip: Clip) -> None:
        """Drop a clip; one that is at work is given up."""
        clip.job.cancel()
        self._clips.pop(clip.id, None)

    def close(self) -> None:
        """Give all up."""
        for clip in list(self._clips.values()):
            self.delete(clip)
            if clip.watcher is not None:
                clip.watcher.cancel()

    async def _watch(self, clip: Clip) -> None:
        try:
            reply = await clip.job.answer()
            clip.data = await self._service.aside(lambda: answers.encode(reply.videos[0]))
            clip.status, clip.progress = "completed", 100
        except Exception as error:
            failure = late(clip.job.seconds) if clip.job.gone else told(error)
            clip.status, clip.error = "failed", failure.body()["error"]
        clip.completed = int(time.time())

    def _forget(self) -> None:
        oldest = time.time() - self._service.settings.keep_seconds
        for clip in list(self._clips.values()):
            if clip.completed is not None and clip.completed < oldest:
                self.delete(clip)


def router(service: Service, clips: Clips) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/videos", **describe(bodies.VideoBody, "The job."))
    async def create(http: HttpRequest) -> JSONResponse:
        kind = http.headers.get("content-type", "")
        references: list[bytes] = []
        if kind.startswith("multipart/"):
            async with read_form(http) as form:
                body = bodies.parse(bodies.VideoBody, clean(form.fields))
                most = service.settings.part_bytes
                references = await form.data(("input_reference",), most)
        else:
            body = bodies.parse(bodies.VideoBody, await json_body(http, service))
        service.check_model(body.model)
        service.check_outputs(["video"])
        check_text(service, body.prompt)
        parts = [await service.read_picture(data, "input_reference") for data in references]
        clip = clips.start(owner_of(http), [*parts, TextPart(body.prompt)], body)
        return JSONResponse(_object(service, clip))

    @routes.get("/v1/videos", **describe(None, "The jobs."))
    async def list_all(http: HttpRequest) -> JSONResponse:
        found = [_object(service, clip) for clip in clips.of(owner_of(http))]
        return JSONResponse(page(found))

    @routes.get("/v1/videos/{video_id}", **describe(None, "The job."))
    async def get(video_id: str, http: HttpRequest) -> JSONResponse:
        return JSONResponse(_object(service, clips.get(owner_of(http), video_id)))

    @routes.get("/v1/videos/{video_id}/content", **describe(None, "The clip."))
    async def content(video_id: str, http: HttpRequest) -> Response:
        clip = clips.get(owner_of(http), video_id)
        if clip.status != "completed":
            raise ApiError(409, f"the clip is {clip.status}", code="not_ready")
        headers = {"content-disposition": 'attachment; filename="video_0.mp4"'}
        return Response(clip.data, media_type="video/mp4", headers=headers)

    @routes.delete("/v1/videos/{video_id}", **describe(None, "What was deleted."))
    async def delete(video_id: str, http: HttpRequest) -> JSONResponse:
        clips.delete(clips.get(owner_of(http), video_id))
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    return routes


def page(found: list[dict[str, Any]]) -> dict[str, Any]:
    """OpenAI's list, all on one page."""
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": False,
    }


def _length(body: bodies.VideoBody) -> dict[str, Any]:
    """Size and frames of a body; OpenAI's `seconds` is for models whose clips have a length."""
    if body.seconds is not None:
        raise invalid(
            "expected num_frames: clips here are as long as their frames",
            param="seconds",
            code="unsupported",
        )
    return size_of(body.size)


def _object(service: Service, clip: Clip) -> dict[str, Any]:
    return {
        "id": clip.id,
        "object": "video",
        "model": service.model.name,
        "status": clip.status,
        "progress": clip.progress,
        "created_at": clip.created,
        "completed_at": clip.completed,
        "expires_at": clip.created + int(service.settings.keep_seconds),
        "prompt": clip.prompt,
        "seed": clip.seed,
        "error": clip.error,
    }
