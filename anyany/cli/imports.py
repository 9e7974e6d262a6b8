"""`anyany import`: published weights in, safetensors out; pickles end here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

_Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The system to write.")]
_ImageBind = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="imagebind_huge.pth, or the same in safetensors."),
]
_Decoder = Annotated[
    str | None, typer.Option(metavar="PLACE", help="A folder in diffusers' layout, or a Hub name.")
]
_Config = Annotated[
    Path | None, typer.Option(metavar="YAML", help="Sizes, if not the published ones.")
]


def imagebind(
    pth: Annotated[Path, typer.Argument(metavar="PTH", help="The published imagebind_huge.pth.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
) -> None:
    """Turn the published ImageBind checkpoint into safetensors, in a process of its own.

    \b
    Example:
      anyany import imagebind imagebind_huge.pth imagebind_huge.safetensors
    """
    from anyany.encoders import import_imagebind_pth

    print(import_imagebind_pth(pth, out))


def nextgpt_7b_v0(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="The published pytorch_model.pt.")
    ],
    out: _Out,
    base: Annotated[Path, typer.Option(metavar="FOLDER", help="Vicuna 7B v0, as merged.")],
    imagebind: _ImageBind = None,
    image_decoder: _Decoder = None,
    video_decoder: _Decoder = None,
    audio_decoder: _Decoder = None,
    config: _Config = None,
) -> None:
    """Turn NExT-GPT 7b_tiva_v0 into a system's folder; every tensor is accounted for.

    Pickles are opened in a process of their own that reads tensors and nothing else. A decoder that
    is not given is fetched from the Hub when the system is loaded.

    \b
    Example:
      anyany import nextgpt-7b-v0 pytorch_model.pt --base vicuna-7b-v0/ -o nextgpt-v0/
    """
    decoders = {"image": image_decoder, "video": video_decoder, "audio": audio_decoder}
    _import("nextgpt-7b-v0", [checkpoint], out, base, imagebind, decoders, config)


def nextgpt_7b_v1_5(
    checkpoint: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|FOLDER...",
            help="Stage files, a LoRA folder, or a merged folder; several together.",
        ),
    ],
    out: _Out,
    base: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Vicuna 7B v1.5; a merged folder needs none."),
    ] = None,
    imagebind: _ImageBind = None,
    image_decoder: _Decoder = None,
    video_decoder: _Decoder = None,
    audio_decoder: _Decoder = None,
    config: _Config = None,
) -> None:
    """Turn a NExT-GPT v1.5 that you trained into a system's folder; every tensor is accounted for.

    Where two stages hold the same tensor, the later one's counts.

    \b
    Examples:
      anyany import nextgpt-7b-v1.5 enc/ dec/ --base vicuna-7b-v1.5/ -o nextgpt/
      anyany import nextgpt-7b-v1.5 dec/ lora/ --base vicuna-7b-v1.5/ -o nextgpt/
      anyany import nextgpt-7b-v1.5 nextgpt-v1.5-7b/ -o nextgpt/
    """
    decoders = {"image": image_decoder, "video": video_decoder, "audio": audio_decoder}
    _import("nextgpt-7b-v1.5", checkpoint, out, base, imagebind, decoders, config)


def _import(
    system: str,
    checkpoint: Sequence[Path],
    out: Path,
    base: Path | None,
    imagebind: Path | None,
    decoders: Mapping[str, str | None],
    config: Path | None,
) -> None:
    from anyany.cli.terminal import notes
    from anyany.published import import_nextgpt

    done = import_nextgpt(
        system,
        checkpoint,
        out,
        base_folder=base,
        imagebind=imagebind,
        decoders={name: place for name, place in decoders.items() if place is not None},
        config=config,
    )
    replaced = f", {done.overridden} replaced by a later stage" if done.overridden else ""
    notes.info("%d tensors, each accounted for%s", done.num_tensors, replaced)
    if done.kinship is not None:
        notes.info("token rows lie along the base's: median cosine %.4f", done.kinship)
    for place in done.missing:
        notes.warning("not in the folder, looked for when it is loaded: %s", place)
    print(done.folder)
