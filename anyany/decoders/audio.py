"""Audio: a 2D UNet over the latents of a log-mel picture, a mel VAE, and a vocoder."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from einops import rearrange
from torch import Tensor

from anyany.decoders.condition import Condition
from anyany.decoders.decoder import RunOptions
from anyany.decoders.diffusion_decoder import DiffusionDecoder, latent_factor
from anyany.decoders.image import sample_sides
from anyany.errors import UsageError


class AudioDecoder(DiffusionDecoder):
    """Makes recordings from conditions; AudioLDM, and anything built alike.

    Args:
        components, condition: see DiffusionDecoder; with a vocoder.
        seconds: length of a recording when nothing is said; 0 for the UNet's own sample size.
        shared: see DiffusionDecoder.
    """

    modality = "audio"
    uses_clap = True
    pipeline = "AudioLDMPipeline"
    extra_names = ("seconds",)

    def __init__(
        self, components: Any, condition: Any, *, seconds: float = 0.0, **shared: Any
    ) -> None:
        super().__init__(components, condition, **shared)
        self.seconds = seconds

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.vocoder.config.sampling_rate)

    @property
    def seconds_per_frame(self) -> float:
        """Time that one mel frame covers."""
        return float(math.prod(self.vocoder.config.upsample_rates) / self.sample_rate)

    def resolve_seconds(self, seconds: float | None = None) -> float:
        """Length of a recording: as asked, else the decoder's, else the UNet's own.

        Raises:
            UsageError: it is shorter than one latent frame.
        """
        factor = latent_factor(self.vae)
        own = sample_sides(self.unet)[0] * factor * self.seconds_per_frame
        resolved = (seconds if seconds is not None else self.seconds) or own
        shortest = factor * self.seconds_per_frame
        if resolved < shortest:
            raise UsageError(f"expected at least {shortest:g} seconds of audio, got {resolved:g}")
        return resolved

    def latent_shape(self, *, seconds: float | None = None) -> tuple[int, ...]:
        """Shape of one recording's latents.

        Args:
            seconds: length; the decoder's own if left out.

        Returns:
            (channels, latent frames, latent mel bins).

        Raises:
            UsageError: it is shorter than one latent frame.
        """
        factor = latent_factor(self.vae)
        mel_frames = int(self.resolve_seconds(seconds) / self.seconds_per_frame)
        return (
            self.unet.config.in_channels,
            math.ceil(mel_frames / factor),
            self.vocoder.config.model_in_dim // factor,
        )

    def forward(
        self, condition: Condition, *, seconds: float | None = None, **run: Unpack[RunOptions]
    ) -> Tensor:
        """Make B recordings.

        Args:
            condition: B parts that honour `self.condition`.
            seconds: length; the decoder's own if left out.
            run: see RunOptions.

        Returns:
            float32 [B, samples] in [-1, 1] at `self.sample_rate`.

        Raises:
            UsageError: condition, noise, length or settings do not fit together.
            Cancelled: `cancel` said so.
        """
        latents = self._latents(condition, self.latent_shape(seconds=seconds), run)
        with torch.no_grad():
            scaled = 1 / self.vae.config.scaling_factor * latents
            mel = self.vae.decode(scaled, return_dict=False)[0]  # [B, 1, frames, bins]
            waveform: Tensor = self.vocoder(rearrange(mel, "b 1 frames bins -> b frames bins"))
        return waveform[:, : int(self.resolve_seconds(seconds) * self.sample_rate)].float()
