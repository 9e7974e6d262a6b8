"""The pocket world: things that look, move and sound; which combinations exist and are held out.

A scene names every attribute of one picture. All 1,920 picture scenes are seeded, renderable
(`pocket.render`), sayable (`pocket.captions`) and checkable (`pocket.check`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

THINGS: Final = ("bell", "drum", "bird", "bee", "siren", "clock", "horn", "cloud")
COLORS: Final = ("red", "yellow", "green", "cyan", "blue", "purple")
SIZES: Final = ("small", "large")
PLACES: Final = ("left", "right", "top", "bottom", "center")
BACKGROUNDS: Final = ("white", "gray", "beige", "pink")
MOTIONS: Final = ("left", "right", "up", "down", "growing", "shrinking")
COUNTS: Final = ("once", "twice", "thrice")
PITCHES: Final = ("high", "low")

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "thing": THINGS,
    "color": COLORS,
    "size": SIZES,
    "place": PLACES,
    "background": BACKGROUNDS,
}

# No picture of these (thing, color) pairs is used in any training: each thing once, no color more
# than twice. Their captions may appear as text.
HELD_OUT_PAIRS: Final = frozenset(
    (thing, COLORS[(5 * index + 2) % len(COLORS)]) for index, thing in enumerate(THINGS)
)


class Described:
    """What a medium can be said to show or to sound like: attributes, some of them said.

    Subclasses are frozen dataclasses whose fields are the attributes; None means "not said".
    """

    ATTRIBUTES: ClassVar[Mapping[str, tuple[str, ...]]]

    @property
    def full(self) -> bool:
        """Whether every attribute is given."""
        return all(getattr(self, name) is not None for name in self.ATTRIBUTES)

    def said(self) -> dict[str, str]:
        """The attributes that are given."""
        values = {name: getattr(self, name) for name in self.ATTRIBUTES}
        return {name: value for name, value in values.items() if value}

    def only(self, names: Sequence[str]) -> Self:
        """With all but the named attributes unsaid."""
        return type(self)(**{name: getattr(self, name) for name in names})

    def changed(self, attribute: str, value: str) -> Self:
        """With one attribute changed."""
        return type(self)(**{**self.said(), attribute: value})


@dataclass(frozen=True)
class Scene(Described):
    """One picture's attributes; None means "not said" (in a prompt), never in a full scene."""

    ATTRIBUTES: ClassVar[Mapping[str, tuple[str, ...]]] = ATTRIBUTES

    thing: str | None = None
    color: str | None = None
    size: str | None = None
    place: str | None = None
    background: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether no training may show a picture of it."""
        return (self.thing, self.color) in HELD_OUT_PAIRS


def draw_scene(rng: random.Random, *, held_out: bool | None = False) -> Scene:
    """Draw a full scene.

    Args:
        rng: the source of chance.
        held_out: False for the trainable ones, True for the held-out ones, None for any.
    """
    while True:
        scene = Scene(**{name: rng.choice(values) for name, values in ATTRIBUTES.items()})
        if held_out is None or scene.held_out == held_out:
            return scene


def complete(scene: Scene, rng: random.Random, *, held_out: bool | None = False) -> Scene:
    """Draw what a scene leaves unsaid.

    Raises:
        ValueError: what it says allows no such completion.
    """
    for _ in range(10_000):
        drawn = replace(draw_scene(rng, held_out=None), **scene.said())
        if held_out is None or drawn.held_out == held_out:
            return drawn
    raise ValueError(
        f"expected a scene that can be completed with held_out={held_out}; got {scene}"
    )


def all_scenes(*, held_out: bool | None = None) -> list[Scene]:
    """Every full scene in a fixed order."""
    scenes = [
        Scene(thing, color, size, place, background)
        for thing in THINGS
        for color in COLORS
        for size in SIZES
        for place in PLACES
        for background in BACKGROUNDS
    ]
    return [scene for scene in scenes if held_out is None or scene.held_out == held_out]
