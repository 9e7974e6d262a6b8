"""What a server says of itself: models, health, readiness, figures; and the page's files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from anyany.serve.errors import draining, not_found
from anyany.serve.openapi import describe
from anyany.serve.service import Service

_KINDS: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".wav": "audio/wav",
    ".mp4": "video/mp4",
    ".webmanifest": "application/manifest+json",
}
_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/v1/models", **describe(None, "The models."))
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model_object(service)]})

    @routes.get("/v1/models/{model_id:path}", **describe(None, "The model."))
    async def model(model_id: str) -> JSONResponse:
        service.check_model(model_id)
        return JSONResponse(model_object(service))

    @routes.get("/healthz", **describe(None, "The process answers."))
    @routes.get("/health", include_in_schema=False)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @routes.get("/readyz", **describe(None, "Requests are taken."))
    async def ready() -> JSONResponse:
        if not service.scheduler.alive or service.scheduler.ending:
            raise draining()
        return JSONResponse({"status": "ready", "model": service.model.name})

    @routes.get("/metrics", **describe(None, "Figures in Prometheus' text format."))
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type=_METRICS)

    @routes.get("/", include_in_schema=False)
    async def page() -> Response:
        return _file("index.html")

    @routes.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @routes.get("/page/{path:path}", include_in_schema=False)
    async def part(path: str) -> Response:
        return _file(path)

    return routes


def model_object(service: Service) -> dict[str, Any]:
    """OpenAI's model, with what it takes and makes."""
    model, settings = service.model, service.settings
    return {
        "id": model.name,
        "object": "model",
        "created": service.created,
        "owned_by": "anyany",
        "modalities": {"input": list(model.inputs), "output": list(model.outputs)},
        "decoders": model.presets(),
        "card": model.card,
        "limits": {
            "body_bytes": settings.body_bytes,
            "part_bytes": settings.part_bytes,
            "parts": settings.parts,
            "messages": settings.messages,
            "text_characters": settings.text_characters,
            "image_pixels": settings.media.image_pixels,
            "video_seconds": settings.media.video_seconds,
            "audio_seconds": settings.media.audio_seconds,
            "max_new_tokens": settings.max_new_tokens,
            "num_inference_steps": settings.most_steps,
            "seconds": settings.seconds,
        },
    }


def _file(path: str) -> Response:
    """A file of the page, by a path of plain names."""
    names = PurePosixPath(path).parts
    kind = _KINDS.get(PurePosixPath(path).suffix)
    if kind is None or any(not _is_plain(name) for name in names):
        raise not_found("page")
    found = files("anyany.serve").joinpath("page", *names)
    if not (isinstance(found, Path) and found.is_file()):
        raise not_found("page")
    return Response(found.read_bytes(), media_type=kind)


def _is_plain(name: str) -> bool:
    return not name.startswith(".") and all(c.isalnum() or c in "._-" for c in name)
