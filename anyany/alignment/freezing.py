"""What trains and what does not: one function sets it for every part and prints the table."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from anyany.alignment.training_state import persistent_buffers, set_training_mode
from anyany.errors import UsageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartRow:
    """One line of the table.

    Args:
        part: name of a part, its first `depth` name pieces.
        parameters: numbers in it.
        trainable: of these, how many train.
    """

    part: str
    parameters: int
    trainable: int


def set_trainable(
    module: nn.Module, patterns: Sequence[str], *, depth: int = 1
) -> tuple[PartRow, ...]:
    """Train exactly the parameters that a pattern names, freeze all others, and log the table.

    Frozen parts also go into evaluation mode. A pattern is a shell pattern over the full parameter
    name; without a wildcard it names a part and all below it: "output_projectors", "lm.*.lora_*".

    Args:
        module: the whole system of a stage.
        patterns: of what trains.
        depth: name pieces that make a part of the table.

    Returns:
        The table, in order of the parts.

    Raises:
        UsageError: a pattern names nothing; the message lists the parts there are.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(_matches(name, pattern) for pattern in patterns))
    rows = trainable_table(module, depth=depth)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name, _ in module.named_parameters()):
            raise UsageError(
                f"nothing is named {pattern!r}: expected a parameter name or pattern below "
                f"{', '.join(row.part for row in rows)}"
            )
    set_training_mode(module)
    logger.info("what trains:\n%s", format_table(rows))
    return rows


def trainable_table(module: nn.Module, *, depth: int = 1) -> tuple[PartRow, ...]:
    """Count parameters and trainable ones per part; a shared parameter counts once."""
    counts: dict[str, list[int]] = {}
    for name, parameter in module.named_parameters():
        count = counts.setdefault(_part_of(name, depth), [0, 0])
        count[0] += parameter.numel()
        count[1] += parameter.numel() if parameter.requires_grad else 0
    return tuple(PartRow(part, *count) for part, count in counts.items())


def format_table(rows: Sequence[PartRow]) -> str:
    """The table as aligned text, with a total."""
    total = PartRow("total", sum(r.parameters for r in rows), sum(r.trainable for r in rows))
    width = max(len(row.part) for row in (*rows, total))
    lines = [f"{'part':<{width}} {'parameters':>15} {'trainable':>15}"]
    lines += [
        f"{row.part:<{width}} {row.parameters:>15,} {row.trainable:>15,}" for row in (*rows, total)
    ]
    return "\n".join(lines)


def hash_frozen(module: nn.Module, *, depth: int = 1) -> Mapping[str, str]:
    """SHA-256 of every frozen tensor (parameters and persistent buffers), per part.

    Buffers count as frozen where their module is in evaluation mode.
    """
    digests: dict[str, hashlib._Hash] = {}
    for name, tensor in _frozen_tensors(module):
        digest = digests.setdefault(_part_of(name, depth), hashlib.sha256())
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return {part: digest.hexdigest() for part, digest in digests.items()}


def _frozen_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    frozen = [(name, p.detach()) for name, p in module.named_parameters() if not p.requires_grad]
    return [*frozen, *persistent_buffers(module, training=False).items()]


def _bytes_of(tensor: Tensor) -> bytes:
    host = tensor.detach().to("cpu").contiguous().reshape(-1)
    return host.view(torch.uint8).numpy().tobytes() if host.numel() else b""


def _part_of(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _matches(name: str, pattern: str) -> bool:
    if re.search(r"[*?\[]", pattern):
        return fnmatchcase(name, pattern)
    return name == pattern or name.startswith(f"{pattern}.")
