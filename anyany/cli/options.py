"""Options that several verbs share, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help="pocket, or a system's folder or Hub name."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16. [default: float32 on the CPU]", metavar="TYPE"),
]
Threads = Annotated[
    int,
    typer.Option(
        min=1, max=1024, help="Threads on the CPU; part of what decides a file's bytes.", metavar="N"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER")]
