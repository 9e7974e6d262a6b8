"""2,000 replies of a model of random logits: never a malformed span, never a broken promise."""

import functools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from language_toys import SMALL, SPACED, prompt_of, small_llama, toy_model, word_tokenizer

from anyany.language import (
    Decoded,
    DecodeRequest,
    DecodeSettings,
    LanguageConfig,
    LanguageModel,
    Sampling,
    SignalSpec,
    Span,
    TextPiece,
    generate,
    least_budget,
)
from anyany.messages import MODALITIES, Modality

EXAMPLES, BATCH = 50, 40  # 2,000 replies
MAX_SPANS = 2


@functools.cache
def model_of(signals: SignalSpec) -> LanguageModel:
    tokenizer = word_tokenizer(16)
    lm = small_llama(len(tokenizer), layers=1)
    return toy_model(lm, tokenizer=tokenizer, config=LanguageConfig(signals=signals), loudness=9.0)


@st.composite
def batches(draw: st.DrawFn) -> tuple[LanguageModel, list[DecodeRequest], DecodeSettings]:
    model = model_of(draw(st.sampled_from([SMALL, SPACED])))
    subsets = st.none() | st.sets(st.sampled_from(MODALITIES), min_size=1)
    requests: list[DecodeRequest] = []
    for _ in range(BATCH):
        outputs = draw(subsets)
        least = least_budget(model.signals, outputs)
        requests.append(
            DecodeRequest(
                prompt_of(model, draw(st.integers(1, 6)), seed=draw(st.integers(0, 10**6))),
                outputs=outputs,
                max_new_tokens=least + draw(st.sampled_from([0, 0, 1, 2, 5, 12])),
                sampling=Sampling(
                    temperature=draw(st.sampled_from([0.0, 1.0, 3.0])),
                    top_k=draw(st.sampled_from([0, 5])),
                    top_p=draw(st.sampled_from([0.5, 1.0])),
                    seed=draw(st.integers(0, 2**40)),
                ),
            )
        )
    invariant = draw(st.booleans())
    return (
        model,
        requests,
        DecodeSettings(rows=BATCH, max_spans=MAX_SPANS, batch_invariant=invariant),
    )


def parse(token_ids: tuple[int, ...], signals: SignalSpec, vocab_size: int) -> list[Modality | int]:
    """Read ids as words and whole spans; anything else is an error."""
    found: list[Modality | int] = []
    place = 0
    while place < len(token_ids):
        if token_ids[place] < vocab_size:
            found.append(token_ids[place])
            place += 1
            continue
        modality = signals.modality_of(token_ids[place])
        assert modality is not None, f"{token_ids[place]} is no id at all"
        span = signals.span(modality)
        assert token_ids[place : place + len(span)] == span, "malformed span"
        found.append(modality)
        place += len(span)
    return found


def check(model: LanguageModel, request: DecodeRequest, decoded: Decoded) -> None:
    assert len(decoded.token_ids) <= request.max_new_tokens
    found = parse(decoded.token_ids, model.signals, model.vocab_size)
    modalities = [item for item in found if not isinstance(item, int)]
    words = [item for item in found if isinstance(item, int)]
    assert modalities == [span.modality for span in decoded.spans]
    assert not set(words) & set(model.stop_ids)
    assert all(modalities.count(modality) <= MAX_SPANS for modality in modalities)
    if request.outputs is not None:
        assert set(modalities) == request.outputs - {"text"}
        if "text" in request.outputs:
            assert decoded.text.strip()
    assert decoded.finish_reason in ("stop", "length")
    if decoded.finish_reason == "length":
        assert len(decoded.token_ids) == request.max_new_tokens
    rebuilt: list[str] = []
    for piece in decoded.pieces:
        if isinstance(piece, Span):
            assert piece.hidden.shape == (len(piece.ids), model.language_dim)
            assert piece.hidden.isfinite().all()
            assert piece.ids == model.signals.span(piece.modality)
        else:
            assert piece.text
            rebuilt.append(piece.text)
    assert all(
        isinstance(one, Span) or isinstance(other, Span)
        for one, other in zip(decoded.pieces, decoded.pieces[1:], strict=False)
    ), "two texts in a row"
    assert " ".join(rebuilt).split() == model.decode(words).split()
    assert decoded.text == "".join(p.text for p in decoded.pieces if isinstance(p, TextPiece))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(batches())
def test_every_reply_keeps_every_promise(
    batch: tuple[LanguageModel, list[DecodeRequest], DecodeSettings],
) -> None:
    model, requests, how = batch
    for request, decoded in zip(requests, generate(model, requests, how), strict=True):
        check(model, request, decoded)
