"""The folder of a run: items under their final names, and the state that makes it resumable.

out/<id>/reply.json, image_0.png, ...     one folder an item, whole or not there
out/results.jsonl, errors.jsonl           sorted by id, written when a run completes
out/.anyany/run.json                      the settings that decide bytes
out/.anyany/ledger*.jsonl                 what is finished
out/.anyany/lists.json                    the lists as they were written
    out/.anyany/locks/, work*/                of a run at work
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from anyany.batch.index import Index, Known
from anyany.batch.items import Item
from anyany.batch.ledger import Ledger, raise_if_full, read_at, read_ledger
from anyany.batch.openai_lines import error_line, result_line
from anyany.batch.outcomes import Outcome, copy_folder, flush
from anyany.errors import ResourceError, UsageError

STATE: Final = ".anyany"
RESULTS: Final = "results.jsonl"
ERRORS: Final = "errors.jsonl"
REPORT: Final = "report.html"
ASKED_SHOWN: Final = 160  # characters of a request in the ledger
dumps: Final = json.JSONEncoder(separators=(",", ":")).encode
RUN: Final = "run.json"
LISTS: Final = "lists.json"


class Store:
    """A run's folder, for reading.

    Args:
        out: the folder.

    Raises:
        UsageError: no run has written there.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state = out / STATE
        self.run_file = self.state / RUN
        self.locks = self.state / "locks"
        self.work = self.state / "work"
        if not self.run_file.is_file():
            raise UsageError(f"{out.name or 'the folder'}: no run of anyany convert is here")

    def ledgers(self) -> list[Path]:
        """All ledgers: the one of whole runs, and one of each shard."""
        return sorted(self.state.glob("ledger*.jsonl"))

    def settings(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            found = json.loads(self.run_file.read_text(encoding="utf-8"))
            if isinstance(found, dict) and isinstance(found["settings"], dict):
                return found
        except (OSError, ValueError, KeyError):
            pass
        raise UsageError(f"{STATE}/{RUN} is damaged: take another folder, or use --force")

    def records(self) -> Iterator[dict[str, Any]]:
        """Every ledger line, oldest first within a ledger."""
        for path in self.ledgers():
            for _, record in read_ledger(path):
                yield record

    def load(self, index: Index) -> None:
        """Put every ledger's lines into an index."""
        index.load(
            (record["id"], _known(record, number, place))
            for number, path in enumerate(self.ledgers())
            for place, record in read_ledger(path)
        )

    def ordered(self, index: Index, status: str) -> Iterator[dict[str, Any]]:
        """The last record of every item of a status, sorted by id."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in self.ledgers()]
            for _, ledger, place in index.ordered(status):
                yield read_at(files[ledger], place)


class RunStore(Store):
    """A run's folder, for the one run that holds its lock.

    Args:
        out: the folder, made here.
        shard: (k, n), whose ledger is its own.

    Raises:
        UsageError: it holds something else, or cannot be written to.
        ResourceError: the disk is full.
    """

    def __init__(self, out: Path, shard: tuple[int, int] | None = None) -> None:
        self._shard = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
        try:
            prepare_folder(out)
            super().__init__(out)
            self._out = str(out)
            self.work = self.state / f"work{self._shard}"
        except OSError as error:
            raise_if_full(error, f"{out.name}/")
            raise UsageError(f"--out: {out.name!r} cannot be made or written to") from None

    def open(self, index: Index) -> None:
        """Clear what a killed run left at work, open the ledger, and read what is known.

        Args:
            index: is told what is known, and closed by its owner.

        Raises:
            ResourceError: the disk is full.
        """
        try:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir()
            self.ledger = Ledger(self.state / f"ledger{self._shard}.jsonl")
            self.number = self.ledgers().index(self.ledger.path)
        except OSError as error:
            raise_if_full(error, f"{STATE}/")
            raise
        self.index = index
        self.load(index)

    def close(self) -> None:
        """Flush the ledger and remove what is only for a run at work."""
        try:
            self.sync(now=True)
        finally:
            self.ledger.close()
            shutil.rmtree(self.work, ignore_errors=True)

    def is_whole(self, id: str, known: Known) -> bool:
        """Whether the files that the ledger names are there, at their size."""
        folder = f"{self._out}/{id}/"
        try:
            for entry in known.files.split():
                name, _, size = entry.partition("/")
                if os.stat(folder + name).st_size != int(size):
                    return False
            return True
        except OSError:
            return False

    def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Give finished items their final names, then write their ledger lines.

        Raises:
            ResourceError: the disk is full; items without a line are done again by the next run.
        """
        records = []
        for outcome in outcomes:
            self._take_over(outcome)
            records.append(_record(outcome))
        places = self.ledger.append(records)
        for record, place in zip(records, places, strict=True):
            self.index.put(record["id"], _known(record, self.number, place))
        self.sync()

    def sync(self, *, now: bool = False) -> None:
        """Make names and ledger durable, at most once a second unless `now`.

        Raises:
            ResourceError: the disk is full.
        """
        if self.ledger.due(now=now):
            flush(self.out)
            self.ledger.sync()

    def copy(self, source: str, task: Any, *, attempts: int = 0) -> Outcome:
        """An outcome like that of a finished item with the same content.

        Args:
            source: its id.
            task: of the item that is to have it, too.
            attempts: 0 = it was never computed by itself.
        """
        known = self.index.get(source)
        assert known is not None, f"expected {source} to be known"
        with open(self.ledgers()[known.ledger], "rb") as file:
            record = read_at(file, known.place)
        folder = None
        if record["status"] == "done":
            folder = self.work / f"copy-{secrets.token_hex(8)}"
            copy_folder(self.out / source, folder)
        return Outcome(
            task,
            record["status"],
            folder=str(folder) if folder else None,
            files=record.get("files", []),
            reply=record.get("reply"),
            error=record.get("error"),
            attempts=attempts,
            worker=f"like {source}",
        )

    def finish(self, model: str) -> None:
        """Write results.jsonl and errors.jsonl, sorted by id.

        Raises:
            ResourceError: the disk is full; the earlier ones are untouched.
        """
        self.sync(now=True)
        if self._stamps_of_lists() == self._recorded_lists():
            return
        done = (
            result_line(r["key"], r["id"], model, r["reply"], r["endpoint"])
            for r in self.ordered(self.index, "done")
        )
        failed = (
            error_line(r["key"], r["id"], r["error"]) for r in self.ordered(self.index, "failed")
        )
        for lines, name in ((done, RESULTS), (failed, ERRORS)):
            self._write_lines(lines, self.out / name)
        flush(self.out)
        write_state(self.state / LISTS, self._stamps_of_lists())

    def _stamps_of_lists(self) -> dict[str, Any]:
        """Size and time of the lists and of the ledgers that they were made from."""
        found: dict[str, Any] = {}
        for path in (self.out / RESULTS, self.out / ERRORS, *self.ledgers()):
            stat = path.stat() if path.exists() else None
            found[path.name] = [stat.st_size, stat.st_mtime_ns] if stat else None
        return found

    def _recorded_lists(self) -> Any:
        try:
            return json.loads((self.state / LISTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_settings(self, record: dict[str, Any]) -> None:
        """Replace run.json, whole or not at all."""
        write_state(self.run_file, record)

    def _take_over(self, outcome: Outcome) -> None:
        final = self.out / outcome.task.item.id
        try:
            if os.path.lexists(final):  # of an earlier run without a ledger line, or redone
                away = self.work / f"old-{secrets.token_hex(8)}"
                os.rename(final, away)
                shutil.rmtree(away, ignore_errors=True)
            if outcome.folder is not None:
                os.rename(outcome.folder, final)
        except OSError as error:
            raise_if_full(error, "an item's folder")
            raise UsageError(
                f"{final.name}: its folder cannot be given its name; is another program at work "
                "in the folder?"
            ) from None

    def _write_lines(self, lines: Iterator[dict[str, Any]], path: Path) -> None:
        temporary = self.work / f"{path.name}.tmp"
        try:
            with open(temporary, "wb") as file:
                for line in lines:
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise_if_full(error, path.name)
            raise


def prepare_folder(out: Path) -> None:
    """Make a run's folder, or refuse one that holds something else.

    Raises:
        UsageError: it is a file, or not empty and of no run.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: expected a folder, got the file {out.name!r}")
    state = out / STATE
    if out.is_dir() and not state.is_dir() and any(out.iterdir()):
        raise UsageError(
            f"--out: {out.name!r} holds other files: give a new folder, or one of an earlier run"
        )
    state.mkdir(parents=True, exist_ok=True)
    if not (state / RUN).exists():
        write_state(state / RUN, {"format": 1, "settings": {}})


def write_state(path: Path, record: dict[str, Any]) -> None:
    """Write a small JSON file, whole or not at all.

    Raises:
        ResourceError: the disk is full.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, ResourceError):
            raise
        raise_if_full(error, path.name)
        raise


def _record(outcome: Outcome) -> dict[str, Any]:
    task = outcome.task
    record: dict[str, Any] = {
        "id": task.item.id,
        "key": task.key,
        "digest": task.digest,
        "settings": task.settings,
        "line": task.number,
        "status": outcome.status,
        "endpoint": task.item.endpoint,
        "asked": _asked(task.item),
        "stamps": task.stamps,
        "attempts": outcome.attempts,
        "seconds": {name: round(value, 4) for name, value in outcome.seconds.items()},
        "worker": outcome.worker,
        "time": round(time.time(), 3),
    }
    if outcome.status == "done":
        return {**record, "files": outcome.files, "reply": outcome.reply}
    return {**record, "error": outcome.error}


def _asked(item: Item) -> str:
    """The beginning of an item's last words, for people."""
    words = [p["text"] for p in item.turns[-1]["content"] if p["type"] == "text"]
    text = " ".join(words)
    return text if len(text) <= ASKED_SHOWN else f"{text[:ASKED_SHOWN]} …"


def _known(record: dict[str, Any], ledger: int, place: int) -> Known:
    files = [f"{name}/{size}" for name, size, _ in record.get("files", ())]
    return Known(
        record["status"],
        record["digest"],
        record["settings"],
        record["key"],
        ledger,
        place,
        " ".join(files),
        dumps(record["stamps"]) if record["stamps"] else "[]",
        record["time"],
    )
