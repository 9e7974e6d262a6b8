"""The settings of a training run, and what follows from them: learning rate and optimizer."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch

from anyany.alignment.task import ParameterGroup
from anyany.errors import RefusedError, UsageError

logger = logging.getLogger(__name__)

_FREE_ON_RESUME: Final = (
    *("threads", "device", "log_every", "evaluate_every", "save_every", "save_seconds"),
    *("keep", "time_limit", "tensorboard", "sharding"),
)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and how safely to train.

    Args:
        steps: optimizer steps; give this or `epochs`.
        epochs: passes over a finite set; the last step is cut to end exactly there.
        batch_size: samples of one micro-batch in one process.
        accumulation: micro-batches of one optimizer step.
        lr: peak learning rate.
        betas: of AdamW.
        weight_decay: of AdamW, on matrices only (see `Task.parameter_groups`).
        warmup: steps of linear rise of the learning rate.
        schedule: course of the learning rate after the warm-up.
        final_lr: where cosine and linear end, as a fraction of `lr`.
        clip: largest gradient norm; None for no clipping.
        ema: decay of the moving average of the weights; None for none.
        seed: of order, noise and dropout.
        threads: of torch on the CPU; None leaves them. Bits depend on it.
        autocast: dtype of the forward pass; weights stay as they are.
        device: where the task's module is moved.
        log_every: steps a metrics line.
        evaluate_every: steps between evaluations, which also close the run; 0 for none.
        save_every: steps between checkpoints; 0 for none by steps.
        save_seconds: seconds between checkpoints; 0 for none by time.
        keep: checkpoints kept.
        time_limit: seconds after which this call saves and returns; None for no limit.
        tensorboard: also write TensorBoard event files.
        sharding: "fsdp2" spreads the frozen layers of the language model over the processes; see
            `sharding`.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    accumulation: int = 1
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_lr: float = 0.0
    clip: float | None = 1.0
    ema: float | None = None
    seed: int = 0
    threads: int | None = None
    autocast: Literal["none", "bfloat16"] = "none"
    device: str = "cpu"
    log_every: int = 10
    evaluate_every: int = 0
    save_every: int = 0
    save_seconds: float = 300.0
    keep: int = 2
    time_limit: float | None = None
    tensorboard: bool = False
    sharding: Literal["none", "fsdp2"] = "none"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UsageError(
                f"expected one of steps and epochs, got steps={self.steps}, epochs={self.epochs}"
            )
        for name in ("batch_size", "accumulation", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise UsageError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.schedule not in ("cosine", "linear", "constant"):
            raise UsageError(f"expected schedule cosine, linear or constant, got {self.schedule!r}")
        if self.sharding not in ("none", "fsdp2"):
            raise UsageError(f"expected sharding none or fsdp2, got {self.sharding!r}")


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(total_steps - config.warmup, 1)
    if config.schedule == "constant":
        return config.lr
    fall = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.final_lr + (1 - config.final_lr) * fall)


def adamw(groups: Sequence[ParameterGroup], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the groups; each keeps its `lr_scale`."""
    rows: list[dict[str, Any]] = [
        {
            "params": list(group.parameters),
            "lr_scale": group.lr_scale,
            "weight_decay": (
                config.weight_decay if group.weight_decay is None else group.weight_decay
            ),
        }
        for group in groups
        if group.parameters
    ]
    fused = all(p.device.type in ("cpu", "cuda") for row in rows for p in row["params"])
    return torch.optim.AdamW(rows, lr=config.lr, betas=config.betas, fused=fused)


def check_settings(saved: Mapping[str, Any], config: TrainConfig, *, allow_changed: bool) -> None:
    """Refuse a resume that would mix two runs.

    Raises:
        RefusedError: a setting that changes the result differs from the saved one.
    """
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    changed = [
        f"{name} {saved.get(name)} -> {now[name]}"
        for name in now
        if name not in _FREE_ON_RESUME and saved.get(name) != now[name]
    ]
    if changed and allow_changed:
        logger.warning("resuming with changed settings: %s", ", ".join(changed))
    elif changed:
        raise RefusedError(
            f"the run in this folder had other settings: {', '.join(changed)}; use its settings, "
            "another folder, or allow the change"
        )
