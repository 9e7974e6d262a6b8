"""What a system is made of, as data: `config.json` in its folder, or a YAML of `configs/systems`.

Every part says where its frozen weights are: inside the folder, or elsewhere by path or Hub
repository. Tuned parts (input projector, signal rows, output projectors, adapter) are inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, Literal

from anyany.bridges import BridgeConfig
from anyany.config import load_config
from anyany.decoders import OutputProjectorConfig
from anyany.encoders import ImageBindConfig, PreprocessingConfig
from anyany.errors import ConfigError
from anyany.language import LanguageConfig
from anyany.messages import MEDIA_MODALITIES

CONFIG_FORMAT: Final = 1


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder and where its weights are.

    Args:
        imagebind: the towers and their sizes.
        modalities: what it takes in.
        readout: patch tokens (v1.5) or the pooled state (v0).
        preprocessing: sizes and constants.
        source: a safetensors file; relative to the system's folder.
        licence: of the weights.
    """

    imagebind: ImageBindConfig
    modalities: tuple[str, ...] = MEDIA_MODALITIES
    readout: Literal["patches", "pooled"] = "patches"
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    source: str = "encoder/imagebind.safetensors"
    licence: str = ""


@dataclass(frozen=True)
class DecoderEntry:
    """One decoder, how it is told what to make, and where its weights are.

    Args:
        source: a folder in diffusers layout; relative to the system's folder.
        config: name of the published decoder whose sizes these are; empty if the folder says all.
        output_projector: sizes of the output projector.
    """

    source: str
    config: str = ""
    output_projector: OutputProjectorConfig = field(default_factory=OutputProjectorConfig)


@dataclass(frozen=True)
class SystemConfig:
    """A composed any-to-any system.

    Args:
        name: for people and provenance.
        encoder: media in.
        bridge: from the encoder to the language model.
        language: the language model; its `source` is relative to the system's folder.
        language_architecture: values of its Hugging Face config with "model_type", to build it
            without weights.
        decoders: modality -> decoder.
        card: what users must know when they load it: licences, limits.
        format: version of this record.

    Raises:
        ConfigError: a modality is unknown or has no signal tokens.
    """

    name: str
    encoder: EncoderConfig
    bridge: BridgeConfig
    language: LanguageConfig
    language_architecture: dict[str, Any] = field(default_factory=dict)
    decoders: dict[str, DecoderEntry] = field(default_factory=dict)
    card: str = ""
    format: int = CONFIG_FORMAT

    def __post_init__(self) -> None:
        if self.format != CONFIG_FORMAT:
            raise ConfigError(
                f"format: this version reads system configurations of format {CONFIG_FORMAT}; got "
                f"{self.format}: update anyany"
            )
        for key, modalities in (
            ("decoders", tuple(self.decoders)),
            ("encoder.modalities", self.encoder.modalities),
        ):
            strange = sorted(set(modalities) - set(MEDIA_MODALITIES))
            if strange:
                raise ConfigError(
                    f"{key}: expected modalities among {', '.join(MEDIA_MODALITIES)}; "
                    f"got {strange[0]!r}"
                )
        for modality in self.decoders:
            if not getattr(self.language.signals, modality):
                raise ConfigError(
                    f"decoders.{modality}: language.signals.{modality} is 0: give it signal tokens"
                )


def system_names() -> list[str]:
    """The names of the configurations that ship with the package."""
    return sorted(
        path.name.removesuffix(".yaml")
        for path in (files("anyany") / "configs" / "systems").iterdir()
        if path.name.endswith(".yaml")
    )


def load_system_config(name: str) -> SystemConfig:
    """Read a configuration that ships with the package.

    Raises:
        ConfigError: no such name; the line lists the names.
    """
    if name not in system_names():
        raise ConfigError(f"expected a system among {', '.join(system_names())}; got {name!r}")
    with as_file(files("anyany") / "configs" / "systems" / f"{name}.yaml") as path:
        return load_config(Path(path), SystemConfig)
