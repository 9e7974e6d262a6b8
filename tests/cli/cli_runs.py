"""What the tests of the command line share: the type of a run, and short settings."""

from collections.abc import Callable
from typing import NamedTuple

SHORT = ("--threads", "1", "--max-new-tokens", "24", "--device", "cpu")


class Run(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str


Anyany = Callable[..., Run]
