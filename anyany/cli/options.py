"""Options that several verbs share, as annotated types."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="NAME", help="pocket, or a system's folder or Hub name."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="float32, bfloat16 or float16; float32 on the CPU."),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="dummy", help="Random weights: to measure; --model may be a YAML."),
]
Threads = Annotated[
    int,
    typer.Option(metavar="N", min=1, max=1024, help="On the CPU; they decide the last bits."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]
