"""Pocket's mel autoencoder: diffusers' AutoencoderKL on log-mel pictures, f=8, 8 channels.

Beside the shown sounds it hears nameless ones, so that it learns tones and repetition apart: see
`nameless_sounds`. It is trained on stretches of 80 frames first, then on whole pictures; its
latents are brought to zero mean and unit variance as the picture autoencoder's are.

Legend: B batch, C latent channels, F mel frames.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyany.alignment.trainer import LossOutput, Task
from anyany.pocket.image_vae import fold_statistics
from anyany.pocket.mel import NUM_FRAMES, NUM_MELS, log_mel
from anyany.pocket.nameless_sounds import render_nameless_sound
from anyany.pocket.sounds import Sound, draw_sound
from anyany.pocket.synthesis import SoundJitter, Waveform, render_sound

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from anyany.alignment.order import Draws

MEL_VAE: Final[dict[str, Any]] = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "sample_size": NUM_MELS,
    "scaling_factor": 1.0,
}
MEL_LATENT: Final = (8, NUM_FRAMES // 8, NUM_MELS // 8)
EVENT_LEVEL: Final = 0.1  # of normalised log-mel: what is above is an event
_NAMELESS: Final = 0.35  # of the recordings
_EVENT_WEIGHT: Final = 2.0  # mel values of events count for so many more
_KL_WEIGHT: Final = 1e-4


def build_mel_vae() -> AutoencoderKL:
    """The autoencoder with fresh weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL(**MEL_VAE)


def training_sound(
    index: int, purpose: str, *, nameless: float = _NAMELESS
) -> tuple[Sound, Waveform]:
    """The recording of an index of an infinite set: a trainable sound or a nameless one.

    Returns:
        What can be said of it, and float32 [32000].
    """
    rng = random.Random(f"{purpose}:{index}")
    if rng.random() < nameless:
        return render_nameless_sound(rng)
    sound = draw_sound(rng)
    return sound, render_sound(sound, SoundJitter.draw(rng))


def to_mel(recordings: Sequence[Waveform]) -> Tensor:
    """Recordings [samples] as normalised mel pictures [B, 1, F, 64]."""
    return log_mel(torch.from_numpy(np.stack(recordings)))[:, None]


class MelVaeTask(Task):
    """Reconstruct mel pictures of trainable and nameless sounds.

    Args:
        vae: the autoencoder.
        crop: frames to train on, a multiple of 8; None for whole pictures.
        decoder_only: leave the encoder (and so all latents) as they are.
    """

    def __init__(
        self, vae: AutoencoderKL, *, crop: int | None = None, decoder_only: bool = False
    ) -> None:
        super().__init__(vae, num_samples=None)
        self.vae = vae
        self.crop = crop
        self.decoder_only = decoder_only
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(not decoder_only)

    def batch(self, indices: Sequence[int], draws: Draws) -> Tensor:
        """Mel pictures [B, 1, F, 64]."""
        mels = to_mel([training_sound(index, "mel-vae")[1] for index in indices])
        if self.crop is None:
            return mels
        rows = []
        for mel, index in zip(mels, indices, strict=True):
            start = random.Random(f"mel-vae-crop:{index}").randint(0, NUM_FRAMES - self.crop)
            rows.append(mel[:, start : start + self.crop])
        return torch.stack(rows)

    def loss(self, batch: Tensor, draws: Draws) -> LossOutput:
        """L1, heavier on events than on silence, and a light KL."""
        posterior = self.vae.encode(batch).latent_dist
        noise = draws.normal(*posterior.mean.shape[1:])
        latents = posterior.mean + posterior.std * noise  # [B, C, F / 8, 8]
        distance = (self.vae.decode(latents).sample - batch).abs()
        weighted = ((1 + _EVENT_WEIGHT * (batch > EVENT_LEVEL)) * distance).mean()
        divergence = posterior.kl().mean() / latents[0].numel()
        total = weighted + (0.0 if self.decoder_only else _KL_WEIGHT) * divergence
        return LossOutput(total, {"l1": distance.mean(), "kl": divergence}, weight=len(batch))

    def evaluate(self, folder: Path) -> dict[str, float]:
        """L1 of whole pictures of held-out sounds; writes truth over reconstruction."""
        rng = random.Random(0)
        sounds = [draw_sound(rng, held_out=True) for _ in range(16)]
        mels = to_mel([render_sound(sound, SoundJitter.draw(rng)) for sound in sounds])
        restored = self.vae.decode(self.vae.encode(mels).latent_dist.mean).sample
        save_mels(torch.cat([mels[:4], restored[:4]]), folder / "mels.png", columns=4)
        return {"l1": F.l1_loss(restored, mels).item()}


@torch.no_grad()
def encode_mels(vae: AutoencoderKL, mels: Tensor, *, batch_size: int = 32) -> Tensor:
    """Means of the latents [B, C, F / 8, 8] of mel pictures [B, 1, F, 64]."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(mels, batch_size)])


@torch.no_grad()
def normalise_mel_latents(vae: AutoencoderKL, *, num_sounds: int = 512) -> None:
    """Fold per-channel mean and deviation of the latents into the 1 x 1 convolutions, in place."""
    mels = to_mel(
        [training_sound(index, "mel-vae", nameless=0.0)[1] for index in range(num_sounds)]
    )
    fold_statistics(vae, encode_mels(vae, mels))


def save_mels(mels: Tensor, path: Path, *, columns: int = 4) -> None:
    """Write mel pictures [B, 1, F, 64] as one sheet, low tones below."""
    from PIL import Image

    from anyany.pocket.image_denoiser import save_grid

    levels = ((mels[:, 0].clamp(-1, 4) + 1) * 51).round().to(torch.uint8)
    pictures = [Image.fromarray(level.T.flip(0).contiguous().numpy()) for level in levels]
    save_grid(pictures, path, columns=columns)
