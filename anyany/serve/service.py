"""What routes share: from a checked body to a job, and from a job to a reply.

A client that leaves takes its job along; a job whose time is up is answered 504 whether or not the
engine has come to its next step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from fastapi import Request as HttpRequest

from anyany.errors import UsageError
from anyany.messages import Message, Modality, Part, Reply
from anyany.requests import Event, Request
from anyany.serve import bodies
from anyany.serve.conversation import has_media, read_medium, read_messages
from anyany.serve.errors import ApiError, invalid, late, told
from anyany.serve.guard import Gone
from anyany.serve.jobs import Job, Kind
from anyany.serve.metrics import Metrics
from anyany.serve.model import Model
from anyany.serve.scheduler import Scheduler
from anyany.serve.settings import ServeSettings

READERS: Final = 2  # threads that read and write media
SHORT_TEXT: Final = 4_000  # characters
_T = TypeVar("_T")
_ALIASES: Final = {"negative_prompt": "negative", "preset": "settings"}


class Service:
    """A model behind a server.

    Args:
        model: loaded.
        settings: of the server.
    """

    def __init__(self, model: Model, settings: ServeSettings) -> None:
        self.model = model
        self.settings = settings
        self.metrics = Metrics()
        self.created = int(time.time())
        self.scheduler = Scheduler(
            model,
            queue=settings.queue,
            most_together=settings.together,
            metrics=self.metrics,
            nests=model.nests,
        )
        self._readers = ThreadPoolExecutor(READERS, "media")
        self.metrics.gauge("anyany_queue", lambda: self.scheduler.depth)
        self.metrics.gauge("anyany_running", lambda: self.scheduler.running)

    def close(self) -> None:
        """End the threads."""
        self.scheduler.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def aside(self, work: Callable[[], _T]) -> _T:
        """Something slow, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def read_picture(self, data: bytes, place: str) -> Part:
        """A picture of a form, read beside the loop.

        Raises:
            ApiError: 400 or 413.
        """
        return await self.aside(lambda: read_medium("image", data, self.settings, place))

    async def read_turns(self, turns: Sequence[Mapping[str, Any]]) -> list[Message]:
        """A chat's messages, its media read beside the loop."""
        if has_media(turns):
            return await self.aside(lambda: read_messages(turns, self.settings))
        return read_messages(turns, self.settings)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt, its users' media left out; a long one is counted beside the loop.

        Raises:
            PromptError: the turns are out of order, or one is empty.
        """
        if sum(len(message.text) for message in messages) < SHORT_TEXT:
            return self.model.prompt_tokens(messages)
        return await self.aside(lambda: self.model.prompt_tokens(messages))

    def check_model(self, name: str | None) -> None:
        """Refuse a model that is not loaded.

        Raises:
            ApiError: 404.
        """
        if name is not None and name != self.model.name:
            raise ApiError(
                404,
                f"this server has the model {self.model.name}",
                code="model_not_found",
                param="model",
            )

    def check_outputs(self, outputs: Sequence[Modality] | None) -> None:
        """Refuse modalities that the model does not make.

        Raises:
            ApiError: 400.
        """
        for wanted in outputs or ():
            if wanted not in self.model.outputs:
                raise invalid(
                    f"{self.model.name} makes {', '.join(self.model.outputs)}, not {wanted}",
                    param="modalities",
                    code="modality",
                )

    def request(self, messages: Sequence[Message], body: bodies.Body, **arguments: Any) -> Request:
        """A checked request of the engine.

        Args:
            messages: the conversation.
            body: of the request: its seed and condition are taken.
            arguments: others of `AnyToAny.generate`.

        Raises:
            ApiError: 400.
        """
        condition = getattr(body, "condition", None)
        named = {
            **({"condition": condition} if condition else {}),
            **({"seed": body.seed} if body.seed is not None else {}),
        }
        return self.checked(messages, **named, **arguments)

    def checked(self, messages: Sequence[Message], **arguments: Any) -> Request:
        """A request of `AnyToAny.generate`'s arguments, within the server's limits.

        Raises:
            ApiError: 400.
        """
        for message in messages:
            for part in message.parts:
                if message.role == "user" and part.modality not in self.model.inputs:
                    raise invalid(
                        f"{self.model.name} takes {', '.join(self.model.inputs)}, not "
                        f"{part.modality}",
                        param="messages",
                        code="modality",
                    )
        try:
            made = self.model.request(messages, **arguments)
        except UsageError as error:
            raise told(error) from None
        self._check_ranges(made)
        return made

    def decoding(
        self, body: bodies.Body, modality: Modality | None, more: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Decoder parameters of a body as `AnyToAny.generate` takes them.

        Args:
            body: with flat names.
            modality: that they are for; None = whichever alone can be meant.
            more: under `generate`'s own names.
        """
        flat = {_ALIASES.get(n, n): v for n, v in body.flat_decoding().items()} | dict(more or {})
        return flat if modality is None else ({modality: flat} if flat else {})

    def job(
        self,
        request: Request,
        *,
        listen: Callable[[Event], None] | None = None,
        seconds: float | None = None,
        kind: Kind | None = None,
    ) -> Job:
        """Queue a request.

        Raises:
            ApiError: 429 or 503.
        """
        is_text = request.outputs == frozenset({"text"})
        job = Job(
            request,
            kind=kind or ("text" if is_text else "media"),
            seconds=seconds or self.settings.seconds,
            listen=listen,
        )
        self.scheduler.submit(job)
        return job

    async def answer(self, http: HttpRequest, jobs: Sequence[Job]) -> list[Reply]:
        """The replies of jobs, for as long as their client waits.

        Raises:
            ApiError: what became of the first that failed.
            Gone: the client has left.
        """
        leaving = asyncio.ensure_future(_left(http.receive))
        answers = asyncio.gather(*(job.answer() for job in jobs))
        try:
            until = max(0.0, jobs[0].deadline - time.monotonic())
            both: set[asyncio.Future[Any]] = {leaving, answers}
            await asyncio.wait(both, timeout=until, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return answers.result()
            if leaving.done():
                raise Gone
            raise late(jobs[0].seconds)
        except (ApiError, Gone):
            raise
        except Exception as error:
            raise (late(jobs[0].seconds) if jobs[0].gone else told(error)) from None
        finally:
            for job in jobs:
                job.cancel()
            leaving.cancel()
            answers.cancel()
            await asyncio.gather(leaving, answers, return_exceptions=True)

    def _check_ranges(self, request: Request) -> None:
        """What a request may cost.

        Raises:
            ApiError: 400.
        """
        settings = self.settings
        _at_most("max_tokens", request.max_new_tokens, settings.max_new_tokens)
        for values in request.decoding.values():
            _at_most("num_inference_steps", values.get("num_inference_steps"), settings.most_steps)
            _at_most("num_frames", values.get("num_frames"), settings.most_frames)
            _at_most("seconds", values.get("seconds"), settings.most_seconds)
            side = int(settings.most_pixels**0.5)
            height, width = values.get("height") or side, values.get("width") or side
            if height * width > settings.most_pixels:
                raise invalid(
                    f"expected at most {settings.most_pixels:,} pixels", param="size", code="range"
                )


def owner_of(http: HttpRequest) -> str:
    """Whose the request is, as the guard found."""
    return str(http.scope["state"]["owner"])


async def read_body(http: HttpRequest) -> bytes:
    """The body, whole; the guard counts its bytes.

    Raises:
        Gone: the client has left.
    """
    pieces: list[bytes] = []
    while True:
        message = await http.receive()
        if message["type"] == "http.disconnect":
            raise Gone
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def json_body(http: HttpRequest, service: Service) -> dict[str, Any]:
    """The body's JSON object; a long one is parsed beside the loop."""
    kind = http.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "expected content of the type application/json", code="content_type")
    data = await read_body(http)
    if len(data) < 2**16:
        return bodies.parse_json(data)
    return await service.aside(lambda: bodies.parse_json(data))


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _at_most(name: str, value: float | None, most: float) -> None:
    if value is not None and value > most:
        raise invalid(
            f"expected {name} of at most {most:g}; got {value:g}", param=name, code="range"
        )
