"""/v1/files: what batches read and write. Plain files in a folder, no database.

Every file belongs to the key that brought it; ids cannot be guessed. Without a state folder all of
it is in a private temporary folder that ends with the server.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response

from anyany.errors import AnyAnyError
from anyany.media import write_json
from anyany.serve import answers
from anyany.serve.errors import ApiError, invalid, not_found
from anyany.serve.forms import clean, read_form
from anyany.serve.metrics import Metrics
from anyany.serve.openapi import describe, form
from anyany.serve.service import owner_of
from anyany.serve.settings import ServeSettings
from anyany.serve.videos import page

_ID: Final = re.compile(r"file-[0-9a-f]{32}")
_FIELDS: Final = {
    "file": {"type": "string", "format": "binary"},
    "purpose": {"enum": ["batch"]},
}


@dataclass(frozen=True)
class StoredFile:
    """What is known of a file.

    Args:
        id: of it; the name of its content on disk.
        owner: who may see it.
        filename: that its owner gave it; never used as a path.
        purpose: batch or batch_output.
        bytes: its size.
        created_at: seconds since 1970.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    created_at: int

    def told(self) -> dict[str, Any]:
        """OpenAI's object."""
        held = {k: v for k, v in asdict(self).items() if k != "owner"}
        return {**held, "object": "file", "status": "processed"}


class FileStore:
    """The files of a server.

    Args:
        settings: of it.
        metrics: told how many there are.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self.settings = settings
        self._temporary = settings.state is None
        if settings.state is None:
            self.root = Path(tempfile.mkdtemp(prefix="anyany-serve-"))
        else:
            self.root = settings.state
        self.folder = self.root / "files"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files: dict[str, StoredFile] = {}
        for path in sorted(self.folder.glob("file-*.json")):
            record = _record(path)
            if record is not None and (self.folder / record.id).is_file():
                self._files[record.id] = record
        metrics.gauge("anyany_stored", lambda: len(self._files), kind="files")

    def add(
        self, owner: str, filename: str, purpose: str, write: Callable[[BinaryIO], None]
    ) -> StoredFile:
        """Keep a file. Writes to disk: not for the event loop.

        Args:
            owner: of it.
            filename: for people.
            purpose: batch or batch_output.
            write: puts its content into an open file.

        Raises:
            ApiError: 429, the owner has too many.
        """
        if purpose == "batch" and len(self.of(owner)) >= self.settings.keep_files:
            raise ApiError(
                429,
                "too many files are kept: delete some",
                code="full",
                headers={"Retry-After": "60"},
            )
        id = answers.new_id("file")
        path = self.folder / id
        try:
            with open(path, "xb") as file:
                write(file)
            size = path.stat().st_size
            stored = StoredFile(id, owner, filename, purpose, size, int(time.time()))
            write_json(asdict(stored), path.with_suffix(".json"))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._files[id] = stored
        return stored

    def get(self, owner: str, id: str) -> StoredFile:
        """A file of an owner.

        Raises:
            ApiError: 404.
        """
        stored = self._files.get(id)
        if stored is None or stored.owner != owner or not _ID.fullmatch(id):
            raise not_found("file")
        return stored

    def path(self, stored: StoredFile) -> Path:
        """Where its content is."""
        return self.folder / stored.id

    def of(self, owner: str) -> list[StoredFile]:
        """An owner's files, the newest first."""
        return [f for f in reversed(list(self._files.values())) if f.owner == owner]

    def delete(self, stored: StoredFile) -> None:
        """Remove a file for good."""
        self._files.pop(stored.id, None)
        for path in (self.path(stored), self.path(stored).with_suffix(".json")):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all, unless they are to outlive the server."""
        if self._temporary:
            shutil.rmtree(self.root, ignore_errors=True)


def router(store: FileStore) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/files", **form("The file.", _FIELDS, ["file", "purpose"]))
    async def upload(http: HttpRequest) -> JSONResponse:
        async with read_form(http) as given:
            fields = clean(given.fields)
            if fields.get("purpose") != "batch":
                raise invalid("expected the purpose batch", param="purpose")
            named = [file for name, file in given.files if name == "file"]
            if len(named) != 1:
                raise invalid("expected one file", param="file")
            filename = _shown(named[0].filename or "file.jsonl")
            content = named[0].file

            def add() -> StoredFile:
                return store.add(
                    owner_of(http), filename, "batch", lambda out: shutil.copyfileobj(content, out)
                )

            stored = await run_in_threadpool(add)
        return JSONResponse(stored.told())

    @routes.get("/v1/files", **describe(None, "The files."))
    async def list_all(http: HttpRequest) -> JSONResponse:
        return JSONResponse(page([stored.told() for stored in store.of(owner_of(http))]))

    @routes.get("/v1/files/{file_id}", **describe(None, "The file."))
    async def get(file_id: str, http: HttpRequest) -> JSONResponse:
        return JSONResponse(store.get(owner_of(http), file_id).told())

    @routes.get("/v1/files/{file_id}/content", **describe(None, "Its content."))
    async def content(file_id: str, http: HttpRequest) -> Response:
        stored = store.get(owner_of(http), file_id)
        headers = {"content-disposition": f'attachment; filename="{stored.id}.jsonl"'}
        return FileResponse(store.path(stored), media_type="application/jsonl", headers=headers)

    @routes.delete("/v1/files/{file_id}", **describe(None, "What was deleted."))
    async def delete(file_id: str, http: HttpRequest) -> JSONResponse:
        store.delete(store.get(owner_of(http), file_id))
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    return routes


def _shown(name: str) -> str:
    """A client's file name, fit for one line."""
    name = re.split(r"[/\\]", name)[-1]
    return "".join(c if c.isprintable() and c.isascii() else "_" for c in name)[:120] or "file"


def _record(path: Path) -> StoredFile | None:
    try:
        return StoredFile(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AnyAnyError):
        return None
