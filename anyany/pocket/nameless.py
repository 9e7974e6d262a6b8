"""Shapes that have no name, in any color: what an autoencoder sees beside the world's things.

An autoencoder that only ever meets the shown (thing, color) pairs learns them by heart and fails
on the pairs that are held out. Shapes of chance teach it color and outline apart. None of them
passes for a thing of a held-out pair: the checker, shown such a picture, would say so.
"""

from __future__ import annotations

import colorsys
import math
import random
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from anyany.pocket.check import check_image
from anyany.pocket.render import BACKGROUND_RGB, COLOR_RGB, INK, LIGHT, Brush, Color, Point, paint
from anyany.pocket.world import HELD_OUT_PAIRS, Scene

_MARGIN: Final = 14.0  # pixels between a center and the picture's edge
_SIDE: Final = 64.0


class Nameless(NamedTuple):
    """A shape of chance: pixels uint8 [64, 64, 3], colors, and where it stands (x, y)."""

    pixels: npt.NDArray[np.uint8]
    color: Color
    background: Color
    center: tuple[float, float]

    def scene(self) -> Scene:
        """What can be said of it: its background, and its color if that has a name."""
        named = {color: name for name, color in COLOR_RGB.items()}
        grounds = {color: name for name, color in BACKGROUND_RGB.items()}
        return Scene(color=named.get(self.color), background=grounds[self.background])


def render_nameless(rng: random.Random) -> Nameless:
    """A shape of chance."""
    while True:
        background = rng.choice(list(BACKGROUND_RGB.values()))
        center = (rng.uniform(_MARGIN, _SIDE - _MARGIN), rng.uniform(_MARGIN, _SIDE - _MARGIN))
        brush_radius = rng.uniform(8.0, 16.0)
        color = _any_color(rng)
        parts = _shape(rng, color)

        def draw(brush: Brush, parts: list[tuple[str, Any]] = parts) -> None:
            for name, arguments in parts:
                getattr(brush, name)(*arguments)

        pixels = paint(draw, color, background, center=center, radius=brush_radius)
        seen = check_image(pixels)
        if (seen.thing, seen.color) not in HELD_OUT_PAIRS:
            return Nameless(pixels, color, background, center)


def _any_color(rng: random.Random) -> Color:
    if rng.random() < 0.6:
        return rng.choice(list(COLOR_RGB.values()))
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.7, 1.0), rng.uniform(0.6, 1.0))
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def _shape(rng: random.Random, color: Color) -> list[tuple[str, Any]]:
    """Calls of a brush: one to four bodies, then up to four accents in ink or light."""
    parts: list[tuple[str, Any]] = []
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        outline = INK if rng.random() < 0.8 else None
        parts.append(_blob(rng, color, outline, spread=0.5, size=(0.35, 1.0)))
    for _ in range(rng.choice((0, 1, 2, 3, 4))):
        ink = rng.choice((INK, LIGHT))
        if rng.random() < 0.5:
            points = [_point(rng), _point(rng), _point(rng)][: rng.choice((2, 3))]
            parts.append(("line", (points, ink, rng.uniform(0.1, 0.2))))
        else:
            outline = INK if rng.random() < 0.5 else None
            parts.append(_blob(rng, ink, outline, spread=0.8, size=(0.1, 0.6)))
    rng.shuffle(parts)
    return parts


def _blob(
    rng: random.Random,
    fill: Color,
    outline: Color | None,
    *,
    spread: float,
    size: tuple[float, float],
) -> tuple[str, Any]:
    """An ellipse, a box or a polygon somewhere in a thing's box."""
    x, y = rng.uniform(-spread, spread), rng.uniform(-spread, spread)
    rx = min(rng.uniform(*size), 1.0 - abs(x) * 0.5)
    ry = min(rng.uniform(*size), 1.0 - abs(y) * 0.5)
    kind = rng.random()
    if kind < 0.4:
        return "ellipse", (x, y, rx, ry, fill, outline)
    if kind < 0.6:
        corners = [(x - rx, y - ry), (x + rx, y - ry), (x + rx, y + ry), (x - rx, y + ry)]
        return "polygon", (corners, fill, outline)
    start = rng.uniform(0, 2 * math.pi)
    count = rng.choice((3, 4, 5, 6, 8))
    points = []
    for k in range(count):
        angle = start + 2 * math.pi * k / count
        reach = rng.uniform(0.5, 1.0)
        points.append((x + rx * reach * math.cos(angle), y + ry * reach * math.sin(angle)))
    return "polygon", (points, fill, outline)


def _point(rng: random.Random) -> Point:
    return rng.uniform(-1, 1), rng.uniform(-1, 1)
