"""Decoders: a condition in, an image, a video or a recording out.

Loads lazily: configuration is readable without torch, conditions and projectors without diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from anyany.decoders.audio import AudioDecoder as AudioDecoder
    from anyany.decoders.components import Components as Components
    from anyany.decoders.components import build_components as build_components
    from anyany.decoders.condition import Condition as Condition
    from anyany.decoders.condition import ConditionSpec as ConditionSpec
    from anyany.decoders.condition import TensorSpec as TensorSpec
    from anyany.decoders.condition import condition_spec as condition_spec
    from anyany.decoders.config import AudioDecoderConfig as AudioDecoderConfig
    from anyany.decoders.config import DecoderPresets as DecoderPresets
    from anyany.decoders.config import DecoderSettings as DecoderSettings
    from anyany.decoders.config import ImageDecoderConfig as ImageDecoderConfig
    from anyany.decoders.config import VideoDecoderConfig as VideoDecoderConfig
    from anyany.decoders.config import load_decoder_config as load_decoder_config
    from anyany.decoders.decoder import Decoder as Decoder
    from anyany.decoders.diffusion import LoopOptions as LoopOptions
    from anyany.decoders.diffusion import denoise as denoise
    from anyany.decoders.image import ImageDecoder as ImageDecoder
    from anyany.decoders.image import to_pil as to_pil
    from anyany.decoders.output_projector import OutputProjector as OutputProjector
    from anyany.decoders.output_projector import OutputProjectorConfig as OutputProjectorConfig
    from anyany.decoders.schedulers import SCHEDULERS as SCHEDULERS
    from anyany.decoders.schedulers import build_scheduler as build_scheduler
    from anyany.decoders.seeding import draw_noise as draw_noise
    from anyany.decoders.seeding import part_generator as part_generator
    from anyany.decoders.video import VideoDecoder as VideoDecoder
    from anyany.decoders.video import to_frames as to_frames

_HOMES: Final = {
    "AudioDecoder": "audio",
    "AudioDecoderConfig": "config",
    "Components": "components",
    "Condition": "condition",
    "ConditionSpec": "condition",
    "Decoder": "decoder",
    "DecoderPresets": "config",
    "DecoderSettings": "config",
    "ImageDecoder": "image",
    "ImageDecoderConfig": "config",
    "LoopOptions": "diffusion",
    "OutputProjector": "output_projector",
    "OutputProjectorConfig": "output_projector",
    "SCHEDULERS": "schedulers",
    "TensorSpec": "condition",
    "VideoDecoder": "video",
    "VideoDecoderConfig": "config",
    "build_components": "components",
    "build_scheduler": "schedulers",
    "condition_spec": "condition",
    "denoise": "diffusion",
    "draw_noise": "seeding",
    "load_decoder_config": "config",
    "part_generator": "seeding",
    "to_frames": "video",
    "to_pil": "image",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
