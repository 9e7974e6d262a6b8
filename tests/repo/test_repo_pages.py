"""What the pages say is true: commands run, Python blocks run, files exist, the tree is whole."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from repo_tree import PACKAGE, ROOT, code_blocks, project_files, pyproject

from anyany.batch import DryFactory
from anyany.cli import main
from anyany.cli.verbs import available
from anyany.decoders.config import DecoderPresets, DecoderSettings

PAGES: Final = (
    *("README.md", "CONTRIBUTING.md", "docs/systems.md", "docs/media.md"),
    *("docs/cli.md", "docs/bridges.md", "docs/convert.md", "docs/reliability.md"),
)
RUN: Final = (  # verbs that are quick enough to be run
    *("generate", "repro", "doctor", "models"),
    *("convert", "status", "verify", "report", "clean"),
)
TEST_COMMAND: Final = "python -m pytest -n 2 --dist loadfile"


def commands(page: str) -> list[list[str]]:
    """Every simple command of a page's bash blocks, in order."""
    lines = [line for block in code_blocks(page, "bash") for line in block.splitlines()]
    return [shlex.split(part) for line in lines if line for part in line.split(" && ")]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two denoising steps, in an empty folder that sees `samples` as the repository's root does."""
    original = DecoderPresets.get

    def get(self: DecoderPresets, name: str | None = None) -> DecoderSettings:
        settings = original(self, name)
        return DecoderSettings(2, settings.guidance_scale, settings.scheduler, settings.eta)

    monkeypatch.setattr(DecoderPresets, "get", get)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    return tmp_path


@pytest.fixture
def batches(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages convert, and a function that answers without a model."""
    (quick / "photos").mkdir()
    shutil.copy(ROOT / "samples" / "images" / "bell.png", quick / "photos")
    row = {"title": "a bell", "path": "photos/bell.png"}
    body = {"messages": [{"role": "user", "content": "hello"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (quick / "requests.jsonl").write_text(json.dumps({"id": "r1", "text": "hello"}) + "\n")
    (quick / "batch.jsonl").write_text(json.dumps(line) + "\n")
    (quick / "table.csv").write_text("title,path\n" + ",".join(row.values()) + "\n")
    pq.write_table(pa.Table.from_pylist([row]), quick / "table.parquet")
    monkeypatch.setattr("anyany.cli.convert._factory", lambda *_: DryFactory())


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("page", PAGES)
def test_commands_run(page: str, quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        if command[0] == "anyany" and command[1] in RUN:
            assert main(command[1:]) == 0, command
        elif command[0] == "anyany":
            _check_options(command[1:], capsys)
        else:
            _check_other(command)
    if page == "README.md":
        assert (quick / "out" / "image_0.png").is_file()


def _check_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A verb that takes long: it exists, and its help knows every option."""
    words = []
    for word in arguments:
        if word.startswith("-"):
            break
        words.append(word)
    assert words[0] in available(), words
    capsys.readouterr()
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    for word in arguments[len(words) :]:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", shown), (arguments, word)


def _check_other(command: list[str]) -> None:
    """A command that is not ours: what it names exists."""
    text = shlex.join(command)
    if command[:2] == ["pip", "install"]:
        assert command[command.index("-c") + 1] == "constraints.txt"
        extras = re.findall(r"\[(\w+)\]", text)
        assert set(extras) <= set(pyproject()["project"]["optional-dependencies"])
    elif command[0] == "python" and command[1].endswith(".py"):
        source = (ROOT / command[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in command[2:] if word.startswith("--"))
    elif text.startswith("python -m pytest ") and text != TEST_COMMAND:
        folders = [word for word in command[3:] if "/" in word]
        assert folders
        assert all((ROOT / folder).exists() for folder in folders), text
    else:
        known = {TEST_COMMAND, ".ci/run", "python3 -m venv .venv", ". .venv/bin/activate"}
        assert text in known, text


@pytest.mark.parametrize("page", PAGES)
def test_python_runs(page: str, quick: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in code_blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    runner = ROOT / ".ci" / "run"
    script = runner.read_text(encoding="utf-8")
    assert runner.stat().st_mode & 0o111
    assert TEST_COMMAND in script.splitlines()
    assert TEST_COMMAND.split() in commands("README.md")
    assert "set -euo pipefail" in script


def test_the_tree_is_whole() -> None:
    (block,) = code_blocks("README.md", "text")
    listed, parent = set(), ""
    for line in block.splitlines():
        name, _, remark = line.strip().partition(" ")
        assert remark.strip(), line
        indented = line.startswith("  ")
        parent = parent if indented else name
        listed.add((f"{parent}{name}" if indented else name).rstrip("/"))
    there = {str(path.relative_to(ROOT)) for path in project_files()}
    tops = {name.partition("/")[0] for name in there}
    rooms = {f"anyany/{path.name}" for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert listed == tops | rooms


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_files_that_pages_name_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:anyany|tests|samples|docs|benchmarks)/[\w./\-]*|[\w\-]+\.(?:md|toml|txt))`", text
    )
    missing = [name for name in named if "FOLDER" not in name and not (ROOT / name).exists()]
    assert missing == [n for n in missing if n == "utils.py"]


def test_the_readme_keeps_the_places_of_its_figures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("figures", "timings"):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        assert text.count(begin) == text.count(end) == 1
        assert text.index(begin) < text.index(end)


def test_the_samples_manifest_is_what_the_pages_use() -> None:
    manifest = json.loads((ROOT / "samples" / "manifest.json").read_text())
    rows = [row for kind in ("images", "videos", "audio") for row in manifest[kind]]
    files = {f"samples/{row['file']}" for row in rows}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"samples/\w+/\w+\.(?:png|mp4|wav)", text)) <= files
