"""Who goes first: text between steps of decoding, half of the time each, batches last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from serve_parts import FakeModel

from anyany.errors import Cancelled, InternalError
from anyany.messages import Message, TextPart
from anyany.requests import Request
from anyany.serve.errors import ApiError
from anyany.serve.jobs import Job, Kind
from anyany.serve.metrics import Metrics
from anyany.serve.scheduler import FEW, Scheduler


def request(text: str, *outputs: Any, steps: int = 4) -> Request:
    decoding: Any = {"image": {"num_inference_steps": steps}} if "image" in outputs else {}
    turns = (Message("user", (TextPart(text),)),)
    return Request(turns, frozenset(outputs or ("text",)), decoding=decoding)


def run(
    model: FakeModel,
    test: Callable[[Scheduler], Awaitable[None]],
    *,
    start: bool = True,
    **settings: Any,
) -> None:
    """Run a test in a loop beside a scheduler."""

    async def inside() -> None:
        options = {"queue": 100, "most_together": 8, **settings}
        scheduler = Scheduler(model, metrics=Metrics(), **options)
        if start:
            scheduler.start()
        try:
            await asyncio.wait_for(test(scheduler), 30)
        finally:
            scheduler.close()

    asyncio.run(inside())


def queue(scheduler: Scheduler, asked: Request, kind: Kind = "text", seconds: float = 30) -> Job:
    job = Job(asked, kind=kind, seconds=seconds)
    scheduler.submit(job)
    return job


def test_waiting_requests_go_together() -> None:
    model = FakeModel()

    async def test(scheduler: Scheduler) -> None:
        jobs = [queue(scheduler, request(f"n{i}")) for i in range(12)]
        assert scheduler.position(jobs[3]) == 4
        scheduler.start()
        replies = [await job.answer() for job in jobs]
        assert [reply.text for reply in replies] == [f"n{i}" for i in range(12)]
        assert [len(call) for call in model.calls] == [12]  # the last four joined
        assert scheduler.position(jobs[3]) == 0

    run(model, test, start=False)


def test_text_joins_until_a_medium_waits() -> None:
    model = FakeModel(word_seconds=0.2)

    async def test(scheduler: Scheduler) -> None:
        first = queue(scheduler, request("t0"))
        while not model.calls:
            await asyncio.sleep(0.01)
        joins = queue(scheduler, request("one two three"))
        while sum(map(len, model.calls)) < 2:
            await asyncio.sleep(0.01)
        medium = queue(scheduler, request("m", "image", steps=1), "media")
        late = queue(scheduler, request("t1"))
        for job in (first, joins, medium, late):
            await job.answer()
        assert model.calls[0] == ["t0", "one two three"]
        assert sorted(call for calls in model.calls[1:] for call in calls) == ["m", "t1"]

    run(model, test)


def test_text_is_answered_while_a_medium_is_decoded() -> None:
    model = FakeModel(step_seconds=0.01)
    finished: list[str] = []

    async def test(scheduler: Scheduler) -> None:
        long = queue(scheduler, request("long", "image", steps=100), "media")
        while model.depth == 0:
            await asyncio.sleep(0.005)
        short = [queue(scheduler, request(f"short {i}")) for i in range(3)]
        for job in short:
            await job.answer()
            finished.append("short")
        assert not long.settled
        await long.answer()

    run(model, test)
    assert finished == ["short"] * 3
    assert model.calls[0] == ["long"]


def test_text_takes_at_most_half_of_the_time_of_decoding() -> None:
    model = FakeModel(step_seconds=0.01, word_seconds=0.02)

    async def test(scheduler: Scheduler) -> None:
        long = queue(scheduler, request("long", "image", steps=60), "media")
        while model.depth == 0:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        while not long.settled:  # as much text as one can ask for
            while scheduler.depth < 16:
                queue(scheduler, request("word"))
            await asyncio.sleep(0.002)
        alone = 60 * 0.01
        assert time.monotonic() - began < 8 * alone  # and not never

    run(model, test)
    nested = [call for call in model.calls if call != ["long"]]
    assert nested


def test_media_are_not_starved_by_text() -> None:
    model = FakeModel(word_seconds=0.002)

    async def test(scheduler: Scheduler) -> None:
        for i in range(90):
            queue(scheduler, request(f"text {i}"))
        picture = queue(scheduler, request("picture", "image"), "media")
        scheduler.start()
        await picture.answer()

    run(model, test, start=False)
    assert any("picture" in call for call in model.calls[:2])


@pytest.mark.parametrize("nests", [True, False])
def test_batches_come_last_but_come(nests: bool) -> None:
    model = FakeModel()

    async def test(scheduler: Scheduler) -> None:
        jobs = [queue(scheduler, request(f"b{i}"), "background") for i in range(2)]
        jobs += [queue(scheduler, request(f"t{i}")) for i in range(96)]
        scheduler.start()
        for job in jobs:
            await job.answer()

    run(model, test, start=False, nests=nests)
    place = model.calls.index(["b0", "b1"])
    assert 2 <= place <= 10
    assert all(len(call) <= FEW for call in model.calls[: place + 1])  # nobody joined


def test_a_full_queue_refuses_and_makes_room_for_those_who_left() -> None:
    model = FakeModel()

    async def test(scheduler: Scheduler) -> None:
        jobs = [queue(scheduler, request(f"n{i}")) for i in range(3)]
        with pytest.raises(ApiError) as refused:
            queue(scheduler, request("one too many"))
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        jobs[0].cancel()
        queue(scheduler, request("in its place"))
        with pytest.raises(Cancelled):
            await jobs[0].answer()
        queue(scheduler, request("a batch's"), "background")  # has a bound of its own
        scheduler.start()
        assert (await jobs[2].answer()).text == "n2"

    run(model, test, start=False, queue=3)


def test_a_job_is_given_up_at_its_deadline_and_when_cancelled() -> None:
    model = FakeModel(step_seconds=0.01)

    async def test(scheduler: Scheduler) -> None:
        late = queue(scheduler, request("late", "image", steps=900), "media", seconds=0.2)
        waiting = queue(scheduler, request("waits", "image"), "media", seconds=0.1)
        with pytest.raises(Cancelled):
            await late.answer()
        with pytest.raises(Cancelled):
            await waiting.answer()
        left = queue(scheduler, request("left", "image", steps=900), "media")
        await asyncio.sleep(0.1)
        left.cancel()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            await left.answer()
        assert time.monotonic() - began < 2.0

    run(model, test)
    assert {"late", "left"} <= set(model.cancelled)


def test_a_broken_engine_fails_its_call_alone() -> None:
    model = FakeModel()

    def fail(asked: Request) -> None:
        if asked.messages[-1].text == "bad":
            raise RuntimeError("inside")

    model.hook = fail

    async def test(scheduler: Scheduler) -> None:
        bad = queue(scheduler, request("bad"))
        with pytest.raises(InternalError):
            await bad.answer()
        assert (await queue(scheduler, request("good")).answer()).text == "good"

    run(model, test)


def test_nothing_is_taken_at_the_end() -> None:
    async def test(scheduler: Scheduler) -> None:
        waiting = queue(scheduler, request("waits"))
        scheduler.refuse()
        with pytest.raises(ApiError) as refused:
            queue(scheduler, request("late"))
        assert refused.value.status == 503
        scheduler.start()
        assert (await waiting.answer()).text == "waits"

    run(FakeModel(), test, start=False)
