"""The app: routes behind the guard, the engine's thread for as long as it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from anyany import __version__
from anyany.serve import batches, chat, files, images, sounds, status, videos
from anyany.serve.errors import ApiError
from anyany.serve.guard import Guard
from anyany.serve.model import Model
from anyany.serve.service import Service
from anyany.serve.settings import ServeSettings

_SAID = {404: "no such route", 405: "this route has no such method", 400: "the form is malformed"}


class Server:
    """An app and what it holds.

    Args:
        model: loaded.
        settings: limits and keys.
    """

    def __init__(self, model: Model, settings: ServeSettings | None = None) -> None:
        self.settings = settings or ServeSettings()
        self.service = Service(model, self.settings)
        self.clips = videos.Clips(self.service)
        self.store = files.FileStore(self.settings, self.service.metrics)
        self.batches = batches.Batches(self.service, self.store)
        self.app = self._routes()

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="anyany",
            version=__version__,
            docs_url=None,  # they load scripts from elsewhere
            redoc_url=None,
            lifespan=self._lifespan,
        )
        for router in (
            chat.router(self.service),
            images.router(self.service),
            sounds.router(self.service),
            videos.router(self.service, self.clips),
            files.router(self.store),
            batches.router(self.service, self.batches),
            status.router(self.service),
        ):
            app.include_router(router)
        # Inside the framework's own catch-all, whose answer is not ours.
        app.add_middleware(Guard, settings=self.settings, metrics=self.service.metrics)
        app.add_exception_handler(HTTPException, _plain)
        for status_code in (400, 404, 405, 413, 422):
            app.add_exception_handler(status_code, _plain)
        return app

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.service.scheduler.start()
        self.batches.resume()
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Give up what is left; delete what is not to outlive the server."""
        self.clips.close()
        self.batches.close()
        self.service.close()
        self.store.close()


async def _plain(http: HttpRequest, error: Exception) -> JSONResponse:
    """What the framework refuses, in our words."""
    status_code = getattr(error, "status_code", 400)
    said = _SAID.get(status_code, "the request is malformed")
    code = {404: "not_found", 405: "method"}.get(status_code, "malformed")
    headers = getattr(error, "headers", None)
    return JSONResponse(ApiError(status_code, said, code=code).body(), status_code, headers=headers)
