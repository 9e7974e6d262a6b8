"""`anyany pocket build` and `gallery`: train the pocket system from nothing; show what it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anyany.cli.options import Device, Dtype, Model, Threads

README = Path("README.md")


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


def gallery(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the sheets go.")
    ] = Path("docs/gallery"),
    model: Model = "pocket",
    seed: Annotated[int, typer.Option(min=0, help="Of the list of prompts and the media.")] = 0,
    number: Annotated[int, typer.Option("--n", min=1, help="Prompts of each modality.")] = 12,
    update_readme: Annotated[
        bool, typer.Option("--update-readme", help="Write the gallery into ./README.md.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = 2,
) -> None:
    """Make media of the first held-out prompts of a seeded list; write a sheet a modality.

    Prints the lines for a page: each sheet, each prompt, and what the checker found. Example:

        anyany pocket gallery -o docs/gallery --update-readme
    """
    from anyany.cli.loading import load_system
    from anyany.pocket import gallery as made

    system = load_system(model, device=device, dtype=dtype, threads=threads)
    sheets = made.make_gallery(system, output, seed=seed, number=number)
    if update_readme:
        made.update_page(README, sheets, seed=seed)
    typer.echo(made.gallery_markdown(sheets, beside=Path(), seed=seed))
