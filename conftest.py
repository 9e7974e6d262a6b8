"""One thread of torch a test process: two processes share two cores without fighting over them.

Set before torch is imported. Tests that are about two threads ask for them, and so do the commands
of `anyany` that a test runs.
"""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """What a test sets does not last."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    yield
    torch = sys.modules.get("torch")
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)
