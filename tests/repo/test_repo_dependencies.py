"""Dependencies: declared as they are used, pinned within their ranges, above known holes."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from repo_tree import ROOT, pyproject, python_files

# Package -> the first version without these holes. A lower bound may be above, never below.
FLOORS: Final = {
    "av": ("18.1", "CVE-2026-8461 (MagicYUV) in the FFmpeg of earlier wheels"),
    "pillow": ("13.0", "CVE-2026-112403 (JPEG), CVE-2026-55380 (GD), CVE-2026-40192 (FITS)"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: a Parquet or IPC file runs code"),
    "ray": ("2.56", "CVE-2025-62593 (DNS rebinding), CVE-2026-27482 (DELETE); both fixed by 2.54"),
    "safetensors": ("0.5", "header checks of the 2023 audit"),
    "torch": ("2.10", "CVE-2025-32434, CVE-2026-24747: code runs despite weights_only"),
    "transformers": ("5.2.1", "CVE-2026-5241: nested configuration passes trust_remote_code"),
}
# Never to be dependencies: their wheels break torch's CPU build, or pull in what does.
REFUSED: Final = {"open-clip-torch", "timm", "torchaudio", "torchcodec", "torchvision"}
IMPORT_NAMES: Final = {"PIL": "pillow", "yaml": "pyyaml"}


def declared() -> dict[str, Requirement]:
    """The core requirements by name."""
    rows = [Requirement(text) for text in pyproject()["project"]["dependencies"]]
    return {canonicalize_name(row.name): row for row in rows}


def all_extras() -> list[Requirement]:
    """The requirements of all extras; some are in several."""
    groups = pyproject()["project"]["optional-dependencies"].values()
    return [Requirement(text) for group in groups for text in group]


def extras() -> dict[str, Requirement]:
    """The requirements of all extras by name."""
    return {canonicalize_name(row.name): row for row in all_extras()}


def pins() -> dict[str, str]:
    """constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in rows}


def lower_bound(requirement: Requirement) -> Version:
    """What its `>=` says."""
    (bound,) = (Version(s.version) for s in requirement.specifier if s.operator == ">=")
    return bound


@pytest.mark.parametrize("name", FLOORS)
def test_no_version_with_a_known_hole_is_allowed(name: str) -> None:
    floor = Version(FLOORS[name][0])
    rows = [row for row in (*declared().values(), *all_extras()) if row.name == name]
    assert rows
    assert all(lower_bound(row) >= floor for row in rows), FLOORS[name][1]
    assert Version(pins()[name]) >= floor


def test_pins_are_exact_and_within_the_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert re.fullmatch(r"#.*|[\w.\-]+==[\w.]+", line), line  # no hosts, files or local labels
    for name, requirement in {**declared(), **extras()}.items():
        if name in pins():
            assert requirement.specifier.contains(pins()[name]), requirement
    assert set(declared()) <= set(pins())


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    imported = {
        canonicalize_name(IMPORT_NAMES.get(module, module))
        for path in python_files("anyany")
        for module in _imports(path.read_text(encoding="utf-8"))
    }
    assert imported - set(declared()) - set(extras()) == set()
    assert set(declared()) - imported == set()


def test_core_stays_small() -> None:
    assert len(declared()) <= 20
    assert not REFUSED & (set(declared()) | set(extras()) | set(pins()))
    assert not {"gradio", "ray", "trackio", "wandb"} & set(declared())


def test_ranges_allow_the_other_tested_platform() -> None:
    assert declared()["torch"].specifier.contains("2.11.0")
    assert pyproject()["project"]["requires-python"] == ">=3.11"


def test_what_is_installed_is_allowed() -> None:
    for name, requirement in declared().items():
        version = importlib.metadata.version(name)
        assert requirement.specifier.contains(version, prereleases=True), f"{name} {version}"


def _imports(source: str) -> set[str]:
    """Top-level names of third-party modules that a source imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"anyany"}
