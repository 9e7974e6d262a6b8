"""The small ImageBind and the goldens that the tests of this folder share."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from anyany.encoders import (
    AudioConfig,
    DepthConfig,
    ImageBind,
    ImageBindConfig,
    IMUConfig,
    TextConfig,
    ThermalConfig,
    VisionConfig,
)

FOLDER = Path(__file__).parents[1] / "fixtures" / "imagebind"
TOKEN_TABLE = "modality_preprocessors.text.token_embedding.weight"
TINY = ImageBindConfig(
    embed_dim=24,
    vision=VisionConfig(dim=32, num_blocks=2, num_heads=4),
    text=TextConfig(dim=16, num_blocks=2, num_heads=2),
    audio=AudioConfig(dim=24, num_blocks=2, num_heads=3),
    depth=DepthConfig(dim=16, num_blocks=2, num_heads=2),
    thermal=ThermalConfig(dim=24, num_blocks=2, num_heads=3),
    imu=IMUConfig(dim=16, num_blocks=2, num_heads=2),
)
# The size of a system that trains on a CPU: 64-pixel pictures, a small mel, few words.
POCKET = ImageBindConfig(
    embed_dim=16,
    vision=VisionConfig(dim=16, num_blocks=2, num_heads=2, image_size=32, patch_size=8),
    text=TextConfig(dim=16, num_blocks=2, num_heads=2, vocab_size=20, context_length=6),
    audio=AudioConfig(
        dim=16,
        num_blocks=2,
        num_heads=2,
        num_mel_bins=16,
        num_frames=32,
        patch_size=8,
        stride=8,
    ),
)


@cache
def tensors() -> dict[str, Tensor]:
    """Weights, inputs and outputs of the small ImageBind."""
    loaded: dict[str, Tensor] = load_file(FOLDER / "tiny.safetensors")
    return loaded


@cache
def tiny_state() -> dict[str, Tensor]:
    """The whole state dict; rows of the token table that no input uses are zero."""
    state = {
        name.removeprefix("state."): tensor
        for name, tensor in tensors().items()
        if name.startswith("state.")
    }
    table = torch.zeros(49_408, 16)
    table[tensors()["token_rows.ids"]] = tensors()["token_rows.values"]
    return {**state, TOKEN_TABLE: table}


@cache
def tiny_imagebind() -> ImageBind:
    """The small ImageBind in evaluation mode, all six towers."""
    model = ImageBind(TINY)
    model.load_state_dict(tiny_state(), strict=True)
    return model.eval()


@cache
def goldens() -> dict[str, npt.NDArray[Any]]:
    """Preprocessed samples."""
    with np.load(FOLDER / "preprocessing.npz") as file:
        return {name: file[name] for name in file.files}


@cache
def records() -> dict[str, Any]:
    """Checksums, frame indices, time points."""
    loaded: dict[str, Any] = json.loads((FOLDER / "preprocessing.json").read_text())
    return loaded


@cache
def huge_manifest() -> dict[str, list[object]]:
    """Name -> [shape, dtype, kind] of `imagebind_huge`."""
    loaded: dict[str, list[object]] = json.loads(
        gzip.decompress((FOLDER / "huge_manifest.json.gz").read_bytes())
    )
    return loaded
