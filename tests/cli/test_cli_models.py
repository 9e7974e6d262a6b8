"""`anyany models`, `import` and `doctor`: what is there and whether it is whole."""

# ruff: noqa: F811 (fixtures are imported)

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from cli_runs import Anyany, anyany, system  # noqa: F401

from anyany import AnyToAny, __version__
from anyany.system_files import find


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pocket's files as links, to be replaced but never written into."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another disk
            shutil.copy2(source, target)

    shutil.copytree(find("pocket"), tmp_path / "system", copy_function=link)
    return tmp_path / "system"


def test_list_names_systems_with_and_without_weights(anyany: Anyany) -> None:
    run = anyany("models", "list")
    rows = json.loads(anyany("models", "list", "--json").out)

    assert run.code == 0
    assert [line.split()[0] for line in run.out.splitlines()] == [row["name"] for row in rows]
    assert rows[0] == {"name": "pocket", "weights": "packaged"}
    assert {"nextgpt-7b-v0", "nextgpt-7b-v1.5"} <= {row["name"] for row in rows[1:]}


def test_show_counts_what_the_model_has(anyany: Anyany, system: AnyToAny) -> None:
    run = anyany("models", "show")
    record = json.loads(anyany("models", "show", "--json").out)

    assert run.code == 0
    assert set(record["makes"].split(", ")) == {"text", *system.decoders}
    signals = system.language.signals
    assert record["signal tokens"] == {m: getattr(signals, m) for m in system.decoders}
    counts = system.num_parameters()
    words = sum(words.numel() for words in system.bridge.projectors.buffers())  # given, not learnt
    assert record["parameters"]["input_projector"] == counts["input_projector"] + words
    assert record["parameters"]["signal_rows"] == counts["signal_rows"]
    assert record["parameters"]["output_projectors/image"] == counts["output_projectors.image"]


def test_show_knows_published_systems(anyany: Anyany) -> None:
    record = json.loads(anyany("models", "show", "nextgpt-7b-v1.5", "--json").out)

    assert record["signal tokens"] == {"image": 4, "video": 24, "audio": 8}
    assert record["parameters"] == "weights not here"


def test_verify_passes_whole_folders_and_names_changed_files(anyany: Anyany, folder: Path) -> None:
    whole = anyany("models", "verify", folder)
    rows = folder / "signal_rows.safetensors"
    data = rows.read_bytes()
    rows.unlink()
    rows.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    changed = anyany("models", "verify", folder)
    (folder / "manifest.json").unlink()
    bare = anyany("models", "verify", folder)

    assert whole == (0, f"{folder}: all files are whole\n", "")
    assert changed.code == bare.code == 2
    assert "1 files are missing or changed, first 'signal_rows.safetensors'" in changed.err
    assert "expected the manifest of a system" in bare.err
    assert changed.err.count("\n") == bare.err.count("\n") == 1


def test_missing_weights_and_wrong_dims_are_a_line(anyany: Anyany, folder: Path) -> None:
    def generate() -> tuple[int, str]:
        run = anyany("generate", "hello", "-q", "--threads", "1", "-m", folder)
        assert run.err.count("\n") == 1
        assert run.out == ""
        return run.code, run.err

    config = json.loads((folder / "config.json").read_text())

    def write(change: dict[str, object]) -> None:
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps({**config, **change}))

    write({"bridgee": 1})
    code, line = generate()
    assert code == 2
    assert "config.json: unknown key 'bridgee'; nearest valid key: 'bridge'" in line

    projector = {**config["bridge"]["projector"], "language_dim": 64}
    write({"bridge": {**config["bridge"], "projector": projector}})
    code, line = generate()
    assert code == 2
    assert "bridge.projector.language_dim: expected 192, the width of the language model" in line

    write({})
    (folder / "input_projector" / "shared.safetensors").unlink()
    code, line = generate()
    assert code == 2
    assert line.startswith("error: ")
    assert "shared.safetensors" in line


def test_import_names_a_missing_checkpoint(anyany: Anyany) -> None:
    run = anyany("import", "imagebind", "gone.pth", "out.safetensors")

    assert run == (
        2,
        "",
        "error: gone.pth: expected ImageBind weights (.pth); found no such file\n",
    )


def test_doctor_reports_what_a_bug_report_needs(
    anyany: Anyany, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = anyany("doctor")
    report = json.loads(anyany("doctor", "--json").out)

    assert run.code == 0
    assert run.out.endswith("all is well\n")
    assert report["versions"]["anyany"] == __version__
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0] or (
        report["versions"]["torch"] == torch.__version__
    )
    assert report["codecs"]["libx264"] == "available"
    assert report["settings"]["HF_HUB_OFFLINE"] == "1"
    assert report["pocket"] == {"weights": "whole"}
    assert "cpu" in report["devices"]
    assert "hub cache" in report["folders"]


def test_doctor_says_what_is_missing(anyany: Anyany, monkeypatch: pytest.MonkeyPatch) -> None:
    from anyany.cli import doctor

    monkeypatch.setattr(doctor, "_LIBRARIES", ("anyany", "no-such-library"))
    run = anyany("doctor")

    assert run.code == 1
    assert run.out.endswith("missing: no-such-library\n")
