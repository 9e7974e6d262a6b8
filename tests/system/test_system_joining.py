"""Requests that join the engine at work: the same bytes, their own errors, their own times."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from anyany import AnyToAny
from anyany.errors import AnyAnyError, UsageError
from anyany.messages import Message, Reply, TextPart
from anyany.requests import Request
from anyany.serve.model import SystemModel

STEPS = 2


@pytest.fixture(scope="module")
def system() -> AnyToAny:
    return AnyToAny.from_pretrained("pocket", threads=None)


def turns(text: str) -> list[Message]:
    return [Message("user", (TextPart(text),))]


def bytes_of(reply: Reply) -> tuple[str, list[bytes]]:
    def png(picture: Image.Image) -> bytes:
        held = io.BytesIO()
        picture.save(held, "png")
        return held.getvalue()

    return reply.raw_text, [png(part.image) for part in reply.images]


def test_who_joins_is_answered_with_the_bytes_of_one_alone(system: AnyToAny) -> None:
    model = SystemModel(system)
    first = [model.request(turns("hello"), outputs={"text"}, seed=1)]
    later = [
        model.request(turns("what can you do?"), outputs={"text"}, seed=2),
        model.request(
            turns("draw a red bell"), outputs={"image"}, seed=3, num_inference_steps=STEPS
        ),
        model.request(turns("word " * 2000), outputs={"text"}, seed=4),
    ]
    coming = iter([later])
    answers: dict[int, Reply | AnyAnyError] = dict(model.run(first, lambda: next(coming, [])))
    assert sorted(answers) == [0, 1, 2, 3]
    assert isinstance(answers[3], UsageError)  # it alone fails
    for number, request in enumerate([*first, *later[:2]]):
        (alone,) = dict(model.run([request])).values()
        joined = answers[number]
        assert isinstance(joined, Reply)
        assert isinstance(alone, Reply)
        assert bytes_of(joined) == bytes_of(alone)
        assert 0 < joined.timings["language"] <= joined.timings["total"]


def test_requests_past_a_window_keep_their_numbers(system: AnyToAny) -> None:
    model = SystemModel(system)
    request: Request = model.request(turns("hello"), outputs={"text"}, seed=1, max_new_tokens=2)
    assert sorted(dict(model.run([request] * 70))) == list(range(70))
