"""What carries a batch's lines out: the server's one engine, behind everybody else's requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anyany.batch.functions import read_input, read_messages, read_part_of_bytes
from anyany.batch.items import Task
from anyany.errors import AnyAnyError, UsageError
from anyany.messages import Part, Reply
from anyany.requests import Request
from anyany.serve.conversation import read_medium
from anyany.serve.errors import ApiError
from anyany.serve.jobs import Job
from anyany.serve.service import Service


class Stopped(BaseException):
    """A batch was told to stop; no Exception, so that no item is set down as failed by it."""


class BatchFunction:
    """A `batch.Function` over a service.

    Args:
        service: with the engine.
        root: of relative paths: an empty folder.
        loop: that jobs live in.
        stop: ends the batch.
    """

    def __init__(
        self, service: Service, root: Path, loop: asyncio.AbstractEventLoop, stop: threading.Event
    ) -> None:
        self._service = service
        self._root = root
        self._loop = loop
        self._stop = stop

    def describe(self) -> dict[str, Any]:
        """See batch.Function."""
        return self._service.model.describe()

    def prepare(self, task: Task) -> Request:
        """See batch.Function."""
        item = task.item
        messages = read_messages(task, self._read)
        options = {k: v for k, v in item.options.items() if k != "decoding"}
        try:
            return self._service.checked(
                messages,
                outputs=item.outputs,
                seed=task.seed,
                **options,
                **item.options.get("decoding", {}),
            )
        except ApiError as error:
            raise UsageError(error.message) from None

    def answer(self, prepared: Sequence[Request]) -> Iterable[Reply | AnyAnyError]:
        """See batch.Function. Raises Stopped when the batch is told to end."""
        working = asyncio.run_coroutine_threadsafe(self._answers(prepared), self._loop)
        while True:
            try:
                return working.result(0.2)
            except TimeoutError:
                if self._stop.is_set():
                    working.cancel()
                    raise Stopped from None
            except (ApiError, asyncio.CancelledError):
                raise Stopped from None  # the server is about to end

    async def _answers(self, prepared: Sequence[Request]) -> list[Reply | AnyAnyError]:
        jobs: list[Job] = []
        seconds = self._service.settings.job_seconds
        try:
            for request in prepared:
                jobs.append(self._service.job(request, kind="background", seconds=seconds))
            return [await _outcome(job) for job in jobs]
        finally:
            for job in jobs:
                job.cancel()

    def _read(self, kind: str, place: Any) -> Part:
        _, data = read_input(self._root, place)
        if kind == "media":
            return read_part_of_bytes(data)
        return read_medium(kind, data, self._service.settings, "media")


async def _outcome(job: Job) -> Reply | AnyAnyError:
    try:
        return await job.answer()
    except AnyAnyError as error:
        return error
