"""A seed means bytes: every part of a reply draws its noise from a CPU generator of its own.

The generator of a part depends on the resolved seed, the modality and the part's index among the
reply's parts of that modality, and on nothing else: not on the request, the batch or the device.
Initial and per-step noise are drawn from it in that order, with shape [1, ...] a part.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def part_seed(seed: int, modality: str, index: int) -> int:
    """The seed of one part's generator.

    Args:
        seed: the resolved seed of the request; any whole number.
        modality: "image", "video" or "audio".
        index: the part's place among the reply's parts of that modality, from 0.

    Returns:
        The first 63 bits of sha256(seed, modality, index).
    """
    digest = hashlib.sha256(f"{seed}/{modality}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def part_generator(seed: int, modality: str, index: int) -> Generator:
    """A fresh CPU generator for one part; see `part_seed` for the arguments."""
    return torch.Generator("cpu").manual_seed(part_seed(seed, modality, index))


def draw_noise(generators: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    """Draw the initial noise of a batch, part by part.

    Args:
        generators: one CPU generator a part.
        shape: the shape of one part's latents, without the batch.

    Returns:
        Standard normal float32 [B, *shape] on the CPU; row i does not depend on the others.
    """
    rows = [torch.randn((1, *shape), generator=generator) for generator in generators]
    return torch.cat(rows)
