"""Pocket's clip generator: a UNet3DConditionModel on the picture autoencoder's latents, by frame.

It starts as the picture denoiser: every weight of that one has its place here, and the temporal
layers put out nothing at first, so that eight frames are eight pictures. Frames know their place
through the temporal convolutions, which see zeros before the first frame and after the last one:
four of them in each block reach over all eight. Shapes without names move beside the things, so
that motions are learnt apart from them.

Legend: B batch, C latent channels, F frames, H W height and width, N clips in the pool.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from anyany.decoders import VideoDecoder, part_generator
from anyany.decoders.video import to_frames
from anyany.pocket.animation import (
    CLIP_FRAMES,
    CLIP_FRAMES_PER_SECOND,
    ClipJitter,
    render_clip,
)
from anyany.pocket.check_clip import score_clip
from anyany.pocket.clip_text_encoder import say_clip
from anyany.pocket.clips import CLIP_ATTRIBUTES, Clip, all_clips, canonical_clip_caption
from anyany.pocket.denoise_task import DenoiseTask
from anyany.pocket.image_denoiser import IMAGE_UNET, SCHEDULER, save_grid
from anyany.pocket.image_vae import encode_latents, to_pixels
from anyany.pocket.nameless_clips import render_nameless_clip
from anyany.pocket.render import BACKGROUND_RGB, draw_tint
from anyany.pocket.text_encoder import CAPTION_TOKENS, TEXT_DIM

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel


Frames = npt.NDArray[np.uint8]
JITTERS: Final = 3  # clips of each trainable combination in the pool
_TINTS: Final = 2  # and of each in nameless colors
_GUIDANCE: Final = 1.5  # stronger, and colors suffer
_NAMELESS: Final = 0.4  # so many clips of nameless shapes beside them


def video_unet_values() -> dict[str, Any]:
    """The constructor values: the picture denoiser's, with 3D blocks.

    What the 2D network calls `attention_head_dim` is its number of heads; in the 3D one it is the
    width of a head, at every level alike. At the highest resolution the heads are the same.
    """
    values = {key: value for key, value in IMAGE_UNET.items() if key != "use_linear_projection"}
    values["attention_head_dim"] = values["block_out_channels"][0] // values["attention_head_dim"]
    for key in ("down_block_types", "up_block_types"):
        values[key] = tuple(name.replace("2D", "3D") for name in values[key])
    return values


def build_video_unet(image_unet: UNet2DConditionModel | None = None) -> UNet3DConditionModel:
    """The denoiser; as the picture denoiser, frame by frame, if that one is given."""
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

    unet = UNet3DConditionModel(**video_unet_values())
    for (
        layer
    ) in unet.modules():  # the temporal convolutions' own tenth: so small a network needs all
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    if image_unet is not None:
        warm_start(unet, image_unet)
    return unet


@torch.no_grad()
def warm_start(unet: UNet3DConditionModel, image_unet: UNet2DConditionModel) -> None:
    """Copy the picture denoiser's weights and silence the temporal layers.

    Raises:
        ValueError: the two are not of one build.
    """
    from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

    result = unet.load_state_dict(image_unet.state_dict(), strict=False)
    strange = [*result.unexpected_keys, *(k for k in result.missing_keys if not _is_temporal(k))]
    if strange:
        raise ValueError(
            f"expected a picture denoiser of the same build, got one that differs in {strange[0]}"
        )
    for layer in unet.modules():  # temporal convolutions end in zeros from the start
        if isinstance(layer, TransformerTemporalModel):
            layer.proj_out.weight.zero_()
            layer.proj_out.bias.zero_()


def _is_temporal(key: str) -> bool:
    return any(part in key for part in ("temp_convs.", "temp_attentions.", "transformer_in."))


class ClipPool:
    """Latents of clips of every trainable combination, and where the things are.

    Some show things in nameless colors and some nameless shapes; their clips do not say that.

    Args:
        vae: of pictures, frozen.
        stride: take every so manieth combination only, for a trial.
        jitters: clips of each in its named color.
    """

    def __init__(self, vae: AutoencoderKL, *, stride: int = 1, jitters: int = JITTERS) -> None:
        self.said: list[Clip] = []
        latents, things = [], []
        chosen = all_clips(held_out=False)[::stride]
        drawn = [_named(clip, number) for clip in chosen for number in range(jitters)]
        drawn += [_tinted(clip, number) for clip in chosen for number in range(_TINTS)]
        for number in range(round(_NAMELESS * len(drawn))):
            drawn.append(render_nameless_clip(random.Random(f"clip-pool:{number}")))
        for clip, frames in drawn:
            self.said.append(clip)
            pixels = to_pixels(list(frames))  # [F, 3, H, W]
            background = torch.tensor(BACKGROUND_RGB[clip.background or ""]).float() / 127.5 - 1
            differs = (pixels - background[None, :, None, None]).abs().amax(1, keepdim=True) > 0.05
            latents.append(rearrange(encode_latents(vae, pixels), "f c h w -> c f h w"))
            things.append(rearrange(F.max_pool2d(differs.float(), 8), "f c h w -> c f h w"))
        self.latents = torch.stack(latents)  # [N, C, F, H, W]
        self.events = torch.stack(things)  # [N, 1, F, H, W]

    def __len__(self) -> int:
        return len(self.said)


class VideoDenoiseTask(DenoiseTask[Clip]):
    """Denoise clips; see `DenoiseTask`."""

    purpose = "video-denoise"
    timestep_power = 0.4  # only the noisiest frames leave a motion open

    def say(self, subject: Clip, rng: random.Random) -> str:
        """One of many captions of a clip."""
        return say_clip(subject, rng)

    def evaluate(self, folder: Path) -> dict[str, float]:
        """Draw held-out clips from their canonical captions and check every attribute."""
        if not self.evaluation:
            return {}
        made = make_clips(self.decoder, self.evaluation)
        scores = [score_clip(frames, c) for frames, c in zip(made, self.evaluation, strict=True)]
        save_strips(made[:12], folder / "samples.png")
        figures = {name: sum(s[name] for s in scores) / len(scores) for name in CLIP_ATTRIBUTES}
        return {**figures, "all": sum(all(s.values()) for s in scores) / len(scores)}


def make_clips(
    decoder: VideoDecoder, clips: Sequence[Clip], *, seed: int = 0, **run: Any
) -> list[Frames]:
    """Frames uint8 [8, 64, 64, 3] from canonical captions; 20 steps if nothing else is said."""
    run = {"num_inference_steps": 20, "guidance_scale": _GUIDANCE, **run}
    made: list[Frames] = []
    for start in range(0, len(clips), 8):
        some = clips[start : start + 8]
        condition = decoder.encode_captions([canonical_clip_caption(clip) for clip in some])
        generators = [part_generator(seed, "video", start + k) for k in range(len(some))]
        made += to_frames(decoder(condition, generators=generators, **run))
    return made


def save_strips(clips: Sequence[Frames], path: Path) -> None:
    """Write clips as one sheet, a row each."""
    from PIL import Image

    save_grid([Image.fromarray(np.concatenate(list(f), axis=1)) for f in clips], path, columns=1)


def assemble_video_decoder(
    unet: UNet3DConditionModel, vae: AutoencoderKL, text_encoder: Any, tokenizer: Any
) -> VideoDecoder:
    """The decoder of these parts, with pocket's presets."""
    from anyany.decoders import Components, ConditionSpec, DecoderPresets, DecoderSettings
    from anyany.decoders.condition import TensorSpec

    tokenizer.model_max_length = CAPTION_TOKENS
    spec = ConditionSpec({"prompt_embeds": TensorSpec((CAPTION_TOKENS, TEXT_DIM))})
    presets = DecoderPresets(
        reference=DecoderSettings(num_inference_steps=50, guidance_scale=_GUIDANCE),
        fast=DecoderSettings(num_inference_steps=8, guidance_scale=_GUIDANCE, scheduler="dpmpp_2m"),
        default="fast",
    )
    parts = Components(unet, vae, dict(SCHEDULER), text_encoder=text_encoder)
    return VideoDecoder(
        parts,
        spec,
        tokenizer=tokenizer,
        presets=presets,
        num_frames=CLIP_FRAMES,
        frames_per_second=CLIP_FRAMES_PER_SECOND,
    )


def _named(clip: Clip, number: int) -> tuple[Clip, Frames]:
    rng = random.Random(f"clip-pool:{clip}:{number}")
    return clip, render_clip(clip, ClipJitter.draw(rng))


def _tinted(clip: Clip, number: int) -> tuple[Clip, Frames]:
    rng = random.Random(f"clip-pool:{clip}:tint {number}")
    assert clip.thing is not None
    nameless = replace(clip, color=None)
    tint = draw_tint(clip.thing, rng)
    return nameless, render_clip(nameless, ClipJitter.draw(rng), tint=tint)
