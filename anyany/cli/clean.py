"""`anyany clean`: remove what a batch run leaves behind and does not need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def clean(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of anyany convert.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    state: Annotated[
        bool,
        typer.Option(
            "--state", help="The ledger too: outputs stay, but the run cannot be taken up again."
        ),
    ] = False,
) -> None:
    """Remove leftovers of killed runs: half-made items, indexes, logs, and folders of no item.

    Finished items, results.jsonl and errors.jsonl stay. Refused while a run is at work.

    \b
    Examples:
      anyany clean out/ --dry-run
      anyany clean out/
    """
    from anyany.batch import Store
    from anyany.batch.clean import clean as remove

    removed = remove(Store(out), dry_run=dry_run, state=state)
    for name in removed:
        print(name)
    verb = "would be removed" if dry_run else "removed"
    print(f"{out}: {len(removed)} {verb}" if removed else f"{out}: nothing to remove")
