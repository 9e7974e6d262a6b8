"""Stages with the adapters that hang beside the language model."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_toys import describing, picture, toy_parts

from anyany.alignment.caches import MemoryStore
from anyany.alignment.precomputed import EncodedMedia, language_hash
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stages import StageConfig, run_stage
from anyany.alignment.train_config import TrainConfig
from anyany.alignment.trainer import TrainResult
from anyany.bridges import Bridge, BridgeConfig, Encoded
from anyany.encoders import (
    EncoderAdapterConfig,
    TilerConfig,
    adapter_parameters,
    adapter_state,
    base_state,
)
from anyany.errors import ConfigError
from anyany.language import (
    ExpertsSettings,
    GatedAttentionSettings,
    HookedAdapter,
    LanguageModel,
    ModalityAdapterSettings,
    ModalityExpertSettings,
)

SETTINGS: dict[str, Any] = {
    "gated_attention": GatedAttentionSettings(ffn_dim=16),
    "modality_adapter": ModalityAdapterSettings(r=2),
    "modality_expert": ModalityExpertSettings(),
    "experts": ExpertsSettings(num=2, top_k=1, balance=0.5),
}


def parts_with(kind: str) -> StageParts:
    parts = toy_parts()
    old = parts.bridge.language
    config = dataclasses.replace(old.config, **{kind: SETTINGS[kind]})
    torch.manual_seed(1)
    language = LanguageModel(old.lm, old.tokenizer, config)
    bridge = Bridge(dict(parts.bridge.encoders.items()), language, parts.bridge.config)  # type: ignore[arg-type]
    return dataclasses.replace(parts, bridge=bridge)


def run(parts: StageParts, folder: Path, *trainable: Any, again: bool = False) -> TrainResult:
    config = StageConfig(
        "encoder",
        TrainConfig(steps=3, batch_size=4, lr=3e-2, log_every=1, threads=1),
        trainable=trainable,
        losses=LossWeights(condition=0.0),
        gradient_checkpointing=again,
    )
    return run_stage(
        parts.bridge, parts.output_projectors, parts.decoders, describing(), config, folder
    )


@pytest.mark.parametrize("kind", list(SETTINGS))
@pytest.mark.parametrize("again", [False, True])
def test_a_stage_trains_adapter_and_projector_alone(kind: str, again: bool, tmp_path: Path) -> None:
    parts = parts_with(kind)
    language = parts.bridge.language
    adapter = language.adapter
    assert isinstance(adapter, HookedAdapter)
    base, key = language.base_hash(), language_hash(parts.bridge)
    before = {n: p.detach().clone() for n, p in adapter.named_parameters()}
    result = run(parts, tmp_path, "input_projectors", "adapter", again=again)
    assert result.step == 3
    assert language.base_hash() == base
    assert language_hash(parts.bridge) != key
    moved = [n for n, p in adapter.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) // 3
    assert not any(module.training for module in adapter.modules())
    logged = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert any("adapter" in key for key in logged) == (kind == "experts")


def test_lora_has_no_place_beside_another_adapter(tmp_path: Path) -> None:
    parts = parts_with("experts")
    with pytest.raises(ConfigError, match=r"^lora: the language model has experts, beside which"):
        run(parts, tmp_path, "lora")


def parts_with_encoder_adapter(kind: str) -> StageParts:
    parts = toy_parts()
    bridge = parts.bridge
    config = BridgeConfig(
        bridge.config.projector,
        tilers={"image": TilerConfig("grid")},
        encoder_adapter=EncoderAdapterConfig(kind, r=2),  # type: ignore[arg-type]
    )
    torch.manual_seed(1)
    adapted = Bridge(dict(bridge.encoders.items()), bridge.language, config)  # type: ignore[arg-type]
    return dataclasses.replace(parts, bridge=adapted)


@pytest.mark.parametrize(
    ("kind", "part"), [("tile_lora", "tile_lora"), ("routed", "routed_adapter")]
)
def test_a_stage_trains_what_hangs_in_the_encoders(kind: str, part: str, tmp_path: Path) -> None:
    parts = parts_with_encoder_adapter(kind)
    encoders = parts.bridge.encoders
    before = {n: t.clone() for n, t in adapter_state(encoders).items()}
    base = {n: t.clone() for n, t in base_state(encoders).items()}
    assert before
    result = run(parts, tmp_path, "input_projectors", part)
    assert result.step == 3
    moved = [n for n, t in adapter_state(encoders).items() if not torch.equal(t, before[n])]
    assert len(moved) > len(before) // 2
    assert all(torch.equal(t, base[n]) for n, t in base_state(encoders).items())


def test_kept_features_are_those_of_the_readout_and_the_adapter() -> None:
    store = MemoryStore(1 << 20)
    made: list[torch.Tensor] = []
    for kind in ("none", "routed"):
        for readout in ("patches", "penultimate"):
            parts = parts_with_encoder_adapter(kind)
            bridge = parts.bridge.requires_grad_(False)
            encoder: Any = bridge.encoders["image"]
            encoder.readout = readout
            for parameter in adapter_parameters(bridge.encoders):
                torch.nn.init.constant_(parameter, 0.3)
            kept = EncodedMedia(bridge, store)
            first, second = kept(picture("red")), kept(picture("red"))
            assert isinstance(first, Encoded)
            assert isinstance(second, Encoded)
            assert torch.equal(first.tokens, second.tokens)
            made.append(first.tokens)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(made, 2))
