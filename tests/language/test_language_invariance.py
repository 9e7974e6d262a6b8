"""Invariant mode, to the bit: states do not depend on neighbours, rows or order, at any threads."""

from collections.abc import Iterator

import pytest
import torch
from language_toys import SMALL, prompt_of, toy_model, word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from anyany.language import (
    Decoded,
    DecodeRequest,
    DecodeSettings,
    LanguageConfig,
    LanguageModel,
    Sampling,
    generate,
)
from anyany.messages import Modality

OUTPUTS: list[frozenset[Modality] | None] = [
    None,
    frozenset({"text"}),
    frozenset({"image"}),
    frozenset({"text", "video"}),
    frozenset({"text", "image", "audio"}),
]


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def wide_llama(vocab_size: int) -> LlamaForCausalLM:
    """Of pocket's widths: narrower products never cross a kernel's tile."""
    torch.manual_seed(2)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
        )
    )


def mixed_requests(model: LanguageModel, count: int) -> list[DecodeRequest]:
    return [
        DecodeRequest(
            prompt_of(model, 3 + 5 * i % 23, seed=i),
            outputs=OUTPUTS[i % len(OUTPUTS)],
            max_new_tokens=20 + i % 7,
            sampling=Sampling(temperature=1.0, top_p=0.95, seed=i),
        )
        for i in range(count)
    ]


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("rows", [1, 4, 8])
def test_states_are_bit_equal_whatever_the_neighbours(rows: int) -> None:
    tokenizer = word_tokenizer()
    model = toy_model(
        wide_llama(len(tokenizer)),
        tokenizer=tokenizer,
        config=LanguageConfig(signals=SMALL),
    )
    settings = DecodeSettings(rows=rows)
    requests = mixed_requests(model, 11)
    alone = [generate(model, [request], settings)[0] for request in requests]
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5)).tolist()
    together = generate(model, [requests[i] for i in order], settings)
    assert sum(len(one.spans) for one in alone) >= 5
    for i, decoded in zip(order, together, strict=True):
        _assert_same(decoded, alone[i])


def _assert_same(ours: Decoded, theirs: Decoded) -> None:
    assert ours.token_ids == theirs.token_ids
    assert ours.text == theirs.text
    for one, other in zip(ours.spans, theirs.spans, strict=True):
        assert torch.equal(one.hidden, other.hidden)
