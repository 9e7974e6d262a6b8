"""`anyany train`: settings, data, samples at evaluations, and the tuned system in its folder."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

from anyany.alignment.samples import ListSource, MediaFile, MediaTarget, Sample, turn
from anyany.alignment.stages import TRAINABLE, StageConfig
from anyany.alignment.trainer import TrainResult
from anyany.cli import train as verb
from anyany.errors import ConfigError, MediaError, UsageError
from anyany.messages import Message, Reply, TextPart


class Toy:
    """What `train` asks of a system."""

    bridge, decoders, output_projectors = "bridge", {"image": "decoder"}, nn.ModuleDict()
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.asked: list[Sequence[Message]] = []

    def generate(self, messages: Sequence[Message], *, seed: int) -> Reply:
        if not messages[0].text:
            raise MediaError("missing", "gone.png: no such file")
        self.asked.append(messages)
        return Reply((TextPart(f"reply {seed}"),), "", seed, {})

    def save_pretrained(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        return folder


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    model = Toy()
    monkeypatch.setattr(verb, "load_system", lambda source, **options: model)
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What `run_stage` was called with."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(*args: Any, **options: Any) -> TrainResult:
        seen.append((args, options))
        return TrainResult("finished", 5, 0, {})

    monkeypatch.setattr("anyany.alignment.stages.run_stage", run)
    return seen


@pytest.fixture
def data(tmp_path: Path) -> Path:
    row = {"messages": [{"role": "user", "content": "hello"},
                        {"role": "assistant", "content": "hi"}]}  # fmt: skip
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row))
    return path


def test_a_stage_runs_on_own_data_and_the_system_is_written(
    toy: Toy,
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb.train(
        "encoder",
        ["train.steps=5", "losses.signal=0.0"],
        data=[str(data)],
        validation=[str(data)],
        output=tmp_path / "run",
        threads=1,
    )
    ((args, options),) = calls
    bridge, _, decoders, source, config, folder = args
    assert (bridge, decoders, folder) == ("bridge", {"image": "decoder"}, tmp_path / "run")
    assert source.num_samples == options["validation"].num_samples == 1
    assert (config.name, config.train.steps, config.losses.signal) == ("encoder", 5, 0.0)
    assert (config.train.device, config.train.threads) == ("cpu", 1)
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "system")


def test_pocket_s_world_is_a_source(
    toy: Toy, calls: list[tuple[tuple[Any, ...], dict[str, Any]]], tmp_path: Path, data: Path
) -> None:
    verb.train("decoder", config="pocket-projectors", data=["world"], output=tmp_path / "run")
    (((_, _, _, source, config, _), _),) = calls
    assert config.name == "decoder_projectors"
    assert isinstance(source.sample(3, 0).targets[0], MediaTarget)
    with pytest.raises(UsageError, match="got both"):
        verb.train("encoder", data=["world", str(data)])


def test_an_interrupted_run_ends_with_its_code(
    toy: Toy, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = TrainResult("SIGINT", 2, 0, {})
    monkeypatch.setattr("anyany.alignment.stages.run_stage", lambda *_, **__: stopped)
    with pytest.raises(typer.Exit) as caught:
        verb.train("encoder", data=[str(data)], output=tmp_path / "run")
    assert caught.value.exit_code == 130
    assert not (tmp_path / "run").exists()


def test_mistakes_are_named(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data to learn from"):
        verb.train("encoder", output=tmp_path)
    with pytest.raises(UsageError, match="the config is of stage instruct"):
        verb.train("encoder", config="pocket-instruct", output=tmp_path)
    with pytest.raises(ConfigError, match=r"one of nextgpt-decoder, .*; got 'pocket'"):
        verb.load_stage("pocket")
    with pytest.raises(ConfigError, match=r"nearest valid key: 'train.steps'"):
        verb.load_stage("pocket-encoder", ["train.step=5"])


def test_samples_are_answered_and_those_that_cannot_be_are_named(
    toy: Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Sample((turn("user", "draw"), turn("assistant", MediaTarget("image", "a bell"))))
    gone = MediaFile("image", tmp_path / "gone.png")
    lost = Sample((turn("user", gone, "what is it?"), turn("assistant", "a bell")))
    figures = verb.draw_samples(toy, ListSource([asked, lost]))(tmp_path)  # type: ignore[arg-type]
    assert figures == {}
    assert [[one.text for one in messages] for messages in toy.asked] == [["draw"]]
    assert json.loads((tmp_path / "sample-0" / "reply.json").read_text())["seed"] == 0
    assert "sample 1" in caplog.text


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (files("anyany") / "configs" / "stages").iterdir())
)
def test_every_shipped_stage_trains_its_own_parts(name: str) -> None:
    config = verb.load_stage(name.removesuffix(".yaml"))
    assert isinstance(config, StageConfig)
    assert config.parts == TRAINABLE[config.name]
    path = Path(str(files("anyany") / "configs" / "stages" / name))
    assert path.read_text().startswith("# anyany ")
    assert verb.load_stage(str(path)) == config
