"""Projectors by name, and their files: weights with type and sizes beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from anyany.config import from_dict, to_dict
from anyany.encoders.checkpoints import check_tensors
from anyany.encoders.projectors.base import Projector, ProjectorConfig
from anyany.encoders.projectors.grouped import GroupedProjector
from anyany.encoders.projectors.linear import TOKEN_LAYERS, TokenProjector
from anyany.encoders.projectors.mixture import MixtureProjector
from anyany.encoders.projectors.qformers import (
    ContextContentProjector,
    InstructQFormerProjector,
    QFormerProjector,
)
from anyany.encoders.projectors.resamplers import PerceiverProjector, PositionProjector
from anyany.errors import CheckpointError, ConfigError

PROJECTORS: dict[str, type[Projector]] = {
    **dict.fromkeys(TOKEN_LAYERS, TokenProjector),
    "grouped": GroupedProjector,
    "perceiver": PerceiverProjector,
    "qformer": QFormerProjector,
    "instruct_qformer": InstructQFormerProjector,
    "position2d": PositionProjector,
    "context_content": ContextContentProjector,
    "mixture": MixtureProjector,
}
_SIZES = {**dict.fromkeys(TOKEN_LAYERS, ""), "grouped": "grouped"}  # else "resampler"


def build_projector(config: ProjectorConfig) -> Projector:
    """A new projector.

    Raises:
        ConfigError: no projector has that type.
    """
    if config.type not in PROJECTORS:
        raise ConfigError(
            f"projector.type: expected one of {', '.join(PROJECTORS)}; got {config.type!r}"
        )
    projector = PROJECTORS[config.type](config)
    projector.add_separators(config.separators)
    return projector


def save_projector(projector: Projector, path: str | Path) -> None:
    """Write weights and configuration into one safetensors file, whole or not at all."""
    path = Path(path)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in projector.state_dict().items()
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file(tensors, partial, metadata={"projector": json.dumps(to_dict(projector.config))})
    os.replace(partial, path)


def load_projector(path: str | Path, config: ProjectorConfig | None = None) -> Projector:
    """Read a projector from its file.

    Args:
        path: written by `save_projector`.
        config: what the system expects; None takes the file's word.

    Raises:
        CheckpointError: the file is missing, torn, no projector, or of another type or width.
    """
    stored, tensors = _read(Path(path))
    for key in ("type", "encoder_dim", "language_dim"):
        if config is not None and getattr(config, key) != getattr(stored, key):
            raise CheckpointError(
                f"{path}: expected a projector with {key} {getattr(config, key)}; "
                f"the file holds one with {getattr(stored, key)}"
            )
    sizes = _SIZES.get(stored.type, "resampler")
    if config is not None and sizes and getattr(config, sizes) != getattr(stored, sizes):
        raise CheckpointError(
            f"{path}: expected a {stored.type} projector with {getattr(config, sizes)}; "
            f"the file holds one with {getattr(stored, sizes)}"
        )
    projector = build_projector(stored)
    check_tensors(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: tuple(tensor.shape) for name, tensor in projector.state_dict().items()},
        source=str(path),
    )
    projector.load_state_dict(tensors, strict=True)
    return projector


def _read(path: Path) -> tuple[ProjectorConfig, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a projector's weights; found no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        raise CheckpointError(f"{path}: expected a whole safetensors file; it is torn") from None
    try:
        stored = from_dict(
            json.loads(metadata["projector"]), ProjectorConfig, source=f"{path} (metadata)"
        )
    except (KeyError, json.JSONDecodeError, ConfigError):
        raise CheckpointError(
            f"{path}: expected a projector with its type and sizes in the file's metadata; "
            "found none that this version reads"
        ) from None
    return stored, tensors
