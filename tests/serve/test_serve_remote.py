"""The engine in a process of its own: the same bytes, calls within calls, and deaths."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from serve_loads import load_and_die, load_nothing, load_too_much

from anyany import AnyToAny
from anyany.errors import AnyAnyError, CheckpointError, InternalError, MediaError
from anyany.language import Span, TextDelta
from anyany.messages import Message, Reply, TextPart
from anyany.requests import DenoisingStep, Event, PartReady, Request
from anyany.serve.engine_process import NUM_MARKS, EngineProcess
from anyany.serve.model import SystemModel
from anyany.serve.remote import RemoteModel

STEPS = 3


class Moody:
    """An engine that fails when it is told to."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def run(self, requests: Sequence[Request], more: Any = None) -> Any:
        logging.getLogger("anyany.test").warning("a call of %d", len(requests))
        if requests[0].messages[-1].text == "fail":
            raise RuntimeError("as told")
        if requests[0].messages[-1].text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.engine.run(requests, more)


def load() -> AnyToAny:
    """pocket, for a child."""
    system = AnyToAny.from_pretrained("pocket", threads=1)
    engine = Moody(system.engine())
    system.engine = lambda: engine  # type: ignore[method-assign, assignment, return-value]
    return system


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    with EngineProcess(load) as found:
        yield found


@pytest.fixture(scope="module")
def model(process: EngineProcess) -> RemoteModel:
    return RemoteModel(process)


@pytest.fixture(scope="module")
def here() -> SystemModel:
    return SystemModel(AnyToAny.from_pretrained("pocket", threads=1))


def request(model: Any, text: str, *outputs: str, **more: Any) -> Request:
    asked = {"outputs": outputs or ("text",), "seed": 7, **more}
    if set(asked["outputs"]) - {"text"}:
        asked.setdefault("num_inference_steps", STEPS)
    found: Request = model.request([Message("user", (TextPart(text),))], **asked)
    return found


def pixels(reply: Reply | AnyAnyError) -> Any:
    assert isinstance(reply, Reply)
    return np.asarray(reply.images[0].image)


def test_it_knows_what_the_system_knows(model: RemoteModel, here: SystemModel) -> None:
    for name in ("name", "card", "inputs", "outputs", "nests"):
        assert getattr(model, name) == getattr(here, name)
    assert model.presets() == here.presets()
    assert model.describe() == here.describe()
    turns = [Message("user", (TextPart("draw a red bell"),))]
    assert model.prompt_tokens(turns) == here.prompt_tokens(turns) > 3


def test_bytes_and_events_are_those_of_one_process(model: RemoteModel, here: SystemModel) -> None:
    def told(one: Any) -> tuple[Reply, list[Event]]:
        events: list[Event] = []
        asked = request(one, "draw a red bell", "text", "image", on_event=events.append)
        ((number, reply),) = one.run([asked])
        assert number == 0
        return reply, events

    (reply, events), (own, own_events) = told(model), told(here)
    assert reply.raw_text == own.raw_text
    assert reply.token_ids == own.token_ids
    assert (pixels(reply) == pixels(own)).all()
    assert reply.images[0].provenance == own.images[0].provenance is not None
    assert [type(event) for event in events] == [type(event) for event in own_events]
    words = [event.text for event in events if isinstance(event, TextDelta)]
    assert words == [event.text for event in own_events if isinstance(event, TextDelta)]
    assert [event for event in events if isinstance(event, DenoisingStep)] == [
        event for event in own_events if isinstance(event, DenoisingStep)
    ]
    (span,) = (event for event in events if isinstance(event, Span))
    assert span.modality == "image"
    assert span.hidden.numel() == 0  # states stay where they are


def test_who_comes_later_joins(model: RemoteModel) -> None:
    later = [request(model, "hello", seed=n) for n in (1, 2)]
    coming = iter([later])
    answers = dict(model.run([request(model, "what can you do?")], lambda: next(coming, [])))
    assert sorted(answers) == [0, 1, 2]
    assert all(isinstance(answer, Reply) for answer in answers.values())


def test_the_engine_asks_only_when_there_may_be_somebody(
    model: RemoteModel, process: EngineProcess
) -> None:
    asked: list[float] = []

    def more() -> list[Request]:
        asked.append(time.monotonic())
        return []

    list(model.run([request(model, "what can you do?")], more))
    assert len(asked) == 1  # at the call's beginning, and nobody was announced since
    model.notice()
    assert process.marks[0]


def test_a_call_within_a_call(model: RemoteModel) -> None:
    """As the scheduler answers text between steps of denoising."""
    inner: list[tuple[int, Any]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, DenoisingStep | PartReady):
            inner.extend(model.run([request(model, "hello")]))

    asked = request(model, "draw a red bell", "image", on_event=on_event)
    plain = request(model, "draw a red bell", "image")
    ((_, reply),), ((_, alone),) = list(model.run([asked])), list(model.run([plain]))
    assert len(inner) == STEPS + 1
    assert all(isinstance(answer, Reply) for _, answer in inner)
    assert (pixels(reply) == pixels(alone)).all()


def test_what_is_given_up_stops(model: RemoteModel) -> None:
    seen: list[DenoisingStep] = []

    def on_event(event: Event) -> None:
        if isinstance(event, DenoisingStep):
            seen.append(event)

    asked = request(
        model,
        "draw a red bell",
        "image",
        num_inference_steps=200,
        on_event=on_event,
        cancelled=lambda: len(seen) > 2,
    )
    ((_, answer),) = model.run([asked])
    assert isinstance(answer, Reply)
    assert answer.finish_reason == "cancelled"
    assert len(seen) < 200
    ((_, answer),) = model.run([request(model, "hello")])  # its mark is not the next one's
    assert isinstance(answer, Reply)
    assert answer.finish_reason == "stop"


def test_marks_are_used_again(model: RemoteModel) -> None:
    for _ in range(NUM_MARKS // 1000 + 1):
        model._packed([], [request(model, "hello")] * 1000)
    assert isinstance(dict(model.run([request(model, "hello")]))[0], Reply)


def test_errors_and_logs_cross_over(model: RemoteModel, caplog: pytest.LogCaptureFixture) -> None:
    long = request(model, "word " * 4000)
    ((_, answer),) = model.run([long])
    assert type(answer).__name__ == "PromptError"
    with pytest.raises(InternalError, match="engine failed"):
        list(model.run([request(model, "fail")]))
    assert "a call of 1" in caplog.text
    assert "as told" in caplog.text
    assert isinstance(dict(model.run([request(model, "hello")]))[0], Reply)


def test_a_dead_child_is_replaced(
    model: RemoteModel, process: EngineProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InternalError, match="has ended"):
        list(model.run([request(model, "die")]))
    assert not process.alive
    running = iter(model.run([request(model, "hello"), request(model, "what can you do?")]))
    assert isinstance(next(running)[1], Reply)
    assert "another is started" in caplog.text
    running.close()  # type: ignore[attr-defined]
    assert not process.alive  # half a call is left: nobody could go on from there


@pytest.mark.parametrize(
    ("loader", "kind", "said"),
    [
        (load_nothing, CheckpointError, "got none"),
        (load_too_much, MemoryError, "^$"),
        (load_and_die, InternalError, "loaded"),
    ],
)
def test_a_child_that_cannot_load(loader: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said), EngineProcess(loader) as process:
        RemoteModel(process)
    assert not process.alive


def test_media_errors_travel() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MediaError("corrupt", "expected a picture")))
    assert (error.code, str(error)) == ("corrupt", "expected a picture")
