"""Gradient checkpointing: the same training, with fewer activations kept."""

from pathlib import Path

import pytest
import torch
from stage_toys import drawing, editing, toy_parts
from torch import Tensor, nn
from toy_task import curve

from anyany.alignment.recompute import recomputed_layers
from anyany.alignment.stages import StageConfig, StageName, run_stage
from anyany.alignment.train_config import TrainConfig
from anyany.errors import ConfigError
from anyany.language import LoraSettings


@pytest.mark.parametrize("name", ["decoder", "instruct"])
def test_a_stage_is_the_same_to_the_bit(name: StageName, tmp_path: Path) -> None:
    weights = []
    for recompute in (False, True):
        parts = toy_parts()
        stage = StageConfig(
            name,
            TrainConfig(steps=3, batch_size=4, lr=1e-2, log_every=1, threads=1),
            lora=LoraSettings(r=2, alpha=4, dropout=0.1),
            gradient_checkpointing=recompute,
        )
        source = drawing() if name == "decoder" else editing()
        folder = tmp_path / str(recompute)
        run_stage(parts.bridge, parts.output_projectors, parts.decoders, source, stage, folder)
        weights.append(parts.module().state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    plain, again = (curve(tmp_path / str(recompute), "train") for recompute in (False, True))
    assert [line["loss"] for line in plain] == [line["loss"] for line in again]


def test_layers_keep_only_their_input() -> None:
    lm = toy_parts().bridge.language.lm.requires_grad_(False).eval()
    kept = {}
    for recompute in (False, True):
        held: list[Tensor] = []

        def pack(tensor: Tensor, held: list[Tensor] = held) -> Tensor:
            held.append(tensor)
            return tensor

        embedded = torch.randn(2, 40, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if recompute:
                with recomputed_layers(lm):
                    lm.model(inputs_embeds=embedded, use_cache=False)
            else:
                lm.model(inputs_embeds=embedded, use_cache=False)
        kept[recompute] = sum(tensor.numel() for tensor in held)
    assert kept[True] < kept[False] / 3
    assert all("forward" not in vars(module) for module in lm.modules())


def test_a_model_without_layers_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match=r"gradient_checkpointing: expected .* Linear has none"),
        recomputed_layers(nn.Linear(2, 2)),
    ):
        pass
