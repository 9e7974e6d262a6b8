"""`anyany evaluate`: measure a pocket system on held-out combinations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from anyany.cli.options import AsJson, Device, Dtype, Model, Threads
from anyany.cli.terminal import ProgressBar, notes
from anyany.errors import UsageError
from anyany.media import write_bytes, write_json

if TYPE_CHECKING:
    from anyany.pocket.evaluate import Evaluation
    from anyany.pocket.evaluate_cases import Split

DEFAULT_FOLDER: Final = Path("evaluation")
README: Final = Path("README.md")
RESULTS: Final = "results.json"


def evaluate(
    model: Model = "pocket",
    n: Annotated[int, typer.Option("--n", min=1, help="Items of each row.")] = 500,
    n_video: Annotated[
        int | None,
        typer.Option(
            "--n-video", min=1, help="Of each row that makes clips, the slow ones; --n by default."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the cases and of their noise.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the results go.")
    ] = DEFAULT_FOLDER,
    rows: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="all, or of checker,vae,direct,reference,chain,caption,describe (of video and "
            "audio likewise: video.direct), edit and image-to-audio, image-to-video, "
            "video-to-audio, audio-to-image.",
        ),
    ] = "all",
    split: Annotated[
        str, typer.Option(help="held-out combinations, or seen ones.", metavar="held-out|seen")
    ] = "held-out",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Say that the model was trained without held-out captions, too."
        ),
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take these results.json; measure nothing. Repeated: rows of one model together.",
        ),
    ] = None,
    update_readme: Annotated[
        bool, typer.Option("--update-readme", help="Write the table into ./README.md.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = 2,
    as_json: AsJson = False,
) -> None:
    """Make, describe and turn held-out combinations, and count what is right.

    Every modality that the system has is measured. Writes results.json, items.jsonl and report.html
    (one page with media in it, for any browser), and prints the table of figures. A clip takes ten
    times as long as a picture: on a CPU, --n-video 128 (8 of each held-out pair) keeps it short.

    \b
    Examples:
      anyany evaluate -o evaluation/
      anyany evaluate --model runs/pocket/system --n 100 --rows direct,chain
      anyany evaluate --n 500 --n-video 128
      anyany evaluate --from evaluation/results.json --update-readme
      anyany evaluate --from pictures/results.json --from clips/results.json
    """
    if results:
        measured: Mapping[str, Any] = _together([_read_results(path) for path in results])
    else:
        measured = _measure(
            {
                "num_items": n,
                "num_video": n_video,
                "seed": seed,
                "rows": _rows(rows),
                "split": split,
                "strict": strict,
            },
            out,
            {"source": model, "device": device, "dtype": dtype, "threads": threads},
        )
    from anyany.pocket import figures

    if update_readme:
        figures.update_readme(README, measured)
        notes.info("wrote the table into %s", README)
    print(
        json.dumps(measured, ensure_ascii=False, indent=1)
        if as_json
        else figures.figures_markdown(measured)
    )


def _measure(settings: dict[str, Any], out: Path, system: dict[str, Any]) -> Mapping[str, Any]:
    from anyany.cli.generate import check_folder
    from anyany.cli.loading import load_system
    from anyany.pocket.evaluate import EvaluationConfig
    from anyany.pocket.evaluate import evaluate as run

    config = EvaluationConfig(**{**settings, "split": cast("Split", settings["split"])})
    check_folder(out)
    model = load_system(system.pop("source"), **system)
    bar = ProgressBar()
    try:
        evaluation = run(model, config, progress=bar.update)
    finally:
        bar.close()
    _save(evaluation, out)
    return evaluation.results


def _save(evaluation: Evaluation, folder: Path) -> None:
    from anyany.pocket.report import report_html

    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"row": name, "index": index, **item.to_dict()}, ensure_ascii=False)
        for name, row in evaluation.rows.items()
        for index, item in enumerate(row.items)
    ]
    write_bytes("".join(f"{line}\n" for line in lines).encode(), folder / "items.jsonl")
    write_bytes(report_html(evaluation).encode(), folder / "report.html")
    write_json(dict(evaluation.results), folder / RESULTS)
    notes.info("wrote %s, items.jsonl and report.html into %s", RESULTS, folder)


def _rows(text: str) -> tuple[str, ...]:
    return () if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())


def _together(results: Sequence[dict[str, Any]]) -> Mapping[str, Any]:
    """Rows that were measured apart, as if in one run.

    Raises:
        UsageError: they are not of one model, machine and choice of items, or a row is there twice.
    """
    whole = dict(results[0])
    for other in results[1:]:
        for key in ("model", "engine", "versions"):
            if other[key] != whole[key]:
                raise UsageError(f"--from: expected results of one {key}; got two that differ")
        settings, more = whole["config"], other["config"]
        if any(settings[key] != more[key] for key in settings.keys() - {"rows"}):
            raise UsageError("--from: expected results of the same --n, --n-video, seed and split")
        if twice := whole["rows"].keys() & other["rows"].keys():
            raise UsageError(f"--from: the row {min(twice)} is in two of the files")
        rows = [*settings["rows"], *more["rows"]]
        whole["config"] = {**settings, "rows": rows}
        for key in ("rows", "comparisons"):
            whole[key] = {**whole[key], **other[key]}
    return whole


def _read_results(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"--from: expected a results.json; got {path.name}") from None
    wanted = ("model", "config", "engine", "versions", "rows", "comparisons")
    if not isinstance(read, dict) or any(not isinstance(read.get(key), dict) for key in wanted):
        raise UsageError(f"--from: expected results of anyany evaluate; got {path.name}")
    return read
