"""`anyany convert`: a folder or a manifest in, a folder an item out; resumable at any moment."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

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
    denoising,
    given,
    parse_outputs,
)
from anyany.cli.terminal import notes
from anyany.errors import UsageError
from anyany.messages import MODALITIES

if TYPE_CHECKING:
    from anyany.batch import Run, Summary
    from anyany.residency import ResidencyKind

SHOWN_FAULTS: Final = 20
_Names = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Column of paths; repeat.")]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|MANIFEST",
            help="A folder of media, a .jsonl, .csv or .parquet; - reads JSONL from stdin.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="New, or of an earlier run.")
    ],
    to: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="text,image,video,audio, where a line does not say."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="For a folder or table; {column} is filled in."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="jsonl, openai, csv, parquet or folder; by the ending."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of relative paths. [default: the manifest's]"),
    ] = None,
    id_column: Annotated[str, typer.Option(metavar="NAME", help="Column of the ids.")] = "",
    image_column: _Names = None,
    video_column: _Names = None,
    audio_column: _Names = None,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Media may come from this host by URL; repeat."),
    ] = None,
    model: Model = "pocket",
    seed: Annotated[int, typer.Option(min=0, help="Of lines without a seed of their own.")] = 0,
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
    workers: Annotated[
        int, typer.Option(min=0, max=256, help="Processes; 0 = none but this one.")
    ] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of a Ray cluster; needs its token.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Use a Ray cluster that asks for no token.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run was: always so.")
    ] = True,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on under other settings; make all again.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Only the k-th of n parts, from 1.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    max_failures: Annotated[
        str | None, typer.Option(metavar="N|P%", help="Stop when more have failed.")
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failure.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, plan and estimate; write nothing.")
    ] = False,
    no_metadata: NoMetadata = False,
    dry_seconds: Annotated[float, typer.Option(hidden=True)] = 0.0,
    as_json: AsJson = False,
) -> int:
    """Convert every file of a folder, or every line of a manifest.

    Each item gets its folder, FOLDER/<id>/ with reply.json and media; results.jsonl and
    errors.jsonl list them all. A run that was interrupted or killed goes on when the same command
    is given again. Progress goes to stderr: a bar on a terminal, else one JSON object a line. Exit
    code 3: some items failed; see errors.jsonl.

    \b
    Examples:
      anyany convert photos/ --to text -o out/
      anyany convert requests.jsonl -o out/ --workers 2
      anyany convert batch.jsonl --format openai -o out/
      anyany convert table.csv --prompt "draw {title}" --to image -o out/ --dry-run
    """
    overrides = denoising(steps, guidance, scheduler, preset, negative)
    sampling: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "condition": condition,
    }
    from anyany.batch import Columns, Run, RunOptions, open_manifest
    from anyany.batch.items import check_options, check_seed

    check_options(sampling)
    check_seed(seed)
    outputs = parse_outputs(to)
    with _spooled(source) as (file, from_stdin):
        manifest = open_manifest(
            file,
            format=format or ("jsonl" if from_stdin else None),
            root=root or (Path.cwd() if from_stdin else None),
            outputs=None if outputs is None else tuple(m for m in MODALITIES if m in outputs),
            columns=Columns(
                prompt,
                id_column,
                tuple(image_column or ()),
                tuple(video_column or ()),
                tuple(audio_column or ()),
            ),
            allow_url=tuple(allow_url or ()),
            shard=_shard(shard),
            limit=limit,
            out=out,
        )
        run = Run(
            manifest,
            out,
            _factory(
                engine,
                manifest.root,
                model,
                device,
                dtype,
                threads,
                sampling,
                overrides,
                residency,
                dry_seconds,
            ),
            common={**sampling, "overrides": overrides},
            lines=given(
                outputs=list(manifest.outputs) if manifest.outputs else None,
                prompt=prompt,
                columns=[id_column, image_column, video_column, audio_column]
                if id_column or image_column or video_column or audio_column
                else None,
            ),
            seed=seed,
            options=RunOptions(
                workers=workers,
                engine="ray" if engine == "ray" else "local",
                address=ray_address,
                insecure=insecure,
                retry_failed=retry_failed,
                force=force,
            ),
            metadata=not no_metadata,
        )
        return _carry_out(run, max_failures, fail_fast, dry_run=dry_run, as_json=as_json)


def _carry_out(
    run: Run, max_failures: str | None, fail_fast: bool, *, dry_run: bool, as_json: bool
) -> int:
    from dataclasses import replace

    from anyany.batch import ManifestError
    from anyany.cli.batch_progress import Display

    try:
        if dry_run:
            return _plan(run, as_json)
        run.options = replace(run.options, max_failures="0" if fail_fast else max_failures)
        _note_skipped(run)
        with Display() as display:
            run.on_event = display
            summary = run()
    except ManifestError as error:
        for fault in error.faults[:SHOWN_FAULTS]:
            notes.error("%s", fault)
        raise
    _say(run, summary, as_json)
    return summary.exit_code


def _plan(run: Run, as_json: bool) -> int:
    from anyany.batch.estimate import estimate, plan_text

    plan = estimate(run)
    print(json.dumps(plan, indent=1, ensure_ascii=False) if as_json else plan_text(plan))
    return 0


def _say(run: Run, summary: Summary, as_json: bool) -> None:
    counts = summary.counts
    if as_json:
        record = {
            "out": str(run.out),
            "model": summary.model,
            **asdict(counts),
            "seconds": round(summary.seconds, 3),
            "load_seconds": round(summary.load_seconds, 3),
            "interrupted": bool(summary.signal),
            "stopped_by_failures": summary.stopped_by_failures,
            "exit_code": summary.exit_code,
        }
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return
    failed = counts.failed + counts.skipped_failed
    parts = [f"{counts.done} done"]
    parts += [f"{counts.copied} of them alike"] if counts.copied else []
    parts += [f"{counts.changed} of them again, changed"] if counts.changed else []
    parts += [f"{counts.skipped} done before"] if counts.skipped else []
    parts += [f"{failed} failed"] if failed else []
    left = counts.total - counts.done - counts.skipped - failed
    parts += [f"{left} left"] if left else []
    print(f"{run.out}: {', '.join(parts)} of {counts.total} in {summary.seconds:.1f} s")
    if counts.failed or counts.skipped_failed:
        again = "" if counts.failed else " (from an earlier run; --retry-failed tries again)"
        notes.warning("%d failed: see %s%s", failed, run.out / "errors.jsonl", again)
    if summary.signal:
        notes.warning("interrupted: the same command goes on where it was")


def _note_skipped(run: Run) -> None:
    number, example = run.manifest.skipped()
    if number:
        others = f" and {number - 1} more" if number > 1 else ""
        notes.warning("left out, no media by their ending: %s%s", example, others)


@contextmanager
def _spooled(source: str) -> Iterator[tuple[Path, bool]]:
    """The manifest as a file; stdin is read twice, so it is kept in one until the end."""
    if source != "-":
        yield Path(source), False
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stdin.jsonl"
        with open(file, "wb") as target:
            shutil.copyfileobj(sys.stdin.buffer, target)
        yield file, True


def _factory(
    engine: str,
    root: Path,
    model: str,
    device: str,
    dtype: str | None,
    threads: int,
    sampling: dict[str, Any],
    overrides: dict[str, Any],
    residency: str,
    dry_seconds: float,
) -> Any:
    from anyany.batch import DryFactory, SystemFactory

    if engine == "dry":  # measures the runner itself
        return DryFactory(dry_seconds)
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine: expected local or ray; got {engine!r}")
    return SystemFactory(
        model if not Path(model).exists() else str(Path(model).absolute()),
        str(root),
        device,
        dtype,
        threads,
        sampling,
        overrides,
        cast("ResidencyKind", residency),
    )


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UsageError(f"--shard: expected K/N with K from 1 to N, such as 3/16; got {text!r}")
    return int(k), int(n)


__all__ = ["convert"]
