"""Pocket's image autoencoder: diffusers' AutoencoderKL at f=8 with 8 latent channels.

Beside things in their shown colors it sees things in nameless colors and nameless shapes in every
color, so that it learns color and outline apart: see `nameless`.

It is trained on crops round the thing first (a quarter of the pixels), then on whole pictures. Its
latents are brought to zero mean and unit variance per channel by folding the statistics into the
1 x 1 convolutions on either side, so that `scaling_factor` is 1 and no channel is louder than
another.

Legend: B batch, C latent channels, H W height and width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from anyany.alignment.trainer import LossOutput, Task
from anyany.pocket.nameless import render_nameless
from anyany.pocket.render import (
    BACKGROUND_RGB,
    CENTER,
    IMAGE_SIZE,
    Color,
    Jitter,
    draw_tint,
    render_pixels,
)
from anyany.pocket.world import Scene, draw_scene

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from anyany.alignment.order import Draws

IMAGE_VAE: Final[dict[str, Any]] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (12, 24, 48, 64),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "sample_size": IMAGE_SIZE,
    "scaling_factor": 1.0,
}
LATENT_SIZE: Final = IMAGE_SIZE // 8
_KL_WEIGHT: Final = 1e-4
_NAMELESS: Final = 0.35  # of the pictures: shapes of chance in any color
_TINTED: Final = 0.3  # of the others: things in a nameless color
_THING_WEIGHT: Final = 4.0  # pixels that are not background count for so many more


def build_image_vae() -> AutoencoderKL:
    """The autoencoder with fresh weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL(**IMAGE_VAE)


def sample_scene(index: int, purpose: str) -> tuple[Scene, Jitter]:
    """The trainable scene and jitter of an index of an infinite set."""
    rng = random.Random(f"{purpose}:{index}")
    return draw_scene(rng), Jitter.draw(rng)


def to_pixels(images: Sequence[np.ndarray[Any, np.dtype[np.uint8]]]) -> Tensor:
    """uint8 [H, W, 3] pictures as float32 [B, 3, H, W] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(images))
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


class ImageVaeTask(Task):
    """Reconstruct pictures of trainable scenes.

    Args:
        vae: the autoencoder.
        crop: side of the square round the thing to train on, pixels; None for whole pictures.
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

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Tensor]:
        """Pictures [B, 3, H, W] in [-1, 1] and which pixels are the thing's [B, 1, H, W]."""
        drawn = [self._picture(index) for index in indices]
        pixels = to_pixels([picture for picture, _ in drawn])
        background = torch.tensor([color for _, color in drawn]).float() / 127.5 - 1
        differs = (pixels - background[:, :, None, None]).abs().amax(1, keepdim=True) > 0.05
        return {"pixels": pixels, "thing": differs.float()}

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> LossOutput:
        """L1, heavier on the thing than on its background, and a light KL."""
        pixels = batch["pixels"]
        posterior = self.vae.encode(pixels).latent_dist
        noise = draws.normal(*posterior.mean.shape[1:])
        latents = posterior.mean + posterior.std * noise  # [B, C, H / 8, W / 8]
        restored = self.vae.decode(latents).sample
        distance = (restored - pixels).abs()
        weighted = ((1 + _THING_WEIGHT * batch["thing"]) * distance).mean()
        divergence = posterior.kl().mean() / latents[0].numel()
        total = weighted + (0.0 if self.decoder_only else _KL_WEIGHT) * divergence
        return LossOutput(total, {"l1": distance.mean(), "kl": divergence}, weight=len(pixels))

    def _picture(self, index: int) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Color]:
        """A training picture, cropped if so asked, and its background's color."""
        rng = random.Random(f"image-vae-picture:{index}")
        if rng.random() < _NAMELESS:
            pixels, _, background, center = render_nameless(rng)
        else:
            scene, jitter = sample_scene(index, "image-vae")
            assert scene.thing is not None
            assert scene.place is not None
            assert scene.background is not None
            tint = draw_tint(scene.thing, rng) if rng.random() < _TINTED else None
            shown = replace(scene, color=None) if tint else scene
            pixels = render_pixels(shown, jitter, tint=tint)
            background, center = BACKGROUND_RGB[scene.background], CENTER[scene.place]
        if self.crop is None:
            return pixels, background
        left, top = (_crop_start(middle, self.crop, rng) for middle in center)
        return pixels[top : top + self.crop, left : left + self.crop], background


def _crop_start(middle: float, side: int, rng: random.Random) -> int:
    """Where a crop round a point begins, up to six pixels off, inside the picture."""
    start = round(middle - side / 2) + rng.randint(-6, 6)
    return min(max(start, 0), IMAGE_SIZE - side)


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pixels: Tensor, *, batch_size: int = 64) -> Tensor:
    """Means of the latents [B, C, H / 8, W / 8] of pictures [B, 3, H, W]."""
    return torch.cat(
        [vae.encode(part).latent_dist.mean for part in torch.split(pixels, batch_size)]
    )


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, *, num_images: int = 1024) -> None:
    """Fold per-channel mean and deviation of the latents into the 1 x 1 convolutions, in place."""
    pictures = [render_pixels(*sample_scene(index, "image-vae")) for index in range(num_images)]
    fold_statistics(vae, encode_latents(vae, to_pixels(pictures)))


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, latents: Tensor) -> None:
    """Make an autoencoder give latents like these zero mean and unit variance per channel."""
    mean = latents.mean(dim=(0, 2, 3))
    deviation = latents.std(dim=(0, 2, 3))
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= deviation[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / deviation
    before.bias[channels:] -= 2 * deviation.log()  # the log-variances scale along
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= deviation[None, :, None, None]
