"""One part on the device at a time: the same bytes, each part there when it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anyany import AnyToAny
from anyany.cli import main
from anyany.errors import ResourceError, UsageError
from anyany.messages import Reply
from anyany.requests import EngineSettings
from anyany.residency import ENCODERS, LANGUAGE, Residency

STEPS = 2
ASKED: list[dict[str, Any]] = [
    {"prompt": "draw a red bell", "outputs": {"text", "image"}, "seed": 1},
    {"prompt": "hello", "outputs": {"text"}, "seed": 2},
    {
        "prompt": [Path("samples/images/bell.png"), "what is this?"],
        "outputs": {"text"},
        "seed": 3,
    },
    {"prompt": "draw a blue bee", "outputs": {"image"}, "seed": 4},
]


@pytest.fixture
def system() -> AnyToAny:
    return AnyToAny.from_pretrained("pocket", threads=None)


def answers(system: AnyToAny) -> list[tuple[str, list[bytes]]]:
    few = {"image": {"num_inference_steps": STEPS}}
    requests = [{**one, **(few if "image" in one["outputs"] else {})} for one in ASKED]
    found: list[tuple[str, list[bytes]]] = []
    for reply in system.generate_batch(requests):
        assert isinstance(reply, Reply)
        found.append((reply.raw_text, [part.image.tobytes() for part in reply.images]))
    return found


class Moves:
    """A stand-in for the move between devices: notes who is at home, and that who computes is."""

    def __init__(self, system: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_home = {ENCODERS, LANGUAGE, *system.decoders}
        self.most = 0
        self.taken: list[str] = []
        self.faults: list[str] = []
        monkeypatch.setattr(Residency, "_move", self.move(system))
        watched: dict[str, nn.Module] = {
            ENCODERS: system.bridge.encoders["image"],
            LANGUAGE: system.language,
            **{m: decoder.unet for m, decoder in system.decoders.items()},
        }
        for name, module in watched.items():
            module.register_forward_pre_hook(self.check(name))

    def move(self, system: AnyToAny) -> Callable[[Residency, str, torch.device], None]:
        def moved(residency: Residency, name: str, place: torch.device) -> None:
            if place == residency.home:
                self.at_home.add(name)
                self.taken.append(name)
            else:
                self.at_home.discard(name)

        return moved

    def check(self, name: str) -> Callable[..., None]:
        def before(module: nn.Module, args: Any) -> None:
            self.most = max(self.most, len(self.at_home))
            if name not in self.at_home:
                self.faults.append(name)

        return before


def staged(system: AnyToAny) -> AnyToAny:
    """The system as on a device that is not the CPU: "meta" stands for it, nothing is moved."""
    system.residency.home = torch.device("meta")
    return system


def test_every_part_is_at_home_when_it_computes_and_alone(
    system: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = answers(system)
    moves = Moves(system, monkeypatch)
    assert staged(system).residency.give_way()
    assert not system.residency.give_way()  # it is so already
    assert answers(system) == wanted
    assert moves.faults == []
    assert moves.most == 1
    moves.taken.clear()
    assert answers(system) == wanted
    assert moves.taken == [ENCODERS, LANGUAGE, "image"]  # each once for the window


@pytest.mark.parametrize("stage", ["encode", "language", "decode"])
def test_after_memory_ran_out_the_others_give_way(
    system: AnyToAny, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    wanted = answers(system)
    moves = Moves(system, monkeypatch)
    module: nn.Module = {
        "encode": system.bridge.encoders["image"],
        "language": system.language,
        "decode": system.decoders["image"].unet,
    }[stage]

    def full(module: nn.Module, args: Any) -> None:
        if len(moves.at_home) > 1:
            raise torch.OutOfMemoryError("no room")

    module.register_forward_pre_hook(full)
    staged(system)
    assert answers(system) == wanted
    assert system.residency.staged
    assert moves.faults == []


def test_on_the_cpu_the_request_fails_and_names_the_flag(system: AnyToAny) -> None:
    def full(module: nn.Module, args: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    system.decoders["image"].unet.register_forward_pre_hook(full)
    with pytest.raises(ResourceError, match="--residency staged"):
        system.generate("draw a bell", outputs={"image"}, seed=1, num_inference_steps=STEPS)
    assert system.generate("hello", outputs={"text"}, seed=1).text
    assert not system.residency.staged


def test_parts_move_with_all_their_tensors() -> None:
    part = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    other = nn.Linear(2, 2)
    residency = Residency({"a": [part], "b": [other]}, torch.device("meta"), "staged")
    residency.take("a")
    assert {tensor.device.type for tensor in part.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in other.state_dict().values()} == {"cpu"}


def test_the_flag_and_its_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = ["-q", "generate", "draw a bee", "--to", "image", "--seed", "4", "--steps", "2"]
    for kind in ("resident", "staged"):
        assert main([*draw, "--residency", kind, "-o", str(tmp_path / kind)]) == 0
    first, second = ((tmp_path / k / "image_0.png").read_bytes() for k in ("resident", "staged"))
    assert first == second
    capsys.readouterr()
    assert main([*draw, "--residency", "away", "-o", str(tmp_path / "x")]) == 2
    assert 'expected "resident" or "staged"; got \'away\'' in capsys.readouterr().err


def test_quantized_weights_cannot_move() -> None:
    with pytest.raises(UsageError, match="quantization or staged residency"):
        AnyToAny.from_pretrained(
            "pocket", quantization="int8", settings=EngineSettings(residency="staged")
        )
