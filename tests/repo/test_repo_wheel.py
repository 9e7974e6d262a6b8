"""The wheel: nothing but `anyany` in it, and it works from an empty place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from repo_tree import ROOT, project_files

from anyany.media import read_provenance


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is tracked, so that no earlier build leaks in."""
    source = tmp_path_factory.mktemp("source")
    for path in project_files():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    out = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "anyany = anyany.cli:main" in archive.read(entry).decode()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"anyany"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    package = {
        str(path.relative_to(ROOT))
        for path in project_files()
        if path.is_relative_to(ROOT / "anyany")
    }
    assert {name for name in names if name.startswith("anyany/")} == package
    assert "anyany/py.typed" in package


def test_it_generates_from_an_empty_place(wheel: Path, tmp_path: Path) -> None:
    site, here = tmp_path / "site", tmp_path / "elsewhere"
    here.mkdir()
    _pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    command = [
        *(sys.executable, "-W", "error", "-m", "anyany", "generate"),
        *("a small red bell on the left", "--to", "text,image", "--seed", "7", "--steps", "2"),
    ]
    done = subprocess.run(
        [*command, "--json", "-o", "out"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seed"] == 7
    record = read_provenance(here / "out" / "image_0.png")
    assert record is not None
    assert record.model == "pocket"
    assert str(tmp_path) not in (here / "out" / "image_0.png").read_bytes().decode("latin-1")
    where = subprocess.run(
        [sys.executable, "-c", "import anyany; print(anyany.__file__)"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
