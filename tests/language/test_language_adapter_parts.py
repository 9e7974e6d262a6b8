"""What each adapter does inside, against the papers' formulas written as they read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from bridge_toys import MEDIA, SETTINGS, laid_out, logits_of, shared_positions, toy_bridge
from torch import Tensor, nn
from torch.nn.functional import silu

from anyany.bridges import Bridge, Layout, Place
from anyany.language import (
    ExpertsAdapter,
    ExpertsSettings,
    GatedAttentionAdapter,
    GatedAttentionSettings,
    ModalityAdapter,
    ModalityAdapterSettings,
    ModalityExpertAdapter,
    ModalityExpertSettings,
    PassLayout,
)
from anyany.language.adapters.experts import Experts
from anyany.language.adapters.modality_adapter import Bottleneck

# t I t t I I I t, the second medium of three tokens
LAYOUT = Layout(
    torch.zeros(8, dtype=torch.long),
    torch.zeros(8, dtype=torch.bool),
    (Place(0, "image", 1, 1), Place(1, "audio", 4, 3)),
    (),
)


def test_columns_of_a_pass_over_rows_of_different_lengths() -> None:
    text = Layout(torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.bool), (), ())
    whole = PassLayout((0, 1, 2), (0, 0, 0), 8, (LAYOUT, text, None))
    assert whole.last_media().tolist() == [[0, 1, 1, 1, 2, 2, 2, 2], [0] * 8, [0] * 8]
    media = whole.in_media()
    assert media is not None
    assert media.int().tolist() == [[0, 1, 0, 0, 1, 1, 1, 0], [0] * 8, [0] * 8]
    assert whole.shared_positions().tolist()[0] == [0, 1, 2, 3, 4, 4, 4, 5]
    assert whole.shared_positions()[0].equal(shared_positions(LAYOUT, 8))
    assert whole.real().sum(1).tolist() == [8, 3, 0]
    step = PassLayout((0, 1, 2), (9, 3, 0), 1, (LAYOUT, text, None))
    assert step.last_media().tolist() == [[2], [0], [0]]
    assert step.in_media() is None
    assert step.shared_positions().tolist() == [[7], [3], [0]]
    assert step.real().tolist() == [[True], [True], [False]]


# Gated cross-attention


def block_outputs(bridge: Bridge, media: dict[int, Tensor]) -> Tensor:
    """What comes out of the first gated block for talk 2, [T, D]; its input is always the same."""
    adapter = bridge.language.adapter
    assert isinstance(adapter, GatedAttentionAdapter)
    layout = laid_out(bridge)[2]
    found: list[Tensor] = []

    def listen(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    body: Any = bridge.language.lm.base_model
    with body.layers[0].register_forward_hook(listen, with_kwargs=True), torch.no_grad():
        bridge([layout], [media])
    return found[0][0]


def test_a_token_attends_to_the_last_medium_alone() -> None:
    bridge = toy_bridge("gated_attention", stir=True)
    layout = laid_out(bridge)[2]
    phi = PassLayout((-1,), (0,), len(layout), (layout,)).last_media()[0]
    assert [slot.length for slot in layout.slots] == [1, 1, 1]
    assert sorted(set(phi.tolist())) == [0, 1, 2, 3]
    before = block_outputs(bridge, MEDIA[2])
    for number in range(3):
        changed = {**MEDIA[2], number: -MEDIA[2][number]}
        moved = (block_outputs(bridge, changed) != before).any(-1)
        assert torch.equal(moved, phi == number + 1)
    embeds = bridge.embed(layout, MEDIA[2])
    assert torch.equal(before[phi == 0], embeds[phi == 0])
    assert (before[phi > 0] != embeds[phi > 0]).any(-1).all()


def test_the_gates_open_in_training_and_blocks_stand_where_asked() -> None:
    bridge = toy_bridge("gated_attention", GatedAttentionSettings(every=2), layers=3)
    adapter = bridge.language.adapter
    assert isinstance(adapter, GatedAttentionAdapter)
    assert len(adapter.blocks) == 1
    hooked = [bool(layer._forward_pre_hooks) for layer in bridge.language.lm.base_model.layers]
    assert hooked == [False, True, False]
    output = bridge(laid_out(bridge), MEDIA)
    output.hidden.square().sum().backward()
    moved = {n for n, p in adapter.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"tag", "blocks.0.alpha_cross_attn", "blocks.0.alpha_dense"}


def test_keys_of_media_are_computed_once_and_again_after_a_change() -> None:
    bridge = toy_bridge("gated_attention", stir=True)
    adapter = bridge.language.adapter
    assert isinstance(adapter, GatedAttentionAdapter)
    block: Any = adapter.blocks[0]
    keys = block.cross_attn.k_proj
    tokens = torch.randn(1, 4, 32)
    with torch.no_grad():
        first = keys(tokens)
        assert keys(tokens) is first
        assert torch.equal(keys(tokens.clone()), first)
        keys.weight.mul_(2)
        assert torch.equal(keys(tokens), 2 * first)
    assert keys(tokens).requires_grad


# Modality adapter


@contextmanager
def token_at_position_0(adapter: ModalityAdapter, lm: Any) -> Iterator[None]:
    """LaVIN as its paper has it, on a model without our hooks: x_0 of the very sequence decides."""
    handles = []
    parts = [part for layer in lm.base_model.layers for part in (layer.self_attn, layer.mlp)]
    for part, site in zip(parts, adapter.bottlenecks, strict=True):

        def adapt(part: Any, args: Any, kwargs: Any, site: Any = site) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            w = torch.softmax(site.router(x[:, 0]) / site.temperature, dim=-1)
            low = site.down(x)
            half = low.shape[-1] // 2
            for way, up in enumerate(site.ups):
                left, right = up.weight[:, :, 0].chunk(2)
                risen = [low[..., :half] @ left.T, low[..., half:] @ right.T]
                x = x + w[:, None, way : way + 1] * (torch.cat(risen, -1) + up.bias)
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        handles.append(part.register_forward_pre_hook(adapt, with_kwargs=True))
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("number", [0, 1, 4])
@torch.no_grad()
def test_a_sequence_of_its_own_is_a_masked_position_0(number: int) -> None:
    bridge = toy_bridge("modality_adapter", stir=True)
    adapter = bridge.language.adapter
    assert isinstance(adapter, ModalityAdapter)
    layout = laid_out(bridge)[number]
    which = {0: 0, 1: 1, 4: 3}[number]  # text, image, audio
    embeds = bridge.embed(layout, MEDIA[number])
    embeds = torch.cat([adapter.tokens[which][None], embeds])[None]
    length = embeds.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    seen[1:, 0] = False
    mask = torch.zeros(1, 1, length, length).masked_fill(~seen, torch.finfo(torch.float).min)
    plain = toy_bridge().language
    with token_at_position_0(adapter, plain.lm):
        expected = plain.logits(plain(embeds, attention_mask=mask))[0, 1:]
    torch.testing.assert_close(logits_of(bridge, [number])[0], expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_mixtures_sum_to_1_and_differ_by_modality() -> None:
    bridge = toy_bridge("modality_adapter", stir=True)
    adapter = bridge.language.adapter
    assert isinstance(adapter, ModalityAdapter)
    layouts = laid_out(bridge)
    told = PassLayout((-1,) * 5, (0,) * 5, 20, tuple(layouts))
    weights = adapter.prepare(told, MEDIA).weights
    assert weights is not None
    assert len(weights) == 2 * 2
    for each in weights:
        torch.testing.assert_close(each.sum(-1), torch.ones(5))
        assert not torch.equal(each[0], each[1])  # text, image
        assert not torch.equal(each[1], each[4])  # image, audio
        assert torch.equal(each[1], each[3])  # image, image
    site = adapter.bottlenecks[0]
    assert isinstance(site, Bottleneck)
    even = ModalityAdapterSettings(r=4, temperature=1e9)
    other = toy_bridge("modality_adapter", even).language.adapter
    assert isinstance(other, ModalityAdapter)
    told_even = other.prepare(told, MEDIA).weights
    assert told_even is not None
    torch.testing.assert_close(told_even[0], torch.full((5, 2), 0.5))


# Modality expert


@torch.no_grad()
def test_media_pass_the_copies_and_text_the_model() -> None:
    settings = ModalityExpertSettings(modules=("v_proj", "mlp"))
    bridge = toy_bridge("modality_expert", settings, layers=1)
    adapter = bridge.language.adapter
    assert isinstance(adapter, ModalityExpertAdapter)
    assert set(adapter.experts) == {"0_v_proj", "0_mlp"}
    for parameter in adapter.trainable():
        parameter.zero_()
    layout = laid_out(bridge)[1]
    lm: Any = bridge.language.lm
    outputs: list[Tensor] = []
    with lm.model.layers[0].self_attn.v_proj.register_forward_hook(
        lambda module, args, output: outputs.append(output)
    ):
        bridge([layout], [MEDIA[1]])
    zero = (outputs[0][0] == 0).all(-1)
    expected = torch.zeros(len(layout), dtype=torch.bool)
    expected[layout.slots[0].positions] = True
    assert torch.equal(zero, expected)


@torch.no_grad()
def test_positions_are_shared_only_if_asked() -> None:
    found = []
    for shared in (True, False):
        bridge = toy_bridge("modality_expert", ModalityExpertSettings(shared_position=shared))
        positions: list[Tensor] = []

        def listen(module: Any, args: Any, kwargs: Any, kept: Any = positions) -> None:
            kept.append(kwargs["position_ids"][0])

        lm: Any = bridge.language.lm
        with lm.model.rotary_emb.register_forward_pre_hook(listen, with_kwargs=True):
            layout = laid_out(bridge)[2]
            bridge([layout], [MEDIA[2]])
        found.append(positions[0])
    assert torch.equal(found[0], shared_positions(layout, len(layout)))
    assert torch.equal(found[1], torch.arange(len(layout)))


# Experts


def one_layer(settings: ExpertsSettings) -> tuple[Experts, nn.Module]:
    bridge = toy_bridge("experts", settings)
    adapter = bridge.language.adapter
    assert isinstance(adapter, ExpertsAdapter)
    mixture = adapter.mixtures[0]
    assert isinstance(mixture, Experts)
    ffn = toy_bridge().language.lm.base_model.layers[0].mlp
    assert isinstance(ffn, nn.Module)
    return mixture, ffn


def test_the_balance_loss_is_known_for_a_uniform_and_for_a_collapsed_router() -> None:
    settings = ExpertsSettings(num=4, top_k=2, every=1, balance=0.25)
    mixture, _ = one_layer(settings)
    real = torch.ones(2, 3, dtype=torch.bool)
    assert float(mixture.balance_loss(torch.zeros(6, 4), real)) == 1.0
    collapsed = torch.tensor([[50.0, 50.0, 0.0, 0.0]]).expand(6, 4)
    assert float(mixture.balance_loss(collapsed, real)) == 2.0  # E / k
    padded = torch.cat([collapsed[:3], torch.zeros(3, 4)])
    assert float(mixture.balance_loss(padded, torch.tensor([[1, 1, 1], [0, 0, 0]]) > 0)) == 2.0
    bridge = toy_bridge("experts", settings)
    adapter = bridge.language.adapter
    assert isinstance(adapter, ExpertsAdapter)
    with torch.no_grad():
        for mixture_ in adapter.mixtures:
            assert isinstance(mixture_, Experts)
            mixture_.router.weight.zero_()
    assert float(bridge(laid_out(bridge), MEDIA).aux.detach()) == 0.25 * 2  # two layers at 1
    with torch.no_grad():
        assert float(bridge(laid_out(bridge), MEDIA).aux) == 0


@pytest.mark.parametrize("learning", [True, False])
def test_each_token_is_the_weighted_sum_of_its_k_best(learning: bool) -> None:
    settings = ExpertsSettings(num=4, top_k=2, capacity=None)
    mixture, _ = one_layer(settings)
    torch.manual_seed(1)
    for parameter in mixture.parameters():
        parameter.data = 0.5 * torch.randn_like(parameter)
    hidden = torch.randn(2, 5, 32)
    expected = torch.zeros(2, 5, 32)
    for b in range(2):
        for t in range(5):
            x = hidden[b, t]
            chances = torch.softmax(mixture.router.weight @ x, 0).detach()
            best = sorted(range(4), key=lambda e: -float(chances[e]))[:2]
            for e in best:
                ffn: Any = mixture.experts[e]
                made = ffn.down_proj.weight @ (
                    silu(ffn.gate_proj.weight @ x) * (ffn.up_proj.weight @ x)
                )
                expected[b, t] += chances[e] / chances[best].sum() * made
    with torch.set_grad_enabled(learning):
        made = mixture(hidden, torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_equal_experts_are_the_ffn_to_the_bit_whatever_the_router_says() -> None:
    mixture, ffn = one_layer(ExpertsSettings(num=4, top_k=3, capacity=None))
    hidden = torch.randn(2, 7, 32)
    for _ in range(3):
        mixture.router.weight.normal_()
        assert torch.equal(mixture(hidden, torch.ones(2, 7, dtype=torch.bool)), ffn(hidden))


def test_experts_that_nobody_chose_get_no_gradient() -> None:
    mixture, _ = one_layer(ExpertsSettings(num=4, top_k=1, capacity=None))
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[2] = 5.0
    hidden = torch.rand(1, 6, 32)  # positive, so that expert 2 always wins
    mixture(hidden, torch.ones(1, 6, dtype=torch.bool)).sum().backward()
    reached = [
        any(p.grad is not None and bool(p.grad.any()) for p in expert.parameters())
        for expert in mixture.experts
    ]
    assert reached == [False, False, True, False]


def test_an_expert_takes_so_many_tokens_and_no_more_in_training_alone() -> None:
    mixture, ffn = one_layer(ExpertsSettings(num=4, top_k=2, capacity=1.0))
    chosen = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 0]])
    kept = mixture.within_capacity(chosen, torch.ones(4, dtype=torch.bool))
    # 2 places each. Expert 0: first choices of 0 and 1. Expert 1: the first choice of token 3
    # goes before the second choices of tokens 0 and 1, of which one is left out.
    assert kept.tolist() == [[True, True], [True, False], [False, True], [True, False]]
    padded = mixture.within_capacity(chosen, torch.tensor([True, False, True, True]))
    assert padded[[0, 2, 3]].tolist() == [[True, True], [True, True], [True, False]]
    with torch.no_grad():
        mixture.router.weight.zero_()  # all choose experts 0 and 1
    hidden, real = torch.randn(1, 8, 32), torch.ones(1, 8, dtype=torch.bool)
    expected = ffn(hidden)[0].detach()
    with torch.no_grad():
        assert torch.equal(mixture.eval()(hidden, real)[0], expected)
    made = mixture.train()(hidden, real)[0].detach()
    torch.testing.assert_close(made[:4], expected[:4])
    assert not made[4:].any()  # the residual stream alone goes on


def test_the_model_stays_as_it_was_beside_its_experts() -> None:
    bridge, plain = toy_bridge("experts", SETTINGS["experts"]), toy_bridge()
    assert bridge.language.base_hash() == plain.language.base_hash()
    assert bridge.language.lm.state_dict().keys() == plain.language.lm.state_dict().keys()
    spaced = toy_bridge("experts", ExpertsSettings(), layers=3).language.adapter
    assert isinstance(spaced, ExpertsAdapter)
    assert len(spaced.mixtures) == 2
