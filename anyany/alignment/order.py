"""Which samples come when, and the randomness of each: pure functions of (seed, epoch, index).

The trainer walks one endless stream of positions. Position p of a set of n samples is the
(p mod n)-th entry of epoch p // n's own permutation; an infinite set counts upwards in epoch 0.
Noise and augmentation come from `Draws`, one generator per sample, so neither the batch size, the
number of processes nor a resume changes what happens to a sample.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def derive_seed(*keys: int | str) -> int:
    """A 63-bit seed from any keys, the same on every machine."""
    text = "\x1f".join(f"str:{k}" if isinstance(k, str) else f"int:{int(k)}" for k in keys)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@functools.lru_cache(maxsize=4)
def epoch_order(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The permutation of range(num_samples) that one epoch walks, int64 [num_samples]."""
    generator = np.random.Generator(np.random.Philox(key=derive_seed("order", seed, epoch)))
    return generator.permutation(num_samples).astype(np.int64)


def samples_at(
    start: int, stop: int, *, num_samples: int | None, seed: int
) -> tuple[list[int], list[int]]:
    """The samples at stream positions start..stop.

    Args:
        start: first position.
        stop: one past the last position; a range may straddle epochs.
        num_samples: size of the set, None if infinite.
        seed: of the run.

    Returns:
        (epochs, indices), each as long as the range.
    """
    if num_samples is None:
        return [0] * (stop - start), list(range(start, stop))
    epochs = [position // num_samples for position in range(start, stop)]
    indices = [
        int(epoch_order(num_samples, seed, epoch)[position % num_samples])
        for epoch, position in zip(epochs, range(start, stop), strict=True)
    ]
    return epochs, indices


class Draws:
    """The randomness of one micro-batch of B samples; row i depends on (seed, epoch, index) alone.

    Repeated calls go on in each sample's own stream. The numbers are drawn on the CPU and moved.

    Args:
        seed: of the run.
        purpose: separates streams of the same sample ("batch" and "loss" in the trainer).
        epochs: epoch of each sample, length B.
        indices: index of each sample, length B.
        device: where drawn tensors are put.
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        *,
        epochs: Sequence[int],
        indices: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.epochs = tuple(epochs)
        self.indices = tuple(indices)
        self.device = torch.device(device)
        self.seeds = tuple(
            derive_seed("sample", seed, purpose, epoch, index)
            for epoch, index in zip(self.epochs, self.indices, strict=True)
        )

    def __len__(self) -> int:
        return len(self.indices)

    @functools.cached_property
    def generators(self) -> tuple[torch.Generator, ...]:
        """One CPU generator per sample, length B."""
        return tuple(torch.Generator().manual_seed(seed) for seed in self.seeds)

    @functools.cached_property
    def numpy_generators(self) -> tuple[np.random.Generator, ...]:
        """One numpy generator per sample, length B; streams apart from the torch ones."""
        return tuple(np.random.Generator(np.random.Philox(key=seed)) for seed in self.seeds)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 [B, *shape]."""
        drawn = torch.empty(len(self), *shape)
        for row, generator in zip(drawn, self.generators, strict=True):
            row.normal_(generator=generator)
        return drawn.to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1), [B, *shape]."""
        drawn = torch.empty(len(self), *shape)
        for row, generator in zip(drawn, self.generators, strict=True):
            row.uniform_(generator=generator)
        return drawn.to(self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform int64 in [0, high), [B, *shape]."""
        drawn = torch.empty(len(self), *shape, dtype=torch.int64)
        for row, generator in zip(drawn, self.generators, strict=True):
            row.random_(high, generator=generator)
        return drawn.to(self.device)


def seed_dropout(seed: int, device: torch.device) -> None:
    """torch.manual_seed without its list of calls for devices that are not in use, which grows."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
