"""What a device could do at best: FLOPs counted on the real shapes, bytes of the weights, peaks.

A part cannot be quicker than its FLOPs at the device's dense half-precision peak, nor than one
read of its weights at the memory's full rate; the slower of the two is its ceiling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn


@dataclass(frozen=True)
class Peak:
    """A device's peaks, from its data sheet.

    Args:
        flops: a second, dense, bfloat16 or float16 with float32 sums.
        bandwidth: bytes a second.
    """

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """What a part has to do.

    Args:
        flops: of matrix products, convolutions and attention.
        bytes: of weights that must be read at least once each pass, times passes.
    """

    flops: float
    bytes: float


# Parts of CUDA's device names; the first that fits counts.
PEAKS: Final = {
    "H200": Peak(989e12, 4.8e12),
    "H100 PCIe": Peak(756e12, 2.0e12),
    "H100": Peak(989e12, 3.35e12),
    "A100-SXM4-80GB": Peak(312e12, 2.039e12),
    "A100 80GB": Peak(312e12, 1.935e12),
    "A100": Peak(312e12, 1.555e12),
    "L40S": Peak(362e12, 864e9),
    "L4": Peak(121e12, 300e9),
    "A10": Peak(125e12, 600e9),
    "4090": Peak(165e12, 1.008e12),
    "3090": Peak(71e12, 936e9),
}


def find_peak(device_name: str) -> Peak | None:
    """The peaks of a device by its name; None for one that is not in the table."""
    return next((peak for part, peak in PEAKS.items() if part in device_name), None)


def ceiling_seconds(work: Work, peak: Peak | None) -> float | None:
    """The least time that the work can take; None without peaks."""
    return None if peak is None else max(work.flops / peak.flops, work.bytes / peak.bandwidth)


def bound(work: Work, peak: Peak | None) -> str:
    """Which of the two holds the work back."""
    if peak is None:
        return "?"
    return "FLOPs" if work.flops / peak.flops >= work.bytes / peak.bandwidth else "bandwidth"


def count_flops(run: Callable[[], Any]) -> float:
    """FLOPs of one run, counted as it runs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops())


def weight_bytes(*modules: nn.Module) -> float:
    """Bytes of the modules' parameters."""
    return float(sum(p.numel() * p.element_size() for m in modules for p in m.parameters()))
