"""What `pocket build` writes at a stage's evaluations."""

from pathlib import Path

import pytest
import torch
from fresh_pocket import fresh_pocket
from PIL import Image

from anyany import AnyToAny
from anyany.decoders import DecoderPresets, DecoderSettings
from anyany.media import read_audio
from anyany.pocket import stage_samples


def test_held_out_scenes_are_drawn_and_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_samples, "NUM_SAMPLES", {"image": 3, "video": 1, "audio": 1})
    before = torch.get_num_threads()
    model = AnyToAny.from_pretrained("pocket", device="cpu", threads=1)

    figures = stage_samples.world_samples(model, draws=True, describes=True)(tmp_path)
    torch.set_num_threads(before)

    assert {"image_made", "image_described"} < set(figures)
    assert all(0 <= share <= 1 for share in figures.values())
    assert {"described.txt", "image.png"} < {path.name for path in tmp_path.iterdir()}
    with Image.open(tmp_path / "image.png") as grid:
        assert grid.size == (8 * 64, 64)
    lines = (tmp_path / "described.txt").read_text().splitlines()
    assert len(lines) == 5
    assert all(line.startswith("a ") and " -> " in line for line in lines[:3])


def test_every_modality_leaves_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_samples, "NUM_SAMPLES", {"image": 2, "video": 2, "audio": 2})
    monkeypatch.setattr(stage_samples, "_BUDGET", 16)
    once = DecoderSettings(num_inference_steps=1)
    with fresh_pocket() as model:
        for decoder in model.decoders.values():
            decoder.presets = DecoderPresets(reference=once, fast=once)
        figures = stage_samples.world_samples(model, draws=True, describes=True)(tmp_path)
        seen = stage_samples.world_samples(model, draws=False, describes=True)
        drawn = stage_samples.world_samples(model, draws=True, describes=False)
        assert set(seen(tmp_path / "seen")) == {f"{m}_described" for m in model.decoders}
        assert set(drawn(tmp_path / "drawn")) == {f"{m}_made" for m in model.decoders}

    assert set(figures) == {
        f"{modality}_{what}"
        for modality in ("image", "video", "audio")
        for what in ("made", "described")
    }
    sizes = {"image": (512, 64), "video": (512, 128), "audio": (800, 64)}
    for modality, size in sizes.items():
        with Image.open(tmp_path / f"{modality}.png") as sheet:
            assert sheet.size == size
    for number in range(2):
        recording = read_audio(tmp_path / f"audio_{number:02}.wav")
        assert recording.waveform.shape == (1, 32_000)
    said = [line.split(" -> ")[0] for line in (tmp_path / "described.txt").read_text().splitlines()]
    assert len(said) == 6
    assert sum("sound" in line for line in said) == 2
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["described.txt"]
    assert not (tmp_path / "drawn" / "described.txt").exists()
