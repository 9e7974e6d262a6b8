"""LoRA as a standard peft folder: saved, loaded, merged, and the base untouched."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from language_toys import SMALL, prompt_of, small_llama, toy_model, word_tokenizer

from anyany.errors import CheckpointError, ConfigError, UsageError
from anyany.language import (
    DecodeRequest,
    LanguageConfig,
    LanguageModel,
    LoraAdapter,
    LoraSettings,
    NoAdapter,
    PassLayout,
    generate,
)
from anyany.language.adapters import read_settings

LORA = LoraSettings(r=4, alpha=8, dropout=0.1, target_modules=("q_proj", "v_proj"))


def lora_model() -> tuple[LanguageModel, LoraAdapter]:
    model = toy_model(config=LanguageConfig(signals=SMALL, lora=LORA), loudness=1.0)
    assert isinstance(model.adapter, LoraAdapter)
    return model, model.adapter


def stirred(adapter: LoraAdapter) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in adapter.trainable():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def hidden_of(model: LanguageModel) -> torch.Tensor:
    hidden: torch.Tensor = model(prompt_of(model, 9, seed=1)[None])
    return hidden


def test_install_begins_at_zero_and_keeps_what_trains() -> None:
    plain = toy_model(loudness=1.0)
    model, adapter = lora_model()
    assert torch.equal(hidden_of(model), hidden_of(plain))
    assert model.base_hash() == plain.base_hash()
    assert all(parameter.requires_grad for parameter in model.parameters())
    parameters = list(adapter.trainable())
    assert sum(p.numel() for p in parameters) == 2 * (4 * (32 + 32) + 4 * (32 + 16))
    assert float(adapter.aux()) == 0
    assert not any(module.training for module in model.lm.modules())


def test_a_training_step_moves_lora_alone() -> None:
    model, adapter = lora_model()
    model.requires_grad_(False)
    for parameter in adapter.trainable():
        parameter.requires_grad_(True)
    before = model.base_hash()
    optimizer = torch.optim.AdamW(adapter.trainable(), lr=1e-2)
    hidden = model(prompt_of(model, 9, seed=1)[None])
    hidden.square().sum().backward()
    optimizer.step()
    assert model.base_hash() == before
    assert all(p.grad is not None for p in adapter.trainable())


def test_save_and_load_as_a_peft_folder(tmp_path: Path) -> None:
    from peft import PeftModel

    model, adapter = lora_model()
    stirred(adapter)
    adapter.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert read_settings(tmp_path) == LORA
    other, loaded = lora_model()
    assert not torch.equal(hidden_of(other), hidden_of(model))
    loaded.load(tmp_path)
    assert torch.equal(hidden_of(other), hidden_of(model))
    plain = toy_model(loudness=1.0)
    with warnings.catch_warnings():  # peft asks transformers for a name that it calls deprecated
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        theirs = PeftModel.from_pretrained(plain.lm, str(tmp_path))
    embedded = prompt_of(plain, 9, seed=1)[None]
    with torch.no_grad():
        output = theirs.base_model.model.model(inputs_embeds=embedded)
    assert torch.equal(output.last_hidden_state, hidden_of(model))


def test_loading_is_strict(tmp_path: Path) -> None:
    _, adapter = lora_model()
    with pytest.raises(CheckpointError, match=r"^missing adapter_model\.safetensors in 'nowhere'$"):
        adapter.load(tmp_path / "nowhere")
    adapter.save(tmp_path)
    state = {name: tensor.detach().clone() for name, tensor in adapter.state_dict().items()}
    name = next(iter(state))
    with pytest.raises(CheckpointError, match=r"is \(1, 2\), expected \(4, 32\)$"):
        adapter.load_state_dict({**state, name: torch.zeros(1, 2)})
    del state[name]
    with pytest.raises(CheckpointError, match=rf"1 names differ, first {name}$"):
        adapter.load_state_dict(state)
    path = tmp_path / "adapter_config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "r": 2}))
    with pytest.raises(CheckpointError, match=r"was made as .*r=2.*, expected .*r=4"):
        adapter.load(tmp_path)
    path.write_text(json.dumps({**stored, "peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="expected a plain LoRA"):
        read_settings(tmp_path)
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="is not a peft adapter's configuration"):
        read_settings(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"^missing adapter_config\.json"):
        read_settings(tmp_path)


def test_merge_keeps_the_states_and_unmerge_every_bit() -> None:
    model, adapter = lora_model()
    stirred(adapter)
    before, states = model.base_hash(), hidden_of(model)
    adapter.merge()
    torch.testing.assert_close(hidden_of(model), states, rtol=0, atol=1e-5)
    assert not any("lora" in name for name, _ in model.lm.named_modules())
    with pytest.raises(CheckpointError, match="before LoRA is merged"):
        model.base_hash()
    with pytest.raises(UsageError, match="merged already"):
        adapter.merge()
    adapter.unmerge()
    assert model.base_hash() == before
    assert torch.equal(hidden_of(model), states)
    adapter.merge(keep_base=False)
    with pytest.raises(UsageError, match="keep_base=True"):
        adapter.unmerge()


def test_a_merged_adapter_can_still_be_saved(tmp_path: Path) -> None:
    _, adapter = lora_model()
    stirred(adapter)
    state = {name: tensor.detach().clone() for name, tensor in adapter.state_dict().items()}
    adapter.merge()
    adapter.save(tmp_path)
    _, again = lora_model()
    again.load(tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


def test_errors_of_settings_and_install() -> None:
    with pytest.raises(ConfigError, match=r"^lora\.r: expected a rank of 1 or more, got 0$"):
        LoraSettings(r=0)
    with pytest.raises(ConfigError, match=r"^lora\.dropout"):
        LoraSettings(dropout=1.0)
    with pytest.raises(ConfigError, match=r"^lora\.target_modules: expected at least one"):
        LoraSettings(target_modules=())
    with pytest.raises(ConfigError, match=r"the model has no query, value$"):
        LoraAdapter(LoraSettings(target_modules=("value", "query"))).install(small_llama(20))
    model, adapter = lora_model()
    with pytest.raises(UsageError, match="installed already"):
        adapter.install(model.lm)


class Listening(NoAdapter):
    needs_layout = True

    def __init__(self) -> None:
        self.heard: list[tuple[PassLayout, Any]] = []
        self.forgotten: list[int] = []

    def before(self, layout: Any, visual: Any) -> None:
        self.heard.append((layout, visual))

    def reset(self, rows: Sequence[int]) -> None:
        self.forgotten.extend(rows)


def test_an_adapter_is_told_of_every_pass() -> None:
    model = toy_model(tokenizer=word_tokenizer())
    listening = Listening()
    model.adapter = listening
    request = DecodeRequest(
        prompt_of(model, 5, seed=3),
        outputs={"image", "text"},
        max_new_tokens=12,
        layout="the layout",
        visual="the picture",
    )
    decoded = generate(model, [request])[0]
    first, *later = listening.heard
    assert first[0] == PassLayout((0,), (0,), 5, ("the layout",))
    assert first[1] == ("the picture",)
    widths = [layout.width for layout, _ in later]
    assert widths.count(4) == sum(len(span.ids) == 4 for span in decoded.spans)
    assert all(len(layout.rows) == 8 for layout, _ in later if layout.width == 1)
    assert listening.forgotten == [0]
    steps = [layout.starts[0] for layout, _ in later if layout.width == 1]
    assert steps == sorted(steps)
