"""Loading ImageBind's weights strictly, and bringing in a pickle without trusting it."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from imagebind_fixtures import POCKET
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyany.encoders import ImageBind, import_imagebind_pth, load_imagebind
from anyany.encoders.imagebind import pickle_worker
from anyany.errors import CheckpointError

NO_AUDIO = replace(POCKET, audio=None)


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in ImageBind(POCKET).state_dict().items()}


class Malicious:
    """Runs a command when a pickle of it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


def test_load_fills_every_tensor(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    model = load_imagebind(tmp_path / "weights.safetensors", POCKET)
    loaded = model.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert {type(p) for p in model.parameters()} == {torch.nn.Parameter}
    assert all(parameter.requires_grad for parameter in model.parameters())
    half = load_imagebind(tmp_path / "weights.safetensors", POCKET, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}


def test_towers_that_are_not_built_are_left_unread_and_named(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO, logger="anyany"):
        model = load_imagebind(tmp_path / "weights.safetensors", NO_AUDIO)
    assert model.config.modalities == ("vision", "text")
    assert "towers not built and not read: audio" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", "1 missing: modality_heads.vision.2.weight"),
        ("add", "1 unexpected: modality_heads.vision.9.weight"),
        ("foreign", "1 unexpected: epoch"),
        (
            "cut",
            r"1 of another shape: modality_heads.vision.2.weight \(expected \[16, 16\], "
            r"got \[8, 16\]\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_in_one_line(
    tmp_path: Path, state: dict[str, Tensor], change: str, message: str
) -> None:
    name = "modality_heads.vision.2.weight"
    if change == "drop":
        del state[name]
    elif change == "add":
        state["modality_heads.vision.9.weight"] = torch.zeros(1)
    elif change == "foreign":
        state["epoch"] = torch.zeros(1)
    else:
        state[name] = state[name][:8].clone()
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(
        CheckpointError, match=f"do not fit the configuration; {message}$"
    ) as caught:
        load_imagebind(tmp_path / "weights.safetensors", POCKET)
    assert "\n" not in str(caught.value)


def test_long_lists_of_names_are_cut(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(
        {name: tensor for name, tensor in state.items() if ".text." not in name},
        tmp_path / "weights.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"\d+ missing: .*, .*, .* and \d+ more$"):
        load_imagebind(tmp_path / "weights.safetensors", POCKET)


def test_missing_torn_and_pickled_files_are_refused(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    with pytest.raises(CheckpointError, match="expected ImageBind weights; found no such file"):
        load_imagebind(tmp_path / "none.safetensors", POCKET)
    save_file(state, tmp_path / "weights.safetensors")
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="expected a whole safetensors file; it is torn"):
        load_imagebind(tmp_path / "torn.safetensors", POCKET)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="pickles are refused; once: anyany import"):
        load_imagebind(tmp_path / "weights.pth", POCKET)


def test_import_converts_a_pickle_bit_for_bit(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "weights.pth")
    out = import_imagebind_pth(
        tmp_path / "weights.pth", tmp_path / "weights.safetensors", config=POCKET
    )
    converted = load_file(out)
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "weights.pth",
        "weights.safetensors",
    ]


@pytest.mark.parametrize("form", ["bare pickle", "beside good weights"])
def test_import_refuses_a_malicious_pickle(
    tmp_path: Path, state: dict[str, Tensor], form: str
) -> None:
    canary, pth, out = tmp_path / "canary", tmp_path / "bad.pth", tmp_path / "out.safetensors"
    if form == "bare pickle":
        pth.write_bytes(pickle.dumps(Malicious(canary)))
    else:
        torch.save({**state, "extra": Malicious(canary)}, pth)
    with pytest.raises(CheckpointError, match="refused: expected a pickle of a flat dictionary"):
        import_imagebind_pth(pth, out, config=POCKET)
    assert not canary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]
    pickle.loads(pickle.dumps(Malicious(canary)))  # the canary does sing when nobody refuses
    assert canary.exists()


@pytest.mark.parametrize("content", ["nested", "list", "text", "empty", "good"])
def test_worker_accepts_only_a_flat_dictionary_of_tensors(
    tmp_path: Path, state: dict[str, Tensor], content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pth, out = tmp_path / "weights.pth", tmp_path / "out.safetensors"
    if content in ("text", "empty"):
        pth.write_bytes(b"" if content == "empty" else b"no pickle at all")
    else:
        nested = {"model": state}
        torch.save({"nested": nested, "list": list(state.values()), "good": state}[content], pth)
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(shapes)))
    status = pickle_worker.main([str(pth), str(out)])
    assert status == (0 if content == "good" else pickle_worker.REFUSED)
    assert out.exists() == (content == "good")


def test_import_checks_names_and_places(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"\d+ unexpected: .*audio"):
        import_imagebind_pth(tmp_path / "weights.pth", tmp_path / "out", config=NO_AUDIO)
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=r"found no such file"):
        import_imagebind_pth(tmp_path / "none.pth", tmp_path / "out")
    with pytest.raises(CheckpointError, match="expected an existing folder to write into"):
        import_imagebind_pth(tmp_path / "weights.pth", tmp_path / "none" / "out")
