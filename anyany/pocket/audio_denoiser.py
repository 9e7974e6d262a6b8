"""Pocket's sound generator: a UNet2DConditionModel on latents of mel pictures, as AudioLDM's.

The caption comes as one vector, through the class embedding that is joined to the time embedding;
the attention layers attend to the picture itself. Nameless sounds, whose captions say no more than
their count, keep repetition apart from the things that are shown.

Legend: B batch, C latent channels, N recordings in the pool.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F

from anyany.decoders import AudioDecoder, part_generator
from anyany.pocket.check_sound import score_sound
from anyany.pocket.clap import CLAP_DIM, say_sound
from anyany.pocket.denoise_task import GUIDANCE, DenoiseTask
from anyany.pocket.image_denoiser import SCHEDULER
from anyany.pocket.mel_vae import EVENT_LEVEL, MEL_LATENT, encode_mels, save_mels, to_mel
from anyany.pocket.nameless_sounds import render_nameless_sound
from anyany.pocket.sounds import (
    SOUND_ATTRIBUTES,
    Sound,
    all_sounds,
    canonical_sound_caption,
)
from anyany.pocket.synthesis import SOUND_SECONDS, SoundJitter, Waveform, render_sound
from anyany.pocket.text_encoder import CAPTION_TOKENS

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


_WIDTHS: Final = (48, 96)
AUDIO_UNET: Final[dict[str, Any]] = {
    "sample_size": MEL_LATENT[1],
    "in_channels": MEL_LATENT[0],
    "out_channels": MEL_LATENT[0],
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": _WIDTHS,
    "layers_per_block": 1,
    "cross_attention_dim": _WIDTHS,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": CLAP_DIM,
    "class_embeddings_concat": True,
}
RECORDINGS: Final = 32  # of each trainable sound in the pool
_NAMELESS: Final = 0.2  # so many nameless ones beside them


def build_audio_unet() -> UNet2DConditionModel:
    """The denoiser with fresh weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(**AUDIO_UNET)


class SoundPool:
    """Latents of recordings of every trainable sound and of nameless ones, and where events are.

    Args:
        vae: frozen.
        recordings: of each trainable sound.
    """

    def __init__(self, vae: AutoencoderKL, *, recordings: int = RECORDINGS) -> None:
        self.said: list[Sound] = []
        played: list[Waveform] = []
        for sound in all_sounds(held_out=False):
            for number in range(recordings):
                jitter = SoundJitter.draw(random.Random(f"sound-pool:{sound}:{number}"))
                self.said.append(sound)
                played.append(render_sound(sound, jitter))
        for number in range(round(_NAMELESS * len(played))):
            sound, waveform = render_nameless_sound(random.Random(f"sound-pool:{number}"))
            self.said.append(sound)
            played.append(waveform)
        latents, events = [], []
        for start in range(0, len(played), 64):
            mels = to_mel(played[start : start + 64])
            latents.append(encode_mels(vae, mels))
            events.append(F.max_pool2d((mels > EVENT_LEVEL).float(), 8))
        self.latents = torch.cat(latents)  # [N, C, F / 8, 8]
        self.events = torch.cat(events)  # [N, 1, F / 8, 8]

    def __len__(self) -> int:
        return len(self.said)


class AudioDenoiseTask(DenoiseTask[Sound]):
    """Denoise mel pictures; see `DenoiseTask`."""

    purpose = "audio-denoise"
    event_weight = 2.0

    def say(self, subject: Sound, rng: random.Random) -> str:
        """One of many captions of a sound."""
        return say_sound(subject, rng)

    def evaluate(self, folder: Path) -> dict[str, float]:
        """Play held-out sounds from their canonical captions and check every attribute."""
        if not self.evaluation:
            return {}
        waveforms = make_sounds(self.decoder, self.evaluation)
        scores = [score_sound(w, s) for w, s in zip(waveforms, self.evaluation, strict=True)]
        save_mels(to_mel(waveforms[:32]), folder / "samples.png")
        figures = {name: sum(s[name] for s in scores) / len(scores) for name in SOUND_ATTRIBUTES}
        return {**figures, "all": sum(all(s.values()) for s in scores) / len(scores)}


def make_sounds(
    decoder: AudioDecoder, sounds: Sequence[Sound], *, seed: int = 0, **run: Any
) -> list[Waveform]:
    """Recordings float32 [32000] from canonical captions; 20 steps if nothing else is said."""
    run = {"num_inference_steps": 20, "guidance_scale": GUIDANCE, **run}
    made: list[Waveform] = []
    for start in range(0, len(sounds), 16):
        some = sounds[start : start + 16]
        condition = decoder.encode_captions([canonical_sound_caption(one) for one in some])
        generators = [part_generator(seed, "audio", start + k) for k in range(len(some))]
        made += [np.asarray(w) for w in decoder(condition, generators=generators, **run)]
    return made


def assemble_audio_decoder(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    vocoder: Any,
    text_encoder: Any,
    tokenizer: Any,
) -> AudioDecoder:
    """The decoder of these parts, with pocket's presets."""
    from anyany.decoders import Components, ConditionSpec, DecoderPresets, DecoderSettings
    from anyany.decoders.condition import TensorSpec

    tokenizer.model_max_length = CAPTION_TOKENS
    spec = ConditionSpec({"class_labels": TensorSpec((CLAP_DIM,), normalize=True)})
    presets = DecoderPresets(
        reference=DecoderSettings(num_inference_steps=50, guidance_scale=GUIDANCE),
        fast=DecoderSettings(num_inference_steps=12, guidance_scale=GUIDANCE, scheduler="dpmpp_2m"),
        default="fast",
    )
    parts = Components(unet, vae, dict(SCHEDULER), text_encoder=text_encoder, vocoder=vocoder)
    return AudioDecoder(parts, spec, tokenizer=tokenizer, presets=presets, seconds=SOUND_SECONDS)
