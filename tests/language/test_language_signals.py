"""Signal ids and spans by the published tables; rows beside matrices that never change."""

import pytest
import torch
from language_toys import SMALL, toy_model

from anyany.errors import ConfigError
from anyany.language import SignalRows, SignalSpec


def test_ids_are_those_of_the_published_v0_tokenizer() -> None:
    spec = SignalSpec(first_id=32002)
    assert spec.ids("image") == tuple(range(32002, 32006))
    assert spec.ids("video") == tuple(range(32006, 32030))
    assert spec.ids("audio") == tuple(range(32030, 32038))
    assert spec.total == 36
    assert [spec.name(i) for i in (32002, 32029, 32037)] == ["[IMG0]", "[VID23]", "[AUD7]"]
    assert spec.span("image") == spec.ids("image")
    assert spec.modality_of(32001) is None
    assert spec.modality_of(32030) == "audio"


def test_spaced_spans_are_those_of_v1_5() -> None:
    spec = SignalSpec(
        names="<{modality}_{index:02d}>", stride=2, separator_id=29871, first_id=32000
    )
    lengths = {m: spec.span_length(m) for m in spec.modalities}
    assert lengths == {"image": 7, "video": 47, "audio": 15}
    assert spec.span("image") == (32000, 29871, 32001, 29871, 32002, 29871, 32003)
    assert all(len(spec.span(m)) == lengths[m] for m in spec.modalities)
    assert spec.name(32028) == "<audio_00>"


def test_a_modality_may_be_absent() -> None:
    spec = SignalSpec(image=4, video=0, audio=2, first_id=10)
    assert spec.modalities == ("image", "audio")
    assert (spec.span("video"), spec.span_length("video")) == ((), 0)
    assert spec.ids("audio") == (14, 15)


def test_errors_of_the_spec() -> None:
    with pytest.raises(ConfigError, match=r"^signals\.video: expected a number of tokens >= 0"):
        SignalSpec(video=-1)
    with pytest.raises(ConfigError, match=r"also set signals\.separator_id"):
        SignalSpec(stride=2)
    with pytest.raises(ConfigError, match=r"^signals\.stride: expected 1 or more, got 0$"):
        SignalSpec(stride=0)
    with pytest.raises(ConfigError, match=r"^signals\.first_id: expected 32000, .* got 32002$"):
        SignalSpec(first_id=32002).at(32000)
    with pytest.raises(ConfigError, match=r"\.at\(vocabulary\)"):
        SignalSpec().ids("image")
    with pytest.raises(ConfigError, match=r"^expected a signal id, got 3$"):
        SignalSpec(first_id=10).name(3)


def test_rows_are_spliced_in_at_lookup_and_logits() -> None:
    embedding = torch.nn.Embedding(10, 6)
    head = torch.nn.Linear(6, 10, bias=False)
    rows = SignalRows(10, 5, language_dim=6)
    rows.init_from(embedding.weight, head.weight, seed=1)
    ids = torch.tensor([[0, 9, 10, 14], [11, 3, 3, 12]])
    table = torch.cat([embedding.weight, rows.input_rows])
    assert torch.equal(rows.embed(ids, embedding), table[ids])
    hidden = torch.randn(2, 3, 6)
    expected = hidden @ torch.cat([head.weight, rows.output_rows]).T
    torch.testing.assert_close(rows.logits(hidden, head), expected)
    near = (rows.input_rows - embedding.weight.mean(0)).abs().max()
    assert 0 < near < 0.5 * embedding.weight.abs().max()
    assert len({tuple(row) for row in rows.input_rows.tolist()}) == 5


def test_training_the_rows_leaves_every_base_matrix_as_it_was() -> None:
    model = toy_model()
    model.lm.requires_grad_(False)
    before, rows_before = model.base_hash(), model.rows.output_rows.detach().clone()
    optimizer = torch.optim.AdamW(model.rows.parameters(), lr=1e-2)
    ids = torch.tensor([[1, 8, 9, *model.signals.span("image"), 2]])
    logits = model.logits(model(model.embed(ids)))
    assert logits.shape == (1, ids.shape[1], model.vocab_size + SMALL.total)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in model.lm.parameters())
    assert model.rows.input_rows.grad is not None
    seen = model.rows.input_rows.grad.abs().sum(1) > 0
    assert seen.tolist() == [True] * 4 + [False] * 9  # the picture's tokens alone were read
    optimizer.step()
    assert model.base_hash() == before
    assert model.lm.get_input_embeddings().weight.shape[0] == model.vocab_size
    assert not torch.equal(model.rows.output_rows, rows_before)
    with torch.no_grad():
        model.lm.get_output_embeddings().weight[0, 0] += 1
    assert model.base_hash() != before
