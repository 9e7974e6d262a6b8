"""/v1/batches: a file of requests, carried out by `anyany convert`'s own run over its ledger.

    POST /v1/batches ──► thread: Run(manifest, folder) ──► BatchFunction ──► Scheduler
                                  ledger, resume                   (background jobs)

A batch is a folder: `batch.json` says how it stands, `run/` is the run's. With a state folder, a
batch that the server's end cut short goes on at its next start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from anyany.batch import Manifest, ManifestError, Run, RunOptions, open_manifest
from anyany.errors import AnyAnyError
from anyany.media import write_json
from anyany.serve import answers, bodies
from anyany.serve.batch_files import output_lines
from anyany.serve.batch_function import BatchFunction, Stopped
from anyany.serve.errors import ApiError, not_found, told
from anyany.serve.files import FileStore, StoredFile
from anyany.serve.openapi import describe
from anyany.serve.service import Service, json_body, owner_of
from anyany.serve.videos import page

logger = logging.getLogger(__name__)

OPEN: Final = ("validating", "in_progress", "finalizing", "cancelling")
MOST_OPEN: Final = 4  # batches of one owner at a time
MOST_FAULTS: Final = 20


@dataclass
class Batch:
    """One batch, as `batch.json` keeps it."""

    id: str
    owner: str
    input_file_id: str
    endpoint: str
    created_at: int
    metadata: dict[str, str] | None = None
    status: str = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    finished_at: int | None = None
    faults: list[dict[str, Any]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """OpenAI's object."""
        times = {
            f"{name}_at": self.finished_at if self.status == name else None
            for name in ("completed", "failed", "cancelled")
        }
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            **times,
            "request_counts": {
                "total": self.total,
                "completed": self.completed,
                "failed": self.failed,
            },
            "errors": {"object": "list", "data": self.faults} if self.faults else None,
            "metadata": self.metadata,
        }


class Batches:
    """The batches of a server; each runs in a thread of its own, one after the other.

    Args:
        service: that carries their requests out.
        store: of their files.
    """

    def __init__(self, service: Service, store: FileStore) -> None:
        self._service = service
        self._store = store
        self._folder = store.root / "batches"
        self._batches: dict[str, Batch] = {}
        self._stops: dict[str, threading.Event] = {}
        self._turn = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []
        service.metrics.gauge("anyany_stored", lambda: len(self._batches), kind="batches")

    def resume(self) -> None:
        """In the loop, at the start: go on with what an earlier server left."""
        self._loop = asyncio.get_running_loop()
        for path in sorted(self._folder.glob("*/batch.json")):
            try:
                batch = Batch(**json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            self._batches[batch.id] = batch
            if batch.status in OPEN:
                self._start(batch)

    def create(self, owner: str, body: bodies.BatchBody) -> Batch:
        """Begin a batch.

        Raises:
            ApiError: 404, no such file; 429, too many at work.
        """
        stored = self._store.get(owner, body.input_file_id)
        if sum(b.status in OPEN for b in self.of(owner)) >= MOST_OPEN:
            raise ApiError(
                429, f"{MOST_OPEN} batches are at work", code="full", headers={"Retry-After": "60"}
            )
        batch = Batch(
            answers.new_id("batch"),
            owner,
            stored.id,
            body.endpoint,
            int(time.time()),
            body.metadata,
        )
        (self._folder / batch.id / "inputs").mkdir(parents=True)  # of paths: there are none
        shutil.copyfile(self._store.path(stored), self._folder / batch.id / "requests.jsonl")
        self._batches[batch.id] = batch
        self._save(batch)
        self._start(batch)
        return batch

    def get(self, owner: str, id: str) -> Batch:
        """A batch of an owner.

        Raises:
            ApiError: 404.
        """
        batch = self._batches.get(id)
        if batch is None or batch.owner != owner:
            raise not_found("batch")
        return batch

    def of(self, owner: str) -> list[Batch]:
        """An owner's batches, the newest first."""
        return [b for b in reversed(list(self._batches.values())) if b.owner == owner]

    def cancel(self, batch: Batch) -> None:
        """Stop a batch; what is finished stays."""
        if batch.status in OPEN:
            batch.status = "cancelling"
            self._save(batch)
            self._stops[batch.id].set()

    def close(self) -> None:
        """Stop all; they stay open, for the next start."""
        for stop in self._stops.values():
            stop.set()
        for thread in self._threads:
            thread.join(2.0)

    def _start(self, batch: Batch) -> None:
        self._stops[batch.id] = threading.Event()
        thread = threading.Thread(
            target=self._work, args=(batch,), name=f"batch {batch.id[6:14]}", daemon=True
        )
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _work(self, batch: Batch) -> None:
        with self._turn:
            cancelled = batch.status == "cancelling"
            try:
                if not cancelled:
                    self._run(batch)
                batch.status = "cancelled" if batch.status == "cancelling" else "completed"
            except Stopped:
                if batch.status != "cancelling":
                    return  # the server ends: it goes on at the next start
                batch.status = "cancelled"
            except ManifestError as error:
                self._fail(batch, error.faults)
            except Exception as error:
                known = isinstance(error, AnyAnyError)
                self._fail(batch, [told(error).message if known else "an internal error"])
                logger.error("a batch failed", exc_info=error)
            batch.finished_at = int(time.time())
            self._save(batch)

    def _run(self, batch: Batch) -> None:
        folder = self._folder / batch.id
        manifest = open_manifest(folder / "requests.jsonl", format="openai", root=folder / "inputs")
        batch.total = _checked(manifest, batch.endpoint)
        batch.status = "in_progress"
        self._save(batch)
        stop = self._stops[batch.id]
        assert self._loop is not None, "expected resume before a batch"
        function = BatchFunction(self._service, folder / "inputs", self._loop, stop)

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                batch.completed, batch.failed = event["done"] + event["skipped"], event["failed"]
            if stop.is_set():
                raise Stopped

        run = Run(
            manifest,
            folder / "run",
            lambda: function,
            options=RunOptions(workers=0),
            on_event=on_event,
        )
        counts = run().counts
        batch.failed = counts.failed + counts.skipped_failed
        batch.completed = counts.done + counts.skipped
        batch.status = "finalizing"
        batch.output_file_id = self._keep(batch, "results.jsonl")
        batch.error_file_id = self._keep(batch, "errors.jsonl")

    def _keep(self, batch: Batch, name: str) -> str | None:
        """A list of the run as a file of the batch's owner."""
        folder = self._folder / batch.id / "run"
        if not (folder / name).is_file() or not (folder / name).stat().st_size:
            return None
        stored: StoredFile = self._store.add(
            batch.owner,
            f"{batch.id}_{name}",
            "batch_output",
            lambda file: file.writelines(output_lines(folder, name)),
        )
        return stored.id

    def _fail(self, batch: Batch, faults: Sequence[str]) -> None:
        batch.status = "failed"
        batch.faults = [
            {"code": "invalid_request", "message": text, "param": None, "line": _line(text)}
            for text in faults[:MOST_FAULTS]
        ]

    def _save(self, batch: Batch) -> None:
        path: Path = self._folder / batch.id / "batch.json"
        write_json(asdict(batch), path)


def router(service: Service, batches: Batches) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/batches", **describe(bodies.BatchBody, "The batch."))
    async def create(http: HttpRequest) -> JSONResponse:
        body = bodies.parse(bodies.BatchBody, await json_body(http, service))
        batch = await run_in_threadpool(batches.create, owner_of(http), body)
        return JSONResponse(batch.told())

    @routes.get("/v1/batches", **describe(None, "The batches."))
    async def list_all(http: HttpRequest) -> JSONResponse:
        return JSONResponse(page([batch.told() for batch in batches.of(owner_of(http))]))

    @routes.get("/v1/batches/{batch_id}", **describe(None, "The batch."))
    async def get(batch_id: str, http: HttpRequest) -> JSONResponse:
        return JSONResponse(batches.get(owner_of(http), batch_id).told())

    @routes.post("/v1/batches/{batch_id}/cancel", **describe(None, "The batch."))
    async def cancel(batch_id: str, http: HttpRequest) -> JSONResponse:
        batch = batches.get(owner_of(http), batch_id)
        await run_in_threadpool(batches.cancel, batch)
        return JSONResponse(batch.told())

    return routes


def _checked(manifest: Manifest, endpoint: str) -> int:
    """How many lines there are, all for one endpoint.

    Raises:
        ManifestError: lines cannot be used.
    """
    faults = []
    total = 0
    for line in manifest.lines():
        total += 1
        fault = line.fault
        if line.item is not None and line.item.endpoint != endpoint:
            fault = f'"url": expected the endpoint of the batch, {endpoint}'
        if fault:
            faults.append(f"line {line.number}: {fault}")
    if not total:
        faults.append("line 1: expected at least one request")
    if faults:
        raise ManifestError("the file", faults)
    return total


def _line(text: str) -> int | None:
    number = text.removeprefix("line ").partition(":")[0]
    return int(number) if number.isdecimal() else None
