"""Rows of a full-size measurement, and the table that docs/benchmarks.md shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ceilings import Peak, Work, bound, ceiling_seconds

GIB: Final = 2**30


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        part: of the system.
        what: was done.
        batch: items at once.
        seconds: of one pass over them; None if they do not fit the device.
        peak_bytes: most of the device's memory in use, weights of all parts included; None on a
            device that does not tell.
        work: FLOPs and bytes of the pass.
        rate: items a second, in words.
    """

    part: str
    what: str
    batch: int
    seconds: float | None
    peak_bytes: int | None
    work: Work
    rate: str = ""


def markdown(header: dict[str, Any], rows: Sequence[Row], peak: Peak | None) -> str:
    """The table that docs/benchmarks.md shows."""
    told = (
        "its peaks are not known here: no ceilings"
        if peak is None
        else f"100% = {peak.flops / 1e12:.0f} TFLOP/s dense or {peak.bandwidth / 1e12:.2f} TB/s"
    )
    lines = [
        f"{header['system']}, random weights, {header['dtype']}, on {header['device']} ({told}); "
        f"torch {header['torch']}, Python {header['python']}. Weights "
        f"{header['bytes_of_weights'] / GIB:.1f} GiB, built in "
        f"{header['seconds_to_build']:.0f} s. Peak memory includes all weights.",
    ]
    if header["tiny"]:
        lines += ["", "**A trial of a tiny system: these figures mean nothing.**"]
    head = ["part", "what", "batch", "ms", "rate", "peak GiB", "TFLOP", "bound", "% of ceiling"]
    table = [_cells(row, peak) for row in rows]
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in table)])


def _cells(row: Row, peak: Peak | None) -> list[str]:
    ceiling = ceiling_seconds(row.work, peak)
    counted = row.work.flops > 0
    share = f"{ceiling / row.seconds:.0%}" if ceiling and row.seconds and counted else "–"
    return [
        row.part,
        row.what,
        str(row.batch),
        "does not fit" if row.seconds is None else f"{1000 * row.seconds:.3g}",
        row.rate or "–",
        "–" if row.peak_bytes is None else f"{row.peak_bytes / GIB:.1f}",
        f"{row.work.flops / 1e12:.3g}" if counted else "–",
        bound(row.work, peak) if counted and peak else "–",
        share,
    ]
