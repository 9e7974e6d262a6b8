"""`anyany models`: what systems there are, whether their files are whole, what they are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anyany.cli.options import AsJson
from anyany.errors import CheckpointError

if TYPE_CHECKING:
    from anyany.system_config import SystemConfig

Name = Annotated[str, typer.Argument(metavar="NAME", help="pocket, a name of `list`, or a folder.")]


def list_(as_json: AsJson = False) -> None:
    """List the systems that ship with anyany, with weights or without.

    \b
    Example:
      anyany models list
    """
    from anyany.system_config import system_names
    from anyany.system_files import PACKAGED

    rows = [{"name": name, "weights": "packaged"} for name in PACKAGED]
    rows += [
        {"name": name, "weights": "bring your own"}
        for name in system_names()
        if name not in PACKAGED
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['name']:<24}{row['weights']}")


def verify(name: Name = "pocket") -> None:
    """Compare a system's files with the sums of its manifest.

    \b
    Examples:
      anyany models verify
      anyany models verify runs/pocket/system
    """
    from anyany import weights
    from anyany.system_files import find

    folder = find(name)
    strange = weights.verify(folder)
    if strange:
        raise CheckpointError(
            f"{name}: {len(strange)} files are missing or changed, first {strange[0]!r}: install "
            "or copy the system again"
        )
    print(f"{name}: all files are whole")


def show(name: Name = "pocket", as_json: AsJson = False) -> None:
    """Show modalities, sizes, parameters and licences.

    \b
    Examples:
      anyany models show
      anyany models show nextgpt-7b-v1.5
    """
    from anyany import system_files
    from anyany.system_config import load_system_config, system_names

    if name in system_names() and name not in system_files.PACKAGED:
        config, parameters = load_system_config(name), None
    else:
        folder = system_files.find(name)
        config = system_files.read_config(folder)
        parameters = count_parameters(folder)
    record = describe(config, parameters)
    if as_json:
        print(json.dumps(record, indent=1))
        return
    for key, value in record.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{key:<16}{text}")


def describe(config: SystemConfig, parameters: dict[str, int] | None) -> dict[str, Any]:
    """What people want to know of a system."""
    signals = config.language.signals
    return {
        "name": config.name,
        "reads": ", ".join(("text", *config.encoder.modalities)),
        "makes": ", ".join(("text", *config.decoders)),
        "signal tokens": {name: getattr(signals, name) for name in config.decoders},
        "projector": f"{config.bridge.projector.type}, {config.bridge.sharing}",
        "template": config.language.template,
        "lora": "none" if config.language.lora is None else f"rank {config.language.lora.r}",
        "parameters": "weights not here" if parameters is None else parameters,
        "card": config.card,
    }


def count_parameters(folder: Path) -> dict[str, int]:
    """Numbers in the weight files per part, read from their headers.

    Raises:
        CheckpointError: a file is torn.
    """
    import math

    from safetensors import SafetensorError, safe_open

    counts: dict[str, int] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        place = path.relative_to(folder).with_suffix("").parts
        if place[-1] == "unconditional":  # a constant, no parameter
            continue
        part = "/".join(place[:2]) if place[0] in ("decoders", "output_projectors") else place[0]
        try:
            with safe_open(path, framework="numpy") as file:
                total = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (no dict)
        except (SafetensorError, OSError):
            raise CheckpointError(
                f"{path}: expected a whole safetensors file; it is torn"
            ) from None
        counts[part] = counts.get(part, 0) + total
    return counts
