"""Runs that are cut short go on; what they left is checked before it is used."""

import dataclasses
import fcntl
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_task import CONFIG, Linear, ToyTask, curve, same, weights

from anyany.alignment import checkpoints
from anyany.alignment.trainer import (
    train,
)
from anyany.errors import CheckpointError, RefusedError, ResourceError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "SIGINT", 130)],
)
def test_a_signal_saves_and_the_resumed_run_is_bit_equal(
    tmp_path: Path, number: signal.Signals, reason: str, code: int
) -> None:
    config = dataclasses.replace(CONFIG, steps=15, save_every=0)
    whole, stopped, resumed = ToyTask(), ToyTask(signals={19: number}), ToyTask()
    before = signal.getsignal(number)
    train(whole, config, tmp_path / "whole")
    result = train(stopped, config, tmp_path / "stopped")
    assert (result.reason, result.exit_code, result.step) == (reason, code, 7)
    assert signal.getsignal(number) is before
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path / "stopped")] == ["step-7"]
    assert train(resumed, config, tmp_path / "stopped").exit_code == 0
    assert same(weights(whole), weights(resumed))
    assert curve(tmp_path / "whole") == curve(tmp_path / "stopped")


def test_the_time_limit_saves_and_leaves_with_zero(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=1_000_000, save_every=0, time_limit=0.3)
    started = time.monotonic()
    result = train(ToyTask(), config, tmp_path)
    assert time.monotonic() - started < 30
    assert (result.reason, result.exit_code) == ("time_limit", 0)
    newest = checkpoints.load_latest(tmp_path)
    assert newest is not None
    assert newest.step == result.step > 0
    assert train(ToyTask(), config, tmp_path).step > result.step


def test_a_resume_with_other_settings_is_refused_unless_allowed(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=3)
    train(ToyTask(), config, tmp_path)
    changed = dataclasses.replace(config, lr=1e-2, steps=5)
    with pytest.raises(RefusedError, match=r"steps 3 -> 5, lr 0\.005 -> 0\.01") as caught:
        train(ToyTask(), changed, tmp_path)
    assert caught.value.exit_code == 5
    free = dataclasses.replace(config, keep=9, log_every=2, time_limit=100.0, save_seconds=1)
    assert train(ToyTask(), free, tmp_path).step == 3
    assert train(ToyTask(), changed, tmp_path, allow_changed=True).step == 5


def test_a_folder_serves_one_process_at_a_time(tmp_path: Path) -> None:
    with open(tmp_path / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="another process is training"):
            train(ToyTask(), CONFIG, tmp_path)
    assert train(ToyTask(), dataclasses.replace(CONFIG, steps=1), tmp_path).step == 1


def test_a_full_disk_leaves_the_older_checkpoint_and_a_clear_error(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=12, save_every=6)
    train(ToyTask(), dataclasses.replace(config, time_limit=0), tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.glob("step-*/*")}
    assert kept
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes; no file may be larger
    try:
        with pytest.raises(ResourceError, match="no room on the disk for checkpoint step-6"):
            train(ToyTask(), dataclasses.replace(config, log_every=99), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.glob("step-*/*")} == kept
    assert train(ToyTask(), config, tmp_path).step == 12


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = dataclasses.replace(CONFIG, steps=12)
    whole, resumed = ToyTask(), ToyTask()
    train(whole, config, tmp_path)
    file = tmp_path / "step-12" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with caplog.at_level("INFO"):
        train(resumed, config, tmp_path)
    assert "refused: step-12/optimizer.safetensors was altered" in caplog.text
    assert "resumed from step-9" in caplog.text
    assert same(weights(whole), weights(resumed))


def test_a_checkpoint_of_another_module_is_refused(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=2)
    train(ToyTask(), config, tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit: not in it \['weight'\]"):
        train(Linear(), config, tmp_path)
    wider = ToyTask()
    wider.body[2] = nn.Linear(8, 5)
    with pytest.raises(CheckpointError, match=r"should be \[5(, 8)?\], got \[4(, 8)?\]"):
        train(wider, config, tmp_path)
