"""`anyany import`: published weights in, safetensors out; pickles end here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def imagebind(
    pth: Annotated[Path, typer.Argument(metavar="PTH", help="The published imagebind_huge.pth.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
) -> None:
    """Turn the published ImageBind checkpoint into safetensors, in a process of its own.

    \b
    Example:
      anyany import imagebind imagebind_huge.pth imagebind_huge.safetensors
    """
    from anyany.encoders import import_imagebind_pth

    print(import_imagebind_pth(pth, out))
