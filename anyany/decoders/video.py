"""Videos: a 3D UNet over the latents of all frames, and the picture VAE frame by frame."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from anyany.decoders.condition import Condition
from anyany.decoders.decoder import RunOptions
from anyany.decoders.diffusion_decoder import DiffusionDecoder, latent_factor, latent_size
from anyany.decoders.image import sample_sides, to_unit_range
from anyany.errors import UsageError


class VideoDecoder(DiffusionDecoder):
    """Makes clips from conditions; Zeroscope v2, ModelScope's, and anything built alike.

    Args:
        components, condition: see DiffusionDecoder.
        num_frames: length of a clip when nothing is said.
        frames_per_second: playing rate.
        height: pixels when nothing is said; 0 for the UNet's own sample size.
        width: likewise.
        shared: see DiffusionDecoder.
    """

    modality = "video"
    pipeline = "TextToVideoSDPipeline"
    extra_names = ("num_frames", "frames_per_second", "height", "width")

    def __init__(
        self,
        components: Any,
        condition: Any,
        *,
        num_frames: int = 16,
        frames_per_second: float = 8.0,
        height: int = 0,
        width: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(components, condition, **shared)
        self.num_frames = num_frames
        self.frames_per_second = frames_per_second
        self.height = height
        self.width = width

    def latent_shape(
        self,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> tuple[int, ...]:
        """Shape of one clip's latents.

        Args:
            num_frames: frames.
            height: pixels.
            width: pixels.

        Returns:
            (channels, frames, latent height, latent width).

        Raises:
            UsageError: there is no frame, or a size is no multiple of the VAE's factor.
        """
        frames = self.num_frames if num_frames is None else num_frames
        if frames < 1:
            raise UsageError(f"expected at least one frame, got {frames}")
        factor = latent_factor(self.vae)
        own_height, own_width = sample_sides(self.unet)
        return (
            self.unet.config.in_channels,
            frames,
            latent_size("height", height or self.height or own_height * factor, factor),
            latent_size("width", width or self.width or own_width * factor, factor),
        )

    def forward(
        self,
        condition: Condition,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        **run: Unpack[RunOptions],
    ) -> Tensor:
        """Make B clips.

        Args:
            condition: B parts that honour `self.condition`.
            num_frames: frames; the decoder's own number if left out.
            height: pixels; the decoder's own size if left out.
            width: pixels; likewise.
            run: see RunOptions.

        Returns:
            float32 [B, F, 3, height, width] in [0, 1].

        Raises:
            UsageError: condition, noise, sizes or settings do not fit together.
            Cancelled: `cancel` said so.
        """
        shape = self.latent_shape(num_frames=num_frames, height=height, width=width)
        latents = self._latents(condition, shape, run)
        frames = rearrange(1 / self.vae.config.scaling_factor * latents, "b c f h w -> (b f) c h w")
        with torch.no_grad():
            pixels = self.vae.decode(frames, return_dict=False)[0]
        clips: Tensor = rearrange(
            to_unit_range(pixels.float()), "(b f) c h w -> b f c h w", f=shape[1]
        )
        return clips


def to_frames(clips: Tensor) -> list[npt.NDArray[np.uint8]]:
    """Turn float [B, F, 3, H, W] in [0, 1] into uint8 [F, H, W, 3] each, rounding to nearest."""
    levels = (clips * 255).round().to(torch.uint8).cpu()
    return list(rearrange(levels, "b f c h w -> b f h w c").numpy())
