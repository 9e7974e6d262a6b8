"""What stage 2b saves: output projectors on kept signal states, beside the language model's loop.

    python benchmarks/stage2b.py                # a CPU, about five minutes

Three trainings of pocket's output projectors take turns in one run, from the same fresh weights and
with the same samples in the same order: stage 2a (rows and projectors, the language model forward
and back), the loop (projectors alone, the language model forward), and stage 2b (the states kept).
The bound is the ratio of their FLOPs, counted as they run; NExT-GPT's is counted on shapes alone.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor, nn

from anyany.alignment.caches import MemoryStore
from anyany.alignment.freezing import set_trainable
from anyany.alignment.metrics import read_metrics
from anyany.alignment.order import Draws
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stage_tasks import ConversationTask, ProjectorTask
from anyany.alignment.train_config import TrainConfig
from anyany.alignment.trainer import train
from anyany.decoders import OutputProjector
from anyany.language import LoraAdapter
from anyany.pocket.samples import MEDIA, DrawSource
from anyany.system import AnyToAny

BATCH: Final = 32  # samples
ROWS: Final = ("signal_rows",)
PROJECTORS: Final = ("output_projectors",)
CONDITION: Final = LossWeights(text=0.0, signal=0.0, condition=1.0)
STAGE_2A: Final = LossWeights(text=1.0, signal=1.0, condition=10.0)


@dataclass(frozen=True)
class Side:
    """One of the trainings.

    Args:
        name: for the table.
        kind: of task.
        weights: of its losses.
        patterns: what trains.
    """

    name: str
    kind: type[ConversationTask]
    weights: LossWeights
    patterns: tuple[str, ...]


SIDES: Final = (
    Side(
        "2a: rows and projectors", ConversationTask, STAGE_2A, ("signal_rows", "output_projectors")
    ),
    Side("loop: projectors alone", ConversationTask, CONDITION, PROJECTORS),
    Side("2b: kept states", ProjectorTask, CONDITION, PROJECTORS),
)


class Runner:
    """One side's training, a few steps at a time.

    Args:
        side: which.
        system: pocket; its language model and decoders are shared, as they are frozen.
        size: samples of the set.
        folder: of the run.
        threads: of torch.
    """

    def __init__(self, side: Side, system: AnyToAny, size: int, folder: Path, threads: int) -> None:
        self.side, self.folder, self.threads = side, folder, threads
        parts = _fresh(system)
        modalities = [m for m in MEDIA if m in parts.output_projectors]
        self.task = side.kind(
            parts,
            DrawSource(num_samples=size, modalities=modalities),
            side.weights,
            store=MemoryStore(),
            validation=DrawSource(held_out=True, num_samples=128, modalities=modalities),
            validation_samples=128,
        )
        set_trainable(self.task.module, side.patterns)
        self.steps = 0
        for first in range(0, size, BATCH):  # fill the caches
            self.loss(range(first, min(first + BATCH, size)))

    def loss(self, indices: Sequence[int]) -> Tensor:
        """Of a micro-batch, as the trainer computes it."""
        draws = Draws(0, "loss", epochs=[0] * len(indices), indices=list(indices))
        return self.task.loss(self.task.batch(indices, draws), draws).total

    def go_on(self, steps: int) -> None:
        """Some more steps of the one training; a checkpoint is written after them, untimed."""
        self.steps += steps
        config = TrainConfig(
            steps=self.steps,
            batch_size=BATCH,
            lr=1e-3,
            schedule="constant",
            threads=self.threads,
            log_every=1,
        )
        set_trainable(self.task.module, self.side.patterns)
        train(self.task, config, self.folder, progress=False, allow_changed=True)

    def rate(self) -> float:
        """Samples a second of the median step."""
        seconds = [float(line["seconds"]) for line in read_metrics(self.folder, "train")]
        each = [b - a for a, b in itertools.pairwise(seconds) if b > a]
        return BATCH / median(each)

    def validation_loss(self) -> float:
        """The conditions' distance on held-out captions."""
        self.task.module.eval()
        figures = self.task.evaluate(self.folder)
        found = [v for name, v in figures.items() if name.startswith("validation_condition_")]
        return sum(found) / len(found)

    def flops(self) -> float:
        """Of one micro-batch, forward and back, its caches filled."""
        indices = list(range(BATCH))
        return count_flops(lambda: self.loss(indices).backward())  # type: ignore[no-untyped-call]


def count_flops(run: Callable[[], Any]) -> float:
    """FLOPs of a run with its backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def nextgpt_bounds(tokens: int) -> dict[str, float]:
    """The bounds at NExT-GPT's 7B dimensions, image captions of `tokens` tokens, on shapes alone.

    Returns:
        "2a" (with a backward pass to the rows) and "loop" (without), each over 2b's FLOPs.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from anyany.decoders import ConditionSpec, TensorSpec

    spec = ConditionSpec({"prompt_embeds": TensorSpec((77, 768))})
    with torch.device("meta"):
        lm = LlamaForCausalLM(LlamaConfig(vocab_size=32000, hidden_size=4096)).requires_grad_(False)
        projector = OutputProjector(4096, spec)
        embeds = torch.zeros(1, tokens, 4096)
        states = torch.zeros(1, 4, 4096)
        mask = torch.zeros(1, 1, tokens, tokens)  # a 2-D one would be looked at
    model = functools.partial(lm.model, attention_mask=mask, use_cache=False)

    def project(states: Tensor) -> None:
        projected = projector(states)
        sum(t.sum() for t in projected.tensors.values()).backward()  # type: ignore[union-attr]

    own = count_flops(lambda: project(states))
    forward = count_flops(lambda: model(inputs_embeds=embeds))
    logits = 2.0 * tokens * 4096 * 32000

    def back() -> None:
        output = model(inputs_embeds=embeds.clone().requires_grad_())
        output.last_hidden_state.sum().backward()

    both = count_flops(back)
    return {"2a": (both + 2 * logits + own) / own, "loop": (forward + logits + own) / own}


def _fresh(system: AnyToAny) -> StageParts:
    """The system with signal rows of its own and output projectors that have learnt nothing."""
    torch.manual_seed(0)
    bridge = copy.copy(system.bridge)
    bridge._modules = dict(system.bridge._modules)
    bridge.language = copy.copy(system.language)
    bridge.language._modules = dict(system.language._modules)
    bridge.language.rows = copy.deepcopy(system.language.rows)
    projectors = {
        name: OutputProjector.from_config(one.language_dim, one.spec, one.config)
        for name, one in system.output_projectors.items()
        if isinstance(one, OutputProjector)
    }
    return StageParts(bridge, nn.ModuleDict(projectors), system.decoders)


def measure(arguments: argparse.Namespace, folder: Path) -> list[Runner]:
    """Train all sides in turns."""
    system = AnyToAny.from_pretrained(
        arguments.system, device="cpu", threads=arguments.threads, dtype="float32"
    )
    adapter = system.language.adapter
    if isinstance(adapter, LoraAdapter) and adapter.merged:
        adapter.unmerge()  # as every stage does
    runners = [
        Runner(side, system, arguments.samples, folder / str(number), arguments.threads)
        for number, side in enumerate(SIDES)
    ]
    for turn in range(arguments.turns):
        for runner in runners:
            began = time.perf_counter()
            runner.go_on(arguments.steps)
            seconds = time.perf_counter() - began
            print(f"turn {turn + 1}, {runner.side.name}: {seconds:.1f} s", file=sys.stderr)
    return runners


def table(runners: Sequence[Runner]) -> str:
    """The figures, as Markdown."""
    *loops, kept = runners
    own, rate = kept.flops(), kept.rate()
    lines = [
        "| training | samples a second | validation loss | MFLOP a sample | 2b is quicker by "
        "| bound by FLOPs | of the bound |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in loops:
        quicker, bound = rate / one.rate(), one.flops() / own
        lines.append(
            f"| {one.side.name} | {one.rate():.1f} | {one.validation_loss():.4f} "
            f"| {one.flops() / BATCH / 1e6:.0f} | {quicker:.2f} | {bound:.2f} "
            f"| {quicker / bound:.0%} |"
        )
    lines.append(
        f"| {kept.side.name} | {rate:.1f} | {kept.validation_loss():.4f} "
        f"| {own / BATCH / 1e6:.0f} | 1 | 1 | |"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--system", default="pocket", help="with trained weights")
    parser.add_argument("--samples", type=int, default=256, help="of the set, kept after one pass")
    parser.add_argument("--steps", type=int, default=20, help="of each turn")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # resumed with more steps, again and again
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(arguments, Path(folder))))
    for tokens in (40, 64, 128):
        bounds = nextgpt_bounds(tokens)
        print(
            f"NExT-GPT 7B, captions of {tokens} tokens, image projector: the bound is "
            f"{bounds['2a']:.0f} for stage 2a, {bounds['loop']:.0f} for the loop"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
