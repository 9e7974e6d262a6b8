"""What the tests of the server share: a model that needs no weights, and a server in a thread."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import httpx
import numpy as np
from PIL import Image

from anyany.arguments import make_request
from anyany.errors import AnyAnyError, Cancelled
from anyany.language import TextDelta
from anyany.messages import (
    AudioPart,
    ImagePart,
    Message,
    Modality,
    Part,
    Reply,
    TextPart,
    VideoPart,
)
from anyany.requests import DenoisingStep, PartReady, Request
from anyany.serve.app import Server
from anyany.serve.run import address, listen, serve
from anyany.serve.settings import ServeSettings

WAIT = 30.0  # seconds that anything may take on a busy machine


class FakeModel:
    """Answers with the prompt's words and plain media; takes time as it is told.

    Args:
        word_seconds: a word of text.
        step_seconds: a step of denoising.
    """

    name = "fake"
    card = ""
    inputs: tuple[Modality, ...] = ("text", "image", "video", "audio")
    outputs: tuple[Modality, ...] = ("text", "image", "video", "audio")
    nests = True

    def __init__(self, *, word_seconds: float = 0.0, step_seconds: float = 0.0) -> None:
        self.word_seconds = word_seconds
        self.step_seconds = step_seconds
        self.calls: list[list[str]] = []  # prompts of each call
        self.depth = 0
        self.cancelled: list[str] = []
        self.hook: Callable[[Request], None] = lambda request: None

    def request(self, messages: Sequence[Message], **arguments: Any) -> Request:
        decoders = dict.fromkeys(cast("tuple[Modality, ...]", ("image", "video", "audio")))
        return make_request(decoders, list(messages), **arguments)

    def run(
        self, requests: Sequence[Request], more: Callable[[], Iterable[Request]] | None = None
    ) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        asked = list(requests)
        self.calls.append([request.messages[-1].text for request in asked])
        for number in itertools.count():
            if number == len(asked) and more is not None:
                asked += more()
                self.calls[-1] += [request.messages[-1].text for request in asked[number:]]
            if number == len(asked):
                return
            request = asked[number]
            self.depth += 1
            try:
                self.hook(request)
                yield number, self._reply(request)
            except Cancelled:
                self.cancelled.append(request.messages[-1].text)
                yield number, Cancelled("cancelled")
            except AnyAnyError as error:
                yield number, error
            finally:
                self.depth -= 1

    def notice(self) -> None:
        pass

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.text.split()) for message in messages)

    def presets(self) -> dict[str, dict[str, Any]]:
        return {m: {"num_inference_steps": 4} for m in self.outputs if m != "text"}

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "outputs": list(self.outputs)}

    def _reply(self, request: Request) -> Reply:
        began = time.perf_counter()
        text = request.messages[-1].text
        outputs = request.outputs or frozenset({"text"})
        parts: list[Part] = []
        if "text" in outputs:
            words = text.split()
            for place, word in enumerate(words):
                self._step(request, self.word_seconds)
                if request.on_event:
                    request.on_event(TextDelta((" " if place else "") + word))
            parts.append(TextPart(" ".join(words)))
        for modality in ("image", "video", "audio"):
            if modality in outputs:
                parts.append(self._medium(request, cast(Modality, modality), len(parts)))
        return Reply(
            tuple(parts),
            raw_text=text,
            seed=request.seed,
            timings={"total": time.perf_counter() - began},
            token_ids=tuple(range(len(text.split()))),
        )

    def _medium(self, request: Request, modality: Modality, place: int) -> Part:
        steps = int(request.decoding.get(modality, {}).get("num_inference_steps", 4))
        for step in range(steps):
            self._step(request, self.step_seconds)
            if request.on_event:
                request.on_event(DenoisingStep(modality, 0, step + 1, steps))
        shade = request.seed % 256
        part: Part
        if modality == "image":
            part = ImagePart(Image.new("RGB", (8, 8), (shade, 10, 20)))
        elif modality == "video":
            part = VideoPart(np.full((4, 16, 16, 3), shade, np.uint8), 8.0)
        else:
            part = AudioPart(np.full((1, 800), shade / 512, np.float32), 16_000)
        if request.on_event:
            request.on_event(PartReady(part, place))
        return part

    def _step(self, request: Request, seconds: float) -> None:
        if request.cancelled and request.cancelled():
            raise Cancelled("cancelled")
        if seconds:
            time.sleep(seconds)


@contextlib.contextmanager
def served(
    model: Any, *, key: str | None = None, **settings: Any
) -> Iterator[tuple[httpx.Client, Server]]:
    """A real server on a free port in a thread, and a client of it."""
    import uvicorn

    from anyany.serve import run

    made: list[uvicorn.Server] = []
    ready = threading.Event()

    class Kept(run._Uvicorn):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # threads have none

    original, run._Uvicorn = run._Uvicorn, Kept  # type: ignore[misc, assignment]
    opened = listen("127.0.0.1", 0)
    server = Server(model, ServeSettings(**{"drain_seconds": 1.0, **settings}))
    thread = threading.Thread(target=serve, args=(server, opened, ready.set), daemon=True)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        thread.start()
        assert ready.wait(WAIT)
        with httpx.Client(base_url=address(opened), timeout=WAIT, headers=headers) as client:
            yield client, server
    finally:
        run._Uvicorn = original  # type: ignore[misc]
        made[0].should_exit = True
        thread.join(WAIT)
        opened.close()
        assert not thread.is_alive()


def png(width: int = 8, height: int = 8) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def until(condition: Callable[[], bool], seconds: float = WAIT) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def ask(text: str, *modalities: str, **more: Any) -> dict[str, Any]:
    """A chat's body."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], **more}
    return {**body, "modalities": list(modalities)} if modalities else body


def address_of(client: httpx.Client) -> tuple[str, int]:
    url = client.base_url
    assert url.port is not None
    return url.host, url.port


def raw(client: httpx.Client, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes, and read until the server closes or falls silent."""
    with socket.create_connection(address_of(client), timeout=seconds) as link:
        link.sendall(data)
        found = b""
        try:
            while piece := link.recv(65_536):
                found += piece
        except TimeoutError:
            pass
    return found
