"""AnyToAny on disk: a round trip keeps every byte; what is wrong is said in a line."""

# ruff: noqa: F811 (fixtures are imported)

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from system_fixtures import pocket  # noqa: F401

from anyany import AnyToAny
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stages import StageConfig, run_stage
from anyany.alignment.train_config import TrainConfig
from anyany.encoders import base_state
from anyany.errors import CheckpointError, ConfigError, UsageError
from anyany.language import LoraAdapter
from anyany.pocket.samples import DescribeSource
from anyany.records import part_sha256
from anyany.weights import verify

FAST = {"outputs": {"image"}, "seed": 7, "max_new_tokens": 24, "num_inference_steps": 2}


@pytest.fixture
def folder(pocket: AnyToAny, tmp_path: Path) -> Path:
    """A copy of pocket whose files may be replaced (they are links, so never written into)."""
    assert pocket.folder is not None
    copy = tmp_path / "system"
    shutil.copytree(pocket.folder, copy, copy_function=_link)
    return copy


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def load(folder: Path) -> AnyToAny:
    return AnyToAny.from_pretrained(folder, device="cpu", threads=None)


def test_a_saved_system_makes_the_same_bytes(pocket: AnyToAny, tmp_path: Path) -> None:
    again = load(pocket.save_pretrained(tmp_path / "copy"))
    third = load(again.save_pretrained(tmp_path / "copy of the copy"))

    assert verify(tmp_path / "copy") == verify(tmp_path / "copy of the copy") == []
    replies = [
        model.generate("a small red bell", **FAST)  # type: ignore[arg-type]
        for model in (pocket, again, third)
    ]
    assert len({reply.token_ids for reply in replies}) == 1
    assert len({part_sha256(reply.images[0]) for reply in replies}) == 1
    assert third.model_sha256 == again.model_sha256  # pocket itself is packed in half precision
    files = [
        reply.images[0].save(tmp_path / f"{number}.png").read_bytes()
        for number, reply in enumerate(replies)
    ]
    assert files[1] == files[2]


def _trained_whole(system: AnyToAny, run: Path) -> dict[str, torch.Tensor]:
    """One step for encoders and language model themselves, and LoRA on it; what they are then."""
    config = StageConfig(
        "encoder",
        TrainConfig(steps=1, batch_size=2, lr=1e-2, warmup=0, threads=None),
        trainable=("input_projectors", "encoders", "language_model", "lora"),
        losses=LossWeights(condition=0.0),
    )
    source = DescribeSource()
    decoders: Any = system.decoders
    run_stage(system.bridge, system.output_projectors, decoders, source, config, run)
    return _frozen(system)


def _frozen(system: AnyToAny) -> dict[str, torch.Tensor]:
    adapter, encoder = system.language.adapter, system.bridge.encoders["image"]
    lm = system.language.lm
    of_lm = adapter.base_state(lm) if isinstance(adapter, LoraAdapter) else lm.state_dict()
    base = {f"lm.{n}": t for n, t in of_lm.items()}
    return {n: t.clone() for n, t in {**base, **base_state(encoder)}.items()}


def test_a_system_trained_as_a_whole_is_saved_as_it_is(tmp_path: Path) -> None:
    system = load(Path("pocket"))
    assert system.folder is not None
    before = _frozen(system)
    folder = tmp_path / "system"
    for number in range(2):  # elsewhere, then in place
        trained = _trained_whole(system, tmp_path / f"run {number}")
        assert isinstance(system.language.adapter, LoraAdapter)
        moved = {name for name in before if not torch.equal(before[name], trained[name])}
        assert {name.partition(".")[0] for name in moved} == {"lm", "imagebind"}
        system = load(system.save_pretrained(folder))
        assert verify(folder) == []
        loaded = _frozen(system)
        assert all(torch.equal(loaded[name], trained[name]) for name in trained)
        before = loaded


def test_the_manifest_finds_a_changed_file(folder: Path) -> None:
    path = folder / "signal_rows.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)

    assert verify(folder) == ["signal_rows.safetensors"]


def _remove(path: Path) -> None:
    path.unlink()


def _tear(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def _reshape(path: Path) -> None:
    tensors = load_file(path)
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name] = torch.zeros(3, 5)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def _drop(path: Path) -> None:
    tensors = load_file(path)
    del tensors[max(tensors, key=lambda key: tensors[key].numel())]
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("damage", [_remove, _tear, _reshape, _drop])
@pytest.mark.parametrize(
    "name",
    [
        "encoder/imagebind.safetensors",
        "language/model.safetensors",
        "signal_rows.safetensors",
        "input_projector/shared.safetensors",
        "output_projectors/image.safetensors",
        "decoders/image/unet/diffusion_pytorch_model.safetensors",
    ],
)
def test_missing_torn_misfitting_and_partial_weights_are_named(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)

    with pytest.raises(CheckpointError) as caught:
        load(folder)

    line = str(caught.value)
    assert "\n" not in line
    assert name.split("/")[0] in line


def _edit(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.unlink()
    path.write_text(json.dumps(data))


def test_a_projector_of_other_dims_is_refused(folder: Path) -> None:
    _edit(folder, lambda data: data["bridge"]["projector"].update(language_dim=64))  # type: ignore[index]

    with pytest.raises(
        ConfigError, match=r"bridge.projector.language_dim: expected \d+, .* got 64"
    ):
        load(folder)


def test_projector_weights_of_other_dims_are_refused(folder: Path) -> None:
    def narrow(data: dict[str, object]) -> None:
        data["decoders"]["image"]["output_projector"]["hidden_dim"] = 32  # type: ignore[index]

    _edit(folder, narrow)

    with pytest.raises(CheckpointError, match="expected the output projector that config"):
        load(folder)


def test_an_unknown_configuration_key_is_named_with_its_nearest(folder: Path) -> None:
    _edit(folder, lambda data: data["bridge"].update(mergee="flat"))  # type: ignore[attr-defined]

    with pytest.raises(ConfigError, match=r"unknown key 'bridge.mergee'; nearest.*'bridge.merge'"):
        load(folder)


def test_a_newer_format_asks_for_an_update(folder: Path) -> None:
    _edit(folder, lambda data: data.update(format=99))

    with pytest.raises(ConfigError, match="update anyany"):
        load(folder)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("no-such-folder", "expected one of pocket, or a folder with config.json"),
        ("nextgpt-7b-v0", "has a configuration but no weights here"),
    ],
)
def test_a_system_that_is_not_there(source: str, line: str) -> None:
    with pytest.raises(CheckpointError, match=line):
        AnyToAny.from_pretrained(source)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"device": "abacus"}, "expected auto, cpu, cuda, cuda:INDEX or mps; got 'abacus'"),
        ({"device": "cuda:77"}, "cuda:77 is not on this machine"),
        ({"device": "cpu", "dtype": "float8"}, "dtype: expected one of float32"),
    ],
)
def test_a_wrong_place_or_type_is_refused(arguments: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        AnyToAny.from_pretrained("pocket", threads=None, **arguments)  # type: ignore[arg-type]


def test_every_parameter_is_counted(pocket: AnyToAny) -> None:
    counts = pocket.num_parameters()

    assert set(counts) == {
        *("encoder", "input_projector", "language", "adapter", "signal_rows"),
        *(f"{part}.{m}" for part in ("output_projectors", "decoders") for m in pocket.decoders),
    }
    assert all(count > 0 for name, count in counts.items() if name != "adapter")
    assert counts["signal_rows"] == 2 * pocket.language.signals.total * pocket.language.language_dim


def test_a_medium_is_the_same_whatever_file_holds_it(pocket: AnyToAny, tmp_path: Path) -> None:
    (picture,) = pocket.generate("a red bell", **FAST).images  # type: ignore[arg-type]
    plain = picture.save(tmp_path / "plain.png", metadata=False)
    marked = picture.save(tmp_path / "marked.png")

    assert plain.read_bytes() != marked.read_bytes()
    assert part_sha256(type(picture).read(plain)) == part_sha256(type(picture).read(marked))
