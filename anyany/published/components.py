"""The frozen parts of an imported system: ImageBind and the decoders.

What is in safetensors already is referred to where it is; what is pickled is turned into
safetensors inside the new folder. A decoder may also be a Hub repository, fetched when the system
is loaded.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Final, cast

from anyany.decoders import ConditionSpec, TensorSpec, condition_spec
from anyany.dummy import decoder_sizes
from anyany.errors import CheckpointError
from anyany.published.layouts import shapes_of
from anyany.published.tensors import list_tensors, read_object, write_stored
from anyany.system_config import DecoderEntry, SystemConfig

REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")
RECORD: Final = "decoder.json"
IMAGEBIND_NAME: Final = "encoder/imagebind_huge.safetensors"
_WEIGHTS: Final = {  # pickles of a decoder's networks -> what diffusers calls them in safetensors
    "diffusion_pytorch_model.bin": "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin": "model.safetensors",
}
_FOLDERS: Final = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "vocoder")
_PLAIN: Final = (".json", ".txt", ".model", ".safetensors")


def condition_of(modality: str, entry: DecoderEntry, given: str | None) -> ConditionSpec:
    """What a decoder wants to be told: as its folder says, else as its published sizes.

    Args:
        modality: for people.
        entry: of the configuration.
        given: a folder or Hub repository, if the user named one.

    Raises:
        CheckpointError: the folder is no decoder's.
        ConfigError: neither says.
    """
    folder = Path(given) if given else None
    if folder is not None and folder.is_dir():
        if (folder / RECORD).is_file():
            tensors = read_object(folder / RECORD).get("condition")
            return _spec(tensors, folder / RECORD)
        unet = read_object(folder / "unet" / "config.json")
        return condition_spec(unet, read_object(folder / "text_encoder" / "config.json"))
    if given and not REPOSITORY.fullmatch(given):
        raise CheckpointError(
            f"{given}: expected a decoder's folder, or a Hub repository OWNER/NAME"
        )
    values = decoder_sizes(modality, entry)
    return condition_spec(values.unet, values.text_encoder)


def place_decoder(
    modality: str, entry: DecoderEntry, given: str | None, *, out: Path, scratch: Path
) -> str:
    """Where the new system finds a decoder; its pickles are converted into the new folder.

    Args:
        modality: names the folder inside.
        entry: of the configuration.
        given: a folder or Hub repository; None = where the decoder is published.
        out: the new system's folder.
        scratch: for what pickles are turned into.

    Returns:
        A source as `DecoderEntry` takes it.

    Raises:
        CheckpointError: a file of the decoder is torn or holds more than tensors.
    """
    if given is None:
        return decoder_sizes(modality, entry).repo or entry.source
    folder = Path(given)
    if not folder.is_dir():
        return given
    pickles = [
        path
        for name in _FOLDERS
        for pickled, plain in _WEIGHTS.items()
        if (path := folder / name / pickled).is_file() and not (folder / name / plain).is_file()
    ]
    if not pickles:
        return str(folder.resolve())
    inside = f"decoders/{modality}"
    for name in _FOLDERS:
        for path in sorted((folder / name).glob("*")) if (folder / name).is_dir() else ():
            target = out / inside / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in pickles:
                tensors = list_tensors(path, scratch)
                write_stored(target.with_name(_WEIGHTS[path.name]), cast("Any", tensors))
            elif path.suffix in _PLAIN and path.is_file():
                shutil.copyfile(path, target)
    return inside


def place_imagebind(given: Path | None, config: SystemConfig, *, out: Path, scratch: Path) -> str:
    """Where the new system finds ImageBind.

    Args:
        given: the published pickle, or safetensors; None = to be put in the new folder later.
        config: the towers that it must hold.
        out: the new system's folder.
        scratch: for what the pickle is turned into.

    Raises:
        CheckpointError: it is torn, or not the configuration's ImageBind.
    """
    if given is None:
        return config.encoder.source
    import torch

    from anyany.encoders import ImageBind
    from anyany.encoders.checkpoints import check_tensors

    with torch.device("meta"):
        wanted = shapes_of(ImageBind(config.encoder.imagebind))
    tensors = list_tensors(given, scratch)
    check_tensors({n: t.shape for n, t in tensors.items()}, wanted, source=str(given))
    if given.suffix == ".safetensors":
        return str(given.resolve())
    write_stored(out / IMAGEBIND_NAME, cast("Any", tensors))
    return IMAGEBIND_NAME


def _spec(tensors: object, path: Path) -> ConditionSpec:
    try:
        return ConditionSpec(
            {
                name: TensorSpec(tuple(one["shape"]), bool(one["normalize"]))
                for name, one in cast("Any", tensors).items()
            }
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: expected a decoder's record with its condition") from None
