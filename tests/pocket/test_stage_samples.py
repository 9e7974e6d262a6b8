"""What `pocket build` writes at a stage's evaluations."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from anyany import AnyToAny
from anyany.pocket import stage_samples


def test_held_out_scenes_are_drawn_and_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_samples, "NUM_SAMPLES", 3)
    before = torch.get_num_threads()
    model = AnyToAny.from_pretrained("pocket", device="cpu", threads=1)

    figures = stage_samples.world_samples(model, draws=True, describes=True)(tmp_path)
    torch.set_num_threads(before)

    assert set(figures) == {"drawn", "described"}
    assert all(0 <= share <= 1 for share in figures.values())
    with Image.open(tmp_path / "drawn.png") as grid:
        assert grid.size == (8 * 64, 64)
    lines = (tmp_path / "described.txt").read_text().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("a ") and " -> " in line for line in lines)
