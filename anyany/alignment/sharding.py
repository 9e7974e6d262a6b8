"""Frozen layers of a language model spread over the processes of a run: FSDP2 (`fully_shard`).

What is large is frozen, what trains is small. So each process keeps its share of the layers' frozen
weights and gathers a layer when it is computed, while all that trains (LoRA, rows, projectors)
stays plain and whole in every process, and neither optimizer nor checkpoints notice.

Gathering is a conversation between processes, and must be the same in all. `Shards.in_step` sees to
it: every micro-batch, an empty one too, goes through all layers once forward and once back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anyany.alignment.ranks import Ranks
from anyany.alignment.task import Task
from anyany.alignment.train_config import TrainConfig
from anyany.errors import UsageError


def launched_settings(config: TrainConfig, environ: Mapping[str, str]) -> TrainConfig:
    """The settings, with what `accelerate launch` asks for in the environment.

    Args:
        config: as written.
        environ: of the process; nothing in it means nothing is changed.

    Raises:
        UsageError: it asks for something that this trainer does not do.
    """
    if environ.get("ACCELERATE_USE_FSDP", "false") != "true":
        return config
    expected = {
        "FSDP_VERSION": ("fsdp_version", ("2",)),
        "FSDP_OFFLOAD_PARAMS": ("fsdp_offload_params", ("false",)),
        "FSDP_RESHARD_AFTER_FORWARD": ("fsdp_reshard_after_forward", ("true",)),
        "FSDP_ACTIVATION_CHECKPOINTING": ("fsdp_activation_checkpointing", ("false",)),
        "ACCELERATE_MIXED_PRECISION": ("mixed_precision", ("no", "bf16")),
    }
    for variable, (key, values) in expected.items():
        found = environ.get(variable, values[0]).lower()
        if found not in values:
            raise UsageError(
                f"accelerate's config: expected {key}: {' or '.join(values)}; got {found!r}. "
                "configs/accelerate/fsdp2.yaml has what this trainer follows; the rest is set in "
                "the stage (gradient_checkpointing, train.autocast)"
            )
    if environ.get("ACCELERATE_MIXED_PRECISION") == "bf16":
        config = dataclasses.replace(config, autocast="bfloat16")
    return dataclasses.replace(config, sharding="fsdp2")


class Shards:
    """The layers of a language model, spread over the processes; or nothing, with one process.

    Args:
        task: its `shardable` model is spread.
        config: whether to.
        ranks: over which processes.

    Raises:
        UsageError: the task has no language model in its loop, or one without layers.
    """

    def __init__(self, task: Task, config: TrainConfig, ranks: Ranks) -> None:
        self._body: nn.Module | None = None
        self._before: dict[nn.Module, _Plain] = {}
        self._reached: Tensor | None = None  # the last pass's hidden states, until its loss is in
        if config.sharding == "none":
            return
        lm: Any = task.shardable
        if lm is None or not _layers(lm):
            raise UsageError(
                "train.sharding: expected a task with a transformers language model in its loop; "
                f"{type(task).__name__} has none to spread: set it to none"
            )
        if ranks.world > 1:
            self._body = lm.base_model
            self._device = torch.device(config.device)
            self._width = int(lm.get_input_embeddings().weight.shape[1])
            self._spread(self._body)

    def in_step(self, total: Tensor) -> Tensor:
        """A micro-batch's loss, unchanged, tied to one pass through all layers.

        A loss that the language model had no part in (an empty micro-batch) makes an idle pass.

        Args:
            total: scalar, before its `backward`.
        """
        if self._body is None:
            return total
        if self._reached is None:
            dtype = next(self._body.parameters()).dtype
            self._body(
                inputs_embeds=torch.zeros(1, 1, self._width, dtype=dtype, device=self._device),
                use_cache=False,
            )
        assert self._reached is not None
        reached, self._reached = self._reached, None
        return total + reached[0, 0, 0].float() * 0.0

    def idle(self) -> None:
        """The share of a process that has no samples for a micro-batch while others have."""
        if self._body is not None:
            zero = self.in_step(torch.zeros((), device=self._device))
            zero.backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The model is a plain one inside, in every process; all must enter and leave."""
        body = self._body
        self.release()
        yield
        if body is not None:
            self._spread(body)

    def release(self) -> None:
        """Gather all weights: the model is again what it was. All processes must call it."""
        if self._body is None:
            return
        _gather(self._body)
        for module, before in self._before.items():
            before.put_back(module)
        self._body, self._before = None, {}

    def _spread(self, body: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._body = body
        self._before = {module: _Plain(module) for module in body.modules()}
        world = Ranks.current().world
        mesh = init_device_mesh(self._device.type, (world,))
        layers = _layers(body)
        for layer in layers:
            trainable = {p for p in layer.parameters() if p.requires_grad}
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trainable)
        # The root gathers nothing of its own; it lets layers be fetched one ahead.
        fully_shard(body, mesh=mesh, ignored_params=set(body.parameters()))
        body.register_forward_pre_hook(self._before_pass, with_kwargs=True, prepend=True)
        body.register_forward_hook(self._after_pass)

    def _before_pass(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A batch with nothing to train before the layers must still go back through them."""
        embeds = kwargs["inputs_embeds"]
        if torch.is_grad_enabled() and not embeds.requires_grad:
            kwargs = {**kwargs, "inputs_embeds": embeds.detach().requires_grad_()}
        return args, kwargs

    def _after_pass(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert self._reached is None, "expected one pass through the language model a loss, got two"
        if torch.is_grad_enabled():
            self._reached = output.last_hidden_state


class _Plain:
    """What a module was before `fully_shard` changed its class, attributes and hooks."""

    def __init__(self, module: nn.Module) -> None:
        self.kind = type(module)
        self.names = set(vars(module))
        self.hooks = {
            name: dict(value)
            for name, value in vars(module).items()
            if isinstance(value, dict) and "hooks" in name
        }

    def put_back(self, module: nn.Module) -> None:
        """Undo; dictionaries of hooks stay the same objects, as handles refer to them."""
        from torch.distributed import _composable_state

        _composable_state._module_state_mapping.pop(module, None)  # torch has no way back
        module.__class__ = self.kind
        for name in set(vars(module)) - self.names:
            del vars(module)[name]
        for name, hooks in self.hooks.items():
            live = vars(module)[name]
            live.clear()
            live.update(hooks)


def _layers(lm: nn.Module) -> list[nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]


def _gather(body: nn.Module) -> None:
    """Whole parameters in place of shares, layer by layer."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    for module in body.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    for module in body.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                gathered = parameter.full_tensor()  # type: ignore[no-untyped-call]
                module._parameters[name] = nn.Parameter(gathered, parameter.requires_grad)
