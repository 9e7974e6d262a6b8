"""`anyany compare`: train bridges side by side, and table what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from anyany.cli.options import AsJson
from anyany.cli.terminal import ProgressBar, notes
from anyany.errors import PartialError, UsageError
from anyany.media import write_bytes

if TYPE_CHECKING:
    from anyany.bridges.recipe import BridgeRecipe

DEFAULT_FOLDER: Final = Path("comparison")
DOCS: Final = Path("docs") / "bridges.md"


def compare(
    bridges: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="all, or names of configs/bridges and YAML files, by comma."
        ),
    ] = "all",
    data: Annotated[
        str,
        typer.Option(
            metavar="pocket|FILE", help="The pocket world, or conversations in JSON lines."
        ),
    ] = "pocket",
    task: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of the pocket world: captions, questions, detail, wide, clips, sounds; "
            "own = each bridge's recipe's.",
        ),
    ] = "captions",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each bridge.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps that all take.")] = 300,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Also go on until so many of the process; 0 = no.")
    ] = 0.0,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the results go.")
    ] = DEFAULT_FOLDER,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="The system whose encoder is used; with a FILE its language model, too.",
        ),
    ] = "pocket",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="On the CPU.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Make runs again that had other settings.")
    ] = False,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Write the table into ./docs/bridges.md.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train bridges on the same data between the same frozen parts; table them side by side.

    All take the same steps, and with --seconds the same time. Writes results.json and compare.html
    (one page with the curves, for any browser) and prints the table. The same command goes on
    after a stop, bridge by bridge and seed by seed; more bridges or seeds are taken in.

    A bridge that cannot be built for the data is left out with its reason (exit code 3).

    \b
    Examples:
      anyany compare --bridges all --data pocket --seeds 3 -o comparison/
      anyany compare --bridges llava,blip2,my_bridge.yaml --steps 200 --seconds 30
      anyany compare --bridges instructblip,blip2 --task questions --seeds 1
      anyany compare --bridges llava,llava-next --data my_captions.jsonl
    """
    from anyany.pocket import compare as comparison
    from anyany.pocket.compare_report import compare_html, compare_markdown
    from anyany.pocket.compare_report import write_docs as into_docs

    recipes = read_recipes(bridges)
    if data != comparison.POCKET and not Path(data).is_file():
        raise UsageError(f"--data: expected pocket or a file of conversations; got {data!r}")
    if device != "cpu" and not device.startswith("cuda"):
        raise UsageError(f"--device: expected cpu or cuda; got {device!r}")
    config = comparison.CompareConfig(
        seeds=seeds,
        steps=steps,
        seconds=seconds,
        data=data,
        task=task,
        system=model,
        device=device,
        threads=threads,
    )
    bar = ProgressBar()
    try:
        results: dict[str, Any] = comparison.compare(
            recipes, config, out, force=force, progress=bar.update
        )
    finally:
        bar.close()
    write_bytes(compare_html(results).encode(), out / "compare.html")
    notes.info("wrote results.json and compare.html into %s", out)
    if write_docs:
        into_docs(results, DOCS)
        notes.info("wrote the table into %s", DOCS)
    print(
        json.dumps(results, ensure_ascii=False, indent=1) if as_json else compare_markdown(results)
    )
    if results["failed"]:
        name, line = next(iter(results["failed"].items()))
        more = len(results["failed"]) - 1
        others = f", and {more} more" if more else ""
        raise PartialError(f"left out {name}{others}: {line}")


def read_recipes(text: str) -> list[BridgeRecipe]:
    """Read the list of --bridges.

    Raises:
        UsageError: it is empty, or names a bridge twice.
        ConfigError: there is none of a name, or its parts do not go together.
    """
    from anyany.bridges.recipe import load_recipe, recipe_names

    listed = [name.strip() for name in text.split(",") if name.strip()]
    names = [one for name in listed for one in (recipe_names() if name == "all" else [name])]
    if not names:
        raise UsageError(f"--bridges: expected all, or a list of names; got {text!r}")
    recipes = [load_recipe(name) for name in names]
    known = [recipe.name for recipe in recipes]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--bridges: expected each bridge once; got {twice} again")
    return recipes
