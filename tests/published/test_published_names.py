"""The published names at full size, on the meta device; and the tokenizer's pieces."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from published_toys import PIECES, pieces, write_sentencepiece

from anyany.errors import CheckpointError
from anyany.published.components import condition_of
from anyany.published.layouts import Slot, canonical, expected_slots
from anyany.published.vocabulary import read_vocabulary, write_tokenizer
from anyany.system_config import load_system_config


def full(system: str, generation: str, *, merged: bool = False) -> dict[str, Slot]:
    config = load_system_config(system)
    conditions = {m: condition_of(m, entry, None) for m, entry in config.decoders.items()}
    return expected_slots(
        config,
        "v0" if generation == "v0" else "v1.5",
        conditions,
        lora=None if merged else config.language.lora,
        merged=merged,
        tower=merged,
    )


def total(slots: dict[str, Slot], *parts: str) -> int:
    return sum(math.prod(slot.shape) for slot in slots.values() if slot.part in parts)


def test_v0_has_the_published_files_numbers() -> None:
    slots = full("nextgpt-7b-v0", "v0")
    everything = {slot.part for slot in slots.values()}
    assert 2 * total(slots, *everything) == 792_091_136  # bytes of the published file's halves
    prefix = "llama_model.base_model.model."
    shapes = {key: slot.shape for key, slot in slots.items()}
    assert shapes[f"{prefix}model.embed_tokens.weight"] == (32038, 4096)
    assert shapes[f"{prefix}lm_head.weight"] == (32038, 4096)
    assert shapes[f"{prefix}model.layers.31.self_attn.o_proj.lora_A.weight"] == (32, 4096)
    assert shapes[f"{prefix}model.layers.0.self_attn.q_proj.lora_B.weight"] == (4096, 32)
    assert shapes["llama_proj.weight"] == (4096, 1024)
    assert shapes["gen_text_hidden_fcs.0.query_embs"] == (1, 77, 512)
    assert shapes["gen_text_hidden_fcs.0.model.weight"] == (768, 512)
    assert shapes["gen_text_hidden_fcs_video.0.model.weight"] == (1024, 512)
    assert shapes["gen_text_hidden_fcs_audio.0.query_embs"] == (1, 1, 512)
    assert shapes["gen_text_hidden_fcs_audio.0.tfm.encoder.layers.3.self_attn.in_proj_weight"] == (
        1536,
        512,
    )
    assert shapes["gen_text_hidden_fcs_video.0.fc.bias"] == (512,)
    assert len(slots) == 2 + 256 + 2 + 3 * 129


def test_v15_has_the_published_numbers() -> None:
    slots = full("nextgpt-7b-v1.5", "v1.5")
    counts = {part: sum(s.part == part for s in slots.values()) for part in ("input", "audio")}
    assert counts == {"input": 226, "audio": 129}
    assert total(slots, "input") == 53_144_912
    assert total(slots, "lora") == 319_815_680
    assert slots["model.embed_tokens.weight"].shape == (32036, 4096)
    merged = full("nextgpt-7b-v1.5", "v1.5", merged=True)
    assert total(merged, "encoder") > 1_200_781_057  # and its buffers
    assert total(merged, "base") + 2 * 32000 * 4096 == 6_738_415_616
    assert merged["model.multimodal_tower.multimodal_tower.modality_heads.vision.2.weight"]


@pytest.mark.parametrize(
    ("generation", "key", "name"),
    [
        ("v0", "llama_model.lm_head.weight", "llama_model.base_model.model.lm_head.weight"),
        (
            "v0",
            "llama_model.base_model.model.model.layers.0.q.lora_A.default.weight",
            "llama_model.base_model.model.model.layers.0.q.lora_A.weight",
        ),
        ("v1.5", "base_model.model.model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("v1.5", "base_model.model.lm_head.weight", "lm_head.weight"),
        ("v1.5", "model.model.mm_input_projector.norm.bias", "model.mm_input_projector.norm.bias"),
        ("v1.5", "model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_spellings(generation: str, key: str, name: str) -> None:
    assert canonical(key, "v0" if generation == "v0" else "v1.5") == name


def test_both_tokenizer_files_give_the_same_pieces(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    write_sentencepiece(tmp_path)
    first = read_vocabulary(tmp_path, PIECES)
    assert first is not None
    assert list(first.pieces) == [piece for piece, _ in pieces()]
    write_tokenizer(tmp_path / "fast", first, ("<Img>",))
    second = read_vocabulary(tmp_path / "fast", PIECES)
    assert second is not None
    assert second.sha256 == first.sha256
    assert second.added == {"<Img>": PIECES}
    assert set(second.merges) == set(first.merges)
    tokenizer = Tokenizer.from_file(str(tmp_path / "fast" / "tokenizer.json"))
    assert tokenizer.encode("the ant", add_special_tokens=False).tokens == ["▁the", "▁an", "t"]
    assert tokenizer.encode("é").tokens == ["▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("the é in").ids) == "the é in"


def test_other_tokenizers_are_refused(tmp_path: Path) -> None:
    assert read_vocabulary(tmp_path, PIECES) is None
    write_sentencepiece(tmp_path)
    with pytest.raises(CheckpointError, match="tokenizer of 400 pieces"):
        read_vocabulary(tmp_path, 400)
    whole = (tmp_path / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        read_vocabulary(tmp_path, PIECES)
