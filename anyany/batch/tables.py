"""CSV and Parquet rows as lines: columns of known names, and templates over all of them."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anyany.batch.items import LINE_KEYS
from anyany.batch.names import shown
from anyany.errors import UsageError

MAX_CELL: Final = 2**20  # characters
_LISTS: Final = ("images", "videos", "audio", "outputs")
_WHOLE: Final = ("seed", "max_new_tokens", "top_k")
_FRACTIONS: Final = ("temperature", "top_p")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what.

    Args:
        prompt: the text, with {column} in it; None = the column "text".
        id: column of the ids; "" = "id", or the row's number where there is none.
        images: columns that hold a picture's path; likewise videos and audio.
    """

    prompt: str | None = None
    id: str = ""
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()

    def check(self, names: Sequence[str]) -> None:
        """Refuse what the table does not have.

        Raises:
            UsageError: a column is missing, or the template malformed.
        """
        wanted = [*self.images, *self.videos, *self.audio, *([self.id] if self.id else [])]
        if self.prompt is not None:
            wanted += template_fields(self.prompt)
        missing = next((name for name in wanted if name not in names), None)
        if missing is not None:
            raise UsageError(
                f"expected a column {shown(missing)}; the table has {', '.join(map(shown, names))}"
            )

    def record(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """A row as the object of a JSONL line.

        Args:
            row: column -> value.
            number: of the row, from 1.

        Raises:
            UsageError: a cell is of a wrong kind.
        """
        found: dict[str, Any] = {
            key: _cell(key, row[key]) for key in LINE_KEYS if row.get(key) not in (None, "")
        }
        name = row.get(self.id or "id")
        found["id"] = f"row-{number:07d}" if name is None and not self.id else str(name or "")
        for key in ("images", "videos", "audio"):
            columns = getattr(self, key)
            if columns:
                found[key] = [str(row[name]) for name in columns if row.get(name) not in (None, "")]
        if self.prompt is not None:
            found["text"] = fill(self.prompt, row)
        return found


def template_fields(template: str) -> list[str]:
    """The columns that a template names.

    Raises:
        UsageError: it is malformed, or asks for more than a column.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        raise UsageError("--prompt: a brace stands alone; write {{ and }} for braces") from None
    for _, name, form, conversion in parsed:
        if name is not None and (not name or form or conversion):
            raise UsageError("--prompt: expected plain names in braces, such as {title}")
    return [name for _, name, _, _ in parsed if name is not None]


def fill(template: str, row: Mapping[str, Any]) -> str:
    """A template with the row's values; only whole columns are put in, nothing is evaluated."""
    return "".join(
        text + ("" if name is None or row.get(name) is None else str(row[name]))
        for text, name, _, _ in string.Formatter().parse(template)
    )


def read_csv(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, Any] | UsageError]]:
    """Rows of a CSV in UTF-8, with a header.

    Yields:
        The number of the row's last line, and its object or what is wrong with it.

    Raises:
        UsageError: the header cannot be used.
    """
    with open(path, "rb") as raw:
        yield from _read_csv(raw, columns)


def _read_csv(raw: Any, columns: Columns) -> Iterator[tuple[int, dict[str, Any] | UsageError]]:
    with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        previous = csv.field_size_limit(MAX_CELL)
        try:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if not header or len(set(header)) != len(header):
                raise UsageError("line 1: expected a header of different column names")
            columns.check(header)
            number = 0
            for row in reader:
                number += 1
                if len(row) != len(header):
                    got = "a blank line" if not row else f"{len(row)} cells"
                    yield reader.line_num, UsageError(f"expected {len(header)} cells, got {got}")
                    continue
                try:
                    record = columns.record(dict(zip(header, row, strict=True)), number)
                    yield reader.line_num, record
                except UsageError as error:
                    yield reader.line_num, error
        except UnicodeDecodeError:
            raise UsageError("expected a CSV in UTF-8; save it as UTF-8") from None
        except csv.Error:
            raise UsageError(
                f"line {reader.line_num}: it is no CSV (a quote is open, or a cell is over "
                f"{MAX_CELL:,} characters)"
            ) from None
        finally:
            csv.field_size_limit(previous)


def read_parquet(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, Any] | UsageError]]:
    """Rows of a Parquet file, read group by group.

    Yields:
        The row's number, and its object or what is wrong with it.

    Raises:
        UsageError: pyarrow is missing, or it is no Parquet file.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'anyany[parquet]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            columns.check(names)
            wanted = [name for name in names if name in _wanted(columns)]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    try:
                        yield number, columns.record(row, number)
                    except UsageError as error:
                        yield number, error
    except (pyarrow.ArrowException, OSError):
        raise UsageError("expected a Parquet file; it cannot be read as one") from None


def _wanted(columns: Columns) -> set[str]:
    fields = template_fields(columns.prompt) if columns.prompt is not None else []
    return {*LINE_KEYS, columns.id, *columns.images, *columns.videos, *columns.audio, *fields}


def _cell(key: str, value: Any) -> Any:
    """A cell as the kind that its key has in JSON; text cells hold lists with commas."""
    if not isinstance(value, str):
        return list(value) if key in _LISTS and isinstance(value, list | tuple) else value
    try:
        if key in _LISTS:
            return [entry.strip() for entry in value.split(",") if entry.strip()]
        if key in _WHOLE:
            return int(value)
        if key in _FRACTIONS:
            return float(value)
        return json.loads(value) if key == "decoding" else value
    except ValueError:
        raise UsageError(f'"{key}": the cell {shown(value)} cannot be read') from None
