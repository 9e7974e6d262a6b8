"""A reply as server-sent events, while it is being made.

Every event is one of OpenAI's chunks; what they have no field for stands in `event`. Text comes as
it is written, media one by one as each is done, and steps of denoising in between.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from anyany.language import Span, TextDelta
from anyany.messages import Modality, Reply, TextPart
from anyany.requests import DenoisingStep, Event, PartReady
from anyany.serve import answers
from anyany.serve.answers import SIDE_FIELD, Place
from anyany.serve.errors import late, told
from anyany.serve.jobs import Job

TICK: Final = 1.0  # seconds between looks at the queue
KEEP_ALIVE: Final = 10.0  # seconds of silence after which a comment is sent
DONE: Final = b"data: [DONE]\n\n"


class Mailbox:
    """Events from the engine's thread to the loop; steps of denoising overtake one another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        """From any thread."""
        first = not self._events
        self._events.append(event)
        if first:
            self.ring()

    def ring(self) -> None:
        """Wake whoever waits."""
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the loop has ended
            return

    async def wait(self, seconds: float) -> None:
        """Until there is something, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def take(self) -> list[Event]:
        """What has come."""
        found: list[Event] = []
        while self._events:
            event = self._events.popleft()
            last = found[-1] if found else None
            if _overtakes(event, last):
                found.pop()
            found.append(event)
        return found


@dataclass
class _Parts:
    """Numbers the parts of a reply as the engine will."""

    shows_text: bool
    number: int = 0
    written: str = ""  # text since the last medium
    counts: dict[Modality, int] = field(default_factory=dict)
    places: dict[tuple[Modality, int], int] = field(default_factory=dict)

    def text(self, delta: str) -> tuple[int, str] | None:
        """The part's number and what is new of it; a part's blank ends are left out."""
        if not self.shows_text:
            return None
        before = len(self.written.strip())
        self.written += delta
        shown = self.written.strip()
        return (self.number, shown[before:]) if len(shown) > before else None

    def span(self, modality: Modality) -> tuple[int, int]:
        """The numbers of a medium, among all parts and among those of its modality."""
        if self.shows_text and self.written.strip():
            self.number += 1
        self.written = ""
        index = self.counts.get(modality, 0)
        self.counts[modality] = index + 1
        self.places[modality, index] = self.number
        self.number += 1
        return self.number - 1, index


class ChatStream:
    """One streamed answer.

    Args:
        job: its job, already queued.
        mailbox: that the job's events come to.
        position: tells the job's place in the queue.
        model: the system's name.
        with_usage: send OpenAI's last chunk with the usage alone.
        prompt_tokens: of the conversation.
    """

    def __init__(
        self,
        job: Job,
        mailbox: Mailbox,
        position: Callable[[], int],
        *,
        model: str,
        with_usage: bool,
        prompt_tokens: int,
    ) -> None:
        self._job = job
        self._mailbox = mailbox
        self._position = position
        self._head = {
            "id": answers.new_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._with_usage = with_usage
        self._prompt_tokens = prompt_tokens
        outputs = job.request.outputs
        self._parts = _Parts(outputs is None or "text" in outputs)
        self._last_text = -1

    async def chunks(self) -> AsyncIterator[bytes]:
        """The events as bytes; giving up on them cancels the job."""
        answer = asyncio.ensure_future(self._job.answer())
        answer.add_done_callback(lambda _: self._mailbox.ring())
        try:
            yield self._chunk(
                {"role": "assistant", "content": ""},
                {"type": "start", "seed": self._job.request.seed},
            )
            async for chunk in self._until(answer):
                yield chunk
            async for chunk in self._last(answer.result()):
                yield chunk
        except Exception as error:
            failure = late(self._job.seconds) if self._job.gone else told(error)
            yield _event(failure.body())
        finally:
            self._job.cancel()
            answer.cancel()
        yield DONE

    async def _until(self, answer: asyncio.Future[Reply]) -> AsyncIterator[bytes]:
        """All that comes before the answer."""
        told_position, silent = 0, time.monotonic()
        while True:
            finished = answer.done()  # before looking: what came with it is still taken
            for event in self._mailbox.take():
                if (chunk := await self._told(event)) is not None:
                    silent = time.monotonic()
                    yield chunk
            if finished:
                return
            if time.monotonic() > self._job.deadline:
                raise late(self._job.seconds)
            position = self._position()
            if position and position != told_position:
                told_position = position
                yield self._chunk({}, {"type": "queued", "position": position})
            elif time.monotonic() - silent > KEEP_ALIVE:
                silent = time.monotonic()
                yield b": at work\n\n"
            await self._mailbox.wait(TICK)

    async def _last(self, reply: Reply) -> AsyncIterator[bytes]:
        spent = answers.usage(reply, self._prompt_tokens)
        for chunk in self._missed(reply):
            yield chunk
        event = {
            "type": "finish",
            "seed": reply.seed,
            "timings": answers.timings(reply),
            "usage": spent,
            "dropped_turns": reply.dropped_turns,
        }
        yield self._chunk({}, event, reply.finish_reason)
        if self._with_usage:
            yield _event({**self._head, "choices": [], "usage": spent})

    def _missed(self, reply: Reply) -> list[bytes]:
        """Text that the stream of tokens held back as not yet certain."""
        texts = {i: part.text for i, part in enumerate(reply.parts) if isinstance(part, TextPart)}
        shown = self._parts.written.strip()
        whole = texts.get(self._parts.number, "")
        if not whole.startswith(shown) or whole == shown:
            return []
        rest = whole[len(shown) :]
        return [self._text(self._parts.number, rest)]

    async def _told(self, event: Event) -> bytes | None:
        if isinstance(event, TextDelta):
            found = self._parts.text(event.text)
            return None if found is None else self._text(*found)
        if isinstance(event, Span):
            number, index = self._parts.span(event.modality)
            began = {"type": "part_start", "index": number, "modality": event.modality}
            return self._chunk({}, {**began, "modality_index": index})
        if isinstance(event, DenoisingStep):
            place = self._parts.places.get((event.modality, event.index), 0)
            told_step = {"type": "progress", "index": place, "modality": event.modality}
            return self._chunk({}, {**told_step, "step": event.step, "total": event.total})
        return await self._ready(event)

    async def _ready(self, event: PartReady) -> bytes | None:
        part = event.part
        if isinstance(part, TextPart):
            return None
        known = {(m, place): i for (m, i), place in self._parts.places.items()}
        index = known.get((part.modality, event.index), 0)
        place = Place(event.index, index, self._job.request.seed)
        made = await asyncio.to_thread(answers.part_object, part, place)
        told_part = {"type": "part", "index": event.index, "modality": part.modality}
        return self._chunk({SIDE_FIELD[part.modality]: [made]}, told_part)

    def _text(self, index: int, text: str) -> bytes:
        """New words of a part; all contents joined are the answer's `content`."""
        apart = " " if index != self._last_text and self._last_text >= 0 else ""
        self._last_text = index
        event = {"type": "text", "index": index, "text": text}
        return self._chunk({"content": apart + text}, event)

    def _chunk(
        self, delta: Mapping[str, Any], event: Mapping[str, Any], reason: str | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _event({**self._head, "choices": [choice], "event": event})


def _overtakes(event: Event, last: Event | None) -> bool:
    """Whether it is a later step of the same medium."""
    return (
        isinstance(event, DenoisingStep)
        and isinstance(last, DenoisingStep)
        and (last.modality, last.index) == (event.modality, event.index)
    )


def _event(record: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(record, separators=(",", ":")).encode() + b"\n\n"
