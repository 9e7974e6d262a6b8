"""The long reliability checks at full size: python -m pytest -m slow tests/batch (hours)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

SCRIPT: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "reliability.py"
NAMES: Final = (
    *("driver_kills", "interrupts", "worker_kills", "ray_kills", "same_bytes"),
    *("corrupt", "full_disk", "cut_ledger", "scale", "throughput", "shards", "estimates"),
)


def script() -> ModuleType:
    """benchmarks/reliability.py as a module."""
    spec = importlib.util.spec_from_file_location("reliability", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reliability"] = module
    spec.loader.exec_module(module)
    return module


def test_every_check_is_named_here() -> None:
    assert tuple(script().CHECKS) == NAMES


def test_quick_ones_at_a_small_scale() -> None:
    for name in ("cut_ledger", "shards"):
        assert script().run_check(name, scale=0.03, pocket=False)["passed"], name


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_at_full_size(name: str) -> None:
    assert script().run_check(name)["passed"]
