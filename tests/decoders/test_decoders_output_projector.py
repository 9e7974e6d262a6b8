"""The output projector: NExT-GPT's counts, its transformer, its published names, its gradients."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from anyany.decoders import ConditionSpec, OutputProjector, OutputProjectorConfig, TensorSpec
from anyany.errors import CheckpointError, ConfigError, UsageError

SMALL = OutputProjectorConfig(
    hidden_dim=16, encoder_layers=2, decoder_layers=2, heads=4, ffn=32, dropout=0.0
)
IMAGE = ConditionSpec({"prompt_embeds": TensorSpec((5, 12))})
AUDIO = ConditionSpec({"class_labels": TensorSpec((12,), normalize=True)})
BOTH = ConditionSpec({**IMAGE.tensors, **AUDIO.tensors})


def projector(spec: ConditionSpec = IMAGE) -> OutputProjector:
    torch.manual_seed(0)
    return OutputProjector.from_config(8, spec, SMALL)


def signal_hidden(batch_size: int = 2) -> torch.Tensor:
    return torch.randn(batch_size, 4, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("prompt_embeds", (77, 768), 31_958_784),  # image, SD 1.5
        ("prompt_embeds", (77, 1024), 32_090_112),  # image, SD 2; video, Zeroscope
        ("class_labels", (512,), 31_788_544),  # audio, AudioLDM
    ],
)
def test_parameter_counts_are_next_gpts(name: str, shape: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        full = OutputProjector(4096, ConditionSpec({name: TensorSpec(shape)}))
    assert sum(parameter.numel() for parameter in full.parameters()) == count
    assert len(full.state_dict()) == 129


def test_shapes_and_unit_length() -> None:
    made = projector(BOTH)(signal_hidden())
    assert made["prompt_embeds"].shape == (2, 5, 12)
    assert made["class_labels"].shape == (2, 12)
    BOTH.check(made)
    torch.testing.assert_close(made["class_labels"].norm(dim=-1), torch.ones(2))
    assert (made["prompt_embeds"].norm(dim=-1) - 1).abs().max() > 1e-2


def test_head_is_linear_transformer_linear() -> None:
    """Against torch's own nn.Transformer with the same weights, called as the paper's code does."""
    ours = projector()
    head = ours.heads["prompt_embeds"]
    with pytest.warns(UserWarning, match="norm_first"):
        theirs = nn.Transformer(16, 4, 2, 2, 32, 0.0, batch_first=True, norm_first=True)
    state = head.state_dict()
    theirs.load_state_dict(
        {k.removeprefix("tfm."): v for k, v in state.items() if k.startswith("tfm.")}
    )
    narrow = functional.linear(signal_hidden(), state["in_fc.weight"], state["in_fc.bias"])
    queries = state["query_embs"].repeat(2, 1, 1)
    wide = functional.linear(theirs(narrow, queries), state["out_fc.weight"], state["out_fc.bias"])
    torch.testing.assert_close(ours(signal_hidden())["prompt_embeds"], wide)


def test_queries_differ_from_the_start() -> None:
    queries = projector().heads["prompt_embeds"].state_dict()["query_embs"][0]
    assert torch.pdist(queries).min() > 0.1
    rows = projector()(signal_hidden())["prompt_embeds"][0]
    assert torch.pdist(rows).min() > 1e-3


def test_every_parameter_and_the_states_get_gradients() -> None:
    ours = projector(BOTH)
    hidden = signal_hidden().requires_grad_()
    made = ours(hidden)
    weights = torch.randn(12, generator=torch.Generator().manual_seed(2))
    sum((tensor * weights).sum() for tensor in made.tensors.values()).backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0


def test_save_load_round_trip(tmp_path: Path) -> None:
    ours = projector(BOTH)
    save_file(ours.state_dict(), tmp_path / "projector.safetensors")
    torch.manual_seed(9)
    again = OutputProjector.from_config(8, BOTH, ours.config)
    again.load_state_dict(load_file(tmp_path / "projector.safetensors"))
    for name, tensor in ours(signal_hidden()).tensors.items():
        assert torch.equal(again(signal_hidden())[name], tensor)


@pytest.mark.parametrize("legacy", [True, False])
def test_published_names_load(legacy: bool) -> None:
    ours = projector(BOTH)
    head = ours.heads["prompt_embeds"].state_dict()
    renamed = {"in_fc": "fc", "out_fc": "model"} if legacy else {}
    published = {
        ".".join((renamed.get(key.partition(".")[0], key.partition(".")[0]), key.partition(".")[2]))
        if "." in key
        else key: tensor * 2
        for key, tensor in head.items()
    }
    assert ("fc.weight" in published) == legacy
    torch.manual_seed(9)
    again = OutputProjector.from_config(8, BOTH, SMALL)
    again.load_published(published, "prompt_embeds")
    for key, tensor in again.heads["prompt_embeds"].state_dict().items():
        assert torch.equal(tensor, head[key] * 2)


def test_published_weights_of_another_decoder_are_refused() -> None:
    ours = projector(IMAGE)
    state = dict(ours.heads["prompt_embeds"].state_dict())
    wide = {**state, "out_fc.weight": torch.zeros(13, 16)}
    with pytest.raises(CheckpointError, match=r"of another shape, first 'out_fc\.weight'"):
        ours.load_published(wide)
    del state["query_embs"]
    with pytest.raises(CheckpointError, match=r"missing, unknown .*'query_embs'"):
        ours.load_published(state)
    with pytest.raises(CheckpointError, match=r"a head among \['prompt_embeds'\], got 'x'"):
        ours.load_published(state, "x")


def test_bad_sizes_and_states_are_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="hidden_dim to be a multiple of heads, got 10 and 4"):
        OutputProjectorConfig(hidden_dim=10)
    with pytest.raises(ConfigError, match="positive output projector sizes"):
        OutputProjectorConfig(encoder_layers=0)
    with pytest.raises(ConfigError, match="dropout in"):
        OutputProjectorConfig(dropout=1.0)
    with pytest.raises(UsageError, match=r"signal states \[B, S, 8\], got \[2, 4, 9\]"):
        projector()(torch.zeros(2, 4, 9))
