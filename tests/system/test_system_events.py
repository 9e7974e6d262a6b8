"""AnyToAny: events as they come, and stopping in the middle."""

# ruff: noqa: F811 (fixtures are imported)

from collections.abc import Callable
from typing import Any

import torch
from system_fixtures import pocket  # noqa: F401

from anyany import AnyToAny, Reply, TextPart
from anyany.language import Span, TextDelta
from anyany.requests import DenoisingStep, Event, PartReady

STEPS = 3


def record(
    model: AnyToAny, stop: Callable[[list[Event]], bool] = lambda events: False
) -> tuple[Reply, list[Event]]:
    """A reply and its events; cancelled as soon as `stop` says so."""
    events: list[Event] = []
    reply = model.generate(
        "a small red bell",
        outputs={"text", "image"},
        seed=7,
        max_new_tokens=24,
        num_inference_steps=STEPS,
        on_event=events.append,
        cancelled=lambda: stop(events),
    )
    return reply, events


def seen(kind: type) -> Callable[[list[Event]], bool]:
    return lambda events: any(isinstance(event, kind) for event in events)


def test_events_tell_the_reply_as_it_comes(pocket: AnyToAny) -> None:
    reply, events = record(pocket)

    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    spans = [event for event in events if isinstance(event, Span)]
    steps = [event for event in events if isinstance(event, DenoisingStep)]
    ready = [event for event in events if isinstance(event, PartReady)]
    assert text.strip() == reply.raw_text
    assert [span.modality for span in spans] == ["image"] * len(reply.images)
    for index, _ in enumerate(reply.images):
        own = [(step.step, step.total) for step in steps if step.index == index]
        assert own == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert [reply.parts[event.index] for event in ready] == [event.part for event in ready]
    assert [event.part for event in ready] == reply.images
    assert events.index(spans[0]) < events.index(steps[0]) < events.index(ready[0])


def test_a_ready_part_names_its_place_where_text_is_left_out(pocket: AnyToAny) -> None:
    ready: list[PartReady] = []

    def on_event(event: Event) -> None:
        if isinstance(event, PartReady):
            ready.append(event)

    reply = pocket.generate(
        "a small red bell",
        outputs={"image"},
        seed=7,
        max_new_tokens=24,
        num_inference_steps=1,
        on_event=on_event,
    )

    assert [reply.parts[event.index] for event in ready] == [event.part for event in ready]


def test_stopping_while_text_is_written_keeps_what_is_there(pocket: AnyToAny) -> None:
    whole, _ = record(pocket)
    reply, events = record(pocket, seen(TextDelta))

    assert reply.finish_reason == "cancelled"
    assert not reply.images
    assert 0 < len(reply.token_ids) < len(whole.token_ids)
    assert whole.raw_text.startswith(reply.raw_text)
    assert not seen(DenoisingStep)(events)


def test_stopping_while_a_picture_is_drawn_keeps_the_text(pocket: AnyToAny) -> None:
    whole, _ = record(pocket)
    reply, events = record(pocket, seen(DenoisingStep))

    assert reply.finish_reason == "cancelled"
    assert sum(isinstance(event, DenoisingStep) for event in events) == 1
    assert not seen(PartReady)(events)
    assert all(isinstance(part, TextPart) for part in reply.parts)
    assert reply.raw_text == whole.raw_text


def test_stopping_one_request_leaves_its_neighbours_alone(pocket: AnyToAny) -> None:
    common: Any = {"outputs": {"text"}, "seed": 7, "max_new_tokens": 8}
    stopped, other = pocket.generate_batch(
        [{"prompt": "hello", "cancelled": lambda: True}, {"prompt": "hello"}], **common
    )

    assert isinstance(stopped, Reply)
    assert isinstance(other, Reply)
    assert stopped.finish_reason == "cancelled"
    assert other.token_ids == pocket.generate("hello", **common).token_ids


def test_a_reply_leaves_when_its_last_part_is_made(pocket: AnyToAny) -> None:
    """Others of its batch are still to be drawn then; replies come in the requests' order."""
    order: list[object] = []
    common: Any = {"seed": 7, "max_new_tokens": 24, "num_inference_steps": 1}

    def request(word: str) -> dict[str, Any]:
        def on_event(event: Event) -> None:
            if isinstance(event, PartReady):
                order.append(word)

        return {"prompt": word, "outputs": {"text", "image"}, "on_event": on_event}

    words = ("a red bell", "a blue drum", "a green bird", "a small bee")
    replies = []
    for number, reply in enumerate(pocket.generate_batch(map(request, words), **common)):
        assert torch.is_grad_enabled()
        order.append(number)
        replies.append(reply)

    assert [entry for entry in order if isinstance(entry, int)] == [0, 1, 2, 3]
    assert {entry for entry in order if isinstance(entry, str)} == set(words)
    assert isinstance(order[-1], int)
    assert order.index(0) < max(order.index(word) for word in words)
    alone = pocket.generate(words[2], outputs={"text", "image"}, **common)
    assert isinstance(replies[2], Reply)
    assert replies[2].token_ids == alone.token_ids
    assert replies[2].images[0].image.tobytes() == alone.images[0].image.tobytes()
