"""Input projectors: published sizes and names, an independent truth, gradients, files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anyany.encoders import (
    PROJECTORS,
    GroupedConfig,
    GroupedProjector,
    Projector,
    ProjectorConfig,
    ProjectorContext,
    ResamplerConfig,
    build_projector,
    load_projector,
    save_projector,
)
from anyany.errors import CheckpointError, ConfigError

CONTEXT = ProjectorContext("image", (3, 3))
SMALL = GroupedConfig(dim=16, num_heads=2, depths=(2, 1, 1), num_groups=(6, 3), mlp_ratio=2)
QUERIES = ResamplerConfig(num_queries=4, dim=16, num_heads=2, mlp_ratio=2, max_tiles=3)


def _small(kind: Any) -> Projector:
    sizes: Any = {"encoder_dim": 12, "language_dim": 20, "hidden_dim": 8, "separators": 2}
    return build_projector(ProjectorConfig(kind, **sizes, grouped=SMALL, resampler=QUERIES))


def _grouped() -> GroupedProjector:
    return GroupedProjector(ProjectorConfig("grouped", 12, 20, grouped=SMALL))


@pytest.mark.parametrize(
    ("kind", "parameters", "tensors", "outputs"),
    [
        ("linear", 4_198_400, 2, 228),
        ("mlp", 20_979_712, 4, 228),
        ("grouped", 53_144_912, 226, 8),
    ],
)
def test_full_size_counts_are_the_published_ones(
    kind: Any, parameters: int, tensors: int, outputs: int
) -> None:
    with torch.device("meta"):
        projector = build_projector(ProjectorConfig(kind))
    assert sum(parameter.numel() for parameter in projector.parameters()) == parameters
    assert len(projector.state_dict()) == tensors
    for num_tokens in (256, 228) if kind == "grouped" else (228,):
        projected = projector(torch.empty(2, num_tokens, 1024, device="meta"), CONTEXT)
        assert projected.shape == (2, outputs, 4096)
        assert projector.num_outputs(num_tokens) == outputs


def _linear(name: str, *, bias: bool = True) -> Iterator[str]:
    yield f"{name}.weight"
    if bias:
        yield f"{name}.bias"


def _grouped_names() -> set[str]:
    """NExT-GPT v1.5's parameter names, written out from its description."""
    names = {"layers.0.group_token", "layers.1.group_token"}
    for stage, depth in enumerate((6, 3, 3)):
        for block in range(depth):
            start = f"layers.{stage}.blocks.{block}"
            names |= {*_linear(f"{start}.attn.qkv", bias=False)}
            for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
                names |= {*_linear(f"{start}.{part}")}
    for stage in (0, 1):
        start = f"layers.{stage}.downsample"
        attention = [
            f"pre_assign_attn.attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "proj")
        ]
        for part in (
            *("norm_tokens", "mlp_inter.fc1", "mlp_inter.fc2", "norm_post_tokens", "norm_x"),
            *attention,
            *(f"pre_assign_attn.{part}" for part in ("norm2", "mlp.fc1", "mlp.fc2", "norm_post")),
            *(f"assign.{part}" for part in ("q_proj", "k_proj", "v_proj", "proj")),
            *("norm_new_x", "mlp_channels.fc1", "mlp_channels.fc2"),
        ):
            names |= {*_linear(f"{start}.{part}")}
    for part in ("0", "1.fc1", "1.fc2"):
        names |= {*_linear(f"layers.1.group_projector.{part}")}
    for part in ("in_fc", "norm", "out_fc"):
        names |= {*_linear(part)}
    return names


def test_grouped_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        projector = GroupedProjector(ProjectorConfig("grouped"))
    assert len(_grouped_names()) == 226
    assert set(projector.state_dict()) == _grouped_names()


def _groupvit_layer_state(state: dict[str, Tensor], stage: int) -> dict[str, Tensor]:
    """Our names of one stage -> those of transformers' GroupViTStage."""
    renamed: dict[str, Tensor] = {}
    start = f"layers.{stage}."
    for name, tensor in state.items():
        if not name.startswith(start):
            continue
        short = name.removeprefix(start)
        if short.endswith("attn.qkv.weight"):
            block = short.split(".")[1]
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"layers.{block}.self_attn.{part}_proj.weight"] = rows
                renamed[f"layers.{block}.self_attn.{part}_proj.bias"] = torch.zeros(len(rows))
            continue
        short = short.replace("blocks.", "layers.") if short.startswith("blocks.") else short
        if short.startswith("layers."):
            short = short.replace("attn.proj", "self_attn.out_proj")
            short = short.replace("norm1", "layer_norm1").replace("norm2", "layer_norm2")
        short = short.replace("pre_assign_attn.attn.proj", "pre_assign_attn.attn.out_proj")
        renamed[short] = tensor
    return renamed


def test_grouped_stages_equal_transformers_groupvit() -> None:
    from transformers import GroupViTVisionConfig
    from transformers.models.groupvit.modeling_groupvit import GroupViTStage

    torch.manual_seed(3)
    projector = _grouped().eval()
    for parameter in projector.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = GroupViTVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        depths=[2, 1, 1],
        num_hidden_layers=4,
        num_group_tokens=[6, 3, 0],
        num_output_groups=[6, 3, 0],
        num_attention_heads=2,
        assign_mlp_ratio=[0.5, 2],
    )
    features = torch.randn(2, 10, 12)
    with torch.no_grad():
        hidden, groups = projector.in_fc(features), None
        for stage, depth in enumerate(SMALL.depths):
            truth = GroupViTStage(
                config,
                depth=depth,
                num_prev_group_token=SMALL.num_groups[stage - 1] if stage else 0,
                num_group_token=(*SMALL.num_groups, 0)[stage],
                num_output_group=(*SMALL.num_groups, 0)[stage],
            ).eval()
            truth.load_state_dict(_groupvit_layer_state(projector.state_dict(), stage), strict=True)
            hidden, groups = truth(hidden, groups)[:2]
        expected = projector.out_fc(projector.norm(hidden))
        projected = projector(features, CONTEXT)
    torch.testing.assert_close(projected, expected, atol=1e-5, rtol=1e-4)


def test_grouped_draws_while_training_and_is_fixed_in_evaluation() -> None:
    torch.manual_seed(0)
    projector = _small("grouped")
    features = torch.randn(2, 9, 12)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        projected: Tensor = projector(features, CONTEXT)
        return projected

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    projector.eval()
    assert torch.equal(run(1), run(2))


@pytest.mark.parametrize("training", [True, False])
def test_every_token_belongs_to_exactly_one_group(training: bool) -> None:
    torch.manual_seed(0)
    projector = _grouped().train(training)
    assign = projector.layers[0].downsample.assign  # type: ignore[union-attr]
    logits = torch.randn(2, 6, 9, requires_grad=True)
    weights = assign._hard_weights(logits)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 9))
    torch.testing.assert_close(weights.max(dim=1).values, torch.ones(2, 9))
    if not training:
        assert torch.equal(weights.argmax(dim=1), logits.argmax(dim=1))
    (weights * torch.randn_like(weights)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0  # the straight-through gradient


@pytest.mark.parametrize("kind", list(PROJECTORS))
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    torch.manual_seed(0)
    projector = _small(kind)
    for parameter in projector.parameters():
        nn.init.normal_(parameter, std=0.2)
    context = ProjectorContext(
        "video", (3, 3), ((0,), (1,), (2,)), (3, 3, 3), torch.randn(3, 4, 20)
    )
    projected = projector(torch.randn(3, 9, 12), context)
    assert projected.shape == (3, projector.num_outputs(9), 20)
    (projected * torch.randn_like(projected)).sum().backward()
    dead = {
        name
        for name, parameter in projector.named_parameters()
        if parameter.grad is None or parameter.grad.abs().sum() == 0
    }
    told = tuple(f"{name}." for name in projector.without_gradient() if name != "places")
    listed = {name for name, _ in projector.named_parameters() if name.startswith(told)}
    assert dead == {"separators", *(listed if told else ())}  # the merge reads the separators


def test_grouped_tokens_differ_from_one_another_at_the_start() -> None:
    torch.manual_seed(0)
    projected = _small("grouped").eval()(torch.randn(1, 9, 12), CONTEXT)[0]
    distances = torch.cdist(projected, projected) + torch.eye(3) * 9
    assert distances.min() > 1e-3


@pytest.mark.parametrize("kind", list(PROJECTORS))
def test_save_and_load(tmp_path: Path, kind: str) -> None:
    projector = _small(kind).eval()
    save_projector(projector, tmp_path / "projector.safetensors")
    loaded = load_projector(tmp_path / "projector.safetensors", projector.config).eval()
    assert type(loaded) is type(projector)
    assert loaded.config == projector.config
    features = torch.randn(1, 9, 12)
    assert torch.equal(loaded(features, CONTEXT), projector(features, CONTEXT))
    assert torch.equal(loaded.separators, projector.separators)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["projector.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "mlp"}, "projector with type mlp; the file holds one with grouped"),
        ({"encoder_dim": 13}, "projector with encoder_dim 13; the file holds one with 12"),
        ({"language_dim": 9}, "projector with language_dim 9; the file holds one with 20"),
        ({"grouped": GroupedConfig()}, "expected a grouped projector with .*dim=512"),
    ],
)
def test_a_projector_of_another_kind_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    projector = _small("grouped")
    save_projector(projector, tmp_path / "projector.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_projector(tmp_path / "projector.safetensors", replace(projector.config, **change))


def test_files_that_are_no_projector_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "projector.safetensors"
    with pytest.raises(CheckpointError, match="expected a projector's weights; found no such file"):
        load_projector(path)
    path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="expected a whole safetensors file; it is torn"):
        load_projector(path)
    save_file({"layer.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="its type and sizes in the file's metadata"):
        load_projector(path)
    metadata = {"type": "linear", "encoder_dim": 2, "language_dim": 3}
    save_file({"layer.weight": torch.zeros(1)}, path, metadata={"projector": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match=r"1 missing: layer.bias; 1 of another shape"):
        load_projector(path)


def test_wrong_widths_names_and_sizes_are_refused() -> None:
    for projector in map(_small, PROJECTORS):
        with pytest.raises(ValueError, match=r"expected features \[batch, tokens, 12\]; got \[1, "):
            projector(torch.zeros(1, 9, 13), CONTEXT)
    with pytest.raises(ConfigError, match=r"one of linear, patch_linear, .* got 'spiral'"):
        build_projector(ProjectorConfig("spiral"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a positive language_dim; got 0"):
        ProjectorConfig(language_dim=0)
    with pytest.raises(ConfigError, match="dim to be a positive multiple of num_heads; got 10"):
        GroupedConfig(dim=10)
    with pytest.raises(ConfigError, match=r"one more of depths than of num_groups; got \[6, 3, 3"):
        GroupedConfig(num_groups=(64,))
    with pytest.raises(ConfigError, match="expected positive depths, num_groups and mlp_ratio"):
        GroupedConfig(depths=(6, 0, 3))
    with pytest.raises(NotImplementedError, match="Projector does not define project"):
        Projector(ProjectorConfig())(torch.zeros(1, 1, 1024), CONTEXT)
