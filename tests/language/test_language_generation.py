"""The decode loop against plain transformers, against a naive loop, and against itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from language_toys import (
    SMALL,
    SPACED,
    byte_tokenizer,
    llama_tokenizer,
    naive_decode,
    prompt_of,
    small_llama,
    small_neox,
    small_qwen,
    toy_model,
    word_tokenizer,
)
from torch import Tensor

from anyany.errors import ConfigError, PromptError
from anyany.language import (
    Decoded,
    DecodeRequest,
    DecodeSettings,
    LanguageConfig,
    LanguageModel,
    Sampling,
    SignalSpec,
    Span,
    TextDelta,
    TextPiece,
    generate,
    generate_iter,
)
from anyany.messages import Modality

OUTPUTS: list[frozenset[Modality] | None] = [
    None,
    frozenset({"text"}),
    frozenset({"image"}),
    frozenset({"text", "video"}),
    frozenset({"text", "image", "audio"}),
]
MODELS: dict[str, Callable[[int], Any]] = {
    "llama": small_llama,
    "neox": small_neox,
    "qwen-windowed": small_qwen,
}


def mixed_requests(
    model: LanguageModel, count: int, *, sampled: bool = False
) -> list[DecodeRequest]:
    return [
        DecodeRequest(
            prompt_of(model, 3 + 5 * i % 23, seed=i),
            outputs=OUTPUTS[i % len(OUTPUTS)],
            max_new_tokens=18 + i % 7,
            sampling=Sampling(temperature=1.0 * sampled, top_p=0.95, seed=i),
        )
        for i in range(count)
    ]


def states(decoded: Decoded) -> list[Tensor]:
    return [span.hidden for span in decoded.spans]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_ids_equal_those_of_plain_transformers(name: str) -> None:
    tokenizer = word_tokenizer()
    model = toy_model(MODELS[name](len(tokenizer)), tokenizer=tokenizer)
    with torch.no_grad():
        model.rows.output_rows.zero_()  # never the largest score
    prompts = [prompt_of(model, length, seed=length) for length in (4, 19, 33, 7)]
    requests = [DecodeRequest(p, max_new_tokens=24) for p in prompts]
    for prompt, decoded in zip(prompts, generate(model, requests), strict=True):
        plain = model.lm.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=model.stop_ids[0],
        )[0].tolist()
        assert plain[: len(decoded.token_ids)] == list(decoded.token_ids)
        assert len(decoded.token_ids) == 24 or plain[len(decoded.token_ids)] in model.stop_ids


@pytest.mark.parametrize(
    ("name", "signals"),
    [("llama", SMALL), ("llama", SPACED), ("neox", SMALL), ("qwen-windowed", SMALL)],
)
def test_cached_equals_uncached(name: str, signals: SignalSpec) -> None:
    tokenizer = word_tokenizer()
    model = toy_model(
        MODELS[name](len(tokenizer)), tokenizer=tokenizer, config=LanguageConfig(signals=signals)
    )
    requests = mixed_requests(model, 5)
    expected = [naive_decode(model, request) for request in requests]
    for batch_invariant in (True, False):
        settings = DecodeSettings(rows=3, batch_invariant=batch_invariant)
        spans = 0
        for naive, decoded in zip(expected, generate(model, requests, settings), strict=True):
            assert list(decoded.token_ids) == naive.token_ids
            assert decoded.finish_reason == naive.finish_reason
            assert [span.modality for span in decoded.spans] == [m for m, _ in naive.spans]
            for span, (_, hidden) in zip(decoded.spans, naive.spans, strict=True):
                torch.testing.assert_close(span.hidden, hidden, rtol=0, atol=1e-5)
                torch.testing.assert_close(
                    span.embeddings, model.embed(torch.tensor([span.ids]))[0], rtol=0, atol=0
                )
                spans += 1
        assert spans >= 4


def test_batched_equals_single_without_invariance() -> None:
    model = toy_model()
    settings = DecodeSettings(rows=8, batch_invariant=False)
    requests = mixed_requests(model, 12)
    for request, decoded in zip(requests, generate(model, requests, settings), strict=True):
        single = generate(model, [request], settings)[0]
        assert decoded.token_ids == single.token_ids
        for ours, theirs in zip(states(decoded), states(single), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_streaming_and_order_of_pieces() -> None:
    model = toy_model(small_llama(len(byte_tokenizer())), tokenizer=byte_tokenizer())
    for sampled in (False, True):
        quiet = mixed_requests(model, 10, sampled=sampled)
        told: list[list[TextDelta | Span]] = [[] for _ in quiet]
        heard = [
            DecodeRequest(
                one.prompt,
                outputs=one.outputs,
                max_new_tokens=one.max_new_tokens,
                sampling=one.sampling,
                on_event=events.append,
            )
            for one, events in zip(quiet, told, strict=True)
        ]
        for silent, loud, events in zip(
            generate(model, quiet), generate(model, heard), told, strict=True
        ):
            assert silent.text == loud.text
            assert silent.token_ids == loud.token_ids
            assert "".join(e.text for e in events if isinstance(e, TextDelta)) == loud.text
            assert [e for e in events if isinstance(e, Span)] == list(loud.spans)
            merged: list[str | Span] = []
            for event in events:
                if isinstance(event, Span):
                    merged.append(event)
                elif merged and isinstance(merged[-1], str):
                    merged[-1] += event.text
                else:
                    merged.append(event.text)
            pieces = [p.text if isinstance(p, TextPiece) else p for p in loud.pieces]
            assert merged == pieces


def test_signal_tokens_never_show_in_text() -> None:
    model = toy_model()
    for decoded in generate(model, mixed_requests(model, 10)):
        words = model.decode([i for i in decoded.token_ids if i < model.vocab_size])
        assert model.decode(decoded.token_ids) == words
        pieces = [piece.text for piece in decoded.pieces if isinstance(piece, TextPiece)]
        assert " ".join(pieces).split() == words.split()


def test_more_requests_than_rows_come_back_in_order_and_as_they_finish() -> None:
    model = toy_model()
    requests = [
        DecodeRequest(prompt_of(model, 5, seed=i), outputs={"text"}, max_new_tokens=n)
        for i, n in enumerate([40, 2, 2, 2, 2])
    ]
    settings = DecodeSettings(rows=2)
    finished = [index for index, _ in generate_iter(model, requests, settings)]
    assert sorted(finished) == [0, 1, 2, 3, 4]
    assert finished[-1] == 0
    lengths = [len(one.token_ids) for one in generate(model, requests, settings)]
    assert max(lengths[1:]) <= 2


def test_cancellation_ends_one_reply_and_leaves_the_others() -> None:
    model = toy_model()
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    full = DecodeRequest(prompt_of(model, 6, seed=2), outputs={"text", "video"}, max_new_tokens=30)
    stopped = DecodeRequest(
        full.prompt, outputs=full.outputs, max_new_tokens=30, cancelled=cancelled
    )
    cut, other = generate(model, [stopped, full])
    assert cut.finish_reason == "cancelled"
    assert asked == 6
    assert other.token_ids[: len(cut.token_ids)] == cut.token_ids
    assert len(cut.token_ids) < len(other.token_ids)


def test_owed_spans_are_forced_in_order_when_the_budget_meets_the_reserve() -> None:
    model = toy_model()
    with torch.no_grad():  # a model that never speaks of media by itself
        model.rows.output_rows.zero_()
        model.lm.get_output_embeddings().weight[list(model.stop_ids)] = 0
    outputs: frozenset[Modality] = frozenset({"audio", "video", "image", "text"})
    request = DecodeRequest(
        prompt_of(model, 6, seed=0), outputs=outputs, max_new_tokens=4 + 6 + 3 + 5
    )
    decoded = generate(model, [request])[0]
    expected = sum((model.signals.span(m) for m in ("image", "video", "audio")), ())  # type: ignore[arg-type]
    assert decoded.token_ids[-13:] == expected
    assert all(i < model.vocab_size for i in decoded.token_ids[:-13])
    assert len(decoded.token_ids) == 18
    assert decoded.finish_reason == "length"


def test_a_stop_brings_owed_spans_at_once_and_waits_for_text() -> None:
    model = toy_model()
    head = model.lm.get_output_embeddings()
    with torch.no_grad():  # a model that always wants to stop
        model.rows.output_rows.zero_()
        head.weight.mul_(1e-3)
        hidden = model(prompt_of(model, 6, seed=0)[None])[0, -1]
        head.weight[model.stop_ids[0]] = 0
    prompt = prompt_of(model, 6, seed=0)
    head.bias = torch.nn.Parameter(torch.zeros(model.vocab_size))
    with torch.no_grad():
        head.bias[model.stop_ids[0]] = 1e4
    assert hidden.shape == (32,)
    drawn = generate(model, [DecodeRequest(prompt, outputs={"image"})])[0]
    assert drawn.token_ids == model.signals.span("image")
    assert drawn.finish_reason == "stop"
    both = generate(model, [DecodeRequest(prompt, outputs={"image", "text"})])[0]
    assert both.token_ids[-4:] == model.signals.span("image")
    assert both.text.strip()
    assert len(both.token_ids) < 20
    nothing = generate(model, [DecodeRequest(prompt)])[0]
    assert (nothing.token_ids, nothing.pieces) == ((), ())


def test_several_spans_up_to_the_cap_when_the_model_chooses() -> None:
    model = toy_model()
    first = model.signals.ids("image")[0] - model.vocab_size
    with torch.no_grad():  # a model that draws whenever it may
        head = model.lm.get_output_embeddings()
        head.weight.mul_(1e-3)
        model.rows.output_rows.zero_()
        states_now = model(prompt_of(model, 6, seed=0)[None])[0, -1]
        model.rows.output_rows[first] = states_now
    for cap in (1, 3):
        requests = [DecodeRequest(prompt_of(model, 6, seed=0), max_new_tokens=40)]
        decoded = generate(model, requests, DecodeSettings(max_spans=cap))[0]
        drawn = [span.modality for span in decoded.spans].count("image")
        assert 1 <= drawn <= cap
    none = DecodeRequest(prompt_of(model, 6, seed=0), outputs={"text"}, max_new_tokens=40)
    assert generate(model, [none])[0].spans == ()


def test_stop_strings_end_the_text_and_are_rolled_back_before_an_owed_span() -> None:
    tokenizer = llama_tokenizer()
    config = LanguageConfig(template="vicuna_v0", signals=SMALL)
    model = toy_model(small_llama(len(tokenizer)), tokenizer=tokenizer, config=config)
    script = model.encode_text("sure thing\n###")
    spoken = _scripted(model, script)
    text_only = generate(model, [DecodeRequest(spoken, outputs={"text"}, max_new_tokens=40)])[0]
    assert text_only.text == "sure thing"
    assert text_only.finish_reason == "stop"
    told: list[str] = []
    drawn = generate(
        model,
        [
            DecodeRequest(
                spoken,
                outputs={"text", "image"},
                max_new_tokens=40,
                on_event=lambda e: told.append(e.text) if isinstance(e, TextDelta) else None,
            )
        ],
    )[0]
    words = len(model.encode_text("sure thing"))
    assert drawn.token_ids[:words] == tuple(script[:words])
    assert drawn.token_ids[words : words + 4] == model.signals.span("image")
    assert "".join(told) == drawn.text
    expected = model(
        torch.cat(
            [spoken[None], model.embed(torch.tensor([list(drawn.token_ids[: words + 4])]))], dim=1
        )
    )[0, -4:]
    torch.testing.assert_close(drawn.spans[0].hidden, expected, rtol=0, atol=1e-4)


def _scripted(model: LanguageModel, script: list[int]) -> Tensor:
    """Make the model say `script`: position t of the reply points at its t-th id."""
    prompt_length = 3
    width = model.language_dim
    assert len(script) < width

    class Scripted(torch.nn.Module):
        def forward(
            self,
            inputs_embeds: Tensor,
            attention_mask: Tensor | None = None,
            position_ids: Tensor | None = None,
            past_key_values: object = None,
            use_cache: bool = False,
        ) -> object:
            if position_ids is None:
                position_ids = torch.arange(inputs_embeds.shape[1])[None]
            place = (position_ids - prompt_length + 1).clamp(0, len(script) - 1)
            hidden = torch.nn.functional.one_hot(place, width).float()

            class Output:
                last_hidden_state = hidden.expand(inputs_embeds.shape[0], -1, -1)

            return Output()

    with torch.no_grad():
        head = model.lm.get_output_embeddings()
        head.weight.zero_()
        model.rows.output_rows.fill_(-1.0)
        for place, token_id in enumerate(script):
            head.weight[token_id, place] = 1.0
    body = Scripted()
    body.embed_tokens = model.lm.get_input_embeddings()
    model.lm.model = body
    return torch.zeros(prompt_length, width)


def test_long_and_short_requests_use_caches_of_their_own_size() -> None:
    model = toy_model()
    short = DecodeRequest(prompt_of(model, 10, seed=1), max_new_tokens=20)
    long = DecodeRequest(prompt_of(model, 200, seed=2), max_new_tokens=20)
    together = generate(model, [long, short])
    for request, decoded in zip([long, short], together, strict=True):
        assert decoded.token_ids == generate(model, [request])[0].token_ids
        assert list(decoded.token_ids) == naive_decode(model, request).token_ids


def test_errors_come_before_anything_is_computed() -> None:
    model = toy_model(config=LanguageConfig(signals=SignalSpec(image=4, video=6, audio=0)))
    good = DecodeRequest(prompt_of(model, 4, seed=0), max_new_tokens=2)
    model.lm.model = torch.nn.Identity()  # any pass would fail otherwise than below

    def refused(outputs: set[Modality] | None, budget: int, text: str, length: int = 4) -> None:
        bad = DecodeRequest(torch.zeros(length, 32), outputs=outputs, max_new_tokens=budget)
        with pytest.raises(PromptError) as error:
            generate(model, [good, bad])
        assert str(error.value) == text

    refused(
        {"image", "video", "text"},
        10,
        "max_new_tokens is 10, but text, image, video needs at least 11: "
        "set max_new_tokens to 11 or more",
    )
    refused(
        None,
        0,
        "max_new_tokens is 0, but a reply needs at least 1: set max_new_tokens to 1 or more",
    )
    refused(set(), 10, "outputs is empty: ask for one or more of text, image, video, audio")
    refused(
        {"smell"},  # type: ignore[arg-type]
        10,
        "outputs: expected any of text, image, video, audio; got 'smell'",
    )
    refused({"audio"}, 10, "outputs: this model has no signal tokens for audio")
    refused(
        None,
        100,
        "the prompt has 500 tokens and max_new_tokens is 100, but the language model's context "
        "is 512: shorten the prompt or lower max_new_tokens",
        length=500,
    )
    refused(None, 10, "expected prompt embeddings of shape (tokens, 32), got (0, 32)", length=0)
    with pytest.raises(ConfigError, match=r"decode\.rows: expected 1 or more, got 0"):
        DecodeSettings(rows=0)
