"""`anyany verify`: whether the files of a batch run are those that it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anyany.cli.options import AsJson


def verify(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of anyany convert.")],
    as_json: AsJson = False,
) -> int:
    """Read every file of a run again and compare it with the ledger; exit code 1 if one differs.

    \b
    Examples:
      anyany verify out/
    """
    from anyany.batch import Store
    from anyany.batch.inspect import verify as examine

    found = examine(Store(out))
    if as_json:
        record = {"items": found.items, "files": found.files, "faults": found.faults}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        for fault in found.faults:
            print(fault)
        whole = f"{len(found.faults)} faults" if found.faults else "all as written"
        print(f"{out}: {found.items} items, {found.files} files: {whole}")
    return 1 if found.faults else 0
