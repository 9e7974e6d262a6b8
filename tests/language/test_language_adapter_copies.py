"""Adapted language models copied, saved without their adapter, and asked for a second one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from bridge_toys import KINDS, SETTINGS, logits_of, toy_bridge

from anyany.errors import CheckpointError, UsageError
from anyany.language import LanguageConfig, LanguageModel, LoraAdapter, LoraSettings
from anyany.language.adapters import ADAPTERS, HookedAdapter


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_after_a_pass_is_a_model_of_its_own(kind: str) -> None:
    bridge = toy_bridge(kind, stir=True)
    with torch.no_grad():
        before = logits_of(bridge)
    logits_of(bridge).sum().backward()  # type: ignore[no-untyped-call]
    again = copy.deepcopy(bridge)
    with torch.no_grad():
        assert torch.equal(logits_of(again), before)
        for parameter in again.language.adapter.trainable():
            parameter.add_(0.3)
        assert not torch.equal(logits_of(again), before)
        assert torch.equal(logits_of(bridge), before)


def test_a_second_adapter_is_refused() -> None:
    lm = toy_bridge("experts").language.lm
    second = ADAPTERS["gated_attention"](SETTINGS["gated_attention"])
    assert isinstance(second, HookedAdapter)
    with pytest.raises(UsageError, match="has the adapter experts already, beside which there is"):
        second.install(lm)


def test_the_base_is_saved_as_it_was_before_lora(tmp_path: Path) -> None:
    bridge = toy_bridge("lora", LoraSettings(r=2))
    model = bridge.language
    adapter = model.adapter
    assert isinstance(adapter, LoraAdapter)
    plain = toy_bridge().language
    with torch.no_grad():
        for parameter in adapter.trainable():
            parameter.add_(0.1)
    model.save_base(tmp_path / "apart")
    adapter.merge()
    model.save_base(tmp_path / "merged")
    for name in ("apart", "merged"):
        config = LanguageConfig(source=str(tmp_path / name), signals=model.config.signals)
        assert LanguageModel.from_pretrained(config).base_hash() == plain.base_hash()
    adapter.unmerge()
    adapter.merge(keep_base=False)
    with pytest.raises(CheckpointError, match="the base is gone"):
        model.save_base(tmp_path / "gone")
