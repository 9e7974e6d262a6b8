"""Which device a name means on this machine."""

from __future__ import annotations

import torch

from anyany.errors import UsageError


def find_device(name: str) -> torch.device:
    """The device that a name means; "auto" takes CUDA or MPS if one is there.

    Raises:
        UsageError: the name is none, or this machine has no such device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, _, index = name.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count() if cuda else 0, "mps": int(mps)}
    if kind not in there or (index and not index.isdecimal()):
        raise UsageError(f"device: expected auto, cpu, cuda, cuda:INDEX or mps; got {name!r}")
    if int(index or 0) >= there[kind]:
        raise UsageError(f"device: {name} is not on this machine, or torch was built without it")
    return torch.device(name)
