"""What the alignment stages learn from in the pocket world: infinite, procedural, held-out safe.

Pictures are shown of trainable scenes alone. Pictures to be drawn are only captions here, and
captions may speak of any scene.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Final

from anyany.alignment.samples import MediaTarget, Sample, turn
from anyany.messages import ImagePart, Message
from anyany.pocket.captions import canonical_caption, caption, draw_partial
from anyany.pocket.dialogues import (
    ANNOUNCEMENT,
    ASK_TO_DRAW,
    ASK_WHAT,
    Content,
    Turn,
    draw_dialogue,
)
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.world import Scene, draw_scene

VARIANTS: Final = 4  # pictures of each scene, so that encoder features can be kept


class DescribeSource:
    """Stage 1: a picture and a request to describe it; the answer is its canonical caption."""

    num_samples: int | None = None

    def sample(self, index: int, epoch: int) -> Sample:
        """The conversation at `index`."""
        rng = random.Random(f"describe:{index}")
        scene = draw_scene(rng)
        shown = picture(scene, rng.randrange(VARIANTS))
        ask = rng.choice(ASK_WHAT)
        question = turn("user", shown, ask) if rng.random() < 0.7 else turn("user", ask, shown)
        answer = turn("assistant", f"{canonical_caption(scene)}.")
        return Sample((question, answer), f"describe {index}")


class DrawSource:
    """Stage 2: a request in words; the answer repeats it and draws.

    Args:
        held_out: None = captions of any scene (text alone); False = of trainable ones.
        num_samples: size of the set; finite where what is computed once shall be kept.
    """

    def __init__(self, held_out: bool | None = None, *, num_samples: int | None = None) -> None:
        self.held_out = held_out
        self.num_samples = num_samples

    def sample(self, index: int, epoch: int) -> Sample:
        """The conversation at `index`."""
        rng = random.Random(f"draw:{index}")
        scene = draw_partial(draw_scene(rng, held_out=self.held_out), rng)
        request = rng.choice(ASK_TO_DRAW).format(caption(scene, rng))
        said = (ANNOUNCEMENT.format(canonical_caption(scene)), scene)
        return Sample(to_turns((Turn((request,), said),)), f"draw {index}")


class DialogueSource:
    """Stage 3: conversations that switch modality.

    Args:
        held_out: as in DrawSource, for pictures to be drawn; shown ones are always trainable.
        purpose: another one gives other conversations, for validation.
        num_samples: size of the set; finite where what is computed once shall be kept.
    """

    def __init__(
        self,
        held_out: bool | None = None,
        *,
        purpose: str = "instruct",
        num_samples: int | None = None,
    ) -> None:
        self.held_out = held_out
        self.purpose = purpose
        self.num_samples = num_samples

    def sample(self, index: int, epoch: int) -> Sample:
        """The conversation at `index`."""
        rng = random.Random(f"{self.purpose}:{index}")
        turns = draw_dialogue(rng, max_turns=3, held_out=self.held_out, shown_held_out=False)
        return Sample(to_turns(turns, rng), f"{self.purpose} {index}")


def to_turns(turns: Sequence[Turn], rng: random.Random | None = None) -> tuple[Message, ...]:
    """Questions and answers as messages: shown scenes are rendered, drawn ones become captions."""
    messages: list[Message] = []
    for one in turns:
        messages.append(turn("user", *[_shown(item, rng) for item in one.question]))
        messages.append(turn("assistant", *[_drawn(item) for item in one.answer]))
    return tuple(messages)


@functools.lru_cache(maxsize=8192)
def picture(scene: Scene, variant: int) -> ImagePart:
    """One of the pictures of a full scene."""
    rng = random.Random(f"picture:{scene}:{variant}")
    return ImagePart(render_image(scene, Jitter.draw(rng)))


def _shown(item: Content, rng: random.Random | None) -> str | ImagePart:
    if isinstance(item, str):
        return item
    return picture(item, rng.randrange(VARIANTS) if rng else 0)


def _drawn(item: Content) -> str | MediaTarget:
    if isinstance(item, str):
        return item
    return MediaTarget("image", caption=canonical_caption(item))
