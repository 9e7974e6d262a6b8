import io
import json
import sys
from pathlib import Path

import pytest

from anyany.alignment.metrics import MetricsLog, ProgressBar, read_metrics
from anyany.errors import UsageError


def write(folder: Path, *steps: int, at: int = 0) -> None:
    log = MetricsLog(folder, step=at)
    for step in steps:
        log.write("train", step, {"loss": 1 / step})
        log.write("evaluate", step, {"score": step})
    log.close()


def test_a_resume_drops_the_lines_past_its_step_and_a_torn_one(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 5, "lo')
    assert len(read_metrics(tmp_path)) == 8
    write(tmp_path, 3, 4, 5, at=2)
    assert [line["step"] for line in read_metrics(tmp_path, "train")] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in read_metrics(tmp_path, "evaluate")] == [1, 2, 3, 4, 5]
    text = (tmp_path / "metrics.jsonl").read_text()
    assert all(json.loads(line) for line in text.splitlines())
    assert read_metrics(tmp_path)[0] == {"kind": "train", "step": 1, "loss": 1.0}


def test_a_fresh_run_starts_an_empty_curve(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    write(tmp_path)
    assert read_metrics(tmp_path) == []
    assert read_metrics(tmp_path / "nowhere") == []


def test_the_last_evaluation_is_known_after_a_resume(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    log = MetricsLog(tmp_path, step=2)
    assert log.evaluated_step == 2
    log.write("evaluate", 4, {})
    assert log.evaluated_step == 4
    log.close()


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, step=0)
    log.write("train", 1, {"loss": float("nan"), "norm": float("inf"), "ok": 1.5})
    log.close()
    assert read_metrics(tmp_path)[0] == {
        "kind": "train",
        "step": 1,
        "loss": None,
        "norm": None,
        "ok": 1.5,
    }


def test_tensorboard_writes_or_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'anyany\[tensorboard\]'"):
        MetricsLog(tmp_path, step=0, tensorboard=True)
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    log = MetricsLog(tmp_path, step=0, tensorboard=True)
    log.write("train", 1, {"loss": 0.5})
    log.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_bar_goes_to_a_terminal_and_log_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level("INFO"):
        bar = ProgressBar(10, 0)
        bar.advance(5)
        bar.note(5, {"loss": 0.25, "seconds": 1.0})
        bar.close()
    assert "step 5/10 loss 0.25" in caplog.text
    assert "seconds" not in caplog.text

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    bar = ProgressBar(10, 2)
    bar.advance(5)
    bar.note(5, {"loss": 0.25})
    bar.close()
    assert "5/10" in terminal.getvalue()
    assert "loss 0.25" in terminal.getvalue()
    assert capsys.readouterr().out == ""
