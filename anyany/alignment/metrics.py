"""What a training run says while it runs: JSON lines, a progress bar, TensorBoard if asked.

`metrics.jsonl` has one object a line: {"kind": "train" | "evaluate" | "skipped", "step": N, ...}.
On resume the lines past the resumed step are dropped, so a curve has no point twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from anyany.errors import UsageError

logger = logging.getLogger(__name__)

METRICS: Final = "metrics.jsonl"


def read_metrics(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run, oldest first, of one kind if given; a torn last line is left out."""
    path = folder / METRICS
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and kind in (None, line.get("kind")):
            lines.append(line)
    return lines


class MetricsLog:
    """The writer of one run's `metrics.jsonl`, with TensorBoard beside it if asked.

    Args:
        folder: of the run.
        step: the step that the run resumes from, 0 for a new run.
        tensorboard: also write event files into `folder/tensorboard`.

    Raises:
        UsageError: TensorBoard was asked for and is not installed.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _drop_after(folder, step)
        evaluated = [int(line["step"]) for line in read_metrics(folder, "evaluate")]
        self.evaluated_step = max(evaluated, default=0)  # the last step with an evaluation
        self._board = _open_board(folder / "tensorboard", step) if tensorboard else None
        self._file = open(folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        line = {"kind": kind, "step": step, **values}
        self._file.write(json.dumps({name: _plain(value) for name, value in line.items()}) + "\n")
        self._file.flush()
        if kind == "evaluate":
            self.evaluated_step = step
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class ProgressBar:
    """A bar on stderr when that is a terminal (or when `shown` says so), else one log line a call.

    Args:
        total: steps of the whole run.
        start: the step that the run resumes from.
        shown: True or False to decide; None to look at stderr.
    """

    def __init__(self, total: int, start: int, *, shown: bool | None = None) -> None:
        self._total = total
        self._bar: Progress | None = None
        if sys.stderr.isatty() if shown is None else shown:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                refresh_per_second=2,
                speed_estimate_period=600,
            )
            self._task = self._bar.add_task("", total=total, completed=start, note="")
            self._bar.start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def note(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the newest figures."""
        text = " ".join(
            f"{name} {value:.4g}"
            for name, value in values.items()
            if isinstance(value, int | float) and name not in ("seconds", "samples", "weight")
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=text)
        else:
            logger.info("step %d/%d %s", step, self._total, text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _drop_after(folder: Path, step: int) -> None:
    path = folder / METRICS
    if not path.exists():
        return
    kept = [line for line in read_metrics(folder) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(line) + "\n" for line in kept)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "tensorboard=true needs TensorBoard: pip install 'anyany[tensorboard]'"
        ) from None
    return SummaryWriter(folder, purge_step=step + 1)  # type: ignore[no-untyped-call]
