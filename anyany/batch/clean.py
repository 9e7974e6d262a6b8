"""Remove what killed runs leave behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from anyany.batch.inspect import indexed
from anyany.batch.lock import Lock
from anyany.batch.store import ERRORS, LISTS, REPORT, RESULTS, RUN, STATE, Store


def clean(store: Store, *, dry_run: bool = False, state: bool = False) -> list[str]:
    """Remove half-made items, indexes, logs, and folders that no ledger line knows.

    Args:
        store: of the run.
        dry_run: only tell.
        state: remove all that resumes a run, too.

    Returns:
        What was removed, relative to the folder.

    Raises:
        RefusedError: a run is at work.
    """
    lock = Lock(store.locks)
    try:
        leftovers = _leftovers(store)
        if state:
            leftovers = [path for path in leftovers if store.state not in path.parents]
            leftovers.append(store.state)
        for path in [] if dry_run else leftovers:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        return [str(path.relative_to(store.out)) for path in leftovers]
    finally:
        lock.release()


def _leftovers(store: Store) -> list[Path]:
    kept = {RUN, LISTS, store.locks.name, *(path.name for path in store.ledgers())}
    found = [path for path in sorted(store.state.iterdir()) if path.name not in kept]
    with indexed(store) as index:
        for path in sorted(store.out.iterdir()):
            if path.name in (STATE, RESULTS, ERRORS, REPORT):
                continue
            known = index.get(path.name)
            if known is None or known.status != "done":
                found.append(path)
    return found
