"""Requests that join a decode loop at work are answered as if they had been there alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from language_toys import prompt_of, toy_model

from anyany.language import DecodeRequest, DecodeSettings, LanguageModel, generate, generate_iter


def request_of(model: LanguageModel, number: int, length: int | None = None) -> DecodeRequest:
    prompt = prompt_of(model, length or 4 + 3 * number % 11, seed=number)
    return DecodeRequest(prompt, max_new_tokens=6 + number % 5)


@pytest.mark.parametrize("invariant", [True, False])
def test_who_joins_gets_the_answer_of_one_alone(invariant: bool) -> None:
    model = toy_model()
    settings = DecodeSettings(rows=3, batch_invariant=invariant)
    # The last one needs a larger cache than the loop that it finds at work.
    requests = [*(request_of(model, n) for n in range(6)), request_of(model, 6, length=150)]
    coming = iter([requests[2:3], [], requests[3:6], requests[6:]])
    asked = 0

    def more() -> Iterator[DecodeRequest]:
        nonlocal asked
        asked += 1
        yield from next(coming, [])

    answers = dict(generate_iter(model, requests[:2], settings, more=more))
    assert asked > 4  # asked on as long as a row was free
    assert sorted(answers) == list(range(7))
    for index, request in enumerate(requests):
        (alone,) = generate(model, [request], settings)
        assert answers[index].token_ids == alone.token_ids
        if invariant:
            pairs = zip(answers[index].spans, alone.spans, strict=True)
            assert all(torch.equal(one.hidden, other.hidden) for one, other in pairs)


def test_nobody_is_asked_while_all_rows_are_taken() -> None:
    model = toy_model()
    settings = DecodeSettings(rows=2)
    waiting = [request_of(model, n) for n in range(5)]
    given: list[int] = []

    def more() -> list[DecodeRequest]:
        given.append(len(done))
        return []

    done: list[int] = []
    for index, _ in generate_iter(model, waiting, settings, more=more):
        done.append(index)
    assert sorted(done) == list(range(5))
    assert min(given) >= 4  # a row is free only when one of five is left
