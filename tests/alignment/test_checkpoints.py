import errno
import json
import random
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anyany.alignment import checkpoints
from anyany.errors import CheckpointError, ResourceError

TENSORS = {
    "parameters": {
        "plain": torch.randn(3, 5),
        "half": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(3.0),
        "transposed": torch.randn(4, 6).T,
        "integers": torch.arange(9),
        "odd": torch.tensor([float("nan"), -0.0, float("inf")]),
    },
    "optimizer": {"exp_avg/plain": torch.randn(3, 5).double()},
    "empty": {},
}


def save(folder: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        checkpoints.save(folder, step, tensors=TENSORS, record={"at": step}, keep=keep)


def same_bits(first: Tensor, second: Tensor) -> bool:
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.contiguous().reshape(-1).view(torch.uint8).tolist()
        == second.contiguous().reshape(-1).view(torch.uint8).tolist()
    )


def test_a_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found = checkpoints.load(tmp_path / "step-7")
    assert (found.step, found.record) == (7, {"at": 7})
    assert set(found.tensors) == {"parameters", "optimizer"}
    for group, named in found.tensors.items():
        assert set(named) == set(TENSORS[group])
        assert all(same_bits(TENSORS[group][name], tensor) for name, tensor in named.items())


def test_the_files_are_safetensors_and_json_alone(tmp_path: Path) -> None:
    save(tmp_path, 1)
    files = sorted((tmp_path / "step-1").iterdir())
    assert [file.name for file in files] == [
        "manifest.json",
        "optimizer.safetensors",
        "parameters.safetensors",
        "state.json",
    ]
    assert not any(zipfile.is_zipfile(file) for file in files)  # how torch.save pickles
    json.loads((tmp_path / "step-1/state.json").read_text())


def test_the_newest_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    save(tmp_path, 8, 9, 10, 11, keep=3)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [
        "step-9",
        "step-10",
        "step-11",
    ]
    assert checkpoints.list_checkpoints(tmp_path / "nowhere") == []
    assert checkpoints.load_latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("seed", range(24))
def test_a_torn_or_flipped_file_is_refused_by_name(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 2)
    rng = random.Random(seed)
    file = sorted((tmp_path / "step-2").iterdir())[seed % 4]
    data = bytearray(file.read_bytes())
    if seed % 3 == 0:
        del data[rng.randrange(len(data)) :]
    elif seed % 3 == 1:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        data += b"\n"
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=re.escape(f"step-2/{file.name}")):
        checkpoints.load(tmp_path / "step-2")
    found = checkpoints.load_latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert f"refused: step-2/{file.name}" in caplog.text
    assert (tmp_path / "step-2").exists()  # a reader moves nothing
    checkpoints.load_latest(tmp_path, set_aside=True)
    assert {path.name for path in tmp_path.iterdir()} == {"step-1", "step-2.refused"}
    save(tmp_path, 2)
    assert checkpoints.load(tmp_path / "step-2").step == 2


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("manifest.json", "optimizer.safetensors", "state.json"):
        save(tmp_path, 3)
        (tmp_path / "step-3" / name).unlink()
        with pytest.raises(CheckpointError, match=f"step-3/{name} is missing"):
            checkpoints.load(tmp_path / "step-3")


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "step-3").rename(tmp_path / "step-4")
    with pytest.raises(CheckpointError, match=r"step-4/manifest\.json"):
        checkpoints.load(tmp_path / "step-4")


def test_when_all_are_refused_the_error_names_them(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step-{step}" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step-2, step-1 did not verify") as caught:
        checkpoints.load_latest(tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("call", range(1, 7))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, code: int
) -> None:
    save(tmp_path, 1)
    calls = 0

    def fsync(_: int) -> None:  # files: three and the manifest; then the two folders
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(code, "full")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(ResourceError, match="no room on the disk for checkpoint step-2") as caught:
        save(tmp_path, 2)
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    found = checkpoints.load_latest(tmp_path)
    assert found is not None
    assert not list(tmp_path.glob("*.tmp"))
    assert checkpoints.load(tmp_path / "step-1").step == 1


def test_other_failures_of_the_disk_are_not_disguised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match="broken"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
