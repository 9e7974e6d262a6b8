"""Images: a 2D UNet over the latents of one picture, and a VAE on the way out."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from anyany.decoders.condition import Condition
from anyany.decoders.decoder import RunOptions
from anyany.decoders.diffusion_decoder import DiffusionDecoder, latent_factor, latent_size


class ImageDecoder(DiffusionDecoder):
    """Draws pictures from conditions; Stable Diffusion 1.x and 2.x, and anything built alike."""

    modality = "image"
    pipeline = "StableDiffusionPipeline"

    def latent_shape(
        self, *, height: int | None = None, width: int | None = None
    ) -> tuple[int, ...]:
        """Shape of one picture's latents.

        Args:
            height: pixels; the UNet's own sample size if left out.
            width: pixels; likewise.

        Returns:
            (channels, latent height, latent width).

        Raises:
            UsageError: a size is no multiple of the VAE's factor.
        """
        factor = latent_factor(self.vae)
        own_height, own_width = sample_sides(self.unet)
        return (
            self.unet.config.in_channels,
            latent_size("height", height or own_height * factor, factor),
            latent_size("width", width or own_width * factor, factor),
        )

    def forward(
        self,
        condition: Condition,
        *,
        height: int | None = None,
        width: int | None = None,
        **run: Unpack[RunOptions],
    ) -> Tensor:
        """Draw B pictures.

        Args:
            condition: B parts that honour `self.condition`.
            height: pixels; the UNet's own sample size if left out.
            width: pixels; likewise.
            run: see RunOptions.

        Returns:
            float32 [B, 3, height, width] in [0, 1].

        Raises:
            UsageError: condition, noise, sizes or settings do not fit together.
            Cancelled: `cancel` said so.
        """
        latents = self._latents(condition, self.latent_shape(height=height, width=width), run)
        with torch.no_grad():
            pixels = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return to_unit_range(pixels)


def to_unit_range(pixels: Tensor) -> Tensor:
    """VAE pixels, about [-1, 1], to float32 in [0, 1]."""
    return (pixels * 0.5 + 0.5).clamp(0, 1).float()


def to_pil(images: Tensor) -> list[Image.Image]:
    """Turn float [B, 3, H, W] in [0, 1] into pictures, rounding to the nearest level."""
    levels = (images * 255).round().to(torch.uint8).cpu()
    return [Image.fromarray(array) for array in rearrange(levels, "b c h w -> b h w c").numpy()]


def sample_sides(unet: Any) -> tuple[int, int]:
    """Latent height and width that a UNet was trained at."""
    sides = unet.config.sample_size
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])
