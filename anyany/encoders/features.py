"""What an encoder hands to a bridge, and the seam that every encoder fills.

Media become tensors in `prepare` (deterministic, without weights, so its output can be hashed and
cached) and features in `forward`.

Shapes: B batch, P encoder tokens, E encoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

# patches and pooled: in the encoder's joint space; penultimate: patch tokens before the last block;
# classes: the class token after every few blocks; pixels: no encoder, the patches themselves.
Readout: TypeAlias = Literal["patches", "pooled", "penultimate", "classes", "pixels"]
GRID_READOUTS: tuple[Readout, ...] = ("patches", "penultimate", "pixels")


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

    Whether an encoder is frozen is the training stage's business, not its own. `image_size` and
    `patch_size` are those of its pictures (0 = it takes none).
    """

    encoder_dim: int
    num_tokens: int
    readout: Readout = "patches"
    image_size: int = 0
    patch_size: int = 0

    def prepare(self, media: Any) -> Tensor:
        """Turn one item into the tensor that `forward` takes, without its batch axis."""
        raise NotImplementedError(f"{type(self).__name__} does not define prepare")

    def own_parameters(self) -> list[nn.Parameter]:
        """The parameters that this modality passes, of a model that may have others."""
        return list(self.parameters())

    def without_gradient(self) -> dict[str, str]:
        """Parameters that its outputs do not depend on: name -> reason."""
        return {}

    def forward(self, prepared: Tensor, *, adapter_names: Sequence[str] | None = None) -> Features:
        """Encode a batch.

        Args:
            prepared: outputs of `prepare`, stacked on a new first axis.
            adapter_names: of each of the B items, the low-rank update to encode it with; only where
                `install_adapter` has put such in.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward")
