"""What the tests of the command line share: running it in this process, and short settings.

The fixtures are imported by the files that use them, for two conftest.py of one name confuse mypy.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from anyany import AnyToAny
from anyany.cli import main

SHORT = ("--threads", "1", "--max-new-tokens", "24", "--device", "cpu")


class Run(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str


Anyany = Callable[..., Run]


@pytest.fixture
def anyany(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Anyany]:
    """Run `anyany ...` in an empty folder; torch's threads are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        code = main([str(item) for item in arguments])
        return Run(code, *capsys.readouterr())

    yield run
    torch.set_num_threads(threads)


@functools.cache
def packaged() -> AnyToAny:
    """The packaged system, loaded once for all files."""
    return AnyToAny.from_pretrained("pocket", device="cpu", threads=None)


@pytest.fixture(scope="session")
def system() -> AnyToAny:
    """The packaged system."""
    return packaged()


@pytest.fixture
def loaded(system: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> AnyToAny:
    """Verbs take this system instead of loading one, where loading is not what is tested."""

    def from_pretrained(*_: Any, **__: Any) -> AnyToAny:
        return system

    monkeypatch.setattr(AnyToAny, "from_pretrained", from_pretrained)
    return system
