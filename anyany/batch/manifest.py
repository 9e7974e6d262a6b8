"""Manifests in: a folder, JSONL, OpenAI's batch JSONL, CSV or Parquet, one line at a time.

A manifest is read twice, first to find every mistake before a model loads, then to work; neither
time is more than one line of it in memory.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from anyany.batch.items import Item, item_from_record
from anyany.batch.names import check_no_links, id_of_path, shown
from anyany.batch.openai_lines import item_from_openai
from anyany.batch.tables import Columns, fill, read_csv, read_parquet, template_fields
from anyany.batch.urls import UrlRules
from anyany.errors import UsageError
from anyany.messages import Modality

Format: TypeAlias = Literal["folder", "jsonl", "openai", "csv", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MAX_LINE_BYTES: Final[Mapping[str, int]] = {"jsonl": 2**20, "openai": 32 * 2**20}
MEDIA_ENDINGS: Final = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"),
    *(".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".ogv"),
    *(".wav", ".flac", ".mp3", ".aac", ".m4a", ".ogg", ".oga", ".opus"),
)
PATH_FIELDS: Final = ("path", "name", "stem", "folder")  # of a folder's files, for templates
_ENDINGS: Final[Mapping[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_BOM: Final = b"\xef\xbb\xbf"


_Record: TypeAlias = Callable[[], Mapping[str, Any] | UsageError]


@dataclass(frozen=True)
class Line:
    """One line of a manifest.

    Args:
        number: from 1; of a folder, the file's place.
        item: what it asks for; None if it cannot be used.
        fault: why not.
    """

    number: int
    item: Item | None
    fault: str = ""


@dataclass(frozen=True)
class Manifest:
    """Where items come from.

    Args:
        source: a file or folder.
        format: how it is read.
        root: what relative paths are relative to, resolved.
        outputs: what a line asks for that does not say; None = the model chooses.
        columns: of a table; of a folder, its prompt.
        urls: which URLs may stand for media.
        shard: (k, n): only the items whose id hashes to k of n, from 1.
        limit: only this many, the first.
        outside: folders below a folder manifest that are not walked into.
    """

    source: Path
    format: Format
    root: Path
    outputs: tuple[Modality, ...] | None = None
    columns: Columns = field(default_factory=Columns)
    urls: UrlRules = field(default_factory=UrlRules)
    shard: tuple[int, int] | None = None
    limit: int | None = None
    outside: tuple[Path, ...] = ()

    def lines(self, only: Iterable[int] | None = None) -> Iterator[Line]:
        """Every line, good or not.

        Args:
            only: numbers of the lines that are wanted, in order; others are hardly looked at.

        Raises:
            UsageError: the manifest as a whole cannot be read.
        """
        try:
            if only is None:
                yield from (self._line(number, record()) for number, record in self._records())
                return
            records = iter(self._records())
            for wanted in only:
                number, record = next(entry for entry in records if entry[0] == wanted)
                yield self._line(number, record())
        except StopIteration:
            raise UsageError(f"{self.name}: it changed while the run was at work") from None
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise UsageError(f"{self.name}: no such manifest") from None
        except PermissionError:
            raise UsageError(f"{self.name}: it may not be read by this user") from None
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from None

    def selected(self) -> Iterator[Line]:
        """The good lines of the shard, up to the limit."""
        mine = (line for line in self.lines() if line.item and self.takes(line.item.id))
        return itertools.islice(mine, self.limit)

    def takes(self, id: str) -> bool:
        """Whether an item belongs to the shard."""
        if self.shard is None:
            return True
        k, n = self.shard
        return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") % n == k - 1

    @property
    def name(self) -> str:
        """For messages: never the folder it is in."""
        return self.source.name or "the folder"

    def skipped(self) -> tuple[int, str]:
        """Of a folder: how many files are no media by their ending, and one of them."""
        strange = (
            [path for path, is_media in self._walk() if not is_media] if self.is_folder else []
        )
        return len(strange), strange[0] if strange else ""

    @property
    def is_folder(self) -> bool:
        """Whether the items are a folder's files."""
        return self.format == "folder"

    def _records(self) -> Iterator[tuple[int, _Record]]:
        """Each line's number, and what reads it."""
        if self.format in ("jsonl", "openai"):
            yield from _read_jsonl(self.source, MAX_LINE_BYTES[self.format])
            return
        rows: Iterator[tuple[int, Mapping[str, Any] | UsageError]]
        if self.format == "folder":
            rows = self._files()
        elif self.format == "csv":
            rows = read_csv(self.source, self.columns)
        else:
            rows = read_parquet(self.source, self.columns)
        for number, row in rows:
            yield number, functools.partial(_as_it_is, row)

    def _line(self, number: int, record: Mapping[str, Any] | UsageError) -> Line:
        try:
            if isinstance(record, UsageError):
                raise record
            if self.format == "openai":
                item = item_from_openai(record, outputs=self.outputs)
            elif self.is_folder:
                item = self._file_item(str(record["path"]))
            else:
                item = item_from_record(record, outputs=self.outputs)
            for part in item.references():
                if "path" in part:
                    check_no_links(self.root, part["path"])
                elif "url" in part:
                    self.urls.check(part["url"])
            return Line(number, item)
        except (UsageError, RecursionError) as error:
            return Line(number, None, str(error) if isinstance(error, UsageError) else "too deep")

    def _files(self) -> Iterator[tuple[int, Mapping[str, Any] | UsageError]]:
        if self.columns.prompt is not None:
            strange = set(template_fields(self.columns.prompt)) - set(PATH_FIELDS)
            if strange:
                raise UsageError(
                    f"--prompt: a folder's files have {', '.join(PATH_FIELDS)}; "
                    f"got {shown(min(strange))}"
                )
        media = (path for path, is_media in self._walk() if is_media)
        yield from enumerate(({"path": path} for path in media), start=1)

    def _file_item(self, path: str) -> Item:
        parts: list[dict[str, Any]] = [{"type": "media", "path": path}]
        if self.columns.prompt is not None:
            folder, _, name = path.rpartition("/")
            row = {"path": path, "name": name, "stem": os.path.splitext(name)[0], "folder": folder}
            parts.append({"type": "text", "text": fill(self.columns.prompt, row)})
        return Item(id_of_path(path), ({"role": "user", "content": parts},), self.outputs)

    def _walk(self) -> Iterator[tuple[str, bool]]:
        """Relative paths in one order on every machine, and whether the ending is a medium's."""
        outside = {os.path.realpath(path) for path in self.outside}
        waiting = [""]
        while waiting:
            relative = waiting.pop()
            folders: list[str] = []
            names: list[str] = []
            with os.scandir(self.source / relative) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = f"{relative}/{entry.name}" if relative else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if os.path.realpath(entry.path) not in outside:
                            folders.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        names.append(path)
            for path in sorted(names):
                yield path, os.path.splitext(path)[1].lower() in MEDIA_ENDINGS
            waiting += sorted(folders, reverse=True)


def open_manifest(
    source: Path,
    *,
    format: str | None = None,
    root: Path | None = None,
    outputs: tuple[Modality, ...] | None = None,
    columns: Columns | None = None,
    allow_url: tuple[str, ...] = (),
    shard: tuple[int, int] | None = None,
    limit: int | None = None,
    out: Path | None = None,
) -> Manifest:
    """Tell what a manifest is and check what can be checked without reading it.

    Args:
        source: a folder, or a file whose ending says the format unless `format` does.
        format: of FORMATS.
        root: of relative paths; None = the manifest's own folder.
        outputs: see Manifest, likewise the others.
        columns: of a table.
        allow_url: hosts.
        shard: (k, n).
        limit: most items.
        out: never read, if it is below a folder of inputs.

    Raises:
        UsageError: it is not there, or an option does not fit the format.
    """
    kind = _format(source, format)
    given = columns or Columns()
    if given != Columns() and kind not in ("csv", "parquet", "folder"):
        raise UsageError("--prompt and columns are for tables and folders; these lines say all")
    if kind == "folder" and replace(given, prompt=None) != Columns():
        raise UsageError("columns are for tables, and the input is a folder")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise UsageError(f"--shard: expected K/N with K from 1 to N; got {shard[0]}/{shard[1]}")
    place = source if kind == "folder" else (root or source.absolute().parent)
    if kind == "folder" and root is not None:
        raise UsageError("--root is for manifests; a folder is its own root")
    if not place.is_dir():
        raise UsageError(f"--root: expected a folder, got {shown(place.name)}")
    return Manifest(
        source,
        kind,
        Path(os.path.realpath(place)),
        outputs,
        given,
        UrlRules(tuple(allow_url)),
        shard,
        limit,
        (out,) if out is not None else (),
    )


def _format(source: Path, format: str | None) -> Format:
    if format is not None and format not in FORMATS:
        raise UsageError(f"--format: expected one of {', '.join(FORMATS)}; got {shown(format)}")
    if not source.exists():
        raise UsageError(f"{shown(source.name)}: no such file or folder")
    if source.is_dir() != (format == "folder") and (source.is_dir() or format == "folder"):
        if format is not None:
            raise UsageError(f"--format: {format} does not fit {shown(source.name)}")
        return "folder"
    if format is not None:
        return next(known for known in FORMATS if known == format)
    ending = source.suffix.lower()
    if ending in MEDIA_ENDINGS:
        raise UsageError(
            f"{shown(source.name)} is a single file: use anyany generate, or give its folder"
        )
    if ending not in _ENDINGS:
        raise UsageError(
            f"{shown(source.name)}: expected .jsonl, .csv, .parquet or a folder; else say --format"
        )
    return _ENDINGS[ending]


def _read_jsonl(path: Path, max_bytes: int) -> Iterator[tuple[int, _Record]]:
    with open(path, "rb") as file:
        number = 0
        while raw := file.readline(max_bytes + 1):
            number += 1
            if len(raw) > max_bytes and not raw.endswith(b"\n"):
                while (rest := file.readline(max_bytes)) and not rest.endswith(b"\n"):
                    pass
                fault = UsageError(f"longer than {max_bytes:,} bytes")
                yield number, functools.partial(_as_it_is, fault)
            else:
                yield number, functools.partial(_parsed, raw)


def _as_it_is(record: Mapping[str, Any] | UsageError) -> Mapping[str, Any] | UsageError:
    return record


def _parsed(raw: bytes) -> Mapping[str, Any] | UsageError:
    try:
        return _parse(raw)
    except UsageError as error:
        return error


def _parse(raw: bytes) -> Mapping[str, Any]:
    if raw.startswith(_BOM):
        raise UsageError("it begins with a byte order mark: save the file as UTF-8 without one")
    if raw.endswith((b"\r\n", b"\r")):
        raise UsageError("it ends in CR LF: save the file with plain line ends (LF)")
    if not raw.strip():
        raise UsageError("a blank line")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("it is not UTF-8") from None
    try:
        record = _DECODER.decode(text)
        if "\\ud" in text.lower():  # escapes may stand for half a character
            json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UsageError:
        raise
    except (ValueError, RecursionError):
        raise UsageError("it is no JSON") from None
    if not isinstance(record, dict):
        raise UsageError('expected a JSON object, such as {"id": "r1", "text": "..."}')
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UsageError("it names a key twice")
    return found


def _no_constant(name: str) -> None:
    raise UsageError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
