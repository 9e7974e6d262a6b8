"""Keep a library's talk off the terminal, and out of the answer on stdout, for a while.

Ray prints from threads and from C++; both end in a log file. What is written through `sys.stderr`
meanwhile still reaches the terminal, so progress goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TextIO


class Silence:
    """In force from `begin` to `end`.

    Args:
        log: takes what is kept off the terminal.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._stack = contextlib.ExitStack()

    def begin(self) -> None:
        """Send stdout and the descriptor of stderr to the log."""
        log = self._stack.enter_context(self._log.open("a", encoding="utf-8"))
        self._stack.enter_context(contextlib.redirect_stdout(log))
        if _is_descriptor(sys.stderr, 2):
            terminal = self._stack.enter_context(os.fdopen(os.dup(2), "w", buffering=1))
            self._stack.callback(os.dup2, terminal.fileno(), 2)
            self._stack.enter_context(contextlib.redirect_stderr(terminal))
            os.dup2(log.fileno(), 2)

    def end(self) -> None:
        """Put everything back."""
        self._stack.close()


def _is_descriptor(stream: TextIO, number: int) -> bool:
    """Whether a stream writes to a descriptor; one that tests capture does not."""
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):
        return False
