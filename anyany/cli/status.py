"""`anyany status`: how far a batch run is."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from anyany.cli.options import AsJson


def status(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of anyany convert.")],
    as_json: AsJson = False,
) -> None:
    """Say how far a run of `anyany convert` is, at work or not.

    \b
    Examples:
      anyany status out/
      anyany status out/ --json
    """
    from anyany.batch import Store
    from anyany.batch.inspect import status as examine

    found = examine(Store(out))
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    running = found["running"]
    state = f"at work (process {running.get('pid')})" if running else "not at work"
    total = f" of {found['total']}" if found["total"] is not None else ""
    print(f"{out}: {state}; {found['done']} done, {found['failed']} failed{total}")
    for reason, count in found["reasons"].items():
        print(f"  {count} failed: {reason}")
    if found["last_finished"] is not None:
        moment = datetime.fromtimestamp(found["last_finished"]).astimezone()
        print(f"  last item finished {moment:%Y-%m-%d %H:%M:%S %Z}")
    if not running and not found["complete"]:
        print("  not complete: the same anyany convert goes on where it was")
