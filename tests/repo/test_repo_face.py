"""The public face: names that exist, imports that stay light, one direction of imports."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from repo_tree import PACKAGE, ROOT, pyproject

import anyany

HEAVY: Final = ("torch", "transformers", "diffusers", "PIL", "av", "soundfile", "omegaconf")


def modules_with_all() -> list[str]:
    """Every module of the package that says what is public."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "\n__all__" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("name", modules_with_all())
def test_every_public_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    public = list(module.__all__)
    assert len(set(public)) == len(public)
    for attribute in public:
        assert getattr(module, attribute, None) is not None, attribute


def test_the_face_is_flat_and_complete() -> None:
    assert set(anyany.__all__) <= set(dir(anyany))
    assert {"AnyToAny", "ImagePart", "Message", "Reply", "TextPart"} <= set(anyany.__all__)
    with pytest.raises(AttributeError, match="module 'anyany' has no attribute 'Nothing'"):
        _ = anyany.Nothing


def test_versions_agree() -> None:
    assert pyproject()["project"]["version"] == anyany.__version__


@pytest.mark.parametrize(
    "code",
    [
        "import anyany; anyany.__version__; dir(anyany)",
        "from anyany.cli import main; assert main(['--help']) == 0",
        "from anyany.cli import main; assert main(['--version']) == 0",
    ],
)
def test_the_first_step_loads_nothing_heavy(code: str) -> None:
    program = f"import sys; {code}; print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_messages_and_media_leave_torch_alone() -> None:
    program = (
        "import sys, anyany.messages, anyany.media, anyany.config; print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_every_script_target_resolves() -> None:
    scripts = pyproject()["project"]["scripts"]
    assert scripts
    for target in scripts.values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_imports_go_one_way() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    if not program.exists():
        pytest.skip("import-linter is not installed beside this Python: pip install '.[dev]'")
    done = subprocess.run(
        [str(program), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_contract_names_every_room() -> None:
    (contract,) = pyproject()["tool"]["importlinter"]["contracts"]
    named = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    rooms = {
        f"anyany.{path.stem}"
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert named == rooms - {"anyany.__init__"}
