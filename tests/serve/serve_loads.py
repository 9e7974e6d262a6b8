"""Loads that fail; light to import, for a child imports them anew."""

from __future__ import annotations

import os
from typing import Any

from anyany.errors import CheckpointError


def load_nothing() -> Any:
    """Fails."""
    raise CheckpointError("expected weights; got none")


def load_too_much() -> Any:
    """Fails for want of memory."""
    raise MemoryError


def load_and_die() -> Any:
    """Ends its process."""
    os._exit(3)
