"""What describes a decoder without its weights: component values, sizes, presets.

The component mappings are the constructor values of diffusers and transformers classes, as their
config.json holds them. Loads no torch, so that a system's configuration stays cheap to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from typing import Any, Final, Literal, TypeAlias

from anyany.config import load_config
from anyany.errors import ConfigError

PresetName: TypeAlias = Literal["reference", "fast"]
SCHEDULER_NAMES: Final = ("native", "ddim", "dpmpp_2m", "euler", "pndm", "unipc", "lcm")


@dataclass(frozen=True)
class DecoderSettings:
    """How to run the denoising loop.

    Args:
        num_inference_steps: at least 1.
        guidance_scale: 1 or less turns classifier-free guidance off.
        scheduler: "native" (the one that ships with the weights) or a name of SCHEDULERS.
        eta: DDIM's share of fresh noise, 0 to 1.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    scheduler: str = "native"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ConfigError(
                f"expected num_inference_steps of at least 1, got {self.num_inference_steps}"
            )
        if not 0.0 <= self.eta <= 1.0:
            raise ConfigError(f"expected eta in [0, 1], got {self.eta}")


@dataclass(frozen=True)
class DecoderPresets:
    """Two ways to run a decoder, by name.

    Args:
        reference: as its authors ran it.
        fast: fewer steps with a better solver.
        default: which of the two is used when nothing is said.
    """

    reference: DecoderSettings = field(default_factory=DecoderSettings)
    fast: DecoderSettings = field(
        default_factory=lambda: DecoderSettings(num_inference_steps=20, scheduler="dpmpp_2m")
    )
    default: PresetName = "reference"

    def get(self, name: str | None = None) -> DecoderSettings:
        """The settings of a preset; without a name, the default's.

        Raises:
            ConfigError: no preset has that name.
        """
        presets = {"reference": self.reference, "fast": self.fast}
        if name is not None and name not in presets:
            raise ConfigError(f"expected a preset among {', '.join(presets)}; got {name!r}")
        return presets[name or self.default]


@dataclass(frozen=True)
class ImageDecoderConfig:
    """A Stable Diffusion kind of decoder.

    Args:
        unet: values of UNet2DConditionModel.
        vae: values of AutoencoderKL.
        text_encoder: values of CLIPTextConfig.
        scheduler: values of the scheduler, `_class_name` included.
        presets: how to run it.
        repo: where its weights are published, empty for none.
        licence: of those weights.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    presets: DecoderPresets = field(default_factory=DecoderPresets)
    repo: str = ""
    licence: str = ""


@dataclass(frozen=True)
class VideoDecoderConfig:
    """A Zeroscope kind of decoder.

    Args:
        unet: values of UNet3DConditionModel.
        vae: values of AutoencoderKL, applied frame by frame.
        text_encoder: values of CLIPTextConfig.
        scheduler: values of the scheduler, `_class_name` included.
        num_frames: length of a clip when nothing is said.
        frames_per_second: playing rate.
        height: pixels when nothing is said; 0 for the UNet's own sample size.
        width: likewise.
        presets: how to run it.
        repo: where its weights are published, empty for none.
        licence: of those weights.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    num_frames: int = 16
    frames_per_second: float = 8.0
    height: int = 0
    width: int = 0
    presets: DecoderPresets = field(default_factory=DecoderPresets)
    repo: str = ""
    licence: str = ""


@dataclass(frozen=True)
class AudioDecoderConfig:
    """An AudioLDM kind of decoder.

    Args:
        unet: values of UNet2DConditionModel with a class embedding.
        vae: values of AutoencoderKL over log-mel pictures.
        text_encoder: values of ClapTextConfig.
        vocoder: values of SpeechT5HifiGanConfig.
        scheduler: values of the scheduler, `_class_name` included.
        seconds: length of a recording when nothing is said; 0 for the UNet's own sample size.
        presets: how to run it.
        repo: where its weights are published, empty for none.
        licence: of those weights.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    vocoder: dict[str, Any]
    scheduler: dict[str, Any]
    seconds: float = 0.0
    presets: DecoderPresets = field(default_factory=DecoderPresets)
    repo: str = ""
    licence: str = ""


DecoderConfig: TypeAlias = ImageDecoderConfig | VideoDecoderConfig | AudioDecoderConfig

DECODER_CONFIGS: Final[Mapping[str, type[DecoderConfig]]] = {
    "sd-1.5": ImageDecoderConfig,
    "sd-2.1-base": ImageDecoderConfig,
    "zeroscope-v2-576w": VideoDecoderConfig,
    "audioldm-l-full": AudioDecoderConfig,
}


def load_decoder_config(name: str) -> DecoderConfig:
    """Read one of the published decoders' configurations that ship with the package.

    Raises:
        ConfigError: no such name; the line lists the names.
    """
    if name not in DECODER_CONFIGS:
        raise ConfigError(f"expected a decoder among {', '.join(DECODER_CONFIGS)}; got {name!r}")
    place = files("anyany") / "configs" / "decoders" / f"{name}.yaml"
    with as_file(place) as path:
        return load_config(path, DECODER_CONFIGS[name])
