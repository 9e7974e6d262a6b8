"""The decode loop with every adapter: as an uncached forward says, and whatever the company."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from bridge_toys import KINDS, MEDIA, TALKS, laid_out, toy_bridge
from language_toys import naive_decode
from torch import Tensor

from anyany.bridges import Bridge
from anyany.language import (
    Decoded,
    DecodeRequest,
    DecodeSettings,
    LanguageModel,
    PassLayout,
    Sampling,
    generate,
)

NEW = 9


@pytest.fixture(scope="module", params=KINDS)
def bridge(request: pytest.FixtureRequest) -> Bridge:
    bridge = toy_bridge(request.param, stir=True)
    bridge.language.stop_ids = ()  # so that replies are long
    return bridge


@torch.no_grad()
def requests_of(bridge: Bridge) -> list[DecodeRequest]:
    return [
        DecodeRequest(
            bridge.embed(layout, media),
            outputs=frozenset({"text", "image"}) if number % 2 else frozenset({"text"}),
            max_new_tokens=NEW + number,
            layout=layout,
            visual=media,
        )
        for number, (layout, media) in enumerate(zip(laid_out(bridge), MEDIA, strict=True))
    ]


@dataclass(frozen=True)
class Longer:
    """A prompt's layout with a reply behind it."""

    slots: Any
    length: int

    def __len__(self) -> int:
        return self.length


def announcing(bridge: Bridge, request: DecodeRequest) -> Any:
    """Tells the adapter before every uncached pass what stands in it."""
    slots = request.layout.slots

    def tell(model: LanguageModel, args: tuple[Tensor, ...]) -> None:
        layout = Longer(slots, args[0].shape[1])
        told = PassLayout((-1,), (0,), len(layout), (layout,))
        model.adapter.before(told, (request.visual,))

    return bridge.language.register_forward_pre_hook(tell)


@pytest.mark.parametrize("number", range(len(TALKS)))
def test_cached_chooses_what_an_uncached_forward_does(bridge: Bridge, number: int) -> None:
    request = requests_of(bridge)[number]
    decoded = generate(bridge.language, [request], DecodeSettings(rows=1))[0]
    with announcing(bridge, request):
        naive = naive_decode(bridge.language, request)
    assert decoded.token_ids == tuple(naive.token_ids)
    assert len(decoded.spans) == len(naive.spans) == number % 2
    for span, (_, states) in zip(decoded.spans, naive.spans, strict=True):
        torch.testing.assert_close(span.hidden, states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [0, 2, 3])
def test_cached_logits_are_an_uncached_forwards(
    bridge: Bridge, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bridge.language
    request = replace(requests_of(bridge)[number], outputs=frozenset({"text"}))
    seen: list[Tensor] = []
    real = LanguageModel.logits

    def listening(self: LanguageModel, hidden: Tensor) -> Tensor:
        seen.append(real(self, hidden)[0])
        return real(self, hidden)

    monkeypatch.setattr(LanguageModel, "logits", listening)
    decoded = generate(model, [request], DecodeSettings(rows=1))[0]
    monkeypatch.undo()
    assert len(seen) == len(decoded.token_ids) == request.max_new_tokens
    with torch.no_grad(), announcing(bridge, request):
        reply = model.embed(torch.tensor([decoded.token_ids]))[0]
        hidden = model(torch.cat([request.prompt, reply])[None])[0]
        expected = model.logits(hidden[len(request.prompt) - 1 : -1])
    torch.testing.assert_close(torch.stack(seen), expected, rtol=1e-4, atol=2e-3)


def test_company_changes_no_bit(bridge: Bridge) -> None:
    requests = requests_of(bridge)
    settings = DecodeSettings(rows=3)
    alone = [generate(bridge.language, [request], settings)[0] for request in requests]
    assert any(one.spans for one in alone)
    assert len({one.token_ids for one in alone}) > 2
    order = [3, 1, 4, 2, 0]
    together = generate(bridge.language, [requests[i] for i in order], settings)
    for place, number in enumerate(order):
        _same(together[place], alone[number])


def test_common_passes_choose_the_same(bridge: Bridge) -> None:
    requests = requests_of(bridge)
    together = generate(bridge.language, requests, DecodeSettings(rows=8, batch_invariant=False))
    for request, one in zip(requests, together, strict=True):
        lone = generate(bridge.language, [request])[0]
        assert one.token_ids == lone.token_ids
        for mine, theirs in zip(one.spans, lone.spans, strict=True):
            torch.testing.assert_close(mine.hidden, theirs.hidden, rtol=1e-4, atol=1e-4)


def test_media_matter_to_the_reply(bridge: Bridge) -> None:
    request = requests_of(bridge)[3]
    first = generate(bridge.language, [request])[0]
    media = {i: -rows if i == 0 else rows for i, rows in MEDIA[3].items()}  # of the first turn
    with torch.no_grad():
        prompt = bridge.embed(laid_out(bridge)[3], media)
    second = generate(bridge.language, [replace(request, prompt=prompt, visual=media)])[0]
    assert first.spans
    assert not torch.equal(first.spans[0].hidden, second.spans[0].hidden)


def test_sampling_is_as_repeatable_as_without_an_adapter(bridge: Bridge) -> None:
    request = replace(requests_of(bridge)[2], sampling=Sampling(temperature=1.0, seed=5))
    _same(generate(bridge.language, [request])[0], generate(bridge.language, [request])[0])


def _same(one: Decoded, other: Decoded) -> None:
    assert one.token_ids == other.token_ids
    for mine, theirs in zip(one.spans, other.spans, strict=True):
        assert torch.equal(mine.hidden, theirs.hidden)
