"""Every stage through `run_stage`: what trains, what stays, that it learns, and that it resumes."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stage_toys import describing, drawing, editing, toy_parts
from torch import Tensor
from toy_task import curve

from anyany.alignment.freezing import trainable_table
from anyany.alignment.samples import ListSource
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stages import TRAINABLE, StageConfig, StageName, run_stage
from anyany.alignment.train_config import TrainConfig
from anyany.alignment.trainer import TrainResult
from anyany.errors import ConfigError, RefusedError, UsageError
from anyany.language import LoraAdapter, LoraSettings

LORA = LoraSettings(r=2, alpha=4, dropout=0.1)
TRAIN = TrainConfig(steps=25, batch_size=4, lr=3e-2, log_every=1, save_seconds=0, threads=1)
SOURCES = {
    "encoder": describing,
    "decoder": drawing,
    "decoder_projectors": drawing,
    "instruct": editing,
}
STAGES: tuple[StageName, ...] = ("encoder", "decoder", "decoder_projectors", "instruct")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(name: StageName, **train: object) -> StageConfig:
    return StageConfig(
        name,
        dataclasses.replace(TRAIN, **train),  # type: ignore[arg-type]
        losses=LossWeights(condition=0.0 if name == "encoder" else 4.0),
        lora=LORA,
    )


def run(
    parts: StageParts, stage: StageConfig, folder: Path, source: ListSource | None = None
) -> TrainResult:
    source = source or SOURCES[stage.name]()
    return run_stage(parts.bridge, parts.output_projectors, parts.decoders, source, stage, folder)


def tensors(parts: StageParts) -> dict[str, Tensor]:
    """Copies under the names of a system that never had LoRA."""
    return {
        name.replace(".base_layer.", "."): tensor.clone()
        for name, tensor in parts.module().state_dict().items()
    }


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_changes_what_it_trains_and_not_a_bit_of_the_rest(
    name: StageName, tmp_path: Path
) -> None:
    parts = toy_parts()
    before, base = tensors(parts), parts.bridge.language.base_hash()
    run(parts, config(name, steps=6), tmp_path)
    after = tensors(parts)
    changed = {n for n in after if n not in before or not torch.equal(before[n], after[n])}
    expected = {
        name
        for name in after
        for part in TRAINABLE[name_of(tmp_path)]
        if (".lora_" in name if part == "lora" else name.startswith(f"{part}."))
    }
    assert changed == expected
    assert parts.bridge.language.base_hash() == base
    assert parts.bridge.language.lm.get_input_embeddings().weight.shape[0] == 30
    rows = {row.part: row.trainable for row in trainable_table(parts.module())}
    assert rows["encoders"] == 0
    assert rows["language_model"] == (224 if name == "instruct" else 0)
    assert (rows["signal_rows"] == 2 * 5 * 16) == (name in ("decoder", "instruct"))


def name_of(folder: Path) -> str:
    return str(json.loads((folder / "stage.json").read_text())["name"])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_learns(name: StageName, tmp_path: Path) -> None:
    run(toy_parts(), config(name, ema=0.9), tmp_path)
    lines = curve(tmp_path, "train")
    first, last = float(str(lines[0]["loss"])), float(str(lines[-1]["loss"]))
    assert last < 0.75 * first, (first, last)


def test_a_stopped_stage_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = toy_parts()
    run(whole, config("instruct", steps=4), tmp_path / "whole")
    for step in range(1, 5):
        parted = toy_parts()  # what a new process would build
        torch.manual_seed(step)
        result = run(parted, config("instruct", steps=4, time_limit=0.0), tmp_path / "parted")
        assert result.step == step
    one, other = tensors(whole), tensors(parted)
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert curve(tmp_path / "whole") == curve(tmp_path / "parted")


def test_the_average_is_what_a_stage_ends_with(tmp_path: Path) -> None:
    averaged, newest = toy_parts(), toy_parts()
    run(averaged, config("decoder", steps=5, ema=0.9), tmp_path / "ema")
    run(newest, config("decoder", steps=5), tmp_path / "newest")
    one, other = (p.bridge.language.rows.input_rows for p in (averaged, newest))
    assert not torch.equal(one, other)
    run(averaged, config("decoder", steps=5, ema=0.9), tmp_path / "ema")
    assert torch.equal(one, averaged.bridge.language.rows.input_rows)


def test_evaluation_measures_the_validation_loss_and_draws(tmp_path: Path) -> None:
    drawn: list[Path] = []

    def draw(folder: Path) -> dict[str, float]:
        drawn.append(folder)
        return {"right": 0.5}

    parts = toy_parts()
    run_stage(
        parts.bridge,
        parts.output_projectors,
        parts.decoders,
        drawing(),
        config("decoder", steps=4, evaluate_every=2),
        tmp_path,
        validation=editing(),
        sample_media=draw,
    )
    lines = curve(tmp_path, "evaluate")
    assert [line["step"] for line in lines] == [2, 4]
    assert [folder.name for folder in drawn] == ["step-2", "step-4"]
    assert lines[0]["right"] == 0.5
    assert {"validation_loss", "validation_signal", "validation_condition_audio"} <= set(lines[0])


def test_a_folder_keeps_to_its_stage(tmp_path: Path) -> None:
    parts = toy_parts()
    run(parts, config("decoder", steps=1), tmp_path)
    with pytest.raises(RefusedError, match="other settings of name, trainable"):
        run(parts, config("instruct", steps=1), tmp_path)


def test_lora_is_put_in_once_and_must_agree(tmp_path: Path) -> None:
    parts = toy_parts()
    run(parts, config("instruct", steps=1), tmp_path / "a")
    adapter = parts.bridge.language.adapter
    assert isinstance(adapter, LoraAdapter)
    assert parts.bridge.language.config.lora == LORA
    adapter.merge()
    run(parts, config("instruct", steps=1), tmp_path / "b")
    assert parts.bridge.language.adapter is adapter
    assert not adapter.merged
    other = dataclasses.replace(config("instruct", steps=1), lora=LoraSettings(r=3))
    with pytest.raises(ConfigError, match="the stage asks for"):
        run(parts, other, tmp_path / "c")


def test_configs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="only output_projectors can train"):
        StageConfig("decoder_projectors", TRAIN, trainable=("signal_rows",))
    with pytest.raises(ConfigError, match="lr_scales"):
        StageConfig("encoder", TRAIN, lr_scales={"lora": 2.0})
    with pytest.raises(ConfigError, match="not all 0"):
        LossWeights(text=0, signal=0, condition=0)


def test_learning_rates_of_parts_are_scaled(tmp_path: Path) -> None:
    parts = toy_parts()
    still = dataclasses.replace(
        config("instruct", steps=2), lr_scales={"output_projectors": 0.0, "lora": 0.0}
    )
    before = tensors(parts)
    run(parts, still, tmp_path)
    after = tensors(parts)
    moved = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
    assert moved == {"input_projectors", "signal_rows"}


def test_a_stage_without_anything_to_learn_says_so(tmp_path: Path) -> None:
    parts = toy_parts()
    wrong = StageConfig("decoder_projectors", TRAIN, losses=LossWeights(condition=0.0))
    with pytest.raises(UsageError, match="nothing to learn"):
        run(parts, wrong, tmp_path)
