"""The command line, run in this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import Anyany, Run

from anyany import AnyToAny
from anyany.cli import main


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


@pytest.fixture(scope="session")
def system() -> AnyToAny:
    """The packaged system."""
    return AnyToAny.from_pretrained("pocket", device="cpu", threads=None)


@pytest.fixture
def loaded(system: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> AnyToAny:
    """Verbs take this system instead of loading one, where loading is not what is tested."""

    def from_pretrained(*_: Any, **__: Any) -> AnyToAny:
        return system

    monkeypatch.setattr(AnyToAny, "from_pretrained", from_pretrained)
    return system
