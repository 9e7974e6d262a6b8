"""The denoising loss: a condition is good if the decoder's frozen UNet denoises with it.

NExT-GPT v1.5's generation loss (arXiv 2309.05519, section 4.2), with weights by each sample's own
time step. The UNet is not trained; gradients pass through it to the condition.

Shapes: N conditions, C channels, H W height and width of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from anyany.alignment.losses import add_noise, biased_timesteps, denoising_loss
from anyany.alignment.samples import MediaFile, MediaTarget
from anyany.decoders import Condition, Decoder, build_scheduler
from anyany.decoders.diffusion import unet_inputs
from anyany.errors import UsageError
from anyany.messages import ImagePart


class DenoisingLoss:
    """The loss through one decoder's UNet.

    Args:
        decoder: of ours, with `unet`, `vae` and `scheduler_config`.
        min_snr_gamma: gamma of `losses.min_snr_weights`; None for equal weights.
        timestep_power: of `losses.biased_timesteps`.

    Raises:
        UsageError: the decoder is of another build.
    """

    def __init__(
        self, decoder: Decoder, *, min_snr_gamma: float | None = 5.0, timestep_power: float = 1.0
    ) -> None:
        if not isinstance(decoder, nn.Module) or not hasattr(decoder, "scheduler_config"):
            raise UsageError(
                f"the denoising loss needs a decoder of {decoder.modality} with a UNet and a "
                "scheduler: set losses.denoising to 0"
            )
        body: Any = decoder
        self.modality = decoder.modality
        self.unet, self.vae = body.unet, body.vae
        self.latent_shape: tuple[int, ...] = tuple(body.latent_shape())
        scheduler = build_scheduler("native", body.scheduler_config)
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod
        self.prediction_type = scheduler.config.prediction_type
        self.min_snr_gamma = min_snr_gamma
        self.timestep_power = timestep_power

    @torch.no_grad()
    def latents(self, target: MediaTarget) -> Tensor | None:
        """Clean latents of a target [C, H, W]; None if it has no medium.

        Raises:
            MediaError: its file cannot be used.
            UsageError: its medium is no picture, or its latents have another shape.
        """
        if target.latents is not None:
            if tuple(target.latents.shape) != self.latent_shape:
                raise UsageError(
                    f"expected {self.modality} latents {list(self.latent_shape)}, "
                    f"got {list(target.latents.shape)}"
                )
            return target.latents.float().cpu()
        medium = target.medium
        if medium is None:
            return None
        part = medium.read() if isinstance(medium, MediaFile) else medium
        if not isinstance(part, ImagePart):
            raise UsageError(
                f"the denoising loss reads pictures; for {part.modality} give latents, or set "
                "losses.denoising to 0"
            )
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = (side * factor for side in self.latent_shape[-2:])
        pixels = _fitted(part, height, width)
        weight = next(self.vae.parameters())
        encoded = self.vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist.mode()
        latents: Tensor = (encoded * self.vae.config.scaling_factor)[0].float().cpu()
        return latents

    def __call__(
        self, condition: Condition, latents: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """The loss of each condition.

        Args:
            condition: N parts.
            latents: clean ones [N, C, H, W].
            generators: N of the CPU, for time step and noise.

        Returns:
            float32 [N].
        """
        weight = next(self.unet.parameters())
        uniform = torch.cat([torch.rand(1, generator=one) for one in generators])
        noise = torch.stack([torch.randn(latents.shape[1:], generator=one) for one in generators])
        steps = biased_timesteps(uniform, len(self.alphas_cumprod), power=self.timestep_power)
        alphas = self.alphas_cumprod[steps].to(weight.device)
        clean, noise = latents.to(weight.device), noise.to(weight.device)
        noisy = add_noise(clean, noise, alphas)
        inputs = unet_inputs(condition.to(weight.device, weight.dtype))
        output = self.unet(noisy.to(weight.dtype), steps.to(weight.device), **inputs).sample
        return denoising_loss(
            output,
            clean=clean,
            noise=noise,
            alphas_cumprod=alphas,
            prediction_type=self.prediction_type,
            min_snr_gamma=self.min_snr_gamma,
        )


def _fitted(part: ImagePart, height: int, width: int) -> Tensor:
    """A picture resized to cover and cut to its middle: float [1, 3, height, width] in [-1, 1]."""
    from PIL import ImageOps

    picture = ImageOps.fit(part.image, (width, height))
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1)
    return rearrange(pixels, "h w c -> 1 c h w")
