"""What every engine is, and what they share: windows, tries, and how an item is set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from anyany import errors
from anyany.batch.feed import Feed
from anyany.batch.items import Task
from anyany.batch.outcomes import Outcome
from anyany.errors import AnyAnyError, InternalError

FIRST_WINDOW: Final = 8  # items
LARGEST_WINDOW: Final = 64
SHORT, LONG = 5.0, 30.0  # seconds of a window that is made larger, or smaller
TRIES: Final = 2  # deaths of its own before an item is set aside
TRANSIENT_TRIES: Final = 3
BACK_OFF: Final = 1.0  # seconds before the second try; doubled for the third


class Engine(Protocol):
    """Carries out tasks somewhere."""

    def start(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Load; returns what the function says of itself. Raises AnyAnyError if it cannot."""

    def run(self, feed: Feed, stopped: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """Outcomes as they come; also empty lists, a few times a second."""

    def drain(self, seconds: float) -> list[Outcome]:
        """Outcomes of what was at work, as far as they come in time."""

    def close(self) -> None:
        """Stop everything at once."""

    def memory(self) -> int:
        """Bytes that its processes hold."""


def set_aside(task: Task, attempts: int) -> Outcome:
    """The failure of an item that kills whoever works on it."""
    message = f"it ended its worker process {TRIES} times: set aside; try it with --retry-failed"
    told = {"code": "crash", "type": "WorkerDied", "message": message}
    return Outcome(task, "failed", error=told, attempts=attempts)


def resident_bytes(pid: int | None) -> int:
    """Memory that a process holds, as Linux tells it; 0 where it does not."""
    try:
        with open(f"/proc/{pid or 'self'}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


def known_error(kind: str, message: str) -> AnyAnyError:
    """An error that came from another process, as the class that it was there."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, AnyAnyError) and kind != "MediaError":
        return found(message)
    return InternalError(message)
