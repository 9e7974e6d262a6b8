"""What an encoder hands to a bridge, and the seam that every encoder fills.

Media become tensors in `prepare` (deterministic, without weights, so its output can be hashed and
cached) and features in `forward`.

Shapes: B batch, P encoder tokens, E encoder width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

Readout: TypeAlias = Literal["patches", "pooled"]


@dataclass(frozen=True, eq=False)
class Features:
    """An encoder's view of a batch of media.

    Args:
        tokens: [B, P, E], one row per patch (or a single row for a pooled read-out).
        pooled: [B, E], one row per item.
        grid: how the P tokens lie, e.g. (rows, columns); None if they have no layout.
    """

    tokens: Tensor
    pooled: Tensor
    grid: tuple[int, ...] | None


class Encoder(nn.Module):
    """Base of encoders: `prepare` one item, then run `forward` on stacked items.

    Whether an encoder is frozen is the training stage's business, not its own.
    """

    encoder_dim: int
    num_tokens: int

    def prepare(self, media: Any) -> Tensor:
        """Turn one item into the tensor that `forward` takes, without its batch axis."""
        raise NotImplementedError(f"{type(self).__name__} does not define prepare")

    def forward(self, prepared: Tensor) -> Features:
        """Encode a batch.

        Args:
            prepared: outputs of `prepare`, stacked on a new first axis.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward")
