"""Options that several verbs share, as annotated types, and what is checked of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anyany.errors import UsageError
from anyany.messages import MEDIA_MODALITIES, MODALITIES, Modality

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
Residency = Annotated[
    str,
    typer.Option(metavar="KIND", help="resident, or staged: one part on the device at a time."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]

# How text is drawn.
MaxNewTokens = Annotated[int, typer.Option(help="Most tokens of a reply.")]
Temperature = Annotated[float, typer.Option(help="Of the text; 0 = greedy.")]
TopK = Annotated[int, typer.Option(help="Draw among this many best; 0 = all.")]
TopP = Annotated[float, typer.Option(help="Draw among the best that reach this share.")]

# How media are drawn.
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale; 1 = none.")]
Scheduler = Annotated[
    str | None, typer.Option(help="native, ddim, dpmpp_2m, euler, pndm, unipc or lcm.")
]
Preset = Annotated[str | None, typer.Option(help="reference or fast.")]
Negative = Annotated[str | None, typer.Option(help="Words to steer media away from.")]
ConditionBy = Annotated[
    str, typer.Option(help="What decoders are told: signal (states) or caption (words).")
]
NoMetadata = Annotated[
    bool, typer.Option("--no-metadata", help="Leave the record out of the files.")
]


def given(**values: Any) -> dict[str, Any]:
    """The options that were given: those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def denoising(
    steps: int | None,
    guidance: float | None,
    scheduler: str | None,
    preset: str | None,
    negative: str | None,
) -> dict[str, Any]:
    """What overrides the decoders' settings, found good before a model is loaded.

    Raises:
        UsageError: a value is out of range.
    """
    overrides = given(
        num_inference_steps=steps,
        guidance_scale=guidance,
        scheduler=scheduler,
        settings=preset,
        negative=negative,
    )
    if overrides:
        from anyany.overrides import resolve_overrides

        resolve_overrides({"image": overrides}, MEDIA_MODALITIES, None)
    return overrides


def parse_outputs(text: str | None) -> set[Modality] | None:
    """Read the list of --to.

    Raises:
        UsageError: something in it is no modality.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {str(modality): modality for modality in MODALITIES}
    strange = next((name for name in names if name not in known), None)
    if strange is not None or not names:
        got = repr(strange) if strange is not None else "nothing"
        raise UsageError(f"--to: expected a list of {', '.join(MODALITIES)}; got {got}")
    return {known[name] for name in names}
