"""Pocket's own composition for all media, with fresh weights: what is tested is what comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anyany import AnyToAny
from anyany.encoders import ImageBind
from anyany.pocket.audio_denoiser import assemble_audio_decoder, build_audio_unet
from anyany.pocket.clap import build_clap
from anyany.pocket.compose import compose
from anyany.pocket.image_denoiser import assemble_image_decoder, build_image_unet
from anyany.pocket.image_vae import build_image_vae
from anyany.pocket.imagebind_media import media_imagebind_config
from anyany.pocket.language_model import build_language_model
from anyany.pocket.mel_vae import build_mel_vae
from anyany.pocket.text_encoder import build_text_encoder
from anyany.pocket.tokenizer import train_tokenizer
from anyany.pocket.video_denoiser import assemble_video_decoder, build_video_unet
from anyany.pocket.vocoder import build_vocoder


@contextmanager
def fresh_pocket() -> Iterator[AnyToAny]:
    """A system that sees and makes pictures, clips and sounds, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = train_tokenizer(num_dialogues=100)
    vae = build_image_vae()
    image_unet = build_image_unet()
    try:
        yield compose(
            ImageBind(media_imagebind_config(tokens)),
            build_language_model(tokens),
            tokens,
            {
                "image": assemble_image_decoder(
                    image_unet, vae, build_text_encoder(tokens), tokens
                ),
                "video": assemble_video_decoder(
                    build_video_unet(image_unet), vae, build_text_encoder(tokens), tokens
                ),
                "audio": assemble_audio_decoder(
                    build_audio_unet(), build_mel_vae(), build_vocoder(), build_clap(tokens), tokens
                ),
            },
        )
    finally:
        torch.set_num_threads(before)
