"""What a run must know of every item, on disk: found by id or by content, in order of ids.

A table beside the ledger, made anew from it at every start, so it needs no care when a process is
killed; it is what keeps a run over a million lines in bounded memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from anyany.batch.names import folded
from anyany.errors import AnyAnyError, InternalError, ResourceError

_COLUMNS: Final = "status, digest, settings, key, ledger, place, files, stamps, time"
_PUT: Final = f"""
insert into items (id, {_COLUMNS}) values (?,?,?,?,?,?,?,?,?,?)
on conflict (id) do update set ({_COLUMNS}) =
  ({", ".join(f"excluded.{name}" for name in _COLUMNS.split(", "))})
where excluded.time >= items.time
"""
_LINES: Final = f"""
select number, lines.id, lines.digest, paths,
  {", ".join(f"items.{name}" for name in _COLUMNS.split(", "))}
from lines left join items on items.id = lines.id where number > ? order by number limit 1000
"""
_SCHEMA: Final = """
pragma journal_mode = off;
pragma synchronous = off;
pragma locking_mode = exclusive;
pragma temp_store = file;
pragma cache_size = -16000;
create table lines (number integer primary key, id text, fold text, digest text, paths text);
create unique index by_fold on lines (fold);
create table items (
  id text primary key, status text, digest text, settings text, key text, ledger integer,
  place integer, files text, stamps text, time real
) without rowid;
create index by_key on items (key);
create table followers (key text, number integer, task text, primary key (key, number))
  without rowid;
begin;
"""


class Known(NamedTuple):
    """What the ledger says of an item.

    Args:
        status: "done" or "failed".
        digest: of its line, hexadecimal.
        settings: fingerprint of those it was made with.
        key: its content key.
        ledger: which ledger holds its line.
        place: where the line begins.
        files: "name/bytes" of each, with blanks between.
        stamps: JSON of the inputs' sizes and times.
        time: when it was finished, in seconds since 1970.
    """

    status: str
    digest: str
    settings: str
    key: str
    ledger: int
    place: int
    files: str
    stamps: str
    time: float


class Index:
    """The table, in a file that `close` removes.

    Args:
        path: of the file; an earlier one is replaced.

    Raises:
        ResourceError: the disk is full (also of every method).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._base.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            raise _explained(error) from None

    def see(self, number: int, id: str, digest: str, paths: str) -> tuple[str, int] | None:
        """Note a line; returns the id and number of an earlier one that takes its name.

        Args:
            number: of the line.
            id: of its item.
            digest: of the line.
            paths: JSON of the item's references, null for what is no file; "" = there are none.
        """
        fold = folded(id)
        try:
            self._rows("insert into lines values (?, ?, ?, ?, ?)", number, id, fold, digest, paths)
        except sqlite3.IntegrityError:
            (found,) = self._rows("select id, number from lines where fold = ?", fold)
            earlier: tuple[str, int] = found
            return earlier
        return None

    def lines(self) -> Iterator[tuple[int, str, str, str, Known | None]]:
        """(number, id, digest, paths, what the ledger says) of every line, in their order."""
        last = -1
        while rows := self._rows(_LINES, last):
            for number, id, digest, paths, *known in rows:
                yield number, id, digest, paths, None if known[0] is None else Known(*known)
            last = rows[-1][0]

    def load(self, rows: Iterable[tuple[str, Known]]) -> None:
        """Note what ledgers say; of two lines for one id, the later in time wins."""
        with self._lock:
            try:
                self._base.executemany(_PUT, ((id, *known) for id, known in rows))
            except sqlite3.OperationalError as error:
                raise _explained(error) from None

    def put(self, id: str, known: Known) -> None:
        """Note one more line of a ledger."""
        self._rows(_PUT, id, *known)

    def get(self, id: str) -> Known | None:
        """What the ledger says of an id."""
        rows = self._rows(f"select {_COLUMNS} from items where id = ?", id)
        return Known(*rows[0]) if rows else None

    def holder(self, key: str) -> str | None:
        """An id that has this content."""
        rows = self._rows("select id from items where key = ? limit 1", key)
        return str(rows[0][0]) if rows else None

    def follow(self, key: str, number: int, task: str) -> None:
        """Note that an item waits for another one's content."""
        self._rows("insert into followers values (?, ?, ?)", key, number, task)

    def release(self, key: str) -> list[str]:
        """The items that waited, in order of their lines."""
        rows = self._rows("select task from followers where key = ? order by number", key)
        if rows:
            self._rows("delete from followers where key = ?", key)
        return [str(row[0]) for row in rows]

    def counts(self) -> dict[str, int]:
        """Items by status."""
        rows = self._rows("select status, count(*) from items group by status")
        return {"done": 0, "failed": 0, **{str(name): int(n) for name, n in rows}}

    def ordered(self, status: str) -> Iterator[tuple[str, int, int]]:
        """(id, ledger, place) of the items of a status, sorted by id."""
        last = ""
        while True:
            rows = self._rows(
                "select id, ledger, place from items where id > ? and status = ? order by id "
                "limit 1000",
                last,
                status,
            )
            if not rows:
                return
            yield from rows
            last = rows[-1][0]

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(sqlite3.Error):
            self._base.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _rows(self, statement: str, *values: Any) -> Sequence[Any]:
        with self._lock:
            try:
                return self._base.execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                raise _explained(error) from None


def _explained(error: sqlite3.OperationalError) -> AnyAnyError:
    if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return InternalError("the run's index failed")
    return ResourceError(
        "the run's index cannot be written, the disk is full: make room and run the same again"
    )
