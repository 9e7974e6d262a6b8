"""What several training processes exchange: gradients and sums, over plain torch.distributed.

One process is the common case and costs nothing. With `torchrun`, each process computes its own
micro-batches; gradients are summed once an optimizer step, so any task works without a wrapper.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn

PATIENCE: Final = timedelta(hours=12)  # the others wait while the first process evaluates


@dataclass(frozen=True)
class Ranks:
    """This process among `world` processes."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """As torch.distributed was initialised; a single process if it was not."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @classmethod
    @contextmanager
    def launched(cls) -> Iterator[Ranks]:
        """Join the processes that `torchrun` or `accelerate launch` started, and part again.

        They are named in the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, LOCAL_RANK);
        where it names none, or a group is there already, nothing happens. Exchange is by gloo, and
        by nccl where there are GPUs; the process's GPU becomes the current one.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
            yield cls.current()
            return
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=PATIENCE)
        try:
            yield cls.current()
        finally:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank, in every process."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum gradients over the processes; one that no process has stays None."""
        if self.world == 1:
            return
        used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        used = used.to(parameters[0].device)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        for p, flag in zip(parameters, used.tolist(), strict=True):
            if flag:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                dist.all_reduce(p.grad)
