"""Bridges really trained on the pocket world: they see, and the papers' claims hold.

Three recipes by default; all of them, and the claims, with `-m slow` (some minutes a core).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compared import MARGIN, resized, sees, single_view, toy_data, trained

from anyany.bridges import user_media
from anyany.bridges.recipe import load_recipe, recipe_names
from anyany.cli import main
from anyany.language.adapters.experts import Experts
from anyany.messages import ImagePart
from anyany.pocket import compare as comparison
from anyany.pocket.bridge_features import MediaFeatures, encode_together
from anyany.pocket.bridge_host import Host, make_host, text_lessons
from anyany.pocket.bridge_measures import shuffled
from anyany.pocket.bridge_run import RunSettings, begin, train_bridge
from anyany.pocket.bridge_training import CompareData

FORGETS_NOTHING = ("cogvlm", "flamingo", "lavin")
STEPS = 80


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The frozen parts; the small language model learns its lessons once for all tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_host(tmp_path_factory.mktemp("host"), steps=200)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def captions() -> CompareData:
    return toy_data("captions")


def test_the_command_trains_three_bridges(
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(comparison, "make_host", lambda *_, **__: host)
    monkeypatch.setattr(comparison, "pocket_data", lambda *_: toy_data("captions", train=512))
    arguments = ["compare", "--bridges", "llava,blip2,flamingo", "--seeds", "1", "--steps", "60"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    for name in ("llava", "blip2", "flamingo"):
        one = results["bridges"][name]
        figures = {key: f["mean"] for key, f in one["figures"].items() if f is not None}
        assert figures["loss"] < one["floor"] - MARGIN, (name, figures)
        assert figures["shuffled"] > figures["loss"] + MARGIN, (name, figures)
        assert [step for step, _, _ in one["curves"][0]] == list(range(6, 61, 6))
        assert f"| {name} |" in table
    assert results["bridges"]["llava"]["figures"]["trainable"]["mean"] == 128 * 64 + 64
    assert results["bridges"]["llava"]["figures"]["tokens"]["mean"] == 16


def test_media_encoded_together_are_the_same(host: Host, captions: CompareData) -> None:
    for name in ("llava", "monkey", "llava-uhd"):
        task, _ = begin(load_recipe(name), host, captions, 0)
        parts = [
            part
            for sample in (*captions.train.samples[:2], *toy_data("wide", train=2).train.samples)
            for part in sample.messages[0].parts
            if isinstance(part, ImagePart)
        ]
        task.bridge.eval()
        prepared = [task.bridge.prepare(part) for part in parts]
        with torch.no_grad():
            alone = [task.bridge.encode(one) for one in prepared]
            together = encode_together(task.bridge, prepared)
        for one, other in zip(alone, together, strict=True):
            assert one.shape == other.shape
            for link, same in zip(one.links, other.links, strict=True):
                torch.testing.assert_close(link.tokens, same.tokens, rtol=1e-4, atol=1e-5)


def test_features_are_kept_only_of_frozen_encoders(host: Host, captions: CompareData) -> None:
    task, _ = begin(load_recipe("llava"), host, captions, 0)
    part = captions.train.samples[0].messages[0].parts[0]
    assert isinstance(part, ImagePart)
    kept = MediaFeatures(task.bridge, learns=False)
    assert kept([part])[0] is kept([part])[0]
    yi, _ = begin(load_recipe("yi-vl"), host, captions, 0)
    assert yi.features.learns
    assert yi.features([part])[0].tokens.requires_grad


def test_shuffled_media_come_from_the_next_conversation(captions: CompareData) -> None:
    moved = shuffled(captions.fresh).samples
    for number, sample in enumerate(moved):
        other = captions.fresh.samples[(number + 1) % len(moved)]
        assert sample.messages[0].parts[0] is other.messages[0].parts[0]
        assert sample.messages[1] is captions.fresh.samples[number].messages[1]


def test_a_file_of_ones_own_is_compared_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for number, sample in enumerate(toy_data("captions", train=6, held_out=1).train.samples):
        part = sample.messages[0].parts[0]
        assert isinstance(part, ImagePart)
        part.image.save(tmp_path / f"{number}.png")
        asked = [{"type": "image", "path": f"{number}.png"}, {"type": "text", "text": "what?"}]
        answer = sample.messages[1].text
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["--bridges", "llava", "--seeds", "1", "--steps", "2", "--data", str(path)]
    assert main(["compare", *arguments, "-o", str(tmp_path / "out")]) == 0
    table = capsys.readouterr().out
    assert "never shown" not in table
    assert "text before" not in table
    assert "own.jsonl; 1 seed" in table
    (one,) = json.loads((tmp_path / "out" / "results.json").read_text())["bridges"].values()
    assert one["floor"] is None
    assert one["figures"]["loss"]["mean"] > 0
    assert one["curves"][0][-1][0] == 2


def test_plain_text_has_its_share(host: Host, captions: CompareData) -> None:
    task, _ = begin(load_recipe("lavin"), host, captions, 0)
    samples = [task.source.sample(place, 0) for place in range(1000)]
    plain = [sample for sample in samples if not user_media(sample.messages)]
    assert len(plain) == 250
    assert len({sample.messages[0].text for sample in plain}) > 200  # no few ones again and again
    measured = {sample.messages[0].text for sample in text_lessons().samples}
    assert not measured & {sample.messages[0].text for sample in plain}
    for data, name in ((replace(captions, lessons=None), "lavin"), (captions, "llava")):
        task, _ = begin(load_recipe(name), host, data, 0)
        assert task.source is captions.train


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", recipe_names())
def test_every_bridge_sees(name: str, host: Host, captions: CompareData, tmp_path: Path) -> None:
    result = trained(name, host, captions, tmp_path, STEPS)
    sees(result, captions.floor)
    if name in FORGETS_NOTHING:
        assert result.text_before is not None
        assert result.text_after is not None
        assert result.text_after < result.text_before + 0.02


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cogvlm_forgets_no_bit_of_text(host: Host, captions: CompareData, tmp_path: Path) -> None:
    result = trained("cogvlm", host, captions, tmp_path, 30)
    assert result.text_after == result.text_before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_instructblip_beats_blip2_at_two_tokens(host: Host, tmp_path: Path) -> None:
    data = toy_data("questions")
    asked = trained(resized("instructblip", 2), host, data, tmp_path, STEPS)
    blind = trained(resized("blip2", 2), host, data, tmp_path, STEPS)
    assert asked.tokens == blind.tokens == 2
    sees(asked, data.floor)
    assert asked.loss < blind.loss


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", ["detail", "wide"])
@pytest.mark.parametrize("name", ["llava-next", "llava-uhd"])
def test_tiles_beat_a_single_view(name: str, task: str, host: Host, tmp_path: Path) -> None:
    data = toy_data(task, train=512)
    cut = trained(name, host, data, tmp_path, STEPS)
    single = trained(single_view(name), host, data, tmp_path, STEPS)
    sees(cut, data.floor)
    assert cut.loss < single.loss - 0.05, (cut.loss, single.loss)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_experts_do_not_collapse(host: Host, captions: CompareData, tmp_path: Path) -> None:
    """Every expert keeps a share of the tokens that is worth having."""
    task, recipe = begin(load_recipe("moe-llava"), host, captions, 0)
    train_bridge(task, recipe, RunSettings(steps=STEPS), STEPS, 0, tmp_path / "run")
    (mixture,) = [part for part in task.module.modules() if isinstance(part, Experts)]
    used = torch.zeros(mixture.settings.num)

    def count(_module: torch.nn.Module, _inputs: object, scores: torch.Tensor) -> None:
        chosen = scores.topk(mixture.settings.top_k, dim=-1).indices
        used.add_(torch.bincount(chosen.flatten(), minlength=len(used)))

    mixture.router.register_forward_hook(count)
    task.loss_on(captions.fresh)
    shares = used / used.sum()
    assert shares.min() > 0.25 / len(used), shares
