"""Every YAML of the package loads with its folder's schema and opens with what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from repo_tree import PACKAGE

from anyany.alignment.stages import StageConfig
from anyany.bridges import BridgeRecipe
from anyany.config import load_config
from anyany.decoders.config import DECODER_CONFIGS
from anyany.errors import ConfigError
from anyany.system_config import SystemConfig, system_names

CONFIGS: Final = PACKAGE / "configs"
ALL: Final = sorted(CONFIGS.rglob("*.yaml"))
FILES: Final = [p for p in ALL if p.parent.name != "accelerate"]  # accelerate's own format
SCHEMAS: Final[dict[str, Any]] = {
    "bridges": BridgeRecipe,
    "stages": StageConfig,
    "systems": SystemConfig,
}


def schema(path: Path) -> Any:
    """What a file is written for, by its folder (a decoder's by its name)."""
    folder = path.relative_to(CONFIGS).parts[0]
    return DECODER_CONFIGS[path.stem] if folder == "decoders" else SCHEMAS[folder]


def name(path: Path) -> str:
    """Of a file, for reports."""
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_loads(path: Path) -> None:
    assert isinstance(load_config(path, schema(path)), schema(path))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_is_held_to_its_schema(path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'no_such_key'"):
        load_config(path, schema(path), ["no_such_key=1"])


@pytest.mark.parametrize("path", ALL, ids=name)
def test_it_opens_with_its_command_hardware_and_result(path: Path) -> None:
    comment = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment += line.removeprefix("#").lower()
    assert "anyany" in comment
    assert "hardware" in comment
    assert "result" in comment or "not measured" in comment


def test_nothing_else_lies_among_them() -> None:
    assert {path.suffix for path in CONFIGS.rglob("*") if path.is_file()} == {".yaml"}
    assert {"nextgpt-7b-v0", "nextgpt-7b-v1.5"} <= set(system_names())
    assert set(DECODER_CONFIGS) == {path.stem for path in FILES if path.parent.name == "decoders"}
