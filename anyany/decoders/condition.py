"""What a decoder wants to be told: named tensors, the text embeddings of its own text encoder.

A `ConditionSpec` is the contract (names, shapes, which are unit vectors); a `Condition` is a batch
that honours it. Output projectors write conditions, text encoders write conditions, and decoders
read them; none of the three knows the others.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from anyany.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a condition.

    Args:
        shape: of one part, without the batch: (77, 1024) for a CLIP sequence, (512,) for CLAP.
        normalize: whether the decoder expects unit length along the last dimension.
    """

    shape: tuple[int, ...]
    normalize: bool = False

    def __post_init__(self) -> None:
        if not self.shape or any(size < 1 for size in self.shape):
            raise UsageError(f"expected a condition shape of positive sizes, got {self.shape}")

    @property
    def rows(self) -> int:
        """Vectors per part: every dimension but the last."""
        return math.prod(self.shape[:-1])

    @property
    def width(self) -> int:
        """Length of one vector."""
        return self.shape[-1]


@dataclass(frozen=True)
class ConditionSpec:
    """The named tensors that a decoder reads.

    Args:
        tensors: name -> spec, in the order in which heads are built.
    """

    tensors: Mapping[str, TensorSpec]

    def __post_init__(self) -> None:
        if not self.tensors:
            raise UsageError("expected a condition spec with at least one tensor, got none")

    def __iter__(self) -> Iterator[tuple[str, TensorSpec]]:
        return iter(self.tensors.items())

    def check(self, condition: Condition) -> None:
        """Refuse a condition that was made for something else.

        Raises:
            UsageError: names or shapes differ; the line says which.
        """
        if set(condition.tensors) != set(self.tensors):
            raise UsageError(
                f"expected a condition with {sorted(self.tensors)}, got {sorted(condition.tensors)}"
            )
        for name, spec in self:
            came = tuple(condition[name].shape[1:])
            if came != spec.shape:
                raise UsageError(
                    f"expected condition {name!r} of shape [B, {', '.join(map(str, spec.shape))}], "
                    f"got {list(condition[name].shape)}: the projector or text encoder belongs to "
                    "another decoder"
                )


@dataclass(frozen=True, eq=False)
class Condition:
    """A batch of conditions.

    Args:
        tensors: name -> [B, *shape]; all with the same B.
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        sizes = {
            name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in self.tensors.items()
        }
        if not sizes or len(set(sizes.values())) != 1:
            raise UsageError(f"expected named tensors of one batch size, got {sizes}")
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def batch_size(self) -> int:
        """B, the number of parts."""
        return next(iter(self.tensors.values())).shape[0]

    @classmethod
    def stack(cls, conditions: Sequence[Condition]) -> Condition:
        """Join batches one after the other; all must hold the same names and shapes.

        Raises:
            UsageError: nothing to join, or they do not fit together.
        """
        if not conditions:
            raise UsageError("expected at least one condition to stack, got none")
        shapes = [{n: tuple(t.shape[1:]) for n, t in c.tensors.items()} for c in conditions]
        if any(shape != shapes[0] for shape in shapes):
            raise UsageError(f"expected conditions of one kind to stack, got {shapes}")
        return cls(
            {name: torch.cat([c[name] for c in conditions]) for name in conditions[0].tensors}
        )

    def select(self, rows: Sequence[int] | slice) -> Condition:
        """The parts at these places, as a batch of their own."""
        places = rows if isinstance(rows, slice) else list(rows)
        return Condition({name: tensor[places] for name, tensor in self.tensors.items()})

    def expand(self, batch_size: int) -> Condition:
        """Repeat a single row to a batch; a batch of that size already is returned as it is.

        Raises:
            UsageError: there are several rows, but not `batch_size`.
        """
        if self.batch_size == batch_size:
            return self
        if self.batch_size != 1:
            raise UsageError(
                f"expected a condition of 1 or {batch_size} parts, got {self.batch_size}"
            )
        return self.select([0] * batch_size)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Condition:
        """The same condition elsewhere or in another precision."""
        return Condition({n: t.to(device=device, dtype=dtype) for n, t in self.tensors.items()})

    def save(self, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
        """Write a safetensors file, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        try:
            safetensors.torch.save_file(tensors, partial, metadata=dict(metadata or {}))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path, spec: ConditionSpec | None = None) -> Condition:
        """Read what `save` wrote, checked against `spec` if one is given.

        Raises:
            CheckpointError: the file is missing, torn, or holds another decoder's condition.
        """
        try:
            tensors: dict[str, Any] = safetensors.torch.load_file(path)
            condition = cls(tensors)
            if spec is not None:
                spec.check(condition)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such condition file") from None
        except (SafetensorError, OSError):
            raise CheckpointError(f"{path}: expected a whole safetensors file") from None
        except UsageError as error:
            raise CheckpointError(f"{path}: {error}") from None
        return condition


def condition_spec(unet: Mapping[str, Any], text_encoder: Mapping[str, Any]) -> ConditionSpec:
    """What a decoder of these component values wants to be told.

    Args:
        unet: values of the UNet; with a class embedding it reads one text embedding (AudioLDM),
            else a sequence.
        text_encoder: values of the text encoder.
    """
    if unet.get("class_embed_type") == "simple_projection":
        width = unet["projection_class_embeddings_input_dim"]
        return ConditionSpec({"class_labels": TensorSpec((width,), normalize=True)})
    rows = text_encoder.get("max_position_embeddings", 77)
    return ConditionSpec({"prompt_embeds": TensorSpec((rows, unet["cross_attention_dim"]))})
