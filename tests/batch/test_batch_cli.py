"""`anyany convert` and its verbs on the command line: answers, exit codes, one line an error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_faults import lines, numbered, tree, write_manifest

from anyany.cli import main

Convert = Callable[..., tuple[int, str, str]]


@pytest.fixture
def anyany(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Convert:
    """Run `anyany ...` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(item) for item in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


DRY = ("--engine", "dry", "--workers", "0")


def test_a_run_from_end_to_end(anyany: Convert, tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [*numbered(5), {"id": "twin", "text": "number 1"}])
    code, out, err = anyany("convert", "m.jsonl", "-o", "out", *DRY)
    assert (code, out[: out.index(" in ")]) == (0, "out: 6 done, 1 of them alike of 6")
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["loading", "progress"]
    assert anyany("convert", "m.jsonl", "-o", "out", *DRY)[1].startswith(
        "out: 0 done, 6 done before"
    )
    code, out, _ = anyany("status", "out")
    assert (code, out.splitlines()[0]) == (0, "out: not at work; 6 done, 0 failed of 6")
    assert json.loads(anyany("status", "out", "--json")[1])["done"] == 6
    assert anyany("verify", "out")[:2] == (0, "out: 6 items, 6 files: all as written\n")
    assert anyany("report", "out")[:2] == (0, "out/report.html\n")
    (tmp_path / "out" / "twin" / "reply.json").write_text("changed")
    assert anyany("verify", "out")[0] == 1
    assert anyany("clean", "out", "--dry-run")[:2] == (0, "out: nothing to remove\n")
    assert anyany("convert", "m.jsonl", "-o", "out", *DRY)[1].startswith("out: 1 done")
    assert anyany("verify", "out", "--json")[0] == 0


def test_failures_are_told_one_a_line(anyany: Convert, tmp_path: Path) -> None:
    records = [*numbered(3), {"id": "x", "images": ["none.png"], "text": "y"}]
    write_manifest(tmp_path / "m.jsonl", records)
    code, out, err = anyany("convert", "m.jsonl", "-o", "out", *DRY, "--json")
    assert code == 3
    summary = json.loads(out)
    assert (summary["done"], summary["failed"], summary["exit_code"]) == (3, 1, 3)
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    (failed,) = (event for event in events if event["event"] == "failed")
    assert failed["message"] == "'none.png': no such file"
    code, _, err = anyany("-q", "convert", "m.jsonl", "-o", "out", *DRY, "--retry-failed")
    assert (code, [json.loads(line)["event"] for line in err.splitlines()]) == (3, ["failed"])
    assert anyany("convert", "m.jsonl", "-o", "out2", *DRY, "--fail-fast")[0] == 3
    assert anyany("convert", "m.jsonl", "-o", "out3", *DRY, "--max-failures", "50%")[0] == 3


def test_faults_of_a_manifest_are_listed_before_anything_is_made(
    anyany: Convert, tmp_path: Path
) -> None:
    (tmp_path / "m.jsonl").write_bytes(b'{"id": "a", "txt": "x"}\n\n{"id": "../b", "text": "x"}\n')
    code, out, err = anyany("convert", "m.jsonl", "-o", "out", *DRY)
    assert (code, out) == (2, "")
    told = err.splitlines()
    assert [line.split(":")[1].strip() for line in told] == [
        "line 1",
        "line 2",
        "line 3",
        "m.jsonl",
    ]
    assert all(line.startswith("error: ") for line in told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("none.jsonl", "-o", "out"), 2, "no such file or folder"),
        (("m.jsonl",), 2, "Missing option '--out'"),
        (("m.jsonl", "-o", "out", "--to", "smell"), 2, "--to: expected a list of"),
        (("m.jsonl", "-o", "out", "--shard", "3"), 2, "--shard: expected K/N"),
        (("m.jsonl", "-o", "out", "--shard", "4/3"), 2, "--shard: expected K/N"),
        (("m.jsonl", "-o", "out", "--max-failures", "x"), 2, "--max-failures: expected"),
        (("m.jsonl", "-o", "out", "--engine", "spark"), 2, "--engine: expected local or ray"),
        (("m.jsonl", "-o", "out", "--steps", "0"), 2, "num_inference_steps: expected"),
        (("m.jsonl", "-o", "out", "--condition", "x"), 2, '"condition": expected'),
        (("m.jsonl", "-o", "out", "--prompt", "x"), 2, "--prompt and columns are for tables"),
        (("m.jsonl", "-o", "out", "--root", "none"), 2, "--root: expected a folder"),
        (("m.jsonl", "-o", "out", "--allow-url", "http://x"), 2, "--allow-url: expected a host"),
        (("m.jsonl", "-o", "m.jsonl"), 2, "expected a folder, got the file"),
        (("m.jsonl", "-o", "out", "--engine", "ray", "--ray-address", "ray://x"), 5, "token"),
    ],
    ids=range(14),
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], code: int, message: str, anyany: Convert, tmp_path: Path
) -> None:
    write_manifest(tmp_path / "m.jsonl", numbered(1))
    engine = () if "--engine" in arguments else DRY
    found, out, err = anyany("convert", *arguments, *engine)
    assert (found, out) == (code, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_other_settings_are_exit_code_5(anyany: Convert, tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", numbered(2))
    assert anyany("convert", "m.jsonl", "-o", "out", *DRY)[0] == 0
    code, _, err = anyany("convert", "m.jsonl", "-o", "out", *DRY, "--seed", "1", "--top-k", "3")
    assert code == 5
    assert "common.top_k was 0, is 3; seed was 0, is 1" in err
    assert anyany("convert", "m.jsonl", "-o", "out", *DRY, "--seed", "1", "--force")[0] == 0
    for verb in ("status", "verify", "report", "clean"):
        code, _, err = anyany(verb, "nowhere")
        assert (code, "no run of anyany convert is here" in err) == (2, True)


def test_stdin_tables_and_shards(
    anyany: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_manifest(tmp_path / "m.jsonl", numbered(9)).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert anyany("convert", "-", "-o", "stdin", *DRY)[0] == 0
    for k in (1, 2, 3):
        assert anyany("convert", "m.jsonl", "-o", "shards", *DRY, "--shard", f"{k}/3")[0] == 0
    assert tree(tmp_path / "stdin") == tree(tmp_path / "shards")
    (tmp_path / "t.csv").write_text("title\nbell\ndrum\n")
    assert anyany("convert", "t.csv", "-o", "t", "--prompt", "draw {title}", *DRY)[0] == 0
    first = lines(tmp_path / "t" / "results.jsonl")[0]["response"]["body"]["choices"][0]["message"]
    assert first["content"].startswith("draw bell (seed ")


def test_a_dry_run_writes_nothing(anyany: Convert, tmp_path: Path) -> None:
    records = [*numbered(30), {"id": "x", "images": ["none.png"], "text": "y"}]
    write_manifest(tmp_path / "m.jsonl", records)
    anyany("convert", "m.jsonl", "-o", "out", *DRY, "--dry-seconds", "0.01", "--limit", "5")
    before = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")}
    arguments = ("convert", "m.jsonl", "-o", "out", *DRY, "--dry-seconds", "0.01", "--dry-run")
    code, out, _ = anyany(*arguments)
    assert code == 0
    assert "31 items: 26 to do, 5 done before, 0 failed before" in out
    assert "1 name files that are not there" in out
    assert out.endswith("nothing was written\n")
    plan = json.loads(anyany(*arguments, "--json")[1])
    assert plan["seconds"] >= 0.25
    assert {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert anyany("convert", "m.jsonl", "-o", "new", *DRY, "--dry-run")[0] == 0
    assert not (tmp_path / "new").exists()
