"""The three kinds of media of the world, as an evaluation meets them.

Each kind says how its subjects are drawn, said, shown, checked and made; the rows of an evaluation
are written once, for any kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from anyany.decoders import to_frames, to_pil
from anyany.decoders.diffusion_decoder import latent_factor
from anyany.decoders.image import sample_sides, to_unit_range
from anyany.messages import AudioPart, ImagePart, MediaPart, Modality, VideoPart
from anyany.pocket.animation import CLIP_FRAMES, CLIP_FRAMES_PER_SECOND, ClipJitter, render_clip
from anyany.pocket.captions import canonical_caption, caption, parse_caption
from anyany.pocket.check import check_image
from anyany.pocket.check_clip import check_clip
from anyany.pocket.check_sound import check_sound
from anyany.pocket.clips import (
    HELD_OUT_MOTIONS,
    Clip,
    all_clips,
    canonical_clip_caption,
    clip_caption,
    parse_clip,
)
from anyany.pocket.dialogues import ASK_WHAT
from anyany.pocket.image_vae import encode_latents, to_pixels
from anyany.pocket.media_dialogues import ASK_WHAT_CLIP, ASK_WHAT_SOUND
from anyany.pocket.mel_vae import encode_mels, to_mel
from anyany.pocket.render import IMAGE_SIZE, Jitter, render_image
from anyany.pocket.sounds import (
    Sound,
    all_sounds,
    canonical_sound_caption,
    parse_sound,
    sound_caption,
)
from anyany.pocket.synthesis import NUM_SAMPLES, SAMPLE_RATE, SoundJitter, render_sound
from anyany.pocket.world import COLORS, HELD_OUT_PAIRS, Described, Scene, all_scenes

Combination: TypeAlias = tuple[str, ...]
Medium: TypeAlias = Any  # a PIL picture, uint8 frames [F, H, W, 3], or a float32 waveform [samples]


@dataclass(frozen=True)
class Kind:
    """One modality of the world.

    Args:
        modality: it.
        subject: the class of what its media show or sound like.
        nouns: what its media are called.
        size: of its media, for people.
        round_trip: what true media go through to be restored.
        request: asks for a medium; {} is the caption.
        questions: ask for a description.
        subjects: every full subject; `held_out=` chooses.
        combination: what a subject is held out by, or would be: the unit of the bootstrap.
        canonical, caption: a subject in words; the second in one of many ways.
        parse: words to a subject; None if they contradict each other.
        render: a full subject as a medium, jittered.
        check: a medium to a subject; what cannot be told is None.
        part: a medium as a part of a prompt.
        medium: a part of a reply as a medium.
        media: what a decoder made, [B, ...], as media.
        restore: media through a decoder's autoencoder and back.
        made_size: of what a decoder makes, in the words of `size`.
        needed: attributes that a made medium must have right; all that were said if empty.
    """

    modality: Modality
    subject: type[Described]
    nouns: str
    size: str
    round_trip: str
    request: str
    questions: Sequence[str]
    subjects: Callable[..., Sequence[Any]]
    combination: Callable[[Any], Combination]
    canonical: Callable[[Any], str]
    caption: Callable[[Any, random.Random], str]
    parse: Callable[[str], Described | None]
    render: Callable[[Any, random.Random], Medium]
    check: Callable[[Medium], Any]
    part: Callable[[Medium], MediaPart]
    medium: Callable[[Any], Medium]
    media: Callable[[Tensor], list[Any]]
    restore: Callable[[Any, Sequence[Medium]], list[Any]]
    made_size: Callable[[Any], str]
    needed: Sequence[str] = ()

    def row(self, name: str) -> str:
        """What a row of this kind is called: pictures' rows have the plain names."""
        return name if self.modality == "image" else f"{self.modality}.{name}"

    def read(self, text: str) -> Described:
        """What a text says; nothing if it contradicts itself."""
        return self.parse(text) or self.subject()

    def drawn_attributes(self) -> Sequence[str]:
        """The attributes that count where a medium of this kind is made."""
        return self.needed or tuple(self.subject.ATTRIBUTES)


def kind_of(subject: Described) -> Kind:
    """The kind whose media show or sound like a subject."""
    return next(kind for kind in KINDS.values() if isinstance(subject, kind.subject))


def combination_of(subject: Described) -> Combination:
    """The values by which a full subject is held out, or would be."""
    return kind_of(subject).combination(subject)


def combination_name(combination: Combination) -> str:
    """A combination as people say it: "red bell", "bell left", "bell once high"."""
    if combination[-1] in COLORS:
        return " ".join(reversed(combination))
    return " ".join(combination)


def _scene_combination(scene: Scene) -> Combination:
    return cast("Combination", (scene.thing, scene.color))


def _clip_combination(clip: Clip) -> Combination:
    """(thing, motion) if that alone holds the clip out, else (thing, color)."""
    by_motion = (clip.thing, clip.motion) in HELD_OUT_MOTIONS
    if by_motion and (clip.thing, clip.color) not in HELD_OUT_PAIRS:
        return cast("Combination", (clip.thing, clip.motion))
    return cast("Combination", (clip.thing, clip.color))


def _sound_combination(sound: Sound) -> Combination:
    return cast("Combination", (sound.thing, sound.count, sound.pitch))


@torch.no_grad()
def _restore_pictures(decoder: Any, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    pixels = to_pixels([np.asarray(picture, dtype=np.uint8) for picture in pictures])
    return to_pil(_through_vae(decoder, pixels))


@torch.no_grad()
def _restore_clips(decoder: Any, clips: Sequence[Any]) -> list[Any]:
    pixels = to_pixels([frame for frames in clips for frame in frames])
    restored = _through_vae(decoder, pixels)
    return to_frames(rearrange(restored, "(b f) c h w -> b f c h w", f=CLIP_FRAMES))


def _through_vae(decoder: Any, pixels: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] through the autoencoder: in [0, 1]."""
    pixels = pixels.to(decoder.device, decoder.dtype)
    restored = decoder.vae.decode(encode_latents(decoder.vae, pixels)).sample
    unit: Tensor = to_unit_range(restored.float())
    return unit


@torch.no_grad()
def _restore_sounds(decoder: Any, waveforms: Sequence[Any]) -> list[Any]:
    mels = to_mel(waveforms).to(decoder.device, decoder.dtype)
    restored = decoder.vae.decode(encode_mels(decoder.vae, mels)).sample  # [B, 1, frames, bins]
    return _waveforms(decoder.vocoder(restored[:, 0])[:, :NUM_SAMPLES])


def _waveforms(made: Tensor) -> list[Any]:
    return list(made.float().cpu().numpy())


def _picture_size(decoder: Any) -> str:
    side = sample_sides(decoder.unet)[0] * latent_factor(decoder.vae)
    return f"{side} x {side} pixels"


def _clip_size(decoder: Any) -> str:
    _, frames, height, width = decoder.latent_shape()
    factor = latent_factor(decoder.vae)
    return f"{frames} frames of {width * factor} x {height * factor} pixels"


def _sound_size(decoder: Any) -> str:
    samples = int(decoder.resolve_seconds() * decoder.sample_rate)
    return f"{samples} samples at {decoder.sample_rate} Hz"


KINDS: Final[Mapping[str, Kind]] = {
    "image": Kind(
        "image",
        Scene,
        nouns="renders",
        size=f"{IMAGE_SIZE} x {IMAGE_SIZE} pixels",
        round_trip="the VAE round trip",
        request="draw {}",
        questions=ASK_WHAT,
        subjects=all_scenes,
        combination=_scene_combination,
        canonical=canonical_caption,
        caption=caption,
        parse=parse_caption,
        render=lambda scene, rng: render_image(scene, Jitter.draw(rng)),
        check=check_image,
        part=ImagePart,
        medium=lambda part: part.image,
        media=to_pil,
        restore=_restore_pictures,
        made_size=_picture_size,
    ),
    "video": Kind(
        "video",
        Clip,
        nouns="clips",
        size=f"{CLIP_FRAMES} frames of {IMAGE_SIZE} x {IMAGE_SIZE} pixels",
        round_trip="the VAE round trip, frame by frame",
        request="film {}",
        questions=ASK_WHAT_CLIP,
        subjects=all_clips,
        combination=_clip_combination,
        canonical=canonical_clip_caption,
        caption=clip_caption,
        parse=parse_clip,
        render=lambda clip, rng: render_clip(clip, ClipJitter.draw(rng)),
        check=check_clip,
        part=lambda frames: VideoPart(frames, CLIP_FRAMES_PER_SECOND),
        medium=lambda part: part.frames,
        media=to_frames,
        restore=_restore_clips,
        made_size=_clip_size,
        needed=("thing", "color", "motion"),
    ),
    "audio": Kind(
        "audio",
        Sound,
        nouns="sounds",
        size=f"{NUM_SAMPLES} samples at {SAMPLE_RATE} Hz",
        round_trip="mel VAE and vocoder",
        request="play {}",
        questions=ASK_WHAT_SOUND,
        subjects=all_sounds,
        combination=_sound_combination,
        canonical=canonical_sound_caption,
        caption=sound_caption,
        parse=parse_sound,
        render=lambda sound, rng: render_sound(sound, SoundJitter.draw(rng)),
        check=check_sound,
        part=lambda waveform: AudioPart(waveform[None], SAMPLE_RATE),
        medium=lambda part: part.waveform[0],
        media=_waveforms,
        restore=_restore_sounds,
        made_size=_sound_size,
    ),
}
