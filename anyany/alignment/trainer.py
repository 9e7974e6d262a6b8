"""The one training loop: alignment's stages and pocket's pre-training both call `train`.

A task says what a batch and a loss are; the loop does the rest: order, accumulation, schedule,
clipping, EMA, checkpoints, resume, metrics, clean stops. On one CPU with the same thread count a
resumed run is bit-equal to one that was never stopped.

    class Denoise(Task):
        def __init__(self, unet: nn.Module) -> None:
            super().__init__(unet, num_samples=None)               # None: infinite, procedural

        def batch(self, indices: Sequence[int], draws: Draws) -> Tensor:
            return torch.stack([render(index) for index in indices])

        def loss(self, batch: Tensor, draws: Draws) -> LossOutput:
            noise = draws.normal(*batch.shape[1:])                 # [B, C, H, W], row i of sample i
            loss = (self.module(batch + noise) - noise).square().mean()
            return LossOutput(loss, {"denoise": loss}, weight=len(batch))

    result = train(Denoise(unet), TrainConfig(steps=100, ema=0.99), Path("runs/unet"))
    load_trained(Path("runs/unet"), unet)                          # the EMA weights
    raise SystemExit(result.exit_code)

Calling `train` again on the same folder resumes. Exit codes: 0 finished or time limit, 130 SIGINT,
143 SIGTERM (both after a checkpoint); errors carry their own: 1 diverged, 4 disk full, 5 locked or
resumed with changed settings.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from anyany.alignment import checkpoints
from anyany.alignment.interrupts import Interrupted, Interrupts
from anyany.alignment.metrics import MetricsLog, ProgressBar
from anyany.alignment.order import Draws, derive_seed, samples_at, seed_dropout
from anyany.alignment.ranks import Ranks
from anyany.alignment.sharding import Shards
from anyany.alignment.task import LossOutput, ParameterGroup, Task, moved
from anyany.alignment.train_config import TrainConfig, adamw, check_settings, learning_rate
from anyany.alignment.training_state import (
    Ema,
    TrainState,
    capture,
    load_trained,
    persistent_buffers,
    restore,
    set_training_mode,
    trainable_parameters,
)
from anyany.errors import AnyAnyError, UsageError

__all__ = [
    "DivergedError",
    "LossOutput",
    "ParameterGroup",
    "Task",
    "TrainConfig",
    "TrainResult",
    "learning_rate",
    "load_trained",
    "train",
]

logger = logging.getLogger(__name__)

MAX_SKIPPED: Final = 3  # steps in a row


class DivergedError(AnyAnyError):
    """Three steps in a row had a loss or gradient that was not finite (exit code 1)."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Args:
        reason: why it returned.
        step: optimizer steps taken, over all calls.
        skipped: of these, steps skipped for values that were not finite.
        metrics: the last training line.
    """

    reason: Literal["finished", "time_limit", "SIGINT", "SIGTERM"]
    step: int
    skipped: int
    metrics: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """For the process: 0, 130 (SIGINT) or 143 (SIGTERM)."""
        return {"finished": 0, "time_limit": 0, "SIGINT": 130, "SIGTERM": 143}[self.reason]


def train(
    task: Task,
    config: TrainConfig,
    folder: Path,
    *,
    progress: bool | None = None,
    allow_changed: bool = False,
) -> TrainResult:
    """Train to the end, or until a limit or a signal; resume if `folder` holds a checkpoint.

    Args:
        task: what is trained; its module ends with the newest weights (not the EMA's).
        config: how.
        folder: of the run: checkpoints, metrics.jsonl, evaluations/step-N.
        progress: show a bar; None: if stderr is a terminal.
        allow_changed: resume although settings that change the result differ.

    Raises:
        UsageError: nothing is trainable, or epochs of an infinite set.
        CheckpointError: the folder's checkpoints are torn or do not fit the module.
        RefusedError: the folder is locked, or its run had other settings.
        ResourceError: the disk is full; older checkpoints are whole.
        DivergedError: three steps in a row were not finite; a checkpoint is written.
    """
    ranks = Ranks.current()
    with checkpoints.lock_folder(folder) if ranks.first else nullcontext(), Interrupts() as stop:
        run = _Run(task, config, Path(folder), ranks, stop)
        run.resume(allow_changed=allow_changed)
        return run.to_the_end(progress=progress)


class _Run:
    """One call of `train`."""

    def __init__(
        self, task: Task, config: TrainConfig, folder: Path, ranks: Ranks, stop: Interrupts
    ) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.ranks, self.stop = ranks, stop
        self.started = self.saved_at = time.monotonic()
        self.device = torch.device(config.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        task.module.to(self.device)
        set_training_mode(task.module)
        self.named = trainable_parameters(task.module)
        if not self.named:
            raise UsageError("nothing to train: expected a parameter with requires_grad, got none")
        self.parameters = list(self.named.values())
        self.optimizer = adamw(task.parameter_groups(), config)
        self.ema = None if config.ema is None else Ema(self.named, config.ema)
        self.shards = Shards(task, config, ranks)
        self.state = TrainState()
        self.saved_step = 0
        self.step_samples = config.batch_size * config.accumulation * ranks.world
        self.last_line: dict[str, Any] = {}

    def resume(self, *, allow_changed: bool) -> None:
        """Take the newest whole checkpoint, if there is one."""
        checkpoint = (
            checkpoints.load_latest(self.folder, set_aside=True) if self.ranks.first else None
        )
        self.ranks.barrier()  # the first process may have set a torn one aside
        if not self.ranks.first:
            checkpoint = checkpoints.load_latest(self.folder)
        if checkpoint is None:
            return
        check_settings(checkpoint.record["config"], self.config, allow_changed=allow_changed)
        self.state = TrainState.from_checkpoint(checkpoint)
        restore(self.state.tensors, self.task.module, self.optimizer, self.ema)
        self.state.tensors = {}
        self.saved_step = self.state.step
        logger.info("resumed from %s", checkpoint.path.name)

    def to_the_end(self, *, progress: bool | None) -> TrainResult:
        """The loop."""
        state, config, total = self.state, self.config, self._total_steps()
        before = state.seconds
        bar = ProgressBar(total, state.step, shown=progress if self.ranks.first else False)
        self.log = (
            MetricsLog(self.folder, step=state.step, tensorboard=config.tensorboard)
            if self.ranks.first
            else None
        )
        reason: Literal["finished", "time_limit", "SIGINT", "SIGTERM"] | None = None
        try:
            self._evaluate_if_due(total)  # one that a stop cut short
            while state.step < total and reason is None:
                self._step(total)
                state.seconds = before + time.monotonic() - self.started
                bar.advance(state.step)
                if state.step % config.log_every == 0 or state.step == total:
                    self._log_window(bar)
                if state.skipped_in_a_row >= MAX_SKIPPED:
                    self._save()
                    raise DivergedError(
                        f"stopped at step {state.step}: {MAX_SKIPPED} steps in a row had a loss or "
                        "gradient that is not finite; the weights before them are saved. Lower lr, "
                        "lengthen warmup, or look at the data of those steps in metrics.jsonl"
                    )
                reason = self._must_stop()
                if reason is None:
                    self._save_if_due()
                    self._evaluate_if_due(total)
                    reason = self._must_stop() if state.step < total else None
            if state.step > self.saved_step:
                self._save()
            self.shards.release()
        finally:
            bar.close()
            if self.log is not None:
                self.log.close()
        return TrainResult(reason or "finished", state.step, state.skipped, self.last_line)

    def _step(self, total: int) -> None:
        """One optimizer step over all micro-batches of all processes."""
        state, config = self.state, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr_scale"] * learning_rate(config, state.step, total)
        buffers = {name: b.clone() for name, b in self._buffers().items()}
        stop = state.samples + self.step_samples
        if (end := self._total_samples()) is not None:
            stop = min(stop, end)
        sums: dict[str, list[float]] = {}
        for micro in range(config.accumulation):
            slot = micro * self.ranks.world + self.ranks.rank
            first = state.samples + slot * config.batch_size
            if first < stop:
                last = min(first + config.batch_size, stop)
                for name, value in self._micro_batch(first, last).items():
                    _add(sums, name, value)
            else:
                self.shards.idle()
        self.ranks.sum_gradients(self.parameters)
        gathered = self.ranks.gather(sums)
        sums = {}
        for one in gathered:
            for name, value in one.items():
                _add(sums, name, value)
        norm = self._clip(sums["loss"][1])
        if math.isfinite(norm) and math.isfinite(sums["loss"][0]) and sums["loss"][1] > 0:
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(state.step - state.skipped + 1)
            state.skipped_in_a_row = 0
            for name, value in {**sums, "grad_norm": [norm, 1.0]}.items():
                _add(state.window, name, value)
        else:
            state.skipped += 1
            state.skipped_in_a_row += 1
            for name, buffer in self._buffers().items():
                buffer.copy_(buffers[name])
            self._write("skipped", state.step + 1, {"samples": [state.samples, stop]})
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.samples = stop

    def _micro_batch(self, first: int, last: int) -> dict[str, list[float]]:
        """One forward and backward: name -> [value times weight, weight]."""
        config, task = self.config, self.task
        epochs, indices = samples_at(first, last, num_samples=task.num_samples, seed=config.seed)
        seed_dropout(derive_seed("global", config.seed, first), self.device)
        data = Draws(config.seed, "batch", epochs=epochs, indices=indices)
        noise = Draws(config.seed, "loss", epochs=epochs, indices=indices, device=self.device)
        batch = moved(task.batch(indices, data), self.device)
        enabled = config.autocast == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            output = task.loss(batch, noise)
        weight = torch.as_tensor(output.weight, dtype=torch.float32, device=self.device)
        scaled = self.shards.in_step(output.total) * weight
        if scaled.requires_grad:  # words alone teach an input projector nothing
            scaled.backward()  # type: ignore[no-untyped-call]
        names = ["loss", *output.named]
        values = [output.total, *output.named.values(), weight]
        *means, units = torch.stack([value.detach().float() for value in values]).tolist()
        return {name: [mean * units, units] for name, mean in zip(names, means, strict=True)}

    def _clip(self, units: float) -> float:
        """Turn summed gradients into the clipped weighted mean; return its norm before clipping."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients or units <= 0:
            return 0.0
        norm = float(nn.utils.get_total_norm(gradients)) / units
        clip = self.config.clip
        factor = 1.0 if clip is None or not norm > clip else clip / norm
        torch._foreach_mul_(gradients, factor / units)
        return norm

    def _total_samples(self) -> int | None:
        if self.config.epochs is None:
            return None
        if self.task.num_samples is None:
            raise UsageError("epochs need a finite set: give steps, as this task is infinite")
        return math.ceil(self.config.epochs * self.task.num_samples)

    def _total_steps(self) -> int:
        end = self._total_samples()
        if end is None:
            assert self.config.steps is not None
            return self.config.steps
        return self.state.step + math.ceil((end - self.state.samples) / self.step_samples)

    def _must_stop(self) -> Literal["time_limit", "SIGINT", "SIGTERM"] | None:
        limit = self.config.time_limit
        late = limit is not None and time.monotonic() - self.started >= limit
        own = self.stop.signal or ("time_limit" if late else None)
        return next((reason for reason in self.ranks.gather(own) if reason), None)

    def _save_if_due(self) -> None:
        config, step = self.config, self.state.step
        late = config.save_seconds > 0 and time.monotonic() - self.saved_at >= config.save_seconds
        if (config.save_every and step % config.save_every == 0) or any(self.ranks.gather(late)):
            self._save()

    def _save(self) -> None:
        if self.ranks.first:
            record = {
                "state": self.state.record(),
                "config": dataclasses.asdict(self.config),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
            tensors = capture(self.task.module, self.optimizer, self.ema)
            checkpoints.save(
                self.folder, self.state.step, tensors=tensors, record=record, keep=self.config.keep
            )
        self.saved_step, self.saved_at = self.state.step, time.monotonic()
        self.ranks.barrier()

    def _evaluate_if_due(self, total: int) -> None:
        """Evaluate by the first process; a signal cuts it short, and a resume makes up for it."""
        state, every = self.state, self.config.evaluate_every
        due = every > 0 and state.step > 0 and (state.step % every == 0 or state.step == total)
        if not due:
            return
        if state.step > self.saved_step:
            self._save()
        with self.shards.whole():
            if self.log is not None and self.log.evaluated_step != state.step:
                self._evaluate()
            self.ranks.barrier()

    def _evaluate(self) -> None:
        step = self.state.step
        folder = self.folder / "evaluations" / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        self.task.module.eval()
        averaged = nullcontext() if self.ema is None else self.ema.swapped_in()
        try:
            with self.stop.raising(), averaged, torch.no_grad():
                figures = dict(self.task.evaluate(folder))
            self._write("evaluate", step, figures)
        except Interrupted:
            logger.info("the evaluation of step %d was cut short by a signal", step)
        finally:
            set_training_mode(self.task.module)

    def _log_window(self, bar: ProgressBar) -> None:
        state = self.state
        if not state.window:
            return
        means = {name: total / units for name, (total, units) in state.window.items() if units}
        self.last_line = {
            **means,
            "lr": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_scale"],
            "weight": state.window["loss"][1],
            "samples": state.samples,
            "skipped": state.skipped,
            "seconds": round(state.seconds, 3),
        }
        state.window = {}
        self._write("train", state.step, self.last_line)
        bar.note(state.step, self.last_line)

    def _buffers(self) -> dict[str, Tensor]:
        return persistent_buffers(self.task.module, training=True)

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.write(kind, step, values)


def _add(sums: dict[str, list[float]], name: str, value: Sequence[float]) -> None:
    total = sums.setdefault(name, [0.0, 0.0])
    total[0] += value[0]
    total[1] += value[1]
