"""What an adapter leaves as it was: the frozen model at the start, plain text, its bytes."""

from pathlib import Path

import pytest
import torch
from bridge_toys import (
    KINDS,
    MEDIA,
    SETTINGS,
    TALKS,
    laid_out,
    logits_of,
    plain_logits,
    stirred,
    toy_bridge,
)
from language_toys import SMALL, prompt_of, small_neox, toy_model, word_tokenizer

from anyany.alignment.recompute import recomputed_layers
from anyany.bridges import Bridge
from anyany.config import from_dict, to_dict
from anyany.errors import CheckpointError, ConfigError, UsageError
from anyany.language import (
    ExpertsSettings,
    GatedAttentionSettings,
    HookedAdapter,
    LanguageConfig,
    LoraSettings,
    ModalityAdapterSettings,
    ModalityExpertSettings,
    SignalSpec,
)


def adapter_of(bridge: Bridge) -> HookedAdapter:  # type: ignore[type-arg]
    adapter = bridge.language.adapter
    assert isinstance(adapter, HookedAdapter)
    return adapter


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_at_the_start_logits_are_the_frozen_models_to_the_bit(kind: str) -> None:
    bridge = toy_bridge(kind)
    shared = kind == "modality_expert"
    assert torch.equal(logits_of(bridge), plain_logits(bridge, shared=shared))
    for number in range(len(TALKS)):
        alone = logits_of(bridge, [number])
        assert torch.equal(alone, plain_logits(bridge, [number], shared=shared))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_was_learnt_changes_talks_with_media(kind: str) -> None:
    bridge = toy_bridge(kind, stir=True)
    for number in range(1, len(TALKS)):
        shared = kind == "modality_expert"
        difference = logits_of(bridge, [number]) - plain_logits(bridge, [number], shared=shared)
        assert float(difference.abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["gated_attention", "modality_expert"])
@torch.no_grad()
def test_plain_text_stays_the_frozen_models_to_the_bit(kind: str) -> None:
    bridge = toy_bridge(kind, stir=True)
    assert torch.equal(logits_of(bridge, [0]), plain_logits(bridge, [0]))
    shared = kind == "modality_expert"
    assert torch.equal(logits_of(bridge)[0], plain_logits(bridge, shared=shared)[0])
    embedded = prompt_of(bridge.language, 9, seed=1)[None]
    assert torch.equal(bridge.language(embedded), toy_bridge().language(embedded))


def test_plain_text_stays_after_real_training_too() -> None:
    for kind in ("gated_attention", "modality_expert"):
        bridge = toy_bridge(kind)
        adapter, base = adapter_of(bridge), bridge.language.base_hash()
        optimizer = torch.optim.AdamW(adapter.trainable(), lr=3e-2)
        losses = []
        for _ in range(4):
            scores = logits_of(bridge)[:, :-1].flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(scores, torch.full((len(scores),), 9))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        assert bridge.language.base_hash() == base
        with torch.no_grad():
            assert torch.equal(logits_of(bridge, [0]), plain_logits(bridge, [0]))


# Parameters that no token of text can read, with the reason; all others must get a gradient.
DEAD = {  # of the last layer a text token reads the media's keys and values alone
    "modality_expert": [
        "experts.1_mlp.down_proj.weight",
        "experts.1_mlp.gate_proj.weight",
        "experts.1_mlp.up_proj.weight",
        "experts.1_o_proj.weight",
        "experts.1_q_proj.weight",
    ]
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_the_model_none(kind: str) -> None:
    bridge = toy_bridge(kind, stir=True)
    layouts = laid_out(bridge)
    output = bridge(layouts, MEDIA)
    total = output.aux
    for row, layout in enumerate(layouts):
        text = torch.ones(len(layout), dtype=torch.bool)
        for slot in layout.slots:
            text[slot.positions] = False
        total = total + output.hidden[row, : len(layout)][text].square().sum()
    total.backward()  # type: ignore[no-untyped-call]
    adapter = adapter_of(bridge)
    dead = [n for n, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    assert sorted(dead) == DEAD.get(kind, [])
    assert all(p.grad is None for p in bridge.language.lm.parameters())
    assert {id(p) for p in adapter.trainable()} == {
        id(p) for p in bridge.language.parameters() if p.requires_grad
    }


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_give_the_same_gradients(kind: str) -> None:
    found = []
    for again in (False, True):
        bridge = toy_bridge(kind, stir=True)
        if again:
            with recomputed_layers(bridge.language.lm):
                output = bridge(laid_out(bridge), MEDIA)
                (output.hidden.square().sum() + output.aux).backward()
        else:
            output = bridge(laid_out(bridge), MEDIA)
            (output.hidden.square().sum() + output.aux).backward()
        found.append([p.grad for p in adapter_of(bridge).trainable()])
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    bridge, other = toy_bridge(kind, stir=True), toy_bridge(kind)
    folder = tmp_path / "adapter"
    adapter_of(bridge).save(folder)
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not torch.equal(logits_of(other, [2]), logits_of(bridge, [2]))
    adapter_of(other).load(folder)
    assert torch.equal(logits_of(other, [2]), logits_of(bridge, [2]))


def test_loading_is_strict(tmp_path: Path) -> None:
    adapter = adapter_of(toy_bridge("experts"))
    with pytest.raises(CheckpointError, match=r"^missing adapter_config\.json in 'nowhere'$"):
        adapter.load(tmp_path / "nowhere")
    adapter.save(tmp_path)
    fewer = ExpertsSettings(num=2, top_k=2, every=1, capacity=None)
    with pytest.raises(CheckpointError, match=r"was made as .*'num': 4.*, expected .*'num': 2"):
        adapter_of(toy_bridge("experts", fewer)).load(tmp_path)
    with pytest.raises(CheckpointError, match=r"fit: 13 tensors differ, first mixtures\.1\."):
        adapter_of(toy_bridge("experts", layers=1)).load(tmp_path)
    (tmp_path / "adapter_config.json").write_text("no json")
    with pytest.raises(CheckpointError, match="was made as None, expected"):
        adapter.load(tmp_path)


def test_named_in_a_configuration() -> None:
    for kind in KINDS:
        config = from_dict({kind: {}}, LanguageConfig, source="a.yaml")
        assert getattr(config, kind) == type(SETTINGS[kind])()
        assert from_dict(to_dict(config), LanguageConfig, source="a.yaml") == config
        with pytest.raises(ConfigError, match=rf"a\.yaml.*{kind}\.rank"):
            from_dict({kind: {"rank": 3}}, LanguageConfig, source="a.yaml")
    both = r"^language\.lora and language\.experts: expected one adapter at most: set either to"
    with pytest.raises(ConfigError, match=both):
        LanguageConfig(lora=LoraSettings(), experts=ExpertsSettings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: GatedAttentionSettings(every=0), "gated_attention.every: expected 1 or more"),
        (lambda: GatedAttentionSettings(dropout=1), "gated_attention.dropout: expected 0 <= "),
        (lambda: ModalityAdapterSettings(r=5), "groups: expected a divisor of r = 5, got 2"),
        (lambda: ModalityAdapterSettings(temperature=0), "temperature: expected more than 0"),
        (lambda: ModalityExpertSettings(modules=()), "modules: expected at least one name"),
        (lambda: ExpertsSettings(num=2, top_k=3), "top_k: expected at most num = 2, got 3"),
        (lambda: ExpertsSettings(balance=-1), "balance: expected 0 or more, got -1"),
        (lambda: ExpertsSettings(capacity=0), "capacity: expected more than 0, got 0"),
    ],
)
def test_settings_out_of_range(settings: object, message: str) -> None:
    assert callable(settings)
    with pytest.raises(ConfigError, match=message):
        settings()


def test_models_that_an_adapter_does_not_fit() -> None:
    tokenizer = word_tokenizer()
    neox = LanguageConfig(signals=SignalSpec(), experts=ExpertsSettings())
    with pytest.raises(ConfigError, match=r"^language\.experts: .*; gpt_neox has none: use lora$"):
        toy_model(small_neox(len(tokenizer)), config=neox)
    misfits = {
        "every: expected at most 2, the model's layers; got 3": GatedAttentionSettings(every=3),
        "heads: expected a divisor of 32, the model's width; got 5": GatedAttentionSettings(
            heads=5
        ),
        "modules: the model has no query": ModalityExpertSettings(modules=("query", "mlp")),
        "groups: expected a divisor of 32, the model's width; got 3": ModalityAdapterSettings(
            r=6, groups=3
        ),
    }
    for message, settings in misfits.items():
        kind = next(kind for kind in KINDS if type(SETTINGS[kind]) is type(settings))
        with pytest.raises(ConfigError, match=message):
            toy_bridge(kind, settings)
    bridge = toy_bridge("experts")
    with pytest.raises(UsageError, match="installed already"):
        bridge.language.adapter.install(bridge.language.lm)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_without_weights(kind: str) -> None:
    architecture = toy_bridge().language.lm.config
    config = LanguageConfig(signals=SMALL, **{kind: SETTINGS[kind]})
    counted = type(toy_bridge().language).from_config(config, architecture)
    real = toy_bridge(kind).language
    assert sum(p.numel() for p in counted.adapter.trainable()) == sum(
        p.numel() for p in real.adapter.trainable()
    )
    assert counted.device.type == "meta"


@torch.no_grad()
def test_a_pass_nobody_announced_is_plain_text() -> None:
    for kind in KINDS:
        bridge = toy_bridge(kind)
        stirred(bridge.language)
        embedded = prompt_of(bridge.language, 9, seed=1)[None]
        first = bridge.language(embedded)
        logits_of(bridge, [2])  # what it was told for this holds for this alone
        assert torch.equal(bridge.language(embedded), first)
