"""The sample scripts run, and the sample media are what their manifest says."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from anyany.media import read_audio, read_provenance, read_video
from anyany.pocket.captions import canonical_caption
from anyany.pocket.check import all_right, score_image
from anyany.pocket.check_clip import score_clip
from anyany.pocket.check_sound import score_sound
from anyany.pocket.clips import Clip, canonical_clip_caption
from anyany.pocket.sounds import Sound, canonical_sound_caption
from anyany.pocket.world import THINGS, Scene

SAMPLES: Final = Path(__file__).resolve().parents[2] / "samples"
MANIFEST: Final = json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))


def script(name: str) -> Callable[[Sequence[str]], int]:
    """The `main` of a sample script."""
    spec = importlib.util.spec_from_file_location(f"samples_{name}", SAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[Sequence[str]], int] = module.main
    return main


def test_the_pictures_are_what_the_manifest_says() -> None:
    rows = MANIFEST["images"]
    assert {row["scene"]["thing"] for row in rows} == set(THINGS)
    assert {row["file"] for row in rows} == {
        str(path.relative_to(SAMPLES)) for path in (SAMPLES / "images").iterdir()
    }
    for row in rows:
        path, scene = SAMPLES / row["file"], Scene(**row["scene"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        assert row["held_out"] == scene.held_out
        assert row["caption"] == canonical_caption(scene)
        with Image.open(path) as picture:
            assert all_right(score_image(picture.convert("RGB"), scene)), row["file"]


def test_the_clips_are_what_the_manifest_says() -> None:
    rows = MANIFEST["videos"]
    assert {row["clip"]["thing"] for row in rows} == set(THINGS)
    for row in rows:
        path, clip = SAMPLES / row["file"], Clip(**row["clip"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        assert row["held_out"] == clip.held_out
        assert row["caption"] == canonical_clip_caption(clip)
        assert all_right(score_clip(read_video(path).frames, clip)), row["file"]


def test_the_sounds_are_what_the_manifest_says() -> None:
    rows = MANIFEST["audio"]
    assert {row["sound"]["thing"] for row in rows} == set(THINGS)
    for row in rows:
        path, sound = SAMPLES / row["file"], Sound(**row["sound"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        assert row["held_out"] == sound.held_out
        assert row["caption"] == canonical_sound_caption(sound)
        assert all_right(score_sound(read_audio(path).waveform[0], sound)), row["file"]


def test_make_renders_them_again(tmp_path: Path) -> None:
    assert script("make")(["--out", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    for kind in ("images", "videos", "audio"):
        assert [row["caption"] for row in made[kind]] == [row["caption"] for row in MANIFEST[kind]]
    for row in MANIFEST["images"]:
        with Image.open(tmp_path / row["file"]) as new, Image.open(SAMPLES / row["file"]) as old:
            np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
    for row in MANIFEST["audio"]:
        new_sound, old_sound = read_audio(tmp_path / row["file"]), read_audio(SAMPLES / row["file"])
        np.testing.assert_allclose(new_sound.waveform, old_sound.waveform, atol=1e-3)


def test_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("api")(["--out", str(tmp_path), "--steps", "2"]) == 0
    drawn = read_provenance(tmp_path / "drawn" / "image_0.png")
    assert drawn is not None
    assert (drawn.prompt, drawn.seed) == ("draw a small red bell on the left", 7)
    changed = read_provenance(tmp_path / "changed" / "image_0.png")
    assert changed is not None
    assert changed.inputs == () or changed.inputs[0].modality == "image"
    assert "about bell.png ->" in capsys.readouterr().out


def test_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("batch")(["--out", str(tmp_path), "--steps", "2", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [Path(row["file"]).stem for row in MANIFEST["images"][:2]]
    assert [line.partition(":")[0] for line in lines] == [n for n in names for _ in range(2)]
    assert all((tmp_path / name / "image_0.png").is_file() for name in names)


def test_batch_goes_on_after_a_bad_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {**MANIFEST["images"][0], "file": "torn.png"}
    (tmp_path / "torn.png").write_bytes((SAMPLES / "images" / "bell.png").read_bytes()[:200])
    (tmp_path / "manifest.json").write_text(json.dumps({"images": [row]}))
    given = ["--manifest", str(tmp_path / "manifest.json"), "--out", str(tmp_path), "--steps", "2"]
    assert script("batch")(given) == 3
    failed, drawn = capsys.readouterr().out.splitlines()
    assert failed.startswith("torn: failed: ")
    assert drawn.endswith("image_0.png")


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--out", str(tmp_path), "--steps", "2", "--pictures", "8"]
    assert script("train")(given) == 0
    assert capsys.readouterr().out.startswith("finished after step 2: loss ")
    assert (tmp_path / "system" / "input_projector" / "shared.safetensors").is_file()
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
