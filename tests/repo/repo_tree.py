"""What belongs to the project: every file that git would track, found without git."""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "anyany"
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def project_files(root: Path = ROOT) -> list[Path]:
    """All files and links below `root` that .gitignore does not name, sorted."""
    ignored = [
        line.strip() for line in (root / ".gitignore").read_text().splitlines() if line.strip()
    ]
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        here = Path(folder)
        links = [name for name in names if (here / name).is_symlink()]
        names[:] = sorted(
            name
            for name in names
            if name != ".git" and name not in links and not _ignored(here / name, root, ignored)
        )
        found += [here / name for name in (*files, *links)]
    return sorted(path for path in found if not _ignored(path, root, ignored))


def _ignored(path: Path, root: Path, patterns: list[str]) -> bool:
    """Whether a pattern names the path; only the two kinds that our .gitignore uses."""
    for pattern in patterns:
        if pattern.startswith("/"):
            if path == root / pattern.strip("/"):
                return True
        elif fnmatch.fnmatch(path.name, pattern.rstrip("/")):
            return True
    return False


def python_files(*folders: str) -> list[Path]:
    """The project's Python files below the given top-level folders."""
    return [
        path
        for path in project_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    ]


def pyproject() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def code_blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for kind, body in BLOCK.findall(text) if kind == language]
