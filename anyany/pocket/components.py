"""Pocket's components by themselves: fresh, or with the weights of a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from anyany.encoders import ImageBind, load_imagebind
from anyany.pocket.audio_denoiser import build_audio_unet
from anyany.pocket.clap import build_clap
from anyany.pocket.image_denoiser import build_image_unet
from anyany.pocket.image_vae import build_image_vae
from anyany.pocket.imagebind_media import media_imagebind_config
from anyany.pocket.language_model import build_language_model
from anyany.pocket.mel_vae import build_mel_vae
from anyany.pocket.text_encoder import build_text_encoder
from anyany.pocket.video_denoiser import build_video_unet
from anyany.pocket.vocoder import build_vocoder

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
    from transformers import (
        ClapTextModelWithProjection,
        CLIPTextModel,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        SpeechT5HifiGan,
    )

_WEIGHTS: Final = "imagebind.safetensors"
_PLACES: Final = {  # where a system's folder keeps them
    "text_encoder": "decoders/image/text_encoder",
    "image_vae": "decoders/image/vae",
    "image_unet": "decoders/image/unet",
    "clip_text_encoder": "decoders/video/text_encoder",
    "video_unet": "decoders/video/unet",
    "clap": "decoders/audio/text_encoder",
    "mel_vae": "decoders/audio/vae",
    "vocoder": "decoders/audio/vocoder",
    "audio_unet": "decoders/audio/unet",
    "imagebind": "encoder",
    "language": "language",
}


def in_system(folder: Path, name: str) -> Path:
    """Where a system's folder keeps a component."""
    return folder / _PLACES[name]


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The world's tokenizer."""
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return loaded  # type: ignore[no-any-return]


def text_encoder(tokens: Path, weights: Path | None) -> CLIPTextModel:
    """The picture or clip decoder's text encoder; fresh if `weights` is None."""
    from transformers import CLIPTextModel as Model

    return build_text_encoder(tokenizer(tokens)) if weights is None else _load(Model, weights)


def clap(tokens: PreTrainedTokenizerFast, weights: Path | None) -> ClapTextModelWithProjection:
    """The sound decoder's text encoder; fresh if `weights` is None."""
    from transformers import ClapTextModelWithProjection as Model

    return build_clap(tokens) if weights is None else _load(Model, weights)


def image_vae(weights: Path | None) -> AutoencoderKL:
    """The autoencoder of pictures and frames; fresh if `weights` is None."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Model

    return build_image_vae() if weights is None else _load(Model, weights)


def mel_vae(weights: Path | None) -> AutoencoderKL:
    """The autoencoder of mel pictures; fresh if `weights` is None."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Model

    return build_mel_vae() if weights is None else _load(Model, weights)


def vocoder(weights: Path | None) -> SpeechT5HifiGan:
    """The vocoder; fresh if `weights` is None."""
    from transformers import SpeechT5HifiGan as Model

    return build_vocoder() if weights is None else _load(Model, weights)


def image_unet(weights: Path | None) -> UNet2DConditionModel:
    """The denoiser of pictures; fresh if `weights` is None."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as Model

    return build_image_unet() if weights is None else _load(Model, weights)


def video_unet(weights: Path | None, ground: UNet2DConditionModel) -> UNet3DConditionModel:
    """The denoiser of clips; the one of pictures, frame by frame, if `weights` is None."""
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel as Model

    return build_video_unet(ground) if weights is None else _load(Model, weights)


def audio_unet(weights: Path | None) -> UNet2DConditionModel:
    """The denoiser of mel pictures; fresh if `weights` is None."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as Model

    return build_audio_unet() if weights is None else _load(Model, weights)


def imagebind(tokens: PreTrainedTokenizerFast, weights: Path | None) -> ImageBind:
    """The encoder; fresh if `weights` is None, and as to text if they have no tower for it."""
    config = media_imagebind_config(tokens)
    model = ImageBind(config)
    if weights is None:
        return model
    path = weights / _WEIGHTS
    with safe_open(path, framework="pt") as file:
        has_text = any(".text." in name for name in file.keys())  # noqa: SIM118
    if has_text:
        return load_imagebind(path, config, dtype=torch.float32)
    seeing = load_imagebind(path, replace(config, text=None), dtype=torch.float32)
    model.load_state_dict(seeing.state_dict(), strict=False)
    return model


def save_imagebind(model: ImageBind, folder: Path) -> None:
    """Write the encoder's weights."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / _WEIGHTS)


def language(tokens: PreTrainedTokenizerFast, weights: Path | None) -> LlamaForCausalLM:
    """The language model; fresh if `weights` is None."""
    from transformers import LlamaForCausalLM as Model

    return build_language_model(tokens) if weights is None else _load(Model, weights)


def _load(kind: Any, weights: Path) -> Any:
    """A model of transformers or diffusers, in float32 whatever the file holds."""
    return kind.from_pretrained(weights, local_files_only=True).float()
