"""What a bridge is made of on the encoder's side, and the mixes of parts that cannot work.

A wrong mix is refused when the configuration is read, before anything loads: the line names the
two parts and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from anyany.encoders import (
    GRID_READOUTS,
    MERGES,
    PROJECTORS,
    TILER_MODALITIES,
    EncoderAdapterConfig,
    ProjectorConfig,
    Readout,
    TilerConfig,
)
from anyany.errors import ConfigError


@dataclass(frozen=True)
class BridgeConfig:
    """How media reach the language model.

    Args:
        projector: type and widths of the input projectors.
        sharing: one projector for all modalities, or one each.
        tilers: how an item of a modality is cut; "single" where none is given.
        merge: how the tiles' tokens are joined.
        encoder_adapter: what is changed inside the encoders.
        tiles_per_pass: the most tiles that are in the encoder at once.

    Raises:
        ConfigError: two parts do not go together, or `tiles_per_pass` is not positive.
    """

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    sharing: Literal["shared", "each"] = "shared"
    tilers: dict[str, TilerConfig] = field(default_factory=dict)
    merge: str = "flat"
    encoder_adapter: EncoderAdapterConfig = field(default_factory=EncoderAdapterConfig)
    tiles_per_pass: int = 64

    def __post_init__(self) -> None:
        if self.tiles_per_pass < 1:
            raise ConfigError(
                f"bridge.tiles_per_pass: expected 1 or more; got {self.tiles_per_pass}"
            )
        check_mix(self)


def check_mix(config: BridgeConfig, readouts: Mapping[str, Readout] | None = None) -> None:
    """Refuse parts that cannot work together.

    Args:
        config: of the bridge.
        readouts: modality -> what the encoder hands over; None = not known yet.

    Raises:
        ConfigError: names the two parts and the fix.
    """
    _check_tilers(config)
    _check_merge(config)
    if config.encoder_adapter.type == "tile_lora" and not _cut_pictures(config):
        _refuse(
            "encoder_adapter tile_lora",
            "the tilers, of which none cuts pictures",
            "take tiler grid, anyres or uhd for images, or encoder_adapter none or routed",
        )
    for modality, readout in (readouts or {}).items():
        _check_readout(config, modality, readout)


def _check_tilers(config: BridgeConfig) -> None:
    for modality, tiler in config.tilers.items():
        wanted = TILER_MODALITIES.get(tiler.type, modality)
        if wanted != modality:
            fits = [n for n in ("single", *TILER_MODALITIES) if TILER_MODALITIES.get(n) == modality]
            _refuse(
                f"tiler {tiler.type}",
                f"modality {modality}, as it cuts {wanted}",
                f"take a tiler among {', '.join(['single', *fits])} for {modality}",
            )


def _check_merge(config: BridgeConfig) -> None:
    if config.merge not in MERGES:
        raise ConfigError(
            f"bridge.merge: expected one of {', '.join(MERGES)}; got {config.merge!r}"
        )
    projector = PROJECTORS[config.projector.type]
    keeping = ", ".join(name for name, kind in PROJECTORS.items() if kind.keeps_grid)
    tilewise = ", ".join(name for name, kind in PROJECTORS.items() if not kind.joins)
    if config.merge == "newline" and not projector.keeps_grid:
        fix = "flat" if projector.joins else "flat or schema"
        _refuse(
            "merge newline",
            f"projector {config.projector.type}, which leaves no rows of patches to end",
            f"take merge {fix}, or a projector among {keeping}",
        )
    if config.merge == "schema" and projector.joins:
        _refuse(
            "merge schema",
            f"projector {config.projector.type}, which makes one piece of all tiles",
            f"take merge flat, or a projector among {tilewise}",
        )
    cuts = [tiler.type for tiler in config.tilers.values() if tiler.type != "single"]
    if config.merge == "schema" and not cuts:
        _refuse(
            "merge schema",
            "tiler single, which leaves nothing to stand between",
            "take merge flat, or a tiler that cuts",
        )


def _check_readout(config: BridgeConfig, modality: str, readout: Readout) -> None:
    if config.merge == "newline" and readout not in GRID_READOUTS:
        _refuse(
            "merge newline",
            f"read-out {readout} of the {modality} encoder, which has no rows of patches",
            f"take merge flat, or a read-out among {', '.join(GRID_READOUTS)}",
        )
    if config.projector.type == "patch_linear" and readout != "pixels":
        _refuse(
            "projector patch_linear",
            f"read-out {readout} of the {modality} encoder, as it maps raw patches",
            "take read-out pixels, or projector linear",
        )
    if readout == "pixels" and config.encoder_adapter.type != "none":
        _refuse(
            f"encoder_adapter {config.encoder_adapter.type}",
            f"read-out pixels of {modality}, where there is no encoder to change",
            "take encoder_adapter none, or another read-out",
        )


def _cut_pictures(config: BridgeConfig) -> bool:
    return any(tiler.type in ("grid", "anyres", "uhd") for tiler in config.tilers.values())


def _refuse(part: str, other: str, fix: str) -> None:
    raise ConfigError(f"bridge: {part} does not go with {other}: {fix}")
