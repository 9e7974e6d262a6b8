import pytest
import torch
from torch import nn

from anyany.alignment.freezing import (
    PartRow,
    format_table,
    hash_frozen,
    set_trainable,
    trainable_table,
)
from anyany.alignment.training_state import persistent_buffers, set_training_mode
from anyany.errors import UsageError


@pytest.fixture
def system() -> nn.ModuleDict:
    torch.manual_seed(0)
    layer = nn.ModuleDict({"q": nn.Linear(3, 3), "lora_q": nn.Linear(3, 3, bias=False)})
    return nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)),
            "projector": nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)),
            "lm": nn.ModuleDict({"layers": nn.ModuleList([layer]), "norm": nn.LayerNorm(3)}),
        }
    )


def test_only_what_is_named_trains_and_the_table_says_so(
    system: nn.ModuleDict, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        rows = set_trainable(system, ["projector", "lm.*.lora_*"])
    assert rows == (
        PartRow("encoder", 21, 0),
        PartRow("projector", 12, 12),
        PartRow("lm", 27, 9),
    )
    assert rows == trainable_table(system)
    assert {name for name, p in system.named_parameters() if p.requires_grad} == {
        "projector.0.weight",
        "projector.0.bias",
        "lm.layers.0.lora_q.weight",
    }
    assert "what trains" in caplog.text
    lines = format_table(rows).splitlines()
    assert [line.split() for line in lines] == [
        ["part", "parameters", "trainable"],
        ["encoder", "21", "0"],
        ["projector", "12", "12"],
        ["lm", "27", "9"],
        ["total", "60", "21"],
    ]
    assert len({len(line) for line in lines}) == 1
    set_trainable(system, ["encoder"])  # the next stage undoes the one before
    assert [row.trainable for row in trainable_table(system)] == [21, 0, 0]


def test_frozen_parts_are_in_evaluation_mode(system: nn.ModuleDict) -> None:
    set_trainable(system, ["projector", "lm.*.lora_*"])
    modes = {name: part.training for name, part in system.named_modules()}
    assert not any(mode for name, mode in modes.items() if name.startswith("encoder"))
    assert modes["projector.1"]  # dropout follows the part that holds it
    assert modes["lm.layers.0.lora_q"]
    assert not modes["lm.layers.0.q"]
    assert not modes["lm.norm"]
    set_training_mode(system, training=False)
    assert not any(part.training for part in system.modules())


def test_a_name_without_a_wildcard_is_a_whole_name_piece(system: nn.ModuleDict) -> None:
    with pytest.raises(UsageError, match=r"'proj': .* below encoder, projector, lm"):
        set_trainable(system, ["encoder", "proj"])
    assert set_trainable(system, ["lm.norm"])[2].trainable == 6


def test_a_shared_parameter_counts_once() -> None:
    tied = nn.ModuleDict({"embed": nn.Embedding(5, 2), "head": nn.Linear(2, 5, bias=False)})
    tied["head"].weight = tied["embed"].weight
    assert trainable_table(tied) == (PartRow("embed", 10, 10),)


def test_the_hash_sees_every_frozen_tensor_and_no_other(system: nn.ModuleDict) -> None:
    set_trainable(system, ["projector", "lm.*.lora_*"])
    before = hash_frozen(system)
    assert set(before) == {"encoder", "lm"}
    assert hash_frozen(system) == before

    with torch.no_grad():
        system.get_parameter("lm.layers.0.lora_q.weight").add_(1)
        system.get_parameter("projector.0.bias").add_(1)
    assert hash_frozen(system) == before

    def changed_by(change: torch.Tensor) -> set[str]:
        kept = change.clone()
        with torch.no_grad():
            flat = change.view(-1)
            flat[-1:] = torch.nextafter(flat[-1:].float(), torch.tensor(9e9)).to(flat.dtype)
        after = hash_frozen(system)
        with torch.no_grad():
            change.copy_(kept)
        return {part for part in before if before[part] != after[part]}

    frozen = {n: p.detach() for n, p in system.named_parameters() if not p.requires_grad}
    for name, tensor in frozen.items():
        assert changed_by(tensor) == {name.split(".")[0]}
    assert changed_by(system.get_buffer("encoder.1.running_var")) == {"encoder"}
    assert hash_frozen(system) == before
    assert set(hash_frozen(system, depth=2)) == {"encoder.0", "encoder.1", "lm.layers", "lm.norm"}


def test_buffers_go_with_their_part(system: nn.ModuleDict) -> None:
    system["encoder"].register_buffer("scratch", torch.zeros(2), persistent=False)
    names = {"encoder.1.running_mean", "encoder.1.running_var", "encoder.1.num_batches_tracked"}
    set_trainable(system, ["projector"])
    assert set(persistent_buffers(system, training=False)) == names
    assert persistent_buffers(system, training=True) == {}
    set_trainable(system, ["encoder"])
    assert set(persistent_buffers(system, training=True)) == names
