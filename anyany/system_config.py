"""What a system is made of, as data: `config.json` in its folder, or a YAML of `configs/systems`.

Every part says where its frozen weights are: inside the folder, or elsewhere by path or Hub
repository. Tuned parts (input projector, signal rows, output projectors, adapter) are inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from anyany.bridges import BridgeConfig, BridgeRecipe, check_mix
from anyany.config import load_config
from anyany.decoders import OutputProjectorConfig
from anyany.encoders import TOWERS, ImageBindConfig, PreprocessingConfig, Readout
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
        readout: patch tokens (v1.5), the pooled state (v0), or another; "pixels" needs no weights.
        class_every: blocks from one class token to the next ("classes").
        patch_size: pixels ("pixels").
        preprocessing: sizes and constants.
        source: a safetensors file; relative to the system's folder.
        licence: of the weights.
    """

    imagebind: ImageBindConfig
    modalities: tuple[str, ...] = MEDIA_MODALITIES
    readout: Readout = "patches"
    class_every: int = 4
    patch_size: int = 0
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    source: str = "encoder/imagebind.safetensors"
    licence: str = ""

    def encoder_dim(self, modality: str) -> int:
        """How wide what the modality's encoder hands over is.

        Raises:
            ConfigError: its tower is not built, or the read-out needs a patch.
        """
        if self.readout == "pixels":
            if self.patch_size < 1:
                raise ConfigError(
                    "encoder.readout pixels does not go with encoder.patch_size "
                    f"{self.patch_size}: give the side of a patch in pixels"
                )
            return 3 * self.patch_size**2
        tower = getattr(self.imagebind, TOWERS[modality])
        if tower is None:
            raise ConfigError(
                f"encoder.modalities: {modality} does not go with encoder.imagebind, which has no "
                f"{TOWERS[modality]} tower: give it one, or leave {modality} out"
            )
        inner = self.readout in ("penultimate", "classes")
        return int(tower.dim) if inner else self.imagebind.embed_dim


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
        self._check_bridge()
        for modality in self.decoders:
            if not getattr(self.language.signals, modality):
                raise ConfigError(
                    f"decoders.{modality}: language.signals.{modality} is 0: give it signal tokens"
                )

    def _check_bridge(self) -> None:
        """Refuse parts of the way in that cannot work together, before anything is loaded."""
        modalities, given = self.encoder.modalities, self.bridge.projector.encoder_dim
        check_mix(self.bridge, dict.fromkeys(modalities, self.encoder.readout))
        strange = sorted(set(self.bridge.tilers) - set(modalities))
        if strange:
            raise ConfigError(
                f"bridge.tilers: expected modalities among {', '.join(modalities)}; "
                f"got {strange[0]!r}"
            )
        for modality in modalities:
            if self.encoder.encoder_dim(modality) != given:
                raise ConfigError(
                    f"bridge.projector does not go with read-out {self.encoder.readout} of the "
                    f"{modality} encoder, which is {self.encoder.encoder_dim(modality)} wide: set "
                    f"bridge.projector.encoder_dim to that; got {given}"
                )


def with_recipe(config: SystemConfig, recipe: BridgeRecipe) -> SystemConfig:
    """The system with another bridge: the recipe's read-out, bridge and adapter.

    Args:
        config: of a system; its modalities and language model stay.
        recipe: as `load_recipe` gives it, or `fitted` to the models.

    Raises:
        ConfigError: the recipe's parts do not go with the system's.
    """
    encoder = replace(
        config.encoder,
        readout=recipe.readout,
        class_every=recipe.class_every,
        patch_size=recipe.patch_size,
    )
    modalities = encoder.modalities
    width = encoder.encoder_dim(modalities[0])
    bridge = recipe.bridge_config(width, config.bridge.projector.language_dim)
    tilers = {name: tiler for name, tiler in bridge.tilers.items() if name in modalities}
    return replace(
        config,
        encoder=encoder,
        bridge=replace(bridge, tilers=tilers),
        language=recipe.adapter.put_into(config.language),
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
