"""`anyany pocket build`: train the pocket system from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def build(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of runs, components and the system.")
    ] = Path("runs/pocket"),
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Build this part alone; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of torch on the CPU.", min=1)] = 1,
    start: Annotated[
        str | None,
        typer.Option("--from", help='Begin from these weights: "shipped", or a system\'s folder.'),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop, resumable, after so many seconds.", min=0.0)
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Factor on all numbers of steps, for a trial.", min=0.0)
    ] = 1.0,
    pack: Annotated[
        Path | None, typer.Option("--pack", help="Also write the system here as it ships (fp16).")
    ] = None,
) -> None:
    """Train tokenizer, autoencoder, text encoder, generator, ImageBind, language model and stages.

    The same command goes on after an interruption. Example:

        anyany pocket build -o runs/pocket --time-limit 3600
    """
    from anyany.pocket import build as recipe

    settings = recipe.BuildSettings(
        output,
        device=device,
        threads=threads,
        scale=scale,
        time_limit=time_limit,
        start="pocket" if start == "shipped" else start,
    )
    system = recipe.build(settings, only=only or ())
    if system is None:
        typer.echo("not complete: run the same command again to go on")
        return
    typer.echo(f"built {system}")
    if pack is not None:
        typer.echo(f"packed {recipe.pack(system, pack)}")
