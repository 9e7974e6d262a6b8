"""Files of training samples, read as they are.

Formats (a `DataFile` names one):

- `anyany`: JSON lines, one conversation each.

      {"id": "7", "messages": [
        {"role": "user", "content": [{"type": "image", "path": "a.png"},
                                     {"type": "text", "text": "the same in blue"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "here it is."},
                                          {"type": "image", "caption": "a small blue bell"}]}]}

  `content` may be a plain text. Media of the user have `path`; media of the assistant have
  `caption` or `embedding` (a file), and `path` where a true medium is known.
- `conversations`: NExT-GPT's comprehension, generation, T-to-T+X and tuned MosIT files, and
  LLaVA's: {"conversations": [{"from": "human" | "gpt", "value": "... <image> ..."}], ...}.
- `pairs`: NExT-GPT's media with captions, to describe or to draw: {"image_name", "caption"}.
- `swift`: ms-swift's messages with "images", "videos", "audios", one JSON object a line.

A row that cannot be used (its media are missing, its turns out of order) is left out, counted and
named; a file without any usable row is an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from anyany.alignment.mixing import JoinedSource, MixedSource
from anyany.alignment.order import derive_seed
from anyany.alignment.rows import (
    RowError,
    RowPlace,
    read_conversation,
    read_messages,
    read_pair,
    read_swift,
)
from anyany.alignment.samples import Sample, SampleSource
from anyany.errors import ConfigError, UsageError

logger = logging.getLogger(__name__)

NAMED: Final = 5  # unusable rows that the log names


@dataclass(frozen=True)
class DataFile:
    """A file of samples.

    Args:
        path: JSON (a list) or JSON lines.
        format: see above.
        media: folder that media names are relative to; null for the file's own.
        embeddings: folder of precomputed caption embeddings; null for captions alone.
        use: what `pairs` become: questions about the medium, or requests to draw it.
        weight: share of this file if several are mixed; give it for all or for none. Without
            weights the files are joined, and every sample comes once an epoch.
    """

    path: Path
    format: Literal["anyany", "conversations", "pairs", "swift"] = "anyany"
    media: Path | None = None
    embeddings: Path | None = None
    use: Literal["describe", "draw"] = "describe"
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and self.weight <= 0:
            raise ConfigError(f"data: expected a weight above 0, got {self.weight}")


_READERS: Final[Mapping[str, Callable[[Any, RowPlace], Sample]]] = {
    "anyany": read_messages,
    "conversations": read_conversation,
    "pairs": read_pair,
    "swift": read_swift,
}


class FileSource:
    """The usable rows of one file.

    Args:
        file: which, and how to read it.

    Raises:
        UsageError: the file is missing, no JSON, or has no usable row.
    """

    def __init__(self, file: DataFile) -> None:
        self.file = file
        self.skipped: dict[str, str] = {}  # row -> why
        self._rows: list[tuple[int, Any]] = []
        for number, row in enumerate(_read_rows(file.path), start=1):
            try:
                self._sample(number, row, 0)
            except RowError as error:
                self.skipped[f"{file.path.name}:{number}"] = str(error)
            else:
                self._rows.append((number, row))
        self._report()

    @property
    def num_samples(self) -> int:
        """Usable rows."""
        return len(self._rows)

    def sample(self, index: int, epoch: int) -> Sample:
        """The row at `index`; the wording of `pairs` changes with the epoch."""
        number, row = self._rows[index]
        return self._sample(number, row, epoch)

    def _sample(self, number: int, row: Any, epoch: int) -> Sample:
        file = self.file
        key = f"{file.path.name}:{number}"
        place = RowPlace(
            key=key,
            media=file.media or file.path.parent,
            embeddings=file.embeddings,
            use=file.use,
            seed=derive_seed("wording", key, epoch),
        )
        return _READERS[file.format](row, place)

    def _report(self) -> None:
        if not self.skipped:
            return
        first = "; ".join(f"{key}: {why}" for key, why in list(self.skipped.items())[:NAMED])
        more = "" if len(self.skipped) <= NAMED else f"; and {len(self.skipped) - NAMED} more"
        if not self._rows:
            raise UsageError(
                f"{self.file.path}: expected rows of format {self.file.format!r}, found no usable "
                f"one: {first}{more}"
            )
        logger.warning(
            "%s: %d of %d rows left out: %s%s",
            self.file.path.name,
            len(self.skipped),
            len(self.skipped) + len(self._rows),
            first,
            more,
        )


def open_data(files: Sequence[DataFile], *, seed: int = 0) -> SampleSource:
    """One source of several files: mixed by weight, or joined.

    Raises:
        UsageError: there is no file, or one cannot be used.
        ConfigError: some files have a weight and some do not.
    """
    if not files:
        raise UsageError("no data to learn from: give data files in the config or with --data")
    given = [file.weight for file in files if file.weight is not None]
    if given and len(given) != len(files):
        raise ConfigError("data: expected a weight for every file, or for none")
    sources = [FileSource(file) for file in files]
    if len(sources) == 1:
        return sources[0]
    return MixedSource(sources, given, seed=seed) if given else JoinedSource(sources)


def _read_rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such data file") from None
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path}: expected a readable JSON file in UTF-8") from None
    if text.lstrip().startswith("["):
        try:
            rows: list[Any] = json.loads(text)
        except ValueError:
            raise UsageError(f"{path}: expected a JSON list, found none that is whole") from None
        return rows
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise UsageError(f"{path}: line {number} is no JSON") from None
    if not rows:
        raise UsageError(f"{path}: expected samples, the file is empty")
    return rows
