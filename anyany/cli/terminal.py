"""What the command line writes beside its answer: logs, notes and progress, all on stderr.

Logging handlers are set here and nowhere else in the package, and taken away again at the end.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

notes = logging.getLogger("anyany.cli")  # lines for the person at the terminal; -q silences them

_QUIET: Final = ("-q", "--quiet")
_VERBOSE: Final = ("-v", "--verbose")


@dataclass(frozen=True)
class GlobalFlags:
    """What holds for every verb.

    Args:
        verbosity: -1 quiet, 0 notes and warnings, 1 our own log, 2 everybody's.
        debug: show the traceback of an error.
    """

    verbosity: int = 0
    debug: bool = False


def split_flags(argv: Sequence[str]) -> tuple[list[str], GlobalFlags]:
    """Take -v, -q and --debug out of the arguments, wherever they stand before a "--".

    Returns:
        The other arguments, and the flags.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    verbosity, debug = 0, False
    kept: list[str] = []
    for item in argv[:end]:
        if item in _QUIET:
            verbosity = -1
        elif item in _VERBOSE:
            verbosity += 1
        elif item == "-vv":
            verbosity += 2
        elif item == "--debug":
            debug = True
        else:
            kept.append(item)
    return [*kept, *argv[end:]], GlobalFlags(verbosity, debug)


@contextmanager
def logging_to_stderr(verbosity: int) -> Iterator[None]:
    """Send logs to stderr for as long as a verb runs.

    Args:
        verbosity: see `GlobalFlags`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    own = logging.INFO if verbosity < 2 else logging.DEBUG
    levels = {
        "": logging.WARNING if verbosity < 2 else logging.INFO,
        "anyany": own if verbosity > 0 else logging.WARNING,
        "anyany.cli": logging.ERROR if verbosity < 0 else own,
        "py.warnings": logging.ERROR if verbosity < 1 else logging.WARNING,
    }
    if verbosity < 0:
        levels = dict.fromkeys(levels, logging.ERROR)
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


class _Formatter(logging.Formatter):
    """Notes bare, all else with its level: the terminal is no log file."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.name == notes.name and record.levelno <= logging.INFO:
            return message
        return f"{record.levelname.lower()}: {message}"


class ProgressBar:
    """A bar per medium on a terminal; nothing where stderr is a file or -q was given."""

    def __init__(self) -> None:
        self._progress = None
        if sys.stderr.isatty() and notes.isEnabledFor(logging.INFO):
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
        self._tasks: dict[str, int] = {}

    def update(self, name: str, done: int, total: int) -> None:
        """Show how far the part `name` is."""
        if self._progress is None:
            return
        if not self._tasks:
            self._progress.start()
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[name], completed=done)  # type: ignore[arg-type]

    def close(self) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()
