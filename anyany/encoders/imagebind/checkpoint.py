"""ImageBind's weights: strict loading of safetensors, and the one safe way in for a pickle.

The published file is a pickle, which can run code when it is opened. `import_imagebind_pth` opens
it once, in a process of its own and with PyTorch's tensors-only reader, and writes safetensors;
everything else reads those alone.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anyany.encoders.checkpoints import check_tensors
from anyany.encoders.imagebind import pickle_worker
from anyany.encoders.imagebind.config import ImageBindConfig
from anyany.encoders.imagebind.model import ImageBind
from anyany.errors import CheckpointError

logger = logging.getLogger(__name__)

IMPORT_COMMAND = "anyany import imagebind imagebind_huge.pth imagebind_huge.safetensors"
IMPORT_TIMEOUT = 1_800  # seconds; the published file has 4.5 GB


def load_imagebind(
    path: str | Path, config: ImageBindConfig, *, dtype: torch.dtype | None = None
) -> ImageBind:
    """Build the towers of a configuration and fill them from a file.

    Whole towers that the file has and the configuration does not build are left unread (this is
    logged); within a tower, names and shapes must be equal.

    Args:
        path: safetensors with the published names.
        config: the towers to build.
        dtype: of the weights in memory; None keeps the file's.

    Returns:
        The model on the CPU, in training mode as every new module.

    Raises:
        CheckpointError: the file is missing, torn, a pickle, or does not fit the configuration.
    """
    path = Path(path)
    with torch.device("meta"):
        model = ImageBind(config)
    tensors = _read_towers(path, config)
    check_tensors(_shapes(tensors), _shapes(model.state_dict()), source=str(path))
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model


def import_imagebind_pth(
    pth: str | Path, out_safetensors: str | Path, config: ImageBindConfig | None = None
) -> Path:
    """Turn a pickled ImageBind checkpoint into safetensors without trusting it.

    Args:
        pth: the pickle, a flat state dict.
        out_safetensors: where to write.
        config: what the file must hold; None means the published `imagebind_huge`.

    Returns:
        The path written.

    Raises:
        CheckpointError: the file is missing, holds anything but tensors, or does not fit; nothing
            is written then.
    """
    pth, out = Path(pth), Path(out_safetensors)
    if not pth.is_file():
        raise CheckpointError(f"{pth}: expected ImageBind weights (.pth); found no such file")
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: expected an existing folder to write into")
    with torch.device("meta"):
        expected = _shapes(ImageBind(config or ImageBindConfig.huge()).state_dict())
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        check_tensors(_convert(pth, partial, expected), expected, source=str(pth))
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _convert(
    pth: Path, partial: Path, expected: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Run the worker; it writes only if names and shapes are as expected.

    Returns:
        Name -> shape found in the pickle.
    """
    command = [sys.executable, "-I", pickle_worker.__file__, str(pth), str(partial)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(expected),
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{pth}: reading took longer than {IMPORT_TIMEOUT} seconds; it was stopped"
        ) from None
    if done.returncode == pickle_worker.REFUSED:
        raise CheckpointError(
            f"{pth}: refused: expected a pickle of a flat dictionary of tensors and nothing else"
        )
    if done.returncode != 0:
        logger.debug("pickle worker failed: %s", done.stderr)
        raise CheckpointError(
            f"{pth}: could not be converted (exit status {done.returncode}); "
            "is there enough memory and disk for a second copy?"
        )
    shapes = json.loads(done.stdout)
    return {name: tuple(shape) for name, shape in shapes.items()}


def _read_towers(path: Path, config: ImageBindConfig) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected ImageBind weights; found no such file (once: {IMPORT_COMMAND})"
        )
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt", ".pkl"):
        raise CheckpointError(f"{path}: pickles are refused; once: {IMPORT_COMMAND}")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            skipped = sorted({_tower(name) for name in names} - {*config.modalities, ""})
            if skipped:
                logger.info("%s: towers not built and not read: %s", path, ", ".join(skipped))
            return {name: file.get_tensor(name) for name in names if _tower(name) not in skipped}
    except (SafetensorError, OSError):
        raise CheckpointError(f"{path}: expected a whole safetensors file; it is torn") from None


def _tower(name: str) -> str:
    """The modality of a published name (`modality_trunks.vision.blocks...`); "" for others."""
    parts = name.split(".")
    return parts[1] if len(parts) > 2 and parts[0].startswith("modality_") else ""


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
