"""The evaluation of the shipped system, at a small size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyany.cli import main
from anyany.decoders import DecoderPresets, DecoderSettings, part_generator, to_pil
from anyany.errors import UsageError
from anyany.pocket.captions import parse_caption
from anyany.pocket.check import check_image
from anyany.pocket.evaluate import Evaluation, EvaluationConfig, evaluate
from anyany.pocket.evaluate_cases import draw_cases, edit_cases
from anyany.pocket.evaluate_kinds import KINDS
from anyany.pocket.evaluate_rows import rows_for
from anyany.pocket.figures import figures_markdown
from anyany.pocket.report import report_html
from anyany.pocket.world import Scene
from anyany.system import AnyToAny

IMAGE = KINDS["image"]
PICTURE_ROWS = ["checker", "vae", "direct", "reference", "chain", "caption", "describe", "edit"]
CONFIG = EvaluationConfig(num_items=8, seed=5, micro_batch=8, rows=tuple(PICTURE_ROWS))
PRESETS = DecoderPresets(  # few steps: what is tested is the book-keeping, not the pictures
    reference=DecoderSettings(num_inference_steps=3, guidance_scale=2.0),
    fast=DecoderSettings(num_inference_steps=2, guidance_scale=2.0, scheduler="dpmpp_2m"),
    default="fast",
)


@pytest.fixture(scope="module")
def model() -> Iterator[AnyToAny]:
    threads = torch.get_num_threads()
    loaded = AnyToAny.from_pretrained("pocket", device="cpu", threads=1)
    loaded.decoders["image"].presets = PRESETS
    yield loaded
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def evaluation(model: AnyToAny, told: list[tuple[str, int, int]]) -> Evaluation:
    return evaluate(model, CONFIG, progress=lambda *event: told.append(event))


def test_every_row_has_its_items(
    model: AnyToAny, evaluation: Evaluation, told: list[tuple[str, int, int]]
) -> None:
    assert list(evaluation.rows) == list(evaluation.results["rows"]) == PICTURE_ROWS
    measurable = rows_for(list(model.bridge.modalities), list(model.decoders))
    assert evaluation.results["measurable"] == measurable
    for name, row in evaluation.rows.items():
        number = 32 if name == "checker" else 8
        assert len(row.items) == evaluation.results["rows"][name]["n"] == number
        assert [event for event in told if event[0] == name][-1] == (name, number, number)
        if name != "checker":
            assert len({item.pair for item in row.items}) == 8


def test_true_renders_are_right(evaluation: Evaluation) -> None:
    assert min(evaluation.results["rows"]["checker"]["attributes"].values()) >= 0.96
    assert evaluation.results["rows"]["checker"]["all"] >= 0.9


def test_direct_pictures_come_from_captions_and_seeds_alone(
    model: AnyToAny, evaluation: Evaluation
) -> None:
    cases = draw_cases(IMAGE, 8, "held-out", 5)
    decoder = model.decoders["image"]
    made = decoder.decode_batch(
        decoder.encode_captions([case.words for case in cases]),
        [part_generator(case.seed, "image", 0) for case in cases],
        batch_invariant=False,
        micro_batch=8,
    )
    for item, case, picture in zip(
        evaluation.rows["direct"].items, cases, to_pil(made), strict=True
    ):
        assert item.made is not None
        assert np.abs(np.asarray(item.made, int) - np.asarray(picture, int)).max() <= 1
        assert (item.truth, item.prompt, item.group) == (case.target, case.words, case.group)
        assert item.seen == check_image(item.made)


def test_the_chain_draws_the_same_cases_from_the_same_noise(
    model: AnyToAny, evaluation: Evaluation
) -> None:
    cases = draw_cases(IMAGE, 8, "held-out", 5)
    row = evaluation.rows["chain"]
    prompt = f"draw {cases[0].words}"
    reply = model.generate(prompt, outputs={"text", "image"}, seed=cases[0].seed)
    item = row.items[0]
    assert item.prompt == prompt
    assert item.reply == reply.text
    assert item.made is not None
    difference = np.abs(np.asarray(item.made, int) - np.asarray(reply.images[0].image, int))
    assert difference.max() <= 2
    truths = [item.truth for item in row.items]
    for name in ("direct", "reference", "caption"):
        assert [item.truth for item in evaluation.rows[name].items] == truths


def test_descriptions_are_scored_by_what_they_say(evaluation: Evaluation) -> None:
    for item in evaluation.rows["describe"].items:
        assert isinstance(item.truth, Scene)
        assert item.truth.held_out
        assert item.shown is not None
        assert check_image(item.shown) == item.truth
        assert item.seen == (parse_caption(item.reply) or Scene())


def test_edits_are_scored_against_the_target(evaluation: Evaluation) -> None:
    cases = edit_cases(8, "held-out", 5)
    row = evaluation.rows["edit"]
    changed = 0
    for item, case in zip(row.items, cases, strict=True):
        assert (item.truth, item.group) == (case.target, case.group)
        assert isinstance(case.source, Scene)
        assert item.pair == (case.source.thing, case.source.color)
        changed += item.right[case.group]
    assert row.extras["the asked attribute changed"] == changed / 8
    by_group = evaluation.results["rows"]["edit"]["groups"]
    assert sum(group["n"] for group in by_group.values()) == 8


def test_results_say_what_was_measured_and_with_what(
    model: AnyToAny, evaluation: Evaluation
) -> None:
    results = json.loads(json.dumps(evaluation.results))
    assert results["model"] == {"name": "pocket", "sha256": model.model_sha256}
    assert results["config"]["num_items"] == 8
    assert results["engine"]["batch_invariant"] is False
    assert results["engine"]["micro_batch"] == 8
    assert results["presets"]["image"]["fast"]["num_inference_steps"] == 2
    assert set(results["comparisons"]) == {
        "chain / direct",
        "caption / direct",
        "chain / caption",
        "direct - reference",
    }
    pictures = figures_markdown(results).splitlines()[: 2 + len(PICTURE_ROWS)]
    assert not [line for line in pictures if "not measured" in line]
    assert "<h2>image → text</h2>" in report_html(evaluation)


def test_the_model_keeps_its_own_settings(model: AnyToAny, evaluation: Evaluation) -> None:
    assert model.settings.batch_invariant is True
    assert model.settings.micro_batch is None


def test_rows_can_be_chosen(model: AnyToAny) -> None:
    config = replace(CONFIG, num_items=2, rows=("vae", "checker"), split="seen")
    results = evaluate(model, config).results
    assert list(results["rows"]) == ["checker", "vae"]
    assert results["comparisons"] == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_items": 0}, "expected 1 to 100000 items a row; got 0"),
        ({"num_video": 0}, "expected 1 to 100000 items a row; got 0"),
        ({"seed": -1}, "expected a seed from 0"),
        ({"split": "test"}, "expected a split among held-out, seen; got 'test'"),
        ({"rows": ("direct", "colour")}, "expected rows among checker.*got 'colour'"),
        ({"micro_batch": 0}, "expected a micro-batch of 1 or more"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(CONFIG, **change)


def test_a_row_that_the_system_lacks_is_refused(model: AnyToAny) -> None:
    drawing = {"image": model.decoders["image"]}, {"image": model.output_projectors["image"]}
    system = AnyToAny(model.config, model.bridge, *drawing)  # type: ignore[arg-type]
    config = replace(CONFIG, rows=("direct", "video.direct"))
    with pytest.raises(
        UsageError, match=r"among checker, .*as pocket has them; got 'video\.direct'"
    ):
        evaluate(system, config)


def test_a_system_that_cannot_draw_is_refused(model: AnyToAny) -> None:
    blind = AnyToAny(model.config, model.bridge, {}, {})
    with pytest.raises(UsageError, match="expected a system that sees and makes"):
        evaluate(blind, CONFIG)


def test_the_verb_writes_its_files_and_prints_the_table(
    tmp_path: Path,
    model: AnyToAny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("anyany.cli.loading.load_system", lambda source, **_: model)
    monkeypatch.chdir(tmp_path)
    assert main(["-q", "evaluate", "--n", "2", "--rows", "checker,describe", "-o", "out"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == figures_markdown(results) + "\n"
    items = (tmp_path / "out" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["row"] for line in items] == ["checker"] * 8 + ["describe"] * 2
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").startswith("<!doctype")
    (tmp_path / "README.md").write_text("<!-- figures:begin --><!-- figures:end -->")
    again = ["-q", "evaluate", "--from", "out/results.json", "--json", "--update-readme"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert figures_markdown(results) in (tmp_path / "README.md").read_text(encoding="utf-8")

    for row in ("checker", "describe"):  # in two processes, on two machines of one kind
        assert main(["-q", "evaluate", "--n", "2", "--rows", row, "-o", row]) == 0
    apart = [x for row in ("checker", "describe") for x in ("--from", f"{row}/results.json")]
    capsys.readouterr()
    assert main(["-q", "evaluate", *apart, "--json"]) == 0
    together = json.loads(capsys.readouterr().out)
    assert together["config"] == results["config"]
    for name, row in together["rows"].items():
        assert {**row, "seconds": 0} == {**results["rows"][name], "seconds": 0}
    assert main(["-q", "evaluate", *apart, "--from", "out/results.json"]) == 2
    assert "the row checker is in two of the files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "direct,colour"], "expected rows among"),
        (["--from", "missing.json"], "--from: expected a results.json; got missing.json"),
        (["--from", "other.json"], "--from: expected results of anyany evaluate; got other.json"),
    ],
)
def test_the_verb_names_what_is_wrong(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    assert main(["-q", "evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
