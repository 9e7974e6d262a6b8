"""`pocket build` on a trial scale: every part trains, the system answers, nothing is redone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyany.errors import UsageError
from anyany.pocket.build import PARTS, BuildSettings, build, merge_adapter, pack, stage_config
from anyany.system import AnyToAny
from anyany.weights import verify

TRIAL = 0.0005  # of all steps: one or a few of each part


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected parts among tokenizer, .*; got 'wings'"):
        build(BuildSettings(tmp_path), only=["wings"])


def test_a_part_says_what_it_stands_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the part tokenizer is missing"):
        build(BuildSettings(tmp_path), only=["language"])
    with pytest.raises(UsageError, match="decoder needs the part system"):
        build(BuildSettings(tmp_path), only=["decoder"])


def test_every_stage_of_pocket_has_its_settings() -> None:
    names = [stage_config(name).name for name in PARTS[PARTS.index("system") + 1 :]]
    assert names == [
        "encoder",
        "decoder",
        "decoder_projectors",
        "instruct",
        "decoder_projectors",
    ]


def test_the_adapter_is_folded_into_what_it_changes(tmp_path: Path) -> None:
    base = {"model.up.weight": torch.randn(3, 4), "model.norm.weight": torch.randn(4)}
    down, up = torch.randn(2, 4), torch.randn(3, 2)
    prefix = "base_model.model.model.up"
    updates = {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
    language = {"source": "language", "lora": {"r": 2, "alpha": 8}}
    (tmp_path / "config.json").write_text(json.dumps({"language": language}))
    for name in ("language", "adapter"):
        (tmp_path / name).mkdir()
    save_file(base, tmp_path / "language" / "model.safetensors", metadata={"format": "pt"})
    save_file(updates, tmp_path / "adapter" / "adapter_model.safetensors")
    merge_adapter(tmp_path)
    merged = load_file(tmp_path / "language" / "model.safetensors")
    torch.testing.assert_close(merged["model.up.weight"], base["model.up.weight"] + 4 * up @ down)
    assert torch.equal(merged["model.norm.weight"], base["model.norm.weight"])
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "language": {"source": "language"}
    }
    assert not (tmp_path / "adapter").exists()
    merge_adapter(tmp_path)  # nothing to do


@pytest.mark.slow
def test_a_trial_build_makes_a_whole_system_and_resumes(tmp_path: Path) -> None:
    settings = BuildSettings(tmp_path, scale=TRIAL, progress=False)
    assert build(settings, only=PARTS[:4]) is None
    before = (settings.component("tokenizer") / "done").stat().st_mtime_ns
    system = build(settings)
    assert system is not None
    assert (settings.component("tokenizer") / "done").stat().st_mtime_ns == before
    packed = pack(system, tmp_path / "packed")
    assert verify(packed) == []
    model = AnyToAny.from_pretrained(packed)
    reply = model.generate("draw a bell", outputs={"image"}, seed=1, num_inference_steps=2)
    assert reply.images[0].image.size == (64, 64)
