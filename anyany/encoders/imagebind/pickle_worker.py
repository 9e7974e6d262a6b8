"""Opens one untrusted pickle, in a process of its own: run as a script, never imported for work.

    python -I pickle_worker.py IN.pth OUT.safetensors < expected.json > found.json

PyTorch's `weights_only` reader builds tensors and refuses everything else; a process of its own
keeps a flaw in that reader away from the program's memory and secrets. Stands alone: it imports
nothing of this package. Writes OUT only if all names and shapes are the expected ones; prints
what it found either way.
"""

import json
import sys

REFUSED = 3  # exit status: not a flat dictionary of tensors


def main(argv: list[str]) -> int:
    """Read, compare, write; the exit status is 0 or REFUSED.

    Args:
        argv: the pickle and the file to write.
    """
    import torch
    from safetensors.torch import save_file

    pth, out = argv
    expected = {name: tuple(shape) for name, shape in json.load(sys.stdin).items()}
    try:
        loaded = torch.load(pth, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # the reader raises many kinds; each means that the file is no plain weights
        return REFUSED
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        return REFUSED
    found = {name: tuple(tensor.shape) for name, tensor in loaded.items()}
    if found == expected:
        save_file({name: tensor.detach().contiguous() for name, tensor in loaded.items()}, out)
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
