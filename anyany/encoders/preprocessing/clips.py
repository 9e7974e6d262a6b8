"""Where the pieces of a recording or video start and end.

Times are exact fractions: the published code computes in them, and rounding them to floats first
moves a cut by one sample now and then.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple


class ClipSpan(NamedTuple):
    """A piece, in seconds; it may end after the media do."""

    start: Fraction
    end: Fraction


def clip_spans(duration: float, *, num_clips: int, clip_seconds: float) -> list[ClipSpan]:
    """Spread pieces evenly from the start to the end of the media.

    Args:
        duration: seconds; if shorter than a piece, all pieces start at 0.
        num_clips: how many; a single one starts at 0.
        clip_seconds: their length.

    Returns:
        The pieces in order; they overlap where the media are short.
    """
    latest = Fraction(max(duration - clip_seconds, 0.0))
    step = latest / max(num_clips - 1, 1)
    length = Fraction(clip_seconds)
    return [ClipSpan(step * index, step * index + length) for index in range(num_clips)]
