"""Weights on disk: whole safetensors files, and a manifest of sums beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anyany.errors import CheckpointError

MANIFEST: Final = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write the sums of all files but the manifest itself."""
    record = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps(record, indent=1) + "\n")


def verify(folder: Path) -> list[str]:
    """The files that are missing or differ from the manifest; empty if all is well.

    Raises:
        CheckpointError: there is no manifest.
    """
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{folder / MANIFEST}: expected the manifest of a system") from None
    return [
        name
        for name, item in record.items()
        if not (folder / name).is_file() or _file_sha256(folder / name) != item["sha256"]
    ]


def weights_sha256(folder: Path | None, modules: Iterable[nn.Module]) -> str:
    """Hash of all weights: by the manifest's sums if there is one, else of the tensors."""
    digest = hashlib.sha256()
    if folder is not None and (folder / MANIFEST).is_file():
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name in sorted(record):
            if name.endswith(".safetensors"):
                digest.update(f"{name} {record[name]['sha256']}\n".encode())
        return digest.hexdigest()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(name.encode() + flat.numpy().tobytes())
    return digest.hexdigest()


def to_half(folder: Path) -> None:
    """Turn every float32 weight of a folder into float16, in place; the manifest follows."""
    for path in sorted(folder.rglob("*.safetensors")):
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = {
            name: tensor.half() if tensor.dtype == torch.float32 else tensor
            for name, tensor in load_file(path).items()
        }
        save_tensors(tensors, path, metadata)
    write_manifest(folder)


def load_strict(module: nn.Module, path: Path, what: str) -> None:
    """Load a whole file into a module.

    Raises:
        CheckpointError: the file is missing, torn, or of other tensors.
    """
    tensors = read_tensors(path, what)
    own = module.state_dict()
    strange = sorted(own.keys() ^ tensors.keys()) or sorted(
        name for name in own if own[name].shape != tensors[name].shape
    )
    if strange:
        raise CheckpointError(
            f"{path}: expected the {what} that config.json describes; {len(strange)} tensors are "
            f"missing, unknown or of another shape, first {strange[0]!r}"
        )
    module.load_state_dict(tensors)


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """A whole file's tensors.

    Raises:
        CheckpointError: the file is missing or torn.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected the weights of the {what}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError):
        raise CheckpointError(f"{path}: expected a whole safetensors file; it is torn") from None
    return tensors


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None
) -> None:
    """Write tensors as one file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(held, partial, metadata=dict(metadata) if metadata else None)
    os.replace(partial, path)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
