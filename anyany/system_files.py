"""A system's folder: config.json, tuned parts, frozen components and a manifest of sums.

    config.json                     SystemConfig
    manifest.json                   file -> bytes, sha256
    input_projector/NAME.safetensors
    output_projectors/MODALITY.safetensors
    signal_rows.safetensors
    adapter/                        a peft folder, if there is one
    encoder_adapter.safetensors     what a bridge put into the encoders, if anything
    encoder/imagebind.safetensors   the frozen components, or wherever config.json says
    language/                       transformers layout
    decoders/MODALITY/              diffusers layout

Only safetensors are read; names and shapes must fit to the last one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn

from anyany.bridges import Bridge
from anyany.config import from_dict, to_dict
from anyany.decoders import (
    AudioDecoder,
    ConditionSpec,
    ImageDecoder,
    OutputProjector,
    VideoDecoder,
)
from anyany.decoders.shared import unshare
from anyany.encoders import (
    ImageBind,
    ImageBindEncoder,
    adapter_state,
    base_state,
    build_encoder,
    load_adapter_state,
    load_imagebind,
    load_projector,
    save_projector,
)
from anyany.errors import CheckpointError, ConfigError, ResourceError
from anyany.language import HookedAdapter, LanguageModel, LoraAdapter
from anyany.messages import Modality
from anyany.system_config import SystemConfig, system_names
from anyany.weights import load_strict, read_tensors, save_tensors, write_manifest

CONFIG: Final = "config.json"
ROWS: Final = "signal_rows.safetensors"
ENCODER_ADAPTER: Final = "encoder_adapter.safetensors"
PACKAGED: Final = ("pocket",)
DECODERS: Final[Mapping[str, Any]] = {
    "image": ImageDecoder,
    "video": VideoDecoder,
    "audio": AudioDecoder,
}
_ENDINGS: Final = ("json", "safetensors", "txt", "model")  # what is fetched from the Hub
_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(eq=False)
class Parts:
    """The parts of a system."""

    config: SystemConfig
    bridge: Bridge
    decoders: dict[Modality, Any]
    output_projectors: dict[str, OutputProjector]


def find(source: str | Path, *, revision: str | None = None) -> Path:
    """The folder of a system.

    Args:
        source: a packaged name, a folder, or a Hub repository "owner/name".
        revision: of a Hub repository.

    Raises:
        CheckpointError: nothing is there; the line says how to get it.
    """
    if str(source) in PACKAGED:
        folder = Path(str(files("anyany") / "assets" / str(source)))
    elif str(source) in system_names():
        raise CheckpointError(
            f"{source} has a configuration but no weights here: give the folder that `anyany "
            f"import {source}` made (docs/systems.md), or measure with --weights dummy"
        )
    elif not Path(source).exists() and _is_repository(source):
        folder = _download(str(source), revision)
    else:
        folder = Path(source)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"expected one of {', '.join(PACKAGED)}, or a folder with {CONFIG}; got "
            f"{folder.name!r}, which has none"
        )
    return folder


def load(
    folder: Path, *, dtype: str, device: torch.device, quantization: str | None = None
) -> Parts:
    """Read a system's folder.

    Raises:
        CheckpointError: weights are missing, torn or do not fit.
        ConfigError: config.json is wrong.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype: expected one of {', '.join(_DTYPES)}; got {dtype!r}")
    config = read_config(folder)
    imagebind = _load_encoder(folder, config, _DTYPES[dtype])
    language_config = replace(
        config.language,
        source=str(_inside(folder, config.language.source)),
        dtype=dtype,
        quantization=quantization,
    )
    language = LanguageModel.from_pretrained(language_config, device=device)
    _load_rows(language, folder / ROWS)
    if isinstance(language.adapter, LoraAdapter):
        language.adapter.load(folder / "adapter")
        if quantization is None:
            language.adapter.merge()
    elif isinstance(language.adapter, HookedAdapter):
        language.adapter.load(folder / "adapter")
    bridge = make_bridge(config, imagebind, language)
    if config.bridge.encoder_adapter.type != "none":
        _load_encoder_adapter(bridge, folder / ENCODER_ADAPTER)
    bridge.encoders.eval().to(device, _DTYPES[dtype])
    for name in bridge.projectors:
        path = folder / "input_projector" / f"{name}.safetensors"
        bridge.projectors[name] = load_projector(path, config.bridge.projector)
    bridge.projectors.to(device, _DTYPES[dtype])
    decoders: dict[Modality, Any] = {}
    projectors: dict[str, OutputProjector] = {}
    for modality, entry in config.decoders.items():
        decoder = DECODERS[modality].from_pretrained(
            _component(folder, entry.source), dtype=_DTYPES[dtype], device=device
        )
        decoders[cast("Modality", modality)] = decoder
        projector = _output_projector(config, modality, language.language_dim, decoder.condition)
        _load_output_projector(projector, folder / "output_projectors" / f"{modality}.safetensors")
        projectors[modality] = projector.to(device, _DTYPES[dtype])
    return Parts(
        replace(config, language=replace(config.language, dtype=dtype)),
        bridge,
        decoders,
        projectors,
    )


def save(
    folder: Path,
    *,
    config: SystemConfig,
    bridge: Bridge,
    decoders: Mapping[Modality, Any],
    output_projectors: Mapping[str, nn.Module] | nn.ModuleDict,
    source: Path | None,
) -> Path:
    """Write a system's folder.

    Args:
        folder: to write; made if need be.
        config: of the system.
        bridge: encoders, input projectors and language model.
        decoders: modality -> decoder.
        output_projectors: modality -> output projector.
        source: the folder that the frozen components came from; they are copied from there.

    Raises:
        ResourceError: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save_frozen(folder, config, bridge, decoders, source)
        _save_tuned(folder, bridge, output_projectors)
        adapter = bridge.language.adapter
        settings = adapter.settings if isinstance(adapter, LoraAdapter) else None
        named = {adapter.kind: adapter.settings} if isinstance(adapter, HookedAdapter) else {}
        written = replace(
            config,
            encoder=replace(config.encoder, source="encoder/imagebind.safetensors"),
            language=replace(config.language, source="language", lora=settings, **named),
            decoders={
                name: replace(entry, source=f"decoders/{name}")
                for name, entry in config.decoders.items()
            },
        )
        (folder / CONFIG).write_text(json.dumps(to_dict(written), indent=1) + "\n")
        write_manifest(folder)
    except OSError as error:
        raise ResourceError(f"cannot write the system to {folder.name!r}: disk full?") from error
    return folder


def read_config(folder: Path) -> SystemConfig:
    """Read config.json.

    Raises:
        CheckpointError: it is missing or no JSON.
        ConfigError: a key or value is wrong.
    """
    try:
        data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{folder / CONFIG}: expected a system's configuration") from None
    return from_dict(data, SystemConfig, source=str(folder / CONFIG))


def _save_frozen(
    folder: Path,
    config: SystemConfig,
    bridge: Bridge,
    decoders: Mapping[Modality, Any],
    source: Path | None,
) -> None:
    same = source is not None and source.resolve() == folder.resolve()
    encoder, language = folder / "encoder" / "imagebind.safetensors", folder / "language"
    encoder.parent.mkdir(exist_ok=True)
    first = next(iter(bridge.encoders.values()))
    if isinstance(first, ImageBindEncoder):  # else there are no weights
        if source is None or "encoders" in bridge.changed:
            save_tensors(base_state(first.imagebind), encoder, None)
        elif not same:
            shutil.copyfile(_inside(source, config.encoder.source), encoder)
    if source is None or "language_model" in bridge.changed:
        _save_language(bridge.language, language)
    elif not same:
        shutil.copytree(_inside(source, config.language.source), language, dirs_exist_ok=True)
    if same:
        return
    for modality, decoder in decoders.items():
        target = folder / "decoders" / modality
        if source is None:
            decoder.save_pretrained(target)
        else:
            entry = config.decoders[modality]
            origin = _component(source, entry.source)
            shutil.copytree(origin, target, dirs_exist_ok=True)
            unshare(target, origin)


def _save_language(language: LanguageModel, folder: Path) -> None:
    """Write the base beside its place and move it there: its present file may be mapped."""
    fresh, old = (folder.with_name(f"{folder.name}.{word}") for word in ("new", "old"))
    for left in (fresh, old):  # by a call that was stopped
        shutil.rmtree(left, ignore_errors=True)
    language.save_base(fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _save_tuned(
    folder: Path, bridge: Bridge, output_projectors: Mapping[str, nn.Module] | nn.ModuleDict
) -> None:
    (folder / "input_projector").mkdir(exist_ok=True)
    (folder / "output_projectors").mkdir(exist_ok=True)
    for name, projector in bridge.projectors.items():
        save_projector(cast("Any", projector), folder / "input_projector" / f"{name}.safetensors")
    for modality, projector in output_projectors.items():
        path = folder / "output_projectors" / f"{modality}.safetensors"
        save_tensors(projector.state_dict(), path, None)
    save_tensors(bridge.language.rows.state_dict(), folder / ROWS, None)
    if own := adapter_state(bridge.encoders):
        save_tensors(own, folder / ENCODER_ADAPTER, None)
    adapter = bridge.language.adapter
    if isinstance(adapter, LoraAdapter | HookedAdapter):
        adapter.save(folder / "adapter")


def make_bridge(
    config: SystemConfig, imagebind: ImageBind | None, language: LanguageModel
) -> Bridge:
    """Encoders, fresh input projectors and the language model, as the configuration says.

    Args:
        config: of the system.
        imagebind: not needed for the read-out "pixels".
        language: with the adapter that the configuration names.
    """
    encoders = {
        modality: build_encoder(
            imagebind,
            modality,
            readout=config.encoder.readout,
            class_every=config.encoder.class_every,
            patch_size=config.encoder.patch_size,
            preprocessing=config.encoder.preprocessing,
        )
        for modality in config.encoder.modalities
    }
    return Bridge(encoders, language, config.bridge)


def _load_encoder(folder: Path, config: SystemConfig, dtype: torch.dtype) -> ImageBind | None:
    if config.encoder.readout == "pixels":
        return None
    path = folder / config.encoder.source
    return load_imagebind(path, config.encoder.imagebind, dtype=dtype)


def _load_encoder_adapter(bridge: Bridge, path: Path) -> None:
    load_adapter_state(bridge.encoders, read_tensors(path, "encoder adapter"))


def _output_projector(
    config: SystemConfig, modality: str, language_dim: int, spec: ConditionSpec
) -> OutputProjector:
    sizes = config.decoders[modality].output_projector
    return OutputProjector.from_config(language_dim, spec, sizes)


def _load_rows(language: LanguageModel, path: Path) -> None:
    load_strict(language.rows, path, "signal rows")


def _load_output_projector(projector: OutputProjector, path: Path) -> None:
    load_strict(projector, path, "output projector")
    projector.eval()


def _inside(folder: Path, source: str) -> str | Path:
    """A component's place: within the folder if it is there, else a path or repository."""
    own = folder / source
    return own if own.exists() else Path(source) if Path(source).is_absolute() else source


def _component(folder: Path, source: str) -> Path:
    """A decoder's folder: within, elsewhere by path, or fetched from a Hub repository."""
    place = Path(_inside(folder, source))
    if place.exists() or place.is_absolute() or not _is_repository(source):
        return place
    if source.startswith("decoders/"):  # a place within, which is empty
        return folder / source
    return _download(source, None, ("model_index.json", *(f"*/*.{end}" for end in _ENDINGS)))


def _is_repository(source: str | Path) -> bool:
    pieces = str(source).split("/")
    return len(pieces) == 2 and all(pieces) and not str(source).startswith((".", "~"))


def _download(repository: str, revision: str | None, patterns: Sequence[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns or (f"*.{ending}" for ending in _ENDINGS)),
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        raise CheckpointError(
            f"cannot fetch {repository!r} from the Hub: check the name and the connection, or give "
            "a local folder"
        ) from None
