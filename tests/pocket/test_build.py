"""`pocket build` on a trial scale: every part trains, the system answers, nothing is redone."""

from pathlib import Path

import pytest

from anyany.errors import UsageError
from anyany.pocket.build import PARTS, BuildSettings, build, pack, stage_config
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
