"""Loading, counting, hashing, text in and out, and the texts of errors."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from language_toys import (
    SMALL,
    byte_tokenizer,
    prompt_of,
    small_llama,
    toy_model,
    word_tokenizer,
)
from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM

from anyany.errors import CheckpointError, ConfigError
from anyany.language import LanguageConfig, LanguageModel, LoraSettings, SignalSpec

VICUNA_7B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def test_counts_of_nextgpt_on_the_meta_device() -> None:
    model = LanguageModel.from_config(
        LanguageConfig(dtype="float16", template="vicuna_v0", lora=LoraSettings(r=32, alpha=32)),
        VICUNA_7B,
    )
    lora = sum(p.numel() for p in model.adapter.trainable())
    rows = sum(p.numel() for p in model.rows.parameters())
    base = sum(p.numel() for p in model.lm.parameters()) - lora
    assert (base, lora, rows) == (6_738_415_616, 33_554_432, 2 * 36 * 4096)
    assert all(p.device.type == "meta" for p in model.parameters())
    assert model.signals.ids("image")[0] == 32000


def test_saved_and_loaded_from_a_folder(tmp_path: Path) -> None:
    model = toy_model()
    model.save_base(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = LanguageModel.from_pretrained(LanguageConfig(source=str(tmp_path), signals=SMALL))
    assert again.base_hash() == model.base_hash()
    again.rows.load_state_dict(model.rows.state_dict())
    embedded = prompt_of(model, 6, seed=0)[None]
    with torch.no_grad():
        assert torch.equal(again.logits(again(embedded)), model.logits(model(embedded)))
    assert again.encode_text("w1 w2") == model.encode_text("w1 w2") == [7, 8]
    half = LanguageModel.from_pretrained(
        LanguageConfig(source=str(tmp_path), signals=SMALL, dtype="bfloat16")
    )
    assert half.dtype == torch.bfloat16
    assert half.rows.input_rows.dtype == torch.float32
    assert half.embed(torch.tensor([[1, half.vocab_size]])).dtype == torch.bfloat16


def test_padding_changes_nothing() -> None:
    model = toy_model(loudness=1.0)
    short, long = prompt_of(model, 5, seed=1), prompt_of(model, 9, seed=2)
    padded = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True)
    mask = torch.arange(9)[None] < torch.tensor([[5], [9]])
    with torch.no_grad():
        together = model(padded, attention_mask=mask)
        torch.testing.assert_close(together[0, :5], model(short[None])[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together[1], model(long[None])[0], rtol=0, atol=1e-5)


def test_text_goes_in_and_out() -> None:
    tokenizer = byte_tokenizer()
    model = toy_model(small_llama(len(tokenizer)), tokenizer=tokenizer)
    ids = model.encode_text("naïve </s> café")
    assert tokenizer.eos_token_id not in ids
    signals = list(model.signals.span("image"))
    assert model.decode([*ids, *signals, tokenizer.eos_token_id]) == "naïve </s> café"
    assert model.decode(torch.tensor(signals)) == ""
    blank = model.blank_ids
    assert blank[tokenizer.eos_token_id]
    assert not blank[model.encode_text("a")[0]]


def test_nothing_usable_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        LanguageModel.from_pretrained(LanguageConfig(source=str(tmp_path)))
    assert str(error.value).startswith(f"cannot load a language model from {str(tmp_path)!r}:")
    assert "\n" not in str(error.value)
    toy_model().save_base(tmp_path)
    model_file = tmp_path / "model.safetensors"
    torch.save({}, tmp_path / "pytorch_model.bin")
    model_file.unlink()
    with pytest.raises(CheckpointError, match="safetensors weights"):
        LanguageModel.from_pretrained(LanguageConfig(source=str(tmp_path)))


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_quantization_without_its_library_names_the_command() -> None:
    for kind in ("int8", "nf4"):
        with pytest.raises(ConfigError) as error:
            LanguageModel.from_pretrained(LanguageConfig(source="x", quantization=kind))
        assert str(error.value) == (
            f"quantization {kind!r} needs bitsandbytes: pip install 'anyany[quantization]'"
        )


def test_unfit_models_and_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^language\.dtype: expected one of float32, bfloat16"):
        LanguageConfig(dtype="int3")
    with pytest.raises(ConfigError, match=r"^language\.template: expected one of vicuna_v0"):
        LanguageConfig(template="alpaca")
    with pytest.raises(ConfigError, match=r"^language\.quantization: expected one of int8, nf4"):
        LanguageConfig(quantization="int2")
    with pytest.raises(ConfigError, match=r"^the tokenizer has 32 tokens, .* rows for 20$"):
        LanguageModel(small_llama(20), word_tokenizer(), LanguageConfig())
    with pytest.raises(ConfigError, match=r"vocabulary size, got 5$"):
        LanguageModel(
            small_llama(32), word_tokenizer(), LanguageConfig(signals=SignalSpec(first_id=5))
        )
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ConfigError, match=r"mamba takes no .*past_key_values"):
        LanguageModel(mamba, word_tokenizer(), LanguageConfig())
    gemma = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    with pytest.raises(ConfigError, match="gemma2 changes its logits by final_logit_softcapping"):
        LanguageModel(gemma, word_tokenizer(), LanguageConfig())
