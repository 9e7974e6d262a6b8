"""The gallery: prompts of a seeded list, compact sheets, and lines for a page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_pocket import fresh_pocket
from PIL import Image

from anyany import AnyToAny
from anyany.cli import main
from anyany.decoders import DecoderPresets, DecoderSettings
from anyany.errors import UsageError
from anyany.pocket.evaluate_kinds import KINDS, Kind
from anyany.pocket.gallery import (
    BEGIN,
    END,
    MAX_BYTES,
    compact_png,
    gallery_markdown,
    gallery_prompts,
    make_gallery,
    update_page,
)
from anyany.pocket.sounds import Sound
from anyany.pocket.stills import spectrogram, still, strip
from anyany.pocket.synthesis import render_sound

ONCE = DecoderSettings(num_inference_steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def fresh() -> Iterator[AnyToAny]:
    with fresh_pocket() as model:
        for decoder in model.decoders.values():
            decoder.presets = DecoderPresets(reference=ONCE, fast=ONCE)
        yield model


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.modality)
def test_prompts_are_the_first_of_one_list_all_held_out(kind: Kind) -> None:
    prompts = gallery_prompts(kind, 0, 12)
    assert prompts == gallery_prompts(kind, 0, 40)[:12]
    assert prompts != gallery_prompts(kind, 1, 12)
    assert len({prompt for _, prompt in prompts}) == 12
    for subject, prompt in prompts:
        assert subject.held_out
        assert kind.read(prompt) == subject
    first = [subject for subject, _ in gallery_prompts(kind, 0, 8)]
    assert len(set(first)) == 8


def test_every_modality_has_its_sheet_and_its_lines(fresh: AnyToAny, tmp_path: Path) -> None:
    sheets = make_gallery(fresh, tmp_path / "docs" / "gallery", number=3)
    assert [sheet.path.name for sheet in sheets] == ["pictures.png", "clips.png", "sounds.png"]
    sizes = {"image": (6 * 68 - 4, 64), "video": (512, 3 * 68 - 4), "audio": (3 * 204 - 4, 64)}
    for sheet in sheets:
        assert sheet.path.stat().st_size <= MAX_BYTES[sheet.modality]
        with Image.open(sheet.path) as picture:
            width, height = sizes[sheet.modality]
            assert picture.size in ((width, height), (width // 2, height // 2))
    text = gallery_markdown(sheets, beside=tmp_path)
    lines = text.splitlines()
    assert "![clips](docs/gallery/clips.png)" in lines
    for sheet in sheets:
        for number, exhibit in enumerate(sheet.exhibits, start=1):
            assert f"{number}. {exhibit.prompt} {'✓' if exhibit.right else '✗'}" in lines
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    update_page(page, sheets)
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{text}\n{END}\nafter\n"


def test_all_sheets_together_are_small() -> None:
    assert sum(MAX_BYTES.values()) < 150_000


def test_a_system_that_makes_nothing_is_refused(fresh: AnyToAny, tmp_path: Path) -> None:
    mute = AnyToAny(fresh.config, fresh.bridge, {}, {})
    with pytest.raises(UsageError, match="expected a system that makes media"):
        make_gallery(mute, tmp_path)


def test_a_sheet_keeps_as_many_colors_as_fit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    whole = compact_png(picture, 10**6)
    fewer = compact_png(picture, len(whole) - 1)
    half = compact_png(picture, 1)
    assert len(whole) > len(fewer) > len(half)
    sides = []
    for content in (whole, fewer, half):
        with Image.open(io.BytesIO(content)) as read:
            sides.append(read.width)
    assert sides == [128, 128, 64]


def test_a_rare_color_survives_a_noisy_ground() -> None:
    ground = np.random.default_rng(0).integers(225, 256, (256, 256, 3), dtype=np.uint8)
    ground[100:112, 100:112] = (220, 20, 30)
    content = compact_png(Image.fromarray(ground), 40_000)
    assert len(content) <= 40_000
    with Image.open(io.BytesIO(content)) as read:
        seen = np.asarray(read.convert("RGB").resize((256, 256)), dtype=int)
    assert np.abs(seen[103:109, 103:109] - (220, 20, 30)).max() < 24


def test_media_become_still_pictures() -> None:
    picture = Image.new("RGB", (64, 64), "red")
    assert still(picture) is picture
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    assert strip(frames).size == (512, 64)
    assert np.array_equal(np.asarray(still(frames))[:, 64:128], frames[1])
    high, low = (spectrogram(render_sound(Sound("horn", "once", p))) for p in ("high", "low"))
    assert high.size == (200, 64)
    middle = [np.asarray(one.convert("L"), float)[:, 20:30].mean(1) for one in (high, low)]
    rows = [float((level * np.arange(64)).sum() / level.sum()) for level in middle]
    assert rows[0] < rows[1]  # high tones stand above low ones
    with pytest.raises(ValueError, match=r"expected frames \[F, H, W, 3\] or samples"):
        still(np.zeros((2, 3)))


def test_the_verb_makes_the_picture_sheet_of_the_shipped_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"{BEGIN}{END}", encoding="utf-8")
    before = torch.get_num_threads()
    arguments = ["pocket", "gallery", "-o", "docs/gallery", "--n", "2", "--update-readme"]
    assert main(["-q", *arguments, "--threads", "1"]) == 0
    torch.set_num_threads(before)
    printed = capsys.readouterr().out
    assert "![pictures](docs/gallery/pictures.png)" in printed
    assert printed.strip() in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "docs" / "gallery" / "pictures.png").stat().st_size <= MAX_BYTES["image"]
