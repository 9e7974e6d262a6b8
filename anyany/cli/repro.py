"""`anyany repro`: make a file again from the record inside it, and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from anyany.cli.options import Model
from anyany.cli.terminal import notes
from anyany.config import to_dict
from anyany.errors import MediaError, UsageError
from anyany.media import Provenance, read_provenance
from anyany.messages import AudioPart, ImagePart, MediaPart, VideoPart

if TYPE_CHECKING:
    from anyany.requests import EngineSettings

_READERS: Final[Mapping[str, type[ImagePart] | type[VideoPart] | type[AudioPart]]] = {
    "image": ImagePart,
    "video": VideoPart,
    "audio": AudioPart,
}


def repro(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that anyany wrote.")],
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Holds the request's media, under any names."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Keep the new file here.")
    ] = None,
    model: Model = "",
) -> int:
    """Make a file again from the record inside it, and say whether it is identical, byte for byte.

    The record's threads, device and settings are taken. The same bytes can be expected on the same
    machine with the same versions. Exit code 1: the new file differs.

    \b
    Examples:
      anyany repro out/image_0.png
      anyany repro out/image_0.png --inputs photos/ -o again.png
    """
    record = read_provenance(file)
    if record is None:
        raise UsageError(
            f"{file.name}: it holds no record: anyany did not write it, or did so without metadata"
        )
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out: expected a file in an existing folder, got {out.name!r}")
    source = _model(record, model)
    found = find_inputs(record, inputs)
    _warn_of_versions(record)
    made = _regenerate(record, found, source)
    with tempfile.TemporaryDirectory() as folder:
        again = made.save(out or Path(folder) / f"again{file.suffix}")
        if again.read_bytes() == file.read_bytes():
            print(f"identical: {file}")
            return 0
        print(f"different: {file}: {_reason(record, file, made)}")
        return 1


def find_inputs(record: Provenance, folder: Path | None) -> dict[str, MediaPart]:
    """Look for a record's media in a folder and all below it, by content.

    Args:
        record: of the file.
        folder: where to look; None = nowhere.

    Returns:
        What was found, by content hash.

    Raises:
        UsageError: the folder does not exist, or media are missing; the line names their hashes.
    """
    from anyany.records import missing_inputs, part_sha256

    found: dict[str, MediaPart] = {}
    wanted = {item.sha256: item.modality for item in record.inputs}
    if folder is not None:
        if not folder.is_dir():
            raise UsageError(f"--inputs: expected a folder, got {folder.name!r}")
        for part in _media_below(folder, set(wanted.values())) if wanted else ():
            sha256 = part_sha256(part)
            if sha256 in wanted:
                found[sha256] = part
            if found.keys() == wanted.keys():
                break
    missing_inputs(record, found)
    return found


def _media_below(folder: Path, modalities: set[Any]) -> Iterator[MediaPart]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            for modality in modalities:
                try:
                    yield _READERS[modality].read(path)
                except MediaError:
                    continue


def _model(record: Provenance, given: str) -> str:
    """The system to run: never one that a file names but a person did not."""
    from anyany.system_files import PACKAGED

    if given or record.model in PACKAGED:
        return given or record.model
    raise UsageError(
        f"the file was made by {record.model!r}, which is not packaged: give its folder by --model"
    )


def _warn_of_versions(record: Provenance) -> None:
    from anyany.records import versions

    for name, now in versions().items():
        then = record.versions.get(name, "unknown")
        if then != now:
            notes.warning("%s is %s here; the file was made with %s", name, now, then)


def _regenerate(record: Provenance, inputs: Mapping[str, MediaPart], source: str) -> MediaPart:
    from anyany.cli.loading import load_system

    settings = record.settings
    try:
        threads, device, dtype = settings["threads"], settings["device"], settings["dtype"]
        engine = _engine_settings(settings)
        if not 1 <= threads <= 1024:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UsageError("the file's record is not of this version: it lacks settings") from None
    system = load_system(source, device=device, dtype=dtype, threads=threads, settings=engine)
    return system.regenerate(record, inputs)


def _engine_settings(settings: Mapping[str, Any]) -> EngineSettings:
    from anyany.language import DecodeSettings
    from anyany.requests import EngineSettings

    return EngineSettings(
        language=DecodeSettings(rows=settings["rows"], max_spans=settings["max_spans"]),
        batch_invariant=settings["batch_invariant"],
        micro_batch=settings["micro_batch"],
    )


def _reason(record: Provenance, file: Path, made: MediaPart) -> str:
    """Why the new file differs, as far as can be told."""
    from anyany.records import part_sha256

    assert made.provenance is not None
    same = part_sha256(_READERS[record.modality].read(file)) == part_sha256(made)
    content = f"the {record.modality} itself is the same" if same else f"another {record.modality}"
    before, now = to_dict(record), to_dict(made.provenance)
    strange = sorted(name for name in before if before[name] != now[name])
    if strange:
        return f"{content}; in the record, {', '.join(strange)} differ"
    if not record.settings["batch_invariant"]:
        return f"{content}; it was made with batch_invariant=False, beside neighbours"
    return f"{content}; the records agree: another machine, or the file was changed"
