"""Stages in one process, and in two that share the language model's frozen layers.

    python shard_runner.py FOLDER

Runs in a fresh process, forks two for a pair, and prints one line of JSON: case -> figures.
"""

import dataclasses
import functools
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # late imports that each child would pay
import torch.distributed as dist
import torch.distributed.fsdp
from kill_runner import forked
from safetensors.torch import load_file, save_file
from stage_toys import describing, drawing, editing, toy_parts
from torch.distributed.tensor import DTensor
from toy_task import curve

from anyany.alignment import trainer
from anyany.alignment.samples import ListSource, Sample, turn
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stages import StageConfig, run_stage
from anyany.alignment.train_config import TrainConfig
from anyany.language import LoraSettings

TRAIN = TrainConfig(batch_size=2, steps=2, lr=1e-2, log_every=1, save_seconds=0, threads=1)
LORA = LoraSettings(r=2, alpha=4, dropout=0.1)
WAIT = timedelta(seconds=60)  # a process out of step fails the test in this time


def spoken() -> ListSource:
    """A picture for the first process; for the second, words alone, and what does not fit."""
    answer = turn("assistant", "a drum .")
    text = Sample((turn("user", "what is this ?"), answer), "text")
    long = Sample((turn("user", "what is this ? " * 40), answer), "long")
    seen = describing()
    return ListSource([seen.sample(0, 0), text, seen.sample(1, 0), long])


CASES: dict[str, tuple[StageConfig, Callable[[], ListSource]]] = {
    "instruct": (StageConfig("instruct", TRAIN, lora=LORA), editing),
    # 6 samples, 4 a step: the second process has none in the second
    "partial": (
        StageConfig(
            "instruct",
            dataclasses.replace(TRAIN, steps=None, epochs=1),
            lora=LORA,
            gradient_checkpointing=True,
        ),
        drawing,
    ),
    "evaluated": (
        StageConfig("decoder", dataclasses.replace(TRAIN, evaluate_every=1, ema=0.9)),
        drawing,
    ),
    "words": (StageConfig("encoder", dataclasses.replace(TRAIN, batch_size=1)), spoken),
}


class Watch:
    """Looks at a system in the middle of its training."""

    def __init__(self, parts: StageParts) -> None:
        self.parts = parts
        self.shares: list[float] = []
        self.plain: list[bool] = []

    def step(self) -> None:
        """How much of the layers' frozen weights this process holds."""
        layers = self.parts.bridge.language.lm.base_model.layers
        frozen = [p for p in layers.parameters() if not p.requires_grad]
        trainable = [p for p in layers.parameters() if p.requires_grad]
        held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in frozen)
        self.shares.append(held / sum(p.numel() for p in frozen))
        self.plain.append(not any(isinstance(p, DTensor) for p in trainable))

    def sample(self, folder: Path) -> dict[str, float]:
        """What an evaluation may do: hash the base, and call the model as it likes."""
        language = self.parts.bridge.language
        for _ in range(2):
            language.lm.base_model(inputs_embeds=torch.zeros(1, 3, language.language_dim))
        return {"base": int(language.base_hash()[:8], 16)}


def run(stage: StageConfig, source: ListSource, folder: Path, name: str) -> None:
    """A stage to its end; its figures and weights go into files called after `name`."""
    parts = toy_parts(layers=2, context=64)
    watch = Watch(parts)
    before = {key: value.clone() for key, value in parts.module().state_dict().items()}
    original = trainer._Run._step

    def step(self: Any, total: int) -> None:
        watch.step()
        original(self, total)

    trainer._Run._step = step  # type: ignore[method-assign]
    result = run_stage(
        parts.bridge,
        parts.output_projectors,
        parts.decoders,
        source,
        stage,
        folder,
        validation=drawing() if stage.train.evaluate_every else None,
        sample_media=watch.sample if stage.train.evaluate_every else None,
    )
    weights = {key: value.clone() for key, value in parts.module().state_dict().items()}
    lm = parts.bridge.language.lm
    report = {
        "steps": result.step,
        "moved": furthest(
            {key.replace(".base_layer.", "."): w for key, w in weights.items()}, before
        ),
        "shares": watch.shares,
        "plain": all(watch.plain),
        "left": [type(m).__name__ for m in lm.modules() if "FSDP" in type(m).__name__]
        + [key for key, value in weights.items() if isinstance(value, DTensor)]
        + [hook for m in lm.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)],
        "base": parts.bridge.language.base_hash(),
    }
    folder.with_name(f"{name}.json").write_text(json.dumps(report))
    save_file(weights, folder.with_name(f"{name}.safetensors"))


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest distance of two tensors of the same name."""
    names = one.keys() & other.keys()
    return max(float((one[n].double() - other[n].double()).abs().max()) for n in names)


def in_two(stage: StageConfig, source: Callable[[], ListSource], folder: Path, name: str) -> None:
    """The stage by two processes, in one folder."""

    def ranked(rank: int) -> None:
        try:
            joined(rank)
        except BaseException:
            traceback.print_exc()
            raise

    def joined(rank: int) -> None:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder.with_name(name)}.rendezvous",
            rank=rank,
            world_size=2,
            timeout=WAIT,
        )
        run(stage, source(), folder, f"{name}-{rank}")
        dist.destroy_process_group()

    child = os.fork()
    if child == 0:
        code = 1
        try:
            ranked(1)
            code = 0
        finally:
            os._exit(code)
    ranked(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def compare(case: str, folder: Path) -> dict[str, Any]:
    """One process with two micro-batches a step, and two sharded ones with one each."""
    stage, source = CASES[case]
    alone = dataclasses.replace(stage.train, accumulation=2)
    shared = dataclasses.replace(stage.train, sharding="fsdp2")
    codes = [
        forked(
            lambda: run(dataclasses.replace(stage, train=alone), source(), folder / "one", "one-0")
        ),
        forked(
            functools.partial(
                in_two, dataclasses.replace(stage, train=shared), source, folder / "two", "two"
            )
        ),
    ]
    assert codes == [0, 0], (case, codes)
    names = ("one-0", "two-0", "two-1")
    weights = [load_file(folder / f"{name}.safetensors") for name in names]
    lines = [curve(folder / name, "train") for name in ("one", "two")]
    checked = [curve(folder / name, "evaluate") for name in ("one", "two")]
    return {
        "reports": [json.loads((folder / f"{name}.json").read_text()) for name in names],
        "apart": [furthest(weights[0], other) for other in weights[1:]],
        "losses": [[line["loss"] for line in each] for each in lines],
        "weights": [[line["weight"] for line in each] for each in lines],
        "checked": [
            [{k: line[k] for k in ("step", "base", "validation_loss")} for line in each]
            for each in checked
        ],
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    found = {}
    for case in sys.argv[2:] or CASES:
        (Path(sys.argv[1]) / case).mkdir()
        found[case] = compare(case, Path(sys.argv[1]) / case)
    print(json.dumps(found))
