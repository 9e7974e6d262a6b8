"""How a batch run shows how far it is: a bar on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final, Self

from anyany.cli.terminal import notes

JSON_SECONDS: Final = 5.0  # between two lines of progress
_MEGABYTE: Final = 1_000_000


class Display:
    """Takes a run's events; a context manager."""

    def __init__(self) -> None:
        self._told = time.monotonic()
        self._last: dict[str, Any] | None = None
        self._quiet = not notes.isEnabledFor(logging.INFO)
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty() and not self._quiet:
            self._bar = _bar()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._last is not None and not self._quiet:
            self._print(self._last)

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._progress(event)
        elif self._bar is not None:
            self._line(event)
        elif kind == "failed" or not self._quiet:
            self._print(event)

    def _progress(self, event: dict[str, Any]) -> None:
        if self._bar is not None:
            self._draw(event)
        elif not self._quiet:
            self._last = event
            if time.monotonic() - self._told >= JSON_SECONDS:
                self._told = time.monotonic()
                self._print(event)
                self._last = None

    def _draw(self, event: dict[str, Any]) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=event["total"], **_fields(event))
        finished = event["done"] + event["failed"] + event["skipped"]
        self._bar.update(self._task, total=event["total"], completed=finished, **_fields(event))

    def _line(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        text = ""
        if kind == "failed":
            text = f"failed {event['id']}: {event['message']}"
        elif kind == "retry":
            text = f"again later {event['id']}: {event['message']}"
        elif kind == "worker_died":
            text = f"a worker died (exit code {event['exit_code']}) and was replaced"
        elif kind == "stopping":
            text = "stopping: what is at work may finish, for a few seconds; again = at once"
        if text:
            self._bar.console.print(text, markup=False, highlight=False)

    def _print(self, event: dict[str, Any]) -> None:
        print(json.dumps(event, ensure_ascii=False), file=sys.stderr, flush=True)


def _fields(event: dict[str, Any]) -> dict[str, str]:
    eta = event["eta"]
    return {
        "failed": str(event["failed"]),
        "skipped": str(event["skipped"]),
        "rate": f"{event['rate']:.2f}/s",
        "eta": "" if eta is None else _clock(eta),
        "memory": f"{event['memory'] / _MEGABYTE:,.0f} MB",
    }


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("{task.fields[skipped]} before"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left {task.fields[eta]}"),
        TextColumn("{task.fields[memory]}"),
        console=Console(stderr=True),
    )
