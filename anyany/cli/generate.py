"""`anyany generate`: one prompt of text and media files, one reply."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from anyany.cli.options import (
    AsJson,
    ConditionBy,
    Device,
    Dtype,
    Guidance,
    MaxNewTokens,
    Model,
    Negative,
    NoMetadata,
    Preset,
    Residency,
    Scheduler,
    Steps,
    Temperature,
    Threads,
    TopK,
    TopP,
    Weights,
    denoising,
    parse_outputs,
)
from anyany.cli.terminal import ProgressBar, notes
from anyany.errors import MediaError, PromptError, ResourceError, UsageError
from anyany.messages import (
    AudioPart,
    ImagePart,
    Part,
    Reply,
    TextPart,
    VideoPart,
    read_part,
)

if TYPE_CHECKING:
    from anyany.system import AnyToAny

DEFAULT_FOLDER: Final = Path("out")
_ENDINGS: Final = (  # a word with such an ending is meant as a file, there or not
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"),
    *(".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"),
    *(".wav", ".flac", ".mp3", ".aac", ".m4a", ".ogg", ".opus"),
)
_Files = list[str] | None


@dataclass(frozen=True)
class Output:
    """Where the answer goes.

    Args:
        folder: for media; None = `DEFAULT_FOLDER` if there are any.
        metadata: keep the record of how it was made inside the files.
        as_json: print one JSON object.
        stream: print text as it comes.
    """

    folder: Path | None
    metadata: bool
    as_json: bool
    stream: bool


def generate(
    items: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT|FILE",
            help="Text and media files, in order; - reads the text from stdin.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="text,image,video,audio: exactly these must come."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Where media and reply.json go. [default: out]"
        ),
    ] = None,
    image: Annotated[_Files, typer.Option(metavar="FILE", help="Before the text; repeat.")] = None,
    video: Annotated[_Files, typer.Option(metavar="FILE", help="Before the text; repeat.")] = None,
    audio: Annotated[_Files, typer.Option(metavar="FILE", help="Before the text; repeat.")] = None,
    model: Model = "pocket",
    seed: Annotated[int | None, typer.Option(help="Decides every byte; drawn if left out.")] = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    preset: Preset = None,
    negative: Negative = None,
    condition: ConditionBy = "signal",
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = 2,
    residency: Residency = "resident",
    weights: Weights = None,
    no_metadata: NoMetadata = False,
    as_json: AsJson = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print text as it comes.")] = False,
) -> None:
    """Answer a prompt of text, pictures, clips and recordings, in any of them.

    Arguments that are files are media, recognised by their content; all others are text. The text
    and the saved files' paths are printed in the order of the reply. Files of the same name in the
    folder are replaced.

    \b
    Examples:
      anyany generate "a small red bell on the left" --to text,image -o out/ --seed 7
      anyany generate "what is this?" bell.png --to text
      anyany generate bell.png "make it blue" --to image --steps 20
      echo "draw a drum" | anyany generate - --json
    """
    if as_json and stream:
        raise UsageError("expected --json or --stream, got both: leave one out")
    outputs = parse_outputs(to)
    overrides = denoising(steps, guidance, scheduler, preset, negative)
    if overrides and outputs == {"text"}:
        raise UsageError("--steps and its like are for media, and --to text asks for none")
    parts = read_prompt(items or [], image=image, video=video, audio=audio)
    check_folder(out or DEFAULT_FOLDER)
    from anyany.cli.loading import load_system

    system = load_system(
        model,
        device=device,
        dtype=dtype,
        threads=threads,
        residency=residency,
        weights=weights,
    )
    media = [m for m in system.decoders if outputs is None or m in outputs]
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    run: dict[str, Any] = {
        "outputs": outputs,
        "max_new_tokens": max_new_tokens,
        "condition": condition,
        **sampling,
        **(dict.fromkeys(media, overrides) if overrides else {}),
    }
    _answer(system, parts, run, Output(out, not no_metadata, as_json, stream))


def read_prompt(
    items: Sequence[str],
    *,
    image: _Files = None,
    video: _Files = None,
    audio: _Files = None,
) -> list[Part]:
    """Turn arguments into parts: files of options first, then arguments in their order.

    Raises:
        PromptError: there is neither text nor a file.
        MediaError: a file cannot be used.
    """
    parts: list[Part] = [
        *(ImagePart.read(Path(path)) for path in image or ()),
        *(VideoPart.read(Path(path)) for path in video or ()),
        *(AudioPart.read(Path(path)) for path in audio or ()),
    ]
    parts += [_read_item(item) for item in items]
    if not any(not isinstance(part, TextPart) or part.text.strip() for part in parts):
        raise PromptError("the prompt is empty: give it text, or at least one media file")
    return parts


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before anything is computed.

    Raises:
        UsageError: it is no folder, or not writable.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UsageError(f"--out: expected a folder, got the file {there.name!r}")
    if not os.access(there, os.W_OK):
        raise UsageError(f"--out: expected a folder that can be written to, got {folder.name!r}")


def _read_item(item: str) -> Part:
    if item == "-":
        return TextPart(_read_stdin())
    try:
        is_file = Path(item).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL: text
        is_file = False
    if is_file:
        return read_part(item)
    if Path(item).suffix.lower() in _ENDINGS and len(item.split()) == 1:
        raise MediaError("missing", f"{Path(item).name}: no such file")
    return TextPart(item)


def _read_stdin() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise PromptError("expected the prompt on stdin in UTF-8") from None


def _answer(system: AnyToAny, parts: list[Part], run: dict[str, Any], output: Output) -> None:
    bar = ProgressBar()
    shows_text = run["outputs"] is None or "text" in run["outputs"]
    try:
        reply = system.generate(parts, on_event=_watch(bar, output.stream and shows_text), **run)
    finally:
        bar.close()
    files = _save(reply, output)
    if run["seed"] is None and files:
        notes.info("seed %d", reply.seed)
    if reply.finish_reason == "length" and shows_text:
        notes.warning("the reply was cut at --max-new-tokens %d", run["max_new_tokens"])
    notes.debug("seconds: %s", {name: round(value, 3) for name, value in reply.timings.items()})
    if output.as_json:
        print(json.dumps(_as_json(system, reply, files), ensure_ascii=False, indent=1))
        return
    if output.stream and shows_text:
        print()
    waiting = iter(files)
    for part in reply.parts:
        if not isinstance(part, TextPart):
            print(next(waiting))
        elif not output.stream:
            print(part.text)


def _watch(bar: ProgressBar, stream: bool) -> Callable[[object], None]:
    from anyany.language import TextDelta
    from anyany.requests import DenoisingStep

    def on_event(event: object) -> None:
        if isinstance(event, TextDelta) and stream:
            print(event.text, end="", flush=True)
        elif isinstance(event, DenoisingStep):
            bar.update(f"{event.modality} {event.index}", event.step, event.total)

    return on_event


def _save(reply: Reply, output: Output) -> list[Path]:
    """Write the media; the paths in order."""
    if output.folder is None and all(isinstance(part, TextPart) for part in reply.parts):
        return []
    try:
        return reply.save(output.folder or DEFAULT_FOLDER, metadata=output.metadata)[:-1]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError("the disk is full") from None
        raise UsageError("--out: the folder cannot be made or written to") from None


def _as_json(system: AnyToAny, reply: Reply, files: list[Path]) -> dict[str, Any]:
    waiting = iter(files)
    listed = [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": part.modality, "file": str(next(waiting))}
        for part in reply.parts
    ]
    reason: Literal["stop", "length", "cancelled"] = reply.finish_reason
    return {
        "model": system.config.name,
        "parts": listed,
        "text": reply.text,
        "seed": reply.seed,
        "finish_reason": reason,
        "timings": {name: round(value, 6) for name, value in reply.timings.items()},
    }
