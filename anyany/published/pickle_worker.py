"""Opens one untrusted pickle, in a process of its own: run as a script, never imported to read.

    python -I pickle_worker.py IN.pt OUT.safetensors

PyTorch's `weights_only` reader builds tensors and refuses everything else; a process of its own
keeps a flaw in that reader away from the program's memory and secrets. Stands alone: it imports
nothing of this package. Tensors are mapped and written one by one, so memory stays small however
large the file; `write_tensors` serves the rest of this folder too.
"""

import json
import math
import os
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

REFUSED = 3  # exit status: anything but a flat dictionary of tensors
TORN = 4  # exit status: no whole file
MAX_EXPANSION = 4  # tensors may view one storage (tied weights), but not blow a small file up
SLACK = 1 << 20  # bytes

DTYPES = {  # safetensors' names and bytes
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_TORCH_NAMES = {
    "float64": "F64",
    "int64": "I64",
    "float32": "F32",
    "int32": "I32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def dtype_name(tensor: Any) -> str | None:
    """A tensor's type in safetensors' words; None for a type that files do not hold."""
    return _TORCH_NAMES.get(str(tensor.dtype).removeprefix("torch."))


def write_tensors(
    path: str | os.PathLike[str],
    entries: Mapping[str, tuple[str, tuple[int, ...]]],
    read: Callable[[str], Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file with one tensor at a time in memory.

    Args:
        path: to write; not atomic, the caller renames.
        entries: name -> type in safetensors' words, and shape.
        read: gives a tensor by name; called once each, the widest types first.
        metadata: text beside the tensors.

    Raises:
        ValueError: `read` gave another type or shape than the entry said.
    """
    import torch

    order = sorted(entries, key=lambda name: (-DTYPES[entries[name][0]], name))  # aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name in order:
        dtype, shape = entries[name]
        end = offset + math.prod(shape) * DTYPES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            tensor = read(name).detach()
            if (dtype_name(tensor), tuple(tensor.shape)) != entries[name]:
                raise ValueError(f"{name}: expected {entries[name]}, got {tensor.dtype}")
            flat = tensor.contiguous().flatten().view(torch.uint8)
            file.write(memoryview(flat.numpy()))
        file.flush()
        os.fsync(file.fileno())


def main(argv: list[str]) -> int:
    """Read and write; the exit status is 0, REFUSED or TORN.

    Args:
        argv: the pickle and the file to write.
    """
    source, out = argv
    status, loaded = _load(source)
    if status:
        return status
    entries = _entries(loaded, os.path.getsize(source))
    if entries is None:
        return REFUSED
    write_tensors(out, entries, lambda name: loaded[name])
    return 0


def _load(source: str) -> tuple[int, Any]:
    import torch

    try:
        with open(source, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        return 0, torch.load(source, map_location="cpu", weights_only=True, mmap=zipped or None)
    except MemoryError:
        raise
    except Exception as error:  # the reader raises many kinds
        refused = type(error).__name__ == "UnpicklingError"
        return (REFUSED if refused else TORN), None


def _entries(loaded: Any, size: int) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """Types and shapes; None if there is anything but dense tensors of the file's own size."""
    import torch

    if not isinstance(loaded, dict):
        return None
    entries: dict[str, tuple[str, tuple[int, ...]]] = {}
    total = 0
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            return None
        dtype = dtype_name(tensor)
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if dtype is None or not plain or name == "__metadata__":
            return None
        entries[name] = (dtype, tuple(tensor.shape))
        total += math.prod(tensor.shape) * DTYPES[dtype]
    return entries if total <= MAX_EXPANSION * size + SLACK else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
