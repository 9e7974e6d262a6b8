"""FSDP2: two processes share frozen layers; shard_runner.py does the work in a fresh process."""

import dataclasses
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from omegaconf import OmegaConf
from stage_toys import drawing, toy_parts
from toy_task import CONFIG, ToyTask

from anyany.alignment.ranks import Ranks
from anyany.alignment.sharding import launched_settings
from anyany.alignment.stages import StageConfig, run_stage
from anyany.alignment.train_config import TrainConfig
from anyany.alignment.trainer import train
from anyany.errors import UsageError

HERE = Path(__file__).parent
HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
LAUNCHED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, HERE / "shard_runner.py", tmp_path_factory.mktemp("shards")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("case", ["instruct", "partial", "evaluated", "words"])
def test_two_sharded_processes_are_one(found: dict[str, Any], case: str) -> None:
    one, *two = found[case]["reports"]
    assert one["moved"] > 1e-2
    assert max(found[case]["apart"]) <= 1e-6
    alone, shared = found[case]["losses"]
    assert len(alone) == one["steps"] > 1
    assert shared == pytest.approx(alone, abs=1e-6)
    assert found[case]["weights"][0] == found[case]["weights"][1]
    assert one["shares"] == [1.0] * one["steps"]
    for report in two:
        assert all(0.45 < share < 0.55 for share in report["shares"]), report["shares"]
        assert len(report["shares"]) == one["steps"]
        assert report["plain"]  # what trains is whole in every process


@pytest.mark.parametrize("case", ["instruct", "partial", "evaluated", "words"])
def test_nothing_is_left_of_it_when_the_run_ends(found: dict[str, Any], case: str) -> None:
    bases = {report["base"] for report in found[case]["reports"]}
    assert len(bases) == 1  # every process holds the whole base again
    assert [report["left"] for report in found[case]["reports"]] == [[], [], []]


def test_an_evaluation_sees_a_plain_model(found: dict[str, Any]) -> None:
    alone, shared = found["evaluated"]["checked"]
    assert [line["step"] for line in alone] == [1, 2]
    assert [line["base"] for line in shared] == [line["base"] for line in alone]
    losses = [[line["validation_loss"] for line in lines] for lines in (alone, shared)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_one_process_has_nothing_to_share(tmp_path: Path) -> None:
    parts = toy_parts()
    settings = TrainConfig(steps=1, batch_size=2, threads=1, sharding="fsdp2")
    stage = StageConfig("decoder", settings)
    source = drawing()
    run_stage(parts.bridge, parts.output_projectors, parts.decoders, source, stage, tmp_path)
    assert not any("FSDP" in type(m).__name__ for m in parts.bridge.language.lm.modules())


def test_a_task_without_a_language_model_is_refused(tmp_path: Path) -> None:
    sharded = dataclasses.replace(CONFIG, sharding="fsdp2")
    with pytest.raises(UsageError, match=r"train\.sharding: .* ToyTask has none to spread"):
        train(ToyTask(), sharded, tmp_path)
    parts = toy_parts()
    system = (parts.bridge, parts.output_projectors, parts.decoders)
    stage = StageConfig("decoder_projectors", TrainConfig(steps=1, sharding="fsdp2"))
    with pytest.raises(UsageError, match="ProjectorTask has none"):
        run_stage(*system, drawing(), stage, tmp_path / "projectors")
    with pytest.raises(UsageError, match="expected sharding none or fsdp2, got 'fsdp'"):
        TrainConfig(steps=1, sharding="fsdp")  # type: ignore[arg-type]


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for environ in ({}, {"WORLD_SIZE": "1", "RANK": "0"}):
        for name in ("WORLD_SIZE", "RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with Ranks.launched() as ranks:
            assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
            assert not dist.is_initialized()


def test_accelerate_s_environment_asks_for_it() -> None:
    config = TrainConfig(steps=1)
    assert launched_settings(config, {}) == config
    assert launched_settings(config, {**LAUNCHED, "ACCELERATE_USE_FSDP": "false"}) == config
    assert launched_settings(config, LAUNCHED) == dataclasses.replace(config, sharding="fsdp2")
    halved = launched_settings(config, {**LAUNCHED, "ACCELERATE_MIXED_PRECISION": "bf16"})
    assert (halved.sharding, halved.autocast) == ("fsdp2", "bfloat16")


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("FSDP_VERSION", "1", "expected fsdp_version: 2; got '1'"),
        ("FSDP_OFFLOAD_PARAMS", "true", "expected fsdp_offload_params: false; got 'true'"),
        ("FSDP_RESHARD_AFTER_FORWARD", "FULL_SHARD", "fsdp_reshard_after_forward: true"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing: false"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "expected mixed_precision: no or bf16; got 'fp16'"),
    ],
)
def test_what_it_does_not_do_is_refused(variable: str, value: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        launched_settings(TrainConfig(steps=1), {**LAUNCHED, variable: value})


def test_the_shipped_config_is_one_that_is_followed() -> None:
    path = files("anyany") / "configs" / "accelerate" / "fsdp2.yaml"
    shipped: Any = OmegaConf.create(path.read_text(encoding="utf-8"))
    assert shipped["distributed_type"] == "FSDP"
    environ = {key.upper(): str(value).lower() for key, value in shipped["fsdp_config"].items()} | {
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_MIXED_PRECISION": shipped["mixed_precision"],
    }
    assert launched_settings(TrainConfig(steps=1), environ).sharding == "fsdp2"


@pytest.mark.slow
def test_accelerate_launch_trains_pocket(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    config = str(files("anyany") / "configs" / "accelerate" / "fsdp2.yaml")
    data = tmp_path / "own.jsonl"
    data.write_text("\n".join(json.dumps({"messages": HELLO}) for _ in range(6)))
    options = {"steps": 2, "batch_size": 2, "evaluate_every": 2, "log_every": 1}
    settings = [f"train.{key}={value}" for key, value in options.items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", config),
            *("--main_process_port", "0", "-m", "anyany", "train", "instruct", *settings),
            *("--data", str(data), "--threads", "1", "--output", str(tmp_path / "run")),
        ],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=580,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(tmp_path / "run" / "system")]  # the first process alone
    assert (tmp_path / "run" / "system" / "manifest.json").is_file()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 2]
