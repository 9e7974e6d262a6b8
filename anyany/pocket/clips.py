"""What moves in the pocket world: thing, color, background and motion; in words and back.

All 1,152 clips are seeded, renderable (`pocket.animation`), sayable (here) and checkable
(`pocket.check_clip`). The parser scores what a model writes: two values for one attribute make a
text unparsable.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from anyany.pocket.captions import CLIP_WORDS, WORDS
from anyany.pocket.world import BACKGROUNDS, COLORS, HELD_OUT_PAIRS, MOTIONS, THINGS, Described

CLIP_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "thing": THINGS,
    "color": COLORS,
    "background": BACKGROUNDS,
    "motion": MOTIONS,
}

# No clip of these (thing, motion) pairs, nor of the held-out (thing, color) pairs, is used in any
# training: each thing once, no motion more than twice. Their captions may appear as text.
HELD_OUT_MOTIONS: Final = frozenset(
    (thing, MOTIONS[(index + 1) % len(MOTIONS)]) for index, thing in enumerate(THINGS)
)
_WORDS: Final = {name: WORDS[name] for name in ("thing", "color", "background")} | CLIP_WORDS
_VALUE_OF: Final = {
    word: (attribute, value)
    for attribute, values in _WORDS.items()
    for value, words in values.items()
    for word in words
}


@dataclass(frozen=True)
class Clip(Described):
    """One clip's attributes; None means "not said" (in a prompt), never in a full clip."""

    ATTRIBUTES: ClassVar[Mapping[str, tuple[str, ...]]] = CLIP_ATTRIBUTES

    thing: str | None = None
    color: str | None = None
    background: str | None = None
    motion: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether no training may show a clip of it."""
        return (self.thing, self.color) in HELD_OUT_PAIRS or (
            self.thing,
            self.motion,
        ) in HELD_OUT_MOTIONS


def all_clips(*, held_out: bool | None = None) -> list[Clip]:
    """Every full clip in a fixed order."""
    clips = [
        Clip(thing, color, background, motion)
        for thing in THINGS
        for color in COLORS
        for background in BACKGROUNDS
        for motion in MOTIONS
    ]
    return [clip for clip in clips if held_out is None or clip.held_out == held_out]


def draw_clip(rng: random.Random, *, held_out: bool | None = False) -> Clip:
    """Draw a full clip.

    Args:
        rng: the source of chance.
        held_out: False for the trainable ones, True for the held-out ones, None for any.
    """
    while True:
        clip = Clip(**{name: rng.choice(values) for name, values in CLIP_ATTRIBUTES.items()})
        if held_out is None or clip.held_out == held_out:
            return clip


def complete_clip(clip: Clip, rng: random.Random, *, held_out: bool | None = False) -> Clip:
    """Draw what a clip leaves unsaid.

    Raises:
        ValueError: what it says allows no such completion.
    """
    for _ in range(10_000):
        drawn = replace(draw_clip(rng, held_out=None), **clip.said())
        if held_out is None or drawn.held_out == held_out:
            return drawn
    raise ValueError(f"expected a clip that can be completed with held_out={held_out}; got {clip}")


def draw_partial_clip(clip: Clip, rng: random.Random) -> Clip:
    """Leave some attributes unsaid, as people do; the thing or the color is kept."""
    if rng.random() < 0.5:
        return clip
    kept = [name for name in CLIP_ATTRIBUTES if rng.random() < 0.55]
    if "thing" not in kept and (rng.random() < 0.9 or "color" not in kept):
        kept.append("thing")
    return clip.only(kept)


def canonical_clip_caption(clip: Clip) -> str:
    """The one way in which a model is taught to say a clip (or a part of one).

    "a red bell moving left on a white background"
    """
    pieces = ["a", clip.color, clip.thing or "thing"]
    if clip.motion:
        pieces.append(_doing(clip.motion))
    if clip.background:
        pieces.append(f"on a {clip.background} background")
    return " ".join(piece for piece in pieces if piece)


def clip_caption(clip: Clip, rng: random.Random) -> str:
    """One of many ways to say what a clip says: order, synonyms, terse or long."""
    word = {
        name: rng.choice(_WORDS[name][value]) if rng.random() < 0.4 else _WORDS[name][value][0]
        for name, value in clip.said().items()
    }
    noun = _joined(word.get("color"), word.get("thing", "thing"))
    motion, background = word.get("motion"), word.get("background")
    moving = _doing(motion) if motion else ""
    style = rng.randrange(6)
    if style == 0:  # terse
        pieces = (noun, motion, background and f"{background} background")
        return ", ".join(piece for piece in pieces if piece)
    if style == 1:
        return _joined(f"a {noun}", moving, background and f"on a {background} background")
    if style == 2:
        kind = rng.choice(("video", "clip", "movie"))
        where = background and f"with a {background} background"
        return _joined(f"a {kind} of a {noun}", moving, where)
    if style == 3 and motion and _is_direction(motion):
        where = background and f"on a {background} background"
        return _joined(f"the {noun} moves {motion}", where)
    if style == 4 and background:
        return _joined(f"a {background} background with a {noun}", moving)
    return _joined(background and f"on {background},", f"a {noun}", moving)


def parse_clip(text: str) -> Clip | None:
    """The attributes that a text names; None if it names two values of one attribute."""
    said: dict[str, str] = {}
    for token in re.findall(r"[a-z]+", text.lower()):
        attribute, value = _VALUE_OF.get(token, (None, ""))
        if attribute is not None and said.setdefault(attribute, value) != value:
            return None
    return Clip(**said)


def clip_attributes_right(text: str, clip: Clip) -> dict[str, bool]:
    """Per attribute that the clip says, whether the text says the same."""
    parsed = parse_clip(text)
    return {
        name: parsed is not None and getattr(parsed, name) == value
        for name, value in clip.said().items()
    }


def _doing(motion: str) -> str:
    """Moving left; growing."""
    return f"moving {motion}" if _is_direction(motion) else motion


def _is_direction(word: str) -> bool:
    return not word.endswith("ing")


def _joined(*pieces: str | None) -> str:
    return " ".join(piece for piece in pieces if piece)
