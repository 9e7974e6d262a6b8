"""A tiny task with everything a resume can lose: dropout, batch-norm statistics, noise, EMA."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anyany.alignment.metrics import read_metrics
from anyany.alignment.order import Draws
from anyany.alignment.trainer import LossOutput, Task, TrainConfig

NUM_SAMPLES = 37
CONFIG = TrainConfig(
    steps=40,
    batch_size=4,
    accumulation=3,
    lr=5e-3,
    warmup=5,
    ema=0.9,
    log_every=1,
    save_every=3,
    save_seconds=0,
    keep=3,
)


class ToyTask(Task):
    """Denoises points on a line; each sample weighs 1 to 3 units.

    Args:
        killed_at: (step, micro-batch) at which the process kills itself with SIGKILL.
        poisoned: calls of `loss` that come back as NaN.
        signals: call of `loss` -> signal that the process sends itself.
    """

    def __init__(
        self,
        *,
        killed_at: tuple[int, int] | None = None,
        poisoned: Sequence[int] = (),
        signals: dict[int, signal.Signals] | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.frozen = nn.Linear(4, 8)
        self.body = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))
        super().__init__({"frozen": self.frozen, "body": self.body}, NUM_SAMPLES)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.normal_(generator=generator)
        self.frozen.requires_grad_(False)
        self.killed_at, self.poisoned, self.signals = killed_at, poisoned, signals or {}
        self.calls = 0
        self.seen: list[int] = []

    def batch(self, indices: Sequence[int], draws: Draws) -> Tensor:
        self.seen.extend(indices)
        return torch.linspace(0, 1, NUM_SAMPLES)[list(indices), None] + draws.normal(4)  # [B, 4]

    def loss(self, batch: Tensor, draws: Draws) -> LossOutput:
        step, micro = divmod(self.calls, CONFIG.accumulation)
        if self.killed_at == (step, micro):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls in self.signals:
            os.kill(os.getpid(), self.signals[self.calls])
        noise = draws.normal(4)
        predicted = self.body(self.frozen(batch + noise))
        error = (predicted - noise).square().mean(dim=1)  # [B]
        weights = torch.tensor([1.0 + index % 3 for index in draws.indices]).to(error.device)
        total = (error * weights).sum() / weights.sum()
        if self.calls in self.poisoned:
            total = total * float("nan")
        self.calls += 1
        return LossOutput(total, {"plain": error.mean()}, weights.sum())


def weights(task: Task) -> dict[str, Tensor]:
    """A copy of all of a task's tensors."""
    return {name: tensor.clone() for name, tensor in task.module.state_dict().items()}


def curve(folder: Path, kind: str | None = None) -> list[dict[str, object]]:
    """The metrics without the clock's figures."""
    lines = read_metrics(folder, kind)
    return [{name: line[name] for name in line if name != "seconds"} for line in lines]


class Linear(Task):
    """Least squares with a weight per sample; deterministic, nothing random."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 1, bias=False), num_samples=24)
        nn.init.constant_(self.module.get_parameter("weight"), 0.5)
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(24, 3, generator=generator)
        self.targets = self.inputs @ torch.tensor([[1.0], [-2.0], [3.0]])
        self.weights = torch.arange(24.0) % 5  # some weigh nothing
        self.seen: list[int] = []

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Tensor]:
        self.seen.extend(indices)
        rows = list(indices)
        return {"in": self.inputs[rows], "out": self.targets[rows], "weight": self.weights[rows]}

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> LossOutput:
        error = (self.module(batch["in"]) - batch["out"]).square().squeeze(1)
        weight = batch["weight"].sum()
        total = (error * batch["weight"]).sum() / weight.clamp(min=1)
        return LossOutput(total, {"error": error.mean()}, weight)


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)
