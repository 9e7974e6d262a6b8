"""Stores of tensors, and what is computed once through them."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_toys import FakeDecoder, drawing, editing, picture, toy_parts
from torch import Tensor

from anyany.alignment.caches import DiskStore, MemoryStore, TensorStore, hash_tensors
from anyany.alignment.order import Draws
from anyany.alignment.precomputed import (
    ConditionTargets,
    EncodedMedia,
    SignalStates,
    language_hash,
)
from anyany.alignment.samples import MediaFile, MediaTarget
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stage_tasks import ProjectorTask
from anyany.bridges import Layout
from anyany.errors import MediaError, UsageError
from anyany.language import LoraAdapter, LoraSettings


class Counting(MemoryStore):
    """A store that counts what it found."""

    def __init__(self) -> None:
        super().__init__()
        self.hits = 0

    def get(self, key: str) -> dict[str, Tensor] | None:
        found = super().get(key)
        self.hits += found is not None
        return found


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_is_put_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    store: TensorStore = MemoryStore() if kind == "memory" else DiskStore(tmp_path)
    entry = {"a": torch.randn(2, 3), "b": torch.tensor([1, 2]), "c": torch.ones(1).bfloat16()}
    store.put("key", entry)
    kept = {name: tensor.clone() for name, tensor in entry.items()}
    entry["a"].zero_()
    for _ in range(2):
        found = store.get("key")
        assert found is not None
        assert all(torch.equal(found[n], kept[n]) and found[n].dtype == kept[n].dtype for n in kept)
        store.flush()
    assert store.get("other") is None


def test_memory_keeps_no_more_than_it_may() -> None:
    store = MemoryStore(max_bytes=40)
    for number in range(5):
        store.put(str(number), {"a": torch.ones(4)})
    assert [store.get(str(number)) is not None for number in range(5)] == [True, True] + [False] * 3


def test_shards_are_found_again_and_hold_many_entries(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, shard_bytes=100)
    for number in range(10):
        store.put(f"k{number}", {"a": torch.full((4,), float(number))})
    store.flush()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not list(tmp_path.glob(".*"))
    again = DiskStore(tmp_path)
    assert len(again) == 10
    found = again.get("k7")
    assert found is not None
    assert torch.equal(found["a"], torch.full((4,), 7.0))


@pytest.mark.parametrize("damage", ["flip", "tear", "index", "lose"])
def test_a_damaged_shard_is_named_and_its_entries_are_gone(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path)
    store.put("key", {"a": torch.randn(1000)})
    store.flush()
    (shard,), (index,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[-77] ^= 1
        shard.write_bytes(data)
    elif damage == "tear":
        shard.write_bytes(data[:-8])
    elif damage == "lose":
        shard.unlink()
    else:
        index.write_text(index.read_text().replace("key", "kez"))
    with caplog.at_level(logging.WARNING):
        again = DiskStore(tmp_path)
        assert again.get("key") is None
    assert "damaged" in caplog.text
    again.put("key", {"a": torch.ones(1)})
    assert again.get("key") is not None


def test_hashes_tell_names_types_shapes_and_values_apart() -> None:
    a = torch.tensor([1.0, 2.0])
    variants = [{"a": a}, {"b": a}, {"a": a[:, None]}, {"a": a.double()}, {"a": a + 1}]
    variants += [{"a": a.view(torch.int32)}]
    assert len({hash_tensors(one) for one in variants}) == len(variants)
    assert hash_tensors({"a": a.clone()}) == hash_tensors({"a": a})


def test_media_are_encoded_once_per_content_and_encoder(tmp_path: Path) -> None:
    parts, store = toy_parts(), Counting()
    encoded = EncodedMedia(parts.bridge, store)
    first = encoded(picture("red"))
    picture("red").image.save(tmp_path / "red.png")
    file = MediaFile("image", tmp_path / "red.png")
    second, third = encoded(file), encoded(file)
    assert store.hits == 2
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.tokens, third.tokens)
    assert (first.grid, first.positions) == (third.grid, third.positions) == ((2, 2), (None,))
    encoded(picture("blue"))
    assert len(store) == 2
    with torch.no_grad():
        for parameter in parts.bridge.encoders["image"].parameters():
            parameter.mul_(1.5)
    other = EncodedMedia(parts.bridge, store)(picture("red"))
    assert len(store) == 3
    assert not torch.equal(first.tokens, other.tokens)
    picture("green").image.save(tmp_path / "red.png")  # the file is another one now
    assert not torch.equal(encoded(file).tokens, first.tokens)
    with pytest.raises(MediaError):
        encoded(MediaFile("image", tmp_path / "lost.png"))


def test_captions_are_encoded_once_per_text_encoder() -> None:
    specs, store = toy_parts().specs, MemoryStore()
    for salt, asked in (("", 1), ("", 0), ("other weights", 1)):
        decoder = FakeDecoder("image", salt)
        targets = ConditionTargets({"image": decoder}, specs, store)
        for _ in range(2):
            targets(MediaTarget("image", "a red bell"))
        assert decoder.asked.count("a red bell") == asked
    with pytest.raises(UsageError, match="no audio decoder is there"):
        targets(MediaTarget("audio", "a drum"))


def first_layout(parts: StageParts) -> tuple[Layout, dict[int, Tensor]]:
    sample = editing().samples[0]
    encoded = EncodedMedia(parts.bridge, None)
    media = {
        index: parts.bridge.project(encoded(part))
        for index, part in ((0, picture("red")), (2, sample.messages[2].parts[1]))
        if part.modality != "text"
    }
    return parts.bridge.layout(sample.messages, media, training=True), media


def test_signal_states_hit_until_anything_changes() -> None:
    parts, store = toy_parts(), Counting()
    with torch.no_grad():
        layout, media = first_layout(parts)
        computed = SignalStates(parts.bridge, store)(layout, media)
        again = SignalStates(parts.bridge, store)(layout, media)
        assert store.hits == 1
        assert {i: rows.shape for i, rows in computed.items()} == {1: (3, 16), 3: (2, 16)}
        assert all(torch.equal(computed[index], again[index]) for index in (1, 3))

        parts.bridge.language.rows.output_rows[4, 0] += 1e-3  # one number of one signal row
        SignalStates(parts.bridge, store)(layout, media)
        media[0][0, 0] += 1
        SignalStates(parts.bridge, store)(layout, media)
        draw = drawing().samples[0]
        SignalStates(parts.bridge, store)(parts.bridge.layout(draw.messages, {}, training=True), {})
        language = parts.bridge.language
        language.adapter = LoraAdapter(LoraSettings(r=2))
        language.adapter.install(language.lm)
        SignalStates(parts.bridge, store)(layout, media)
        language.lm.get_input_embeddings().weight[0, 0] += 1
        SignalStates(parts.bridge, store)(layout, media)
    assert store.hits == 1
    assert len(store) == 6


def test_the_language_hash_names_weights_rows_and_prompt_style() -> None:
    one, other = toy_parts(), toy_parts()
    assert language_hash(one.bridge) == language_hash(other.bridge)
    other.bridge.language.template = other.bridge.language.template.__class__(
        **{**vars(other.bridge.language.template), "media_gap": " "}
    )
    assert language_hash(one.bridge) != language_hash(other.bridge)


def test_words_alone_are_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = toy_parts()
    task = ProjectorTask(parts, drawing(), LossWeights(condition=1.0), store=MemoryStore())
    original, written = parts.bridge.layout, []

    def layout(messages: Any, media: Any, *, training: bool = False) -> Layout:
        written.append(messages)
        return original(messages, media, training=training)

    monkeypatch.setattr(parts.bridge, "layout", layout)
    indices = list(range(6))
    losses = []
    for _ in range(2):
        draws = Draws(0, "loss", epochs=[0] * 6, indices=indices)
        losses.append(task.loss(task.batch(indices, draws), draws).total)
    assert torch.equal(losses[0], losses[1])
    assert len(written) == 6  # six different conversations, each once
    shown = editing().samples[0]
    layouts = [task._layout(one, {}) for one in drawing().samples]
    truth = [original(one.messages, {}, training=True) for one in drawing().samples]
    for ours, true in zip(layouts, truth, strict=True):
        assert torch.equal(ours.token_ids, true.token_ids)
        assert (ours.spans, ours.slots) == (true.spans, true.slots)
    media = {0: torch.zeros(1, 16), 2: torch.zeros(1, 16)}
    assert task._layout(shown, media) is not task._layout(shown, media)  # media are never kept
