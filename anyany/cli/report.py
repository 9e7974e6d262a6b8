"""`anyany report`: a batch run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of anyany convert.")],
    page: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="[default: FOLDER/report.html]"),
    ] = None,
) -> None:
    """Write a run as one HTML page for any browser: items with media, failures, times, settings.

    The page needs no network and runs no scripts. It may be written while the run is at work.

    \b
    Examples:
      anyany report out/
      anyany report out/ -o shared/report.html
    """
    from anyany.batch import Store
    from anyany.batch.report import report_html
    from anyany.batch.store import REPORT
    from anyany.media import write_bytes

    store = Store(out)
    print(write_bytes(report_html(store).encode(), page or out / REPORT))
