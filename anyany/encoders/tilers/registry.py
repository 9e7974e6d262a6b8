"""Tilers by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from anyany.encoders.features import Encoder
from anyany.encoders.tilers.base import Tiler, TilerConfig
from anyany.encoders.tilers.pictures import AnyresTiler, GridTiler, NativeTiler, UhdTiler
from anyany.encoders.tilers.time import ClipsTiler, FramesTiler, SingleTiler
from anyany.errors import ConfigError

TILERS: dict[str, Callable[[TilerConfig], Tiler]] = {
    "single": SingleTiler,
    "frames": FramesTiler,
    "clips": ClipsTiler,
    "grid": GridTiler,
    "anyres": AnyresTiler,
    "uhd": UhdTiler,
    "native": NativeTiler,
}
# Modalities that a tiler can cut; `single` takes any.
TILER_MODALITIES = {
    "frames": "video",
    "clips": "audio",
    "grid": "image",
    "anyres": "image",
    "uhd": "image",
    "native": "image",
}
_NEEDS = {"grid": ("size",), "anyres": ("size",), "uhd": ("size", "patch_size")}
_NEEDS["native"] = ("patch_size",)


def build_tiler(config: TilerConfig, encoder: Encoder | None = None) -> Tiler:
    """The tiler that a configuration names.

    Args:
        config: type and sizes.
        encoder: gives the sizes that the configuration leaves at 0.

    Raises:
        ConfigError: no tiler has that name, or a size is said nowhere or does not fit the encoder.
    """
    if config.type not in TILERS:
        raise ConfigError(f"tiler.type: expected one of {', '.join(TILERS)}; got {config.type!r}")
    own = {"size": 0, "patch_size": 0}
    if encoder is not None:
        own = {"size": encoder.image_size, "patch_size": encoder.patch_size}
    needed: dict[str, Any] = {
        key: getattr(config, key) or own[key] for key in _NEEDS.get(config.type, ())
    }
    for key, value in needed.items():
        if not value:
            raise ConfigError(f"tiler.{key}: tiler {config.type} needs it, and no encoder says it")
        if encoder is not None and encoder.patch_size and value % encoder.patch_size:
            raise ConfigError(
                f"tiler.{key}: expected a multiple of the encoder's patch {encoder.patch_size}; "
                f"got {value}"
            )
    return TILERS[config.type](replace(config, **needed))
