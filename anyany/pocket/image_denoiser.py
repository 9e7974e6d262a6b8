"""Pocket's image generator: a UNet2DConditionModel on the cached latents of a frozen autoencoder.

Cross-attention stands at every level, the highest resolution included: without it, places are not
learnt.

Legend: B batch, C latent channels, H W height and width, N pictures in the pool.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F

from anyany.decoders import ImageDecoder, part_generator, to_pil
from anyany.pocket.captions import canonical_caption
from anyany.pocket.check import all_right, score_image
from anyany.pocket.denoise_task import GUIDANCE, DenoiseTask
from anyany.pocket.image_vae import LATENT_SIZE, encode_latents, to_pixels
from anyany.pocket.render import BACKGROUND_RGB, Jitter, draw_tint, render_pixels
from anyany.pocket.text_encoder import CAPTION_TOKENS, TEXT_DIM, say
from anyany.pocket.world import Scene, all_scenes

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


IMAGE_UNET: Final[dict[str, Any]] = {
    "sample_size": LATENT_SIZE,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (48, 96),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_DIM,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "use_linear_projection": True,  # all keys are then UNet3D's too: video starts from here
}
SCHEDULER: Final[dict[str, Any]] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}
JITTERS: Final = 8  # pictures of each trainable scene in the pool


def build_image_unet() -> UNet2DConditionModel:
    """The denoiser with fresh weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(**IMAGE_UNET)


class LatentPool:
    """Latents of `JITTERS` pictures of every trainable scene, and where the things are.

    A quarter as many pictures again show things in nameless colors; their scenes say no color.

    Args:
        vae: frozen.
        stride: take every so manieth scene only, for a trial.
    """

    def __init__(self, vae: AutoencoderKL, *, stride: int = 1) -> None:
        self.said: list[Scene] = []
        latents, things = [], []
        for scene in all_scenes(held_out=False)[::stride]:
            drawn = [_named(scene, number) for number in range(JITTERS)]
            drawn += [_tinted(scene, number) for number in range(JITTERS // 4)]
            self.said += [shown for shown, _ in drawn]
            pixels = to_pixels([picture for _, picture in drawn])
            assert scene.background
            background = torch.tensor(BACKGROUND_RGB[scene.background]).float() / 127.5 - 1
            differs = (pixels - background[None, :, None, None]).abs().amax(1, keepdim=True) > 0.05
            latents.append(encode_latents(vae, pixels))
            things.append(F.max_pool2d(differs.float(), 8))
        self.latents = torch.cat(latents)  # [N, C, H, W]
        self.events = torch.cat(things)  # [N, 1, H, W]

    def __len__(self) -> int:
        return len(self.said)


class ImageDenoiseTask(DenoiseTask[Scene]):
    """Denoise pictures; see `DenoiseTask`."""

    purpose = "image-denoise"

    def say(self, subject: Scene, rng: random.Random) -> str:
        """One of many captions of a scene."""
        return say(subject, rng)

    def evaluate(self, folder: Path) -> dict[str, float]:
        """Draw held-out scenes from their canonical captions and check every attribute."""
        if not self.evaluation:
            return {}
        condition = self.decoder.encode_captions([canonical_caption(s) for s in self.evaluation])
        generators = [part_generator(0, "image", k) for k in range(len(self.evaluation))]
        pictures = to_pil(
            self.decoder(
                condition, generators=generators, num_inference_steps=20, guidance_scale=GUIDANCE
            )
        )
        scores = [score_image(p, s) for p, s in zip(pictures, self.evaluation, strict=True)]
        save_grid(pictures, folder / "samples.png")
        figures = {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}
        return {**figures, "all": sum(map(all_right, scores)) / len(scores)}


def _named(scene: Scene, number: int) -> tuple[Scene, Any]:
    rng = random.Random(f"image-pool:{scene}:{number}")
    return scene, render_pixels(scene, Jitter.draw(rng))


def _tinted(scene: Scene, number: int) -> tuple[Scene, Any]:
    rng = random.Random(f"image-pool:{scene}:tint {number}")
    assert scene.thing is not None
    nameless = replace(scene, color=None)
    tint = draw_tint(scene.thing, rng)
    return nameless, render_pixels(nameless, Jitter.draw(rng), tint=tint)


def save_grid(pictures: Sequence[Any], path: Path, *, columns: int = 8) -> None:
    """Write pictures of one size as one sheet."""
    from PIL import Image

    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def assemble_image_decoder(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: Any, tokenizer: Any
) -> ImageDecoder:
    """The decoder of these parts, with pocket's presets."""
    from anyany.decoders import Components, ConditionSpec, DecoderPresets, DecoderSettings
    from anyany.decoders.condition import TensorSpec

    tokenizer.model_max_length = CAPTION_TOKENS
    spec = ConditionSpec({"prompt_embeds": TensorSpec((CAPTION_TOKENS, TEXT_DIM))})
    presets = DecoderPresets(
        reference=DecoderSettings(num_inference_steps=50, guidance_scale=GUIDANCE),
        fast=DecoderSettings(num_inference_steps=8, guidance_scale=GUIDANCE, scheduler="dpmpp_2m"),
        default="fast",
    )
    parts = Components(unet, vae, dict(SCHEDULER), text_encoder=text_encoder)
    return ImageDecoder(parts, spec, tokenizer=tokenizer, presets=presets)
