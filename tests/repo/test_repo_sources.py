"""What no source may hold: ways to run code from data, paths of a machine, files out of size."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from repo_tree import PACKAGE, ROOT, project_files, python_files

MEBIBYTE: Final = 2**20
MACHINE_PATH: Final = re.compile(rb"(?<![\w.\-$}])/(?:root|work|home|Users)/[\w.\-]+")
PICKLES: Final = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
DANGEROUS_CALLS: Final = {
    *("eval", "exec", "os.system", "os.popen", "torch.export.load", "torch.jit.load"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
}
# keyword -> the only value that it may have
SAFE_KEYWORDS: Final = {"trust_remote_code": False, "shell": False, "allow_pickle": False}


def violations(source: str) -> Iterator[str]:
    """Each way in which a source could run code that came as data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [module or ""] if module else [alias.name for alias in node.names]
            yield from (f"import of {n}" for n in names if n.partition(".")[0] in PICKLES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: word.value for word in node.keywords if word.arg}
            if called in DANGEROUS_CALLS:
                yield f"call of {called}"
            if called == "torch.load" and not _is(given.get("weights_only"), True):
                yield "torch.load without weights_only=True"
            for name, safe in SAFE_KEYWORDS.items():
                if name in given and not _is(given[name], safe):
                    yield f"{name}={ast.unparse(given[name])}"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=flag)", "torch.load without weights_only=True"),
        ("torch.export.load(path)", "call of torch.export.load"),
        ("import pickle", "import of pickle"),
        ("from cloudpickle import loads", "import of cloudpickle"),
        ("yaml.load(text)", "call of yaml.load"),
        ("eval(text)", "call of eval"),
        ("os.system(text)", "call of os.system"),
        ("subprocess.run(text, shell=True)", "shell=True"),
        ("AutoModel.from_pretrained(name, trust_remote_code=yes)", "trust_remote_code=yes"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
    ],
)
def test_the_gate_sees_what_it_is_for(source: str, found: str) -> None:
    assert list(violations(source)) == [found]


def test_the_gate_lets_safe_calls_pass() -> None:
    safe = "torch.load(p, weights_only=True)\nmodel.eval()\nload(p, trust_remote_code=False)\n"
    assert list(violations(safe)) == []


def test_the_package_runs_no_code_from_data() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}"
        for path in python_files("anyany", "samples", "benchmarks")
        for what in violations(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert len(python_files("anyany")) > 50  # the walk sees the package


def test_no_file_names_a_path_of_a_machine() -> None:
    sample = b'"_name_or_path": "/' + b'home/somebody/model"'
    assert MACHINE_PATH.search(sample)
    assert not MACHINE_PATH.search(b"https://host/home/page and $HOME/root/x")
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in project_files()
        if not path.is_symlink()
        for match in MACHINE_PATH.finditer(_head(path))
    ]
    assert found == []


def _head(path: Path) -> bytes:
    """A text file; of a binary one, the readable head (safetensors keep their metadata there)."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        return data[8 : 8 + int.from_bytes(data[:8], "little")]
    return data if b"\0" not in data[:8192] else b""


def test_files_and_tree_keep_their_sizes() -> None:
    sizes = {path: path.lstat().st_size for path in project_files()}
    large = [str(path.relative_to(ROOT)) for path, size in sizes.items() if size > 20 * MEBIBYTE]
    assert large == []
    assert sum(sizes.values()) <= 55 * MEBIBYTE


def test_modules_stay_readable_in_one_sitting() -> None:
    longest = {path: _lines(path) for path in python_files("anyany")}
    assert {str(p.relative_to(ROOT)): n for p, n in longest.items() if n > 500} == {}


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_the_four_folders_stand_at_the_top_as_relative_links() -> None:
    for name in ("encoders", "decoders", "alignment", "configs"):
        link = ROOT / name
        assert link.is_symlink(), name
        assert link.readlink() == Path("anyany") / name
        assert link.resolve() == PACKAGE / name
