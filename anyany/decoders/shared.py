"""Components that two decoders of one system have in common: on disk they can stand once.

`decoder.json` then says in whose folder, among its own siblings, a component is:
`"shared": {"vae": "image"}`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from anyany.decoders.storage import write_json
from anyany.errors import CheckpointError

RECORD: Final = "decoder.json"
_KEY: Final = "shared"
_SHARED: Final = ("vae",)


def component_folder(folder: Path, name: str) -> Path:
    """Where a component of a decoder is: in its folder, or in that of a sibling.

    Raises:
        CheckpointError: the record names no sibling.
    """
    if (folder / name).is_dir():
        return folder / name
    sibling = _record(folder).get(_KEY, {}).get(name)
    if sibling is None:
        return folder / name
    plain = isinstance(sibling, str) and Path(sibling).name == sibling
    if not plain or sibling in ("", ".", ".."):
        raise CheckpointError(
            f"{folder / RECORD}: expected the name of a folder beside it under {_KEY}.{name}; "
            f"got {sibling!r}"
        )
    return folder.resolve().parent / str(sibling) / name


def share(folders: Sequence[Path]) -> None:
    """Keep components of sibling folders once where their files are equal to the byte."""
    for number, folder in enumerate(folders):
        for name in _SHARED:
            for other in folders[:number]:
                if (folder / name).is_dir() and _files(folder / name) == _files(other / name):
                    record = _record(folder)
                    record[_KEY] = {**record.get(_KEY, {}), name: other.name}
                    write_json(record, folder / RECORD)
                    shutil.rmtree(folder / name)


def unshare(folder: Path, source: Path) -> None:
    """Give a copy of a decoder's folder the components that its source shares."""
    record = _record(folder)
    for name in record.pop(_KEY, {}):
        shutil.copytree(component_folder(source, name), folder / name, dirs_exist_ok=True)
        write_json(record, folder / RECORD)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
