"""Pocket's components by themselves: fresh, or with the weights of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file

from anyany.encoders import ImageBind, load_imagebind
from anyany.pocket.image_denoiser import build_image_unet
from anyany.pocket.image_vae import build_image_vae
from anyany.pocket.imagebind import imagebind_config
from anyany.pocket.language_model import build_language_model
from anyany.pocket.text_encoder import build_text_encoder

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, LlamaForCausalLM, PreTrainedTokenizerFast

_WEIGHTS: Final = "imagebind.safetensors"
_PLACES: Final = {  # where a system's folder keeps them
    "text_encoder": "decoders/image/text_encoder",
    "image_vae": "decoders/image/vae",
    "image_unet": "decoders/image/unet",
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
    """The picture decoder's text encoder; fresh if `weights` is None."""
    from transformers import CLIPTextModel as Model

    if weights is None:
        return build_text_encoder(tokenizer(tokens))
    return Model.from_pretrained(weights, dtype=torch.float32, local_files_only=True)


def image_vae(weights: Path | None) -> AutoencoderKL:
    """The autoencoder; fresh if `weights` is None."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Model

    if weights is None:
        return build_image_vae()
    return Model.from_pretrained(weights, torch_dtype=torch.float32, local_files_only=True)


def image_unet(weights: Path | None) -> UNet2DConditionModel:
    """The denoiser; fresh if `weights` is None."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as Model

    if weights is None:
        return build_image_unet()
    return Model.from_pretrained(weights, torch_dtype=torch.float32, local_files_only=True)


def imagebind(tokens: PreTrainedTokenizerFast, weights: Path | None) -> ImageBind:
    """The encoder; fresh if `weights` is None."""
    config = imagebind_config(tokens)
    if weights is None:
        return ImageBind(config)
    return load_imagebind(weights / _WEIGHTS, config, dtype=torch.float32)


def save_imagebind(model: ImageBind, folder: Path) -> None:
    """Write the encoder's weights."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / _WEIGHTS)


def language(tokens: PreTrainedTokenizerFast, weights: Path | None) -> LlamaForCausalLM:
    """The language model; fresh if `weights` is None."""
    from transformers import LlamaForCausalLM as Model

    if weights is None:
        return build_language_model(tokens)
    return Model.from_pretrained(weights, dtype=torch.float32, local_files_only=True)
