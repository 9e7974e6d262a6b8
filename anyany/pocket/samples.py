"""What the alignment stages learn from in the pocket world: infinite, procedural, held-out safe.

Media are shown of trainable scenes, clips and sounds alone. Media to be made are only captions
here, and captions may speak of anything.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from PIL import Image

from anyany.alignment.samples import MediaTarget, Sample, turn
from anyany.messages import AudioPart, ImagePart, Message, VideoPart
from anyany.pocket.animation import CLIP_FRAMES, CLIP_FRAMES_PER_SECOND, ClipJitter, render_clip
from anyany.pocket.clips import Clip, draw_clip
from anyany.pocket.dialogues import ANNOUNCEMENT, ASK_WHAT, Content, Turn, draw_dialogue, draw_edit
from anyany.pocket.media_dialogues import (
    ASK_WHAT_CLIP,
    ASK_WHAT_SOUND,
    TO_SOUND,
    MediaDialogue,
    Subject,
    attribute_question,
    canonical_words,
    draw_media_dialogue,
)
from anyany.pocket.nameless import render_nameless
from anyany.pocket.nameless_clips import render_nameless_clip, render_untold_clip
from anyany.pocket.render import PALEST, Jitter, draw_tint, render_image
from anyany.pocket.sounds import Sound, complete_sound, draw_sound
from anyany.pocket.synthesis import SAMPLE_RATE, SoundJitter, render_sound
from anyany.pocket.world import Scene, draw_scene

MediaModality: TypeAlias = Literal["image", "video", "audio"]
MEDIA: Final[tuple[MediaModality, ...]] = ("image", "video", "audio")
SEEN: Final[tuple[MediaModality, ...]] = ("image", "video")
VARIANTS: Final = 4  # pictures of each scene, so that encoder features can be kept
_DRAW: Final[Mapping[str, Any]] = {"image": draw_scene, "video": draw_clip, "audio": draw_sound}
_ASK_WHAT: Final = {"image": ASK_WHAT, "video": ASK_WHAT_CLIP, "audio": ASK_WHAT_SOUND}
_MODALITY: Final[Mapping[type, MediaModality]] = {Scene: "image", Clip: "video", Sound: "audio"}


class DescribeSource:
    """Stage 1: a medium and a request to describe it; the answer is its canonical caption.

    Args:
        modalities: of the media, at even chance.
    """

    num_samples: int | None = None

    def __init__(self, modalities: Sequence[MediaModality] = ("image",)) -> None:
        self.modalities = tuple(modalities)

    def sample(self, index: int, epoch: int) -> Sample:
        """The conversation at `index`."""
        rng = random.Random(f"describe:{index}")
        modality = rng.choice(self.modalities)
        subject = _DRAW[modality](rng, held_out=False)
        shown = medium(subject, rng.randrange(VARIANTS))
        ask = rng.choice(_ASK_WHAT[modality])
        question = turn("user", shown, ask) if rng.random() < 0.7 else turn("user", ask, shown)
        answer = turn("assistant", f"{canonical_words(subject)}.")
        return Sample((question, answer), f"describe {index}")


class NamelessSource:
    """Stages 1 and 3: pictures and clips of which something has no name, and what else they show.

    Things in colors and on courses without a name, and shapes that are no thing: neither what a
    thing is nor its color or motion must be learnt from the pairs that are shown. The questions are
    such that the answer says nothing of what has no name: asked to describe such media whole, a
    model learns to leave the colors of held-out pairs unsaid, too.

    Args:
        turns: the user also asks for the thing's sound, or for a picture in a color with a name.
    """

    num_samples: int | None = None

    def __init__(self, *, turns: bool) -> None:
        self.turns = turns

    def sample(self, index: int, epoch: int) -> Sample:
        """The conversation at `index`."""
        rng = random.Random(f"nameless:{index}")
        draw = rng.choice((_nameless_thing, _nameless_thing, _nameless_shape))
        said, shown = draw(rng)
        words, answer = self._about(said, rng)
        question = turn("user", shown, words) if rng.random() < 0.7 else turn("user", words, shown)
        answered = turn("assistant", *[_made(item) for item in answer])
        return Sample((question, answered), f"nameless {index}")

    def _about(self, said: Scene | Clip, rng: random.Random) -> tuple[str, tuple[Content, ...]]:
        """A question, and its true answer."""
        chance = rng.random() if self.turns and said.thing else 1.0
        if chance < 0.35:
            sound = complete_sound(Sound(said.thing), rng, held_out=None)
            return rng.choice(TO_SOUND), (ANNOUNCEMENT.format(canonical_words(sound)), sound)
        while isinstance(said, Scene) and chance < 0.5:
            request, after = draw_edit(said, rng)
            if after.color is not None:
                return request, (ANNOUNCEMENT.format(canonical_words(after)), after)
        names = [name for name in said.said() if name != "background"]
        question, answer = attribute_question(said, rng, names[0] if rng.random() < 0.6 else None)
        return question, (answer,)


class DrawSource:
    """Stage 2: a request in words; the answer repeats it and makes the medium.

    Args:
        held_out: None = captions of any medium (text alone); False = of trainable ones.
        num_samples: size of the set; finite where what is computed once shall be kept.
        modalities: of the media, at even chance.
    """

    def __init__(
        self,
        held_out: bool | None = None,
        *,
        num_samples: int | None = None,
        modalities: Sequence[MediaModality] = ("image",),
    ) -> None:
        self.held_out = held_out
        self.num_samples = num_samples
        self.modalities = tuple(modalities)

    def sample(self, index: int, epoch: int) -> Sample:
        """The conversation at `index`."""
        rng = random.Random(f"draw:{index}")
        dialogue = MediaDialogue(rng, self.held_out, self.held_out)
        modality = rng.choice(self.modalities)
        {"image": dialogue.draw, "video": dialogue.film, "audio": dialogue.play}[modality]()
        return Sample(to_turns(dialogue.turns), f"draw {index}")


class DialogueSource:
    """Stage 3: conversations that switch modality.

    Args:
        held_out: as in DrawSource, for media to be made; shown ones are always trainable.
        purpose: another one gives other conversations, for validation.
        num_samples: size of the set; finite where what is computed once shall be kept.
        all_media: clips and sounds as well as pictures.
    """

    def __init__(
        self,
        held_out: bool | None = None,
        *,
        purpose: str = "instruct",
        num_samples: int | None = None,
        all_media: bool = False,
    ) -> None:
        self.held_out = held_out
        self.purpose = purpose
        self.num_samples = num_samples
        self.all_media = all_media

    def sample(self, index: int, epoch: int) -> Sample:
        """The conversation at `index`."""
        rng = random.Random(f"{self.purpose}:{index}")
        draw = draw_media_dialogue if self.all_media else draw_dialogue
        turns = draw(rng, max_turns=3, held_out=self.held_out, shown_held_out=False)
        return Sample(to_turns(turns, rng), f"{self.purpose} {index}")


def to_turns(turns: Sequence[Turn], rng: random.Random | None = None) -> tuple[Message, ...]:
    """Questions and answers as messages: shown media are rendered, made ones become captions."""
    messages: list[Message] = []
    for one in turns:
        messages.append(turn("user", *[_shown(item, rng) for item in one.question]))
        messages.append(turn("assistant", *[_made(item) for item in one.answer]))
    return tuple(messages)


@functools.lru_cache(maxsize=8192)
def medium(subject: Subject, variant: int) -> ImagePart | VideoPart | AudioPart:
    """One of the pictures of a full scene, or of the renderings of a full clip or sound."""
    if isinstance(subject, Scene):
        rng = random.Random(f"picture:{subject}:{variant}")
        return ImagePart(render_image(subject, Jitter.draw(rng)))
    rng = random.Random(f"medium:{subject}:{variant}")
    if isinstance(subject, Clip):
        return VideoPart(render_clip(subject, ClipJitter.draw(rng)), CLIP_FRAMES_PER_SECOND)
    return AudioPart(render_sound(subject, SoundJitter.draw(rng))[None], SAMPLE_RATE)


def _nameless_thing(rng: random.Random) -> tuple[Scene | Clip, ImagePart | VideoPart]:
    """A thing whose color or course has no name: what can be said of it, and its medium."""
    if rng.random() < 0.5:
        clip = draw_clip(rng, held_out=False)
        tinted, wandering = rng.choice(((True, False), (False, True), (True, True)))
        clip, frames = render_untold_clip(clip, rng, tinted=tinted, wandering=wandering)
        return clip, VideoPart(frames, CLIP_FRAMES_PER_SECOND)
    scene = draw_scene(rng, held_out=False)
    assert scene.thing is not None
    tint = draw_tint(scene.thing, rng, palest=PALEST)
    scene = replace(scene, color=None)
    return scene, ImagePart(render_image(scene, Jitter.draw(rng), tint=tint))


def _nameless_shape(rng: random.Random) -> tuple[Scene | Clip, ImagePart | VideoPart]:
    """A shape of chance in a color with a name, at rest; or in motion."""
    if rng.random() < 0.5:
        clip, frames = render_nameless_clip(rng)
        return clip, VideoPart(frames, CLIP_FRAMES_PER_SECOND)
    while (shape := render_nameless(rng)).scene().color is None:
        pass
    scene = shape.scene()
    if rng.random() < 0.5:
        return scene, ImagePart(Image.fromarray(shape.pixels))
    still = np.repeat(shape.pixels[None], CLIP_FRAMES, axis=0)
    return Clip(color=scene.color, background=scene.background), VideoPart(
        still, CLIP_FRAMES_PER_SECOND
    )


def _shown(item: Content, rng: random.Random | None) -> str | ImagePart | VideoPart | AudioPart:
    if isinstance(item, str):
        return item
    return medium(item, rng.randrange(VARIANTS) if rng else 0)


def _made(item: Content) -> str | MediaTarget:
    if isinstance(item, str):
        return item
    return MediaTarget(_MODALITY[type(item)], caption=canonical_words(item))
