"""Everything a resume needs, in one dataclass, and how it leaves and enters live objects.

Saved are the trainable parameters, the persistent buffers of modules in training mode, the
optimizer's state and the EMA. Frozen weights are not: whoever builds the task builds them again.
Random states are not either, as the trainer derives every draw from (seed, position).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyany.alignment import checkpoints
from anyany.alignment.checkpoints import Checkpoint
from anyany.errors import CheckpointError


@dataclass
class TrainState:
    """Where a run stands.

    Args:
        step: optimizer steps taken, skipped ones included.
        samples: stream positions used up, over all processes.
        skipped: steps skipped for a loss or gradient that was not finite.
        skipped_in_a_row: the same, since the last good step.
        seconds: training time so far, over all runs, in seconds.
        window: sums since the last logged line: name -> [value times weight, weight].
        tensors: group ("parameters", "buffers", "optimizer", "ema") -> name -> tensor.
    """

    step: int = 0
    samples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    window: dict[str, list[float]] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, Any]:
        """All but the tensors, as JSON values."""
        return {key: value for key, value in asdict(_bare(self)).items() if key != "tensors"}

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> TrainState:
        """The state as it was saved.

        Raises:
            CheckpointError: the checkpoint is not one of a training run.
        """
        expected = {item.name for item in fields(cls)} - {"tensors"}
        record = checkpoint.record.get("state", {})
        if set(record) != expected:
            raise CheckpointError(
                f"{checkpoint.path.name} is not a checkpoint of this trainer's format: expected "
                f"the fields {sorted(expected)}, got {sorted(record)}"
            )
        return cls(**record, tensors=checkpoint.tensors)


class Ema:
    """An exponential moving average of parameters, in float32, with a warm-up of its decay.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so early averages forget quickly.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = dict(parameters)
        self.shadow = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the parameters after the `updates`-th optimizer update (from 1)."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        live = [p.detach().float() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.shadow.values()), live, 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters hold the average inside, and their own values again after."""
        backup = {name: p.detach().clone() for name, p in self._parameters.items()}
        _copy_into(self._parameters, self.shadow)
        try:
            yield
        finally:
            _copy_into(self._parameters, backup)


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with requires_grad, by name; a shared one under its first name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def persistent_buffers(module: nn.Module, *, training: bool) -> dict[str, Tensor]:
    """The persistent buffers of modules in training mode (or of those that are not), by name."""
    found: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        if part.training == training:
            for name, buffer in part._buffers.items():
                if buffer is not None and name not in part._non_persistent_buffers_set:
                    found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def set_training_mode(module: nn.Module, *, training: bool = True) -> None:
    """Train mode for every part in which something trains; evaluation mode for frozen parts.

    A part without parameters (dropout) follows the part that holds it.
    """
    parameters = list(module.parameters())
    if parameters:
        training = training and any(p.requires_grad for p in parameters)
    module.training = training
    for child in module.children():
        set_training_mode(child, training=training)


def capture(
    module: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a TrainState; views of live memory, to be saved at once."""
    parameters = trainable_parameters(module)
    return {
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "buffers": persistent_buffers(module, training=True),
        "optimizer": {
            f"{key}/{name}": value
            for name, p in parameters.items()
            for key, value in optimizer.state.get(p, {}).items()
        },
        "ema": {} if ema is None else ema.shadow,
    }


def restore(
    tensors: Mapping[str, Mapping[str, Tensor]],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
) -> None:
    """Put the tensors of a TrainState back, bit for bit.

    Raises:
        CheckpointError: names or shapes are not those of the module.
    """
    parameters = trainable_parameters(module)
    _copy_into(parameters, tensors.get("parameters", {}))
    _copy_into(persistent_buffers(module, training=True), tensors.get("buffers", {}))
    if ema is not None:
        _copy_into(ema.shadow, tensors.get("ema", {}))
    for full_name, value in tensors.get("optimizer", {}).items():
        key, _, name = full_name.partition("/")
        p = parameters[name]
        if value.shape == p.shape and key != "step":
            live = torch.empty_like(p, dtype=value.dtype, requires_grad=False)
            optimizer.state[p][key] = live.copy_(value)
        else:
            optimizer.state[p][key] = value.to(p.device if p.is_cuda else "cpu")


def load_trained(folder: Path, module: nn.Module, *, ema: bool = True) -> int:
    """Load what a run has trained into a module of the same names, without a trainer.

    Args:
        folder: of the run.
        module: built as the run's task builds it, with the same parameters trainable.
        ema: prefer the moving average where the run kept one.

    Returns:
        The step of the checkpoint.

    Raises:
        CheckpointError: there is no whole checkpoint, or it does not fit the module.
    """
    checkpoint = checkpoints.load_latest(folder)
    if checkpoint is None:
        raise CheckpointError(f"expected a checkpoint in {folder}, found none")
    weights = checkpoint.tensors.get("ema") if ema else None
    _copy_into(trainable_parameters(module), weights or checkpoint.tensors.get("parameters", {}))
    buffers = checkpoint.tensors.get("buffers", {})
    _copy_into({name: b for name, b in module.named_buffers() if name in buffers}, buffers)
    return checkpoint.step


@torch.no_grad()
def _copy_into(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    if set(live) != set(saved):
        only_live, only_saved = sorted(set(live) - set(saved)), sorted(set(saved) - set(live))
        raise CheckpointError(
            f"the checkpoint does not fit: not in it {only_live[:3]} ({len(only_live)} in all), "
            f"only in it {only_saved[:3]} ({len(only_saved)} in all)"
        )
    for name, tensor in live.items():
        if tensor.shape != saved[name].shape:
            raise CheckpointError(
                f"the checkpoint does not fit: {name} should be {list(tensor.shape)}, "
                f"got {list(saved[name].shape)}"
            )
        tensor.copy_(saved[name])


def _bare(state: TrainState) -> TrainState:
    named = {item.name: getattr(state, item.name) for item in fields(state)}
    return TrainState(**{**named, "tensors": {}})
