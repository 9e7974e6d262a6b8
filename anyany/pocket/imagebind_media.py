"""Pocket's ImageBind for clips and sounds too: the towers that were trained on pictures go on.

Clips go through the picture tower in pairs of frames; sounds through one of their own. Each
modality is held to its own captions as pictures are (see `imagebind`): batches of near misses,
captions whole and in part, pooled state and patch mean alike. Nameless shapes and sounds take
part with captions that name no thing.

Legend: B batch, S clips of an item, E embedding width, T tokens.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor

from anyany.alignment.losses import contrastive_loss
from anyany.alignment.trainer import LossOutput, Task
from anyany.encoders import (
    AudioConfig,
    AudioPreprocessing,
    ImageBind,
    ImageBindConfig,
    PreprocessingConfig,
)
from anyany.encoders.preprocessing.audios import prepare_audio
from anyany.encoders.preprocessing.images import prepare_image
from anyany.encoders.preprocessing.videos import prepare_video
from anyany.messages import AudioPart, VideoPart
from anyany.pocket.animation import CLIP_FRAMES_PER_SECOND, ClipJitter, render_clip
from anyany.pocket.captions import canonical_caption
from anyany.pocket.clap import say_sound
from anyany.pocket.clip_text_encoder import say_clip
from anyany.pocket.clips import CLIP_ATTRIBUTES, Clip, all_clips, canonical_clip_caption, draw_clip
from anyany.pocket.imagebind import (
    PREPROCESSING,
    BindTask,
    imagebind_config,
    part_of,
    shows,
)
from anyany.pocket.nameless_clips import render_nameless_clip, render_untold_clip
from anyany.pocket.nameless_sounds import render_nameless_sound
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.sounds import (
    SOUND_ATTRIBUTES,
    Sound,
    all_sounds,
    canonical_sound_caption,
    draw_sound,
)
from anyany.pocket.synthesis import SAMPLE_RATE, SOUND_SECONDS, SoundJitter, render_sound
from anyany.pocket.world import THINGS, Scene, all_scenes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from anyany.alignment.order import Draws

Subject: TypeAlias = Clip | Sound
MEDIA_PREPROCESSING: Final = PreprocessingConfig(
    image=PREPROCESSING.image,
    video=PREPROCESSING.video,
    audio=AudioPreprocessing(
        num_clips=1,
        clip_seconds=SOUND_SECONDS,
        num_mel_bins=64,
        num_frames=198,  # what 25 ms windows every 10 ms leave of two seconds
        mean=-13.3,
        std=5.5,
    ),
)
_SHARES: Final = ("image", "video", "audio", "video", "image", "video")  # clips are the hardest
_TINTED: Final = 0.6  # of the clips: in a nameless color
_WANDERING: Final = 0.7  # of the clips: on a nameless course
_NAMELESS: Final = 0.2  # of the clips and sounds: of no thing
_NAMELESS_CLIPS: Final = 1000  # different ones, 300 MB


def media_imagebind_config(tokenizer: PreTrainedTokenizerFast) -> ImageBindConfig:
    """Sizes: the picture half's, and a tower for sounds (48 patches, 16 x 16 each)."""
    audio = AudioConfig(
        dim=128,
        num_blocks=4,
        num_heads=4,
        num_mel_bins=MEDIA_PREPROCESSING.audio.num_mel_bins,
        num_frames=MEDIA_PREPROCESSING.audio.num_frames,
        patch_size=16,
        stride=16,
        drop_path=0.0,
    )
    return replace(imagebind_config(tokenizer), audio=audio)


class MediaBindTask(Task):
    """Bring pictures, clips and sounds and their captions together.

    Args:
        imagebind: trained; with the three towers.
        tokenizer: the world's.
        evaluation: how many held-out clips and sounds to find captions for at each evaluation.
    """

    def __init__(
        self, imagebind: ImageBind, tokenizer: PreTrainedTokenizerFast, *, evaluation: int = 0
    ) -> None:
        super().__init__(imagebind, num_samples=None)
        self.imagebind = imagebind
        self.pictures = BindTask(imagebind, tokenizer)
        self.evaluation = evaluation

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, dict[str, Tensor]]:
        """Of six indices two for pictures, three for clips, one for sounds: see `BindTask`."""
        of: dict[str, list[int]] = {}
        for index in indices:
            of.setdefault(_SHARES[index % len(_SHARES)], []).append(index)
        return {
            modality: self.pictures.batch(own, draws)
            if modality == "image"
            else self._pairs(own, clip_pair if modality == "video" else sound_pair)
            for modality, own in of.items()
        }

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """The sum of the modalities' losses, of pooled read-outs and of patches' means."""
        total = torch.zeros(())
        figures: dict[str, Tensor] = {}
        weight = 0
        for modality, items in batch.items():
            tower = "audio" if modality == "audio" else "vision"
            seen = self.imagebind.features(tower, items["pictures"])
            said = self.imagebind.features("text", items["ids"]).pooled  # [B, E]
            same = items["same"]
            scaling: Any = self.imagebind.modality_postprocessors["text"]
            scale = scaling[1].log_logit_scale
            pooled = contrastive_loss(seen.pooled, said, log_scale=scale, same=same)
            patches = contrastive_loss(seen.tokens.mean(1), said, log_scale=scale, same=same)
            total = total + pooled + patches
            best = (seen.pooled @ said.T).argmax(1, keepdim=True)
            figures[modality] = pooled
            figures[f"{modality}_top1"] = same.gather(1, best).float().mean()
            weight += len(said)
        return LossOutput(total / len(batch), figures, weight=weight)

    def evaluate(self, folder: Path) -> dict[str, float]:
        """Held-out media and captions: which of all is nearest, and which of things alone; top-1.

        Captions of clips are those of the clips that are shown; `video_thing` and `image_thing` are
        the shares whose nearest caption among "a bell", "a drum" and so on is their thing's: what
        suffers most where things are known by the pairs that were shown.
        """
        if not self.evaluation:
            return {}
        rng = random.Random(0)
        clips = rng.sample(all_clips(held_out=True), self.evaluation)
        scenes = rng.sample(all_scenes(held_out=True), self.evaluation)
        sounds = all_sounds(held_out=True)
        watched = torch.stack([prepared_clip(clip, rng) for clip in clips])
        heard = torch.stack([prepared_sound(sound, rng) for sound in sounds])
        drawn = [render_image(scene, Jitter.draw(rng)) for scene in scenes]
        seen = torch.stack([prepare_image(picture, PREPROCESSING.image) for picture in drawn])
        of_clips = [canonical_clip_caption(clip) for clip in clips]
        of_sounds = [canonical_sound_caption(sound) for sound in all_sounds()]
        heard_words = [canonical_sound_caption(sound) for sound in sounds]
        things = [_thing_alone(thing) for thing in THINGS]
        shown = {"video": [clip.thing for clip in clips], "image": [one.thing for one in scenes]}
        own = {name: [_thing_alone(thing) for thing in of] for name, of in shown.items()}
        return {
            "video_top1": self._top1("vision", watched, of_clips, of_clips),
            "audio_top1": self._top1("audio", heard, heard_words, of_sounds),
            "video_thing": self._top1("vision", watched, own["video"], things),
            "image_thing": self._top1("vision", seen, own["image"], things),
        }

    def _top1(
        self, tower: str, prepared: Tensor, own: Sequence[str], captions: Sequence[str]
    ) -> float:
        seen = self.imagebind.features(tower, prepared).pooled
        said = self.imagebind.features("text", self.pictures.token_ids(captions)).pooled
        nearest = (seen @ said.T).argmax(1).tolist()
        right = [captions[place] == caption for place, caption in zip(nearest, own, strict=True)]
        return float(sum(right) / len(right))

    def _pairs(self, indices: Sequence[int], pair: Any) -> dict[str, Tensor]:
        prepared, captions = [], []
        shown: list[Subject] = []
        said: list[Subject] = []
        for index in indices:
            rng = random.Random(f"bind-media:{index}")
            for subject, tensor in pair(rng):
                prepared.append(tensor)
                shown.append(subject)
                said.append(part_of(subject, rng))
                say = say_clip if isinstance(subject, Clip) else say_sound
                captions.append(say(said[-1], rng))  # type: ignore[arg-type]
        return {
            "pictures": torch.stack(prepared),
            "ids": self.pictures.token_ids(captions),
            "same": torch.tensor([[shows(one, part) for part in said] for one in shown]),
        }


def clip_pair(rng: random.Random) -> list[tuple[Clip, Tensor]]:
    """A trainable clip and a near miss of it, ready to encode.

    In part in nameless colors, on nameless courses, or of nameless shapes.
    """
    if rng.random() < _NAMELESS:
        return [_nameless_clip(number) for number in rng.sample(range(_NAMELESS_CLIPS), 2)]
    clip = draw_clip(rng)
    pair = []
    for shown in (clip, _near_clip(clip, rng)):
        tinted, wandering = rng.random() < _TINTED, rng.random() < _WANDERING
        said, frames = render_untold_clip(shown, rng, tinted=tinted, wandering=wandering)
        pair.append((said, _prepared(frames)))
    return pair


def sound_pair(rng: random.Random) -> list[tuple[Sound, Tensor]]:
    """A trainable sound and a near miss of it, now and then of no thing, ready to encode."""
    if rng.random() < _NAMELESS:
        drawn = [render_nameless_sound(rng) for _ in range(2)]
        return [(sound, _heard(waveform)) for sound, waveform in drawn]
    sound = draw_sound(rng)
    return [(one, prepared_sound(one, rng)) for one in (sound, _near_sound(sound, rng))]


def prepared_clip(clip: Clip, rng: random.Random) -> Tensor:
    """A rendering of a full clip as the encoder takes it: float32 [S, 3, 2, 64, 64]."""
    return _prepared(render_clip(clip, ClipJitter.draw(rng)))


def prepared_sound(sound: Sound, rng: random.Random) -> Tensor:
    """A rendering of a full sound as the encoder takes it: float32 [S, 1, 64, 198]."""
    return _heard(render_sound(sound, SoundJitter.draw(rng)))


def _thing_alone(thing: str | None) -> str:
    return canonical_caption(Scene(thing=thing))


@functools.cache  # checking one takes as long as rendering ten
def _nameless_clip(number: int) -> tuple[Clip, Tensor]:
    said, frames = render_nameless_clip(random.Random(f"bind-nameless:{number}"))
    return said, _prepared(frames)


def _prepared(frames: Any) -> Tensor:
    return prepare_video(VideoPart(frames, CLIP_FRAMES_PER_SECOND), MEDIA_PREPROCESSING.video)


def _heard(waveform: Any) -> Tensor:
    return prepare_audio(AudioPart(waveform[None], SAMPLE_RATE), MEDIA_PREPROCESSING.audio)


def _near_clip(clip: Clip, rng: random.Random) -> Clip:
    while True:
        name = rng.choice(list(CLIP_ATTRIBUTES))
        after = clip.changed(name, rng.choice(CLIP_ATTRIBUTES[name]))
        if after != clip and not after.held_out:
            return after


def _near_sound(sound: Sound, rng: random.Random) -> Sound:
    while True:
        name = rng.choice(list(SOUND_ATTRIBUTES))
        after = sound.changed(name, rng.choice(SOUND_ATTRIBUTES[name]))
        if after != sound and not after.held_out:
            return after
