"""Scenes to pixels: silhouettes with one accent each, drawn at four times the size and averaged.

The renderer is the truth that generators learn from. It shares no code with any model.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from anyany.pocket.world import HELD_OUT_PAIRS, Scene

IMAGE_SIZE: Final = 64  # pixels
_OVERSAMPLING: Final = 4
_TINT_CLEARANCE: Final = 0.04  # of a hue from every named one, as part of the circle
PALEST: Final = 0.1  # saturation of nameless colors for models that see: known by shape alone

Color: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

COLOR_RGB: Final[dict[str, Color]] = {
    "red": (220, 30, 35),
    "yellow": (245, 215, 20),
    "green": (35, 165, 50),
    "cyan": (20, 200, 210),
    "blue": (35, 60, 215),
    "purple": (145, 40, 190),
}
BACKGROUND_RGB: Final[dict[str, Color]] = {
    "white": (246, 246, 246),
    "gray": (158, 160, 164),
    "beige": (228, 208, 160),
    "pink": (246, 186, 206),
}
INK: Final[Color] = (30, 30, 34)  # outlines and dark accents
LIGHT: Final[Color] = (252, 252, 240)  # light accents
RADIUS: Final = {"small": 10.0, "large": 15.0}  # pixels, half the height of a thing
CENTER: Final[dict[str, Point]] = {
    "left": (17.5, 32.0),
    "right": (46.5, 32.0),
    "top": (32.0, 17.5),
    "bottom": (32.0, 46.5),
    "center": (32.0, 32.0),
}


@dataclass(frozen=True)
class Jitter:
    """Small deviations that a caption does not speak of: pixels and a factor of the radius."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0

    @classmethod
    def draw(cls, rng: random.Random) -> Jitter:
        """Up to 1.5 pixels and 5% either way."""
        return cls(rng.uniform(-1.5, 1.5), rng.uniform(-1.5, 1.5), rng.uniform(0.95, 1.05))


def draw_tint(thing: str, rng: random.Random, *, palest: float = 0.75) -> Color:
    """A nameless color: clear of every named hue, and never nearest to one held out for the thing.

    Training shows things in such colors, with captions that leave the color unsaid, so that color
    is not learnt as a property of the pairs that are shown.

    Args:
        thing: whose color it shall be.
        rng: the source of chance.
        palest: the least saturation; near 0 is nearly gray.
    """
    while True:
        hue = rng.random()
        rgb = colorsys.hsv_to_rgb(hue, rng.uniform(palest, 1.0), rng.uniform(0.6, 0.95))
        hues = {name: _hue_distance(hue, color) for name, color in COLOR_RGB.items()}
        tints = {name: _tint_distance(rgb, color) for name, color in COLOR_RGB.items()}
        near = {name for name in tints if tints[name] < 1.5 * min(tints.values())}
        near.add(min(hues, key=lambda name: hues[name]))
        clear = min(hues.values()) > _TINT_CLEARANCE
        if clear and not {(thing, name) for name in near} & HELD_OUT_PAIRS:
            return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def render_image(
    scene: Scene, jitter: Jitter | None = None, *, tint: Color | None = None
) -> Image.Image:
    """Draw a full scene as an RGB picture of 64 x 64 pixels; see `render_pixels`."""
    return Image.fromarray(render_pixels(scene, jitter, tint=tint))


def render_pixels(
    scene: Scene, jitter: Jitter | None = None, *, tint: Color | None = None
) -> npt.NDArray[np.uint8]:
    """Draw a full scene: uint8 [64, 64, 3].

    Args:
        scene: full, but for the color if there is a tint.
        jitter: none by default.
        tint: the thing's color, instead of a named one.

    Raises:
        ValueError: the scene leaves an attribute unsaid, or names a color beside a tint.
    """
    if not (replace(scene, color="red") if tint else scene).full or (tint and scene.color):
        raise ValueError(f"expected a full scene; got {scene} and tint {tint}: complete it first")
    color = tint or COLOR_RGB[scene.color or ""]
    assert scene.thing is not None
    assert scene.size is not None
    assert scene.place is not None
    assert scene.background is not None
    jitter = jitter or Jitter()
    x, y = CENTER[scene.place]
    return draw_thing(
        scene.thing,
        color,
        BACKGROUND_RGB[scene.background],
        center=(x + jitter.dx, y + jitter.dy),
        radius=RADIUS[scene.size] * jitter.scale,
    )


def draw_thing(
    thing: str, color: Color, background: Color, *, center: Point, radius: float
) -> npt.NDArray[np.uint8]:
    """Draw one thing anywhere at any radius (pixels): uint8 [64, 64, 3]."""
    return paint(_PAINTERS[thing], color, background, center=center, radius=radius)


def paint(
    draw: Callable[[Brush], None],
    color: Color,
    background: Color,
    *,
    center: Point,
    radius: float,
) -> npt.NDArray[np.uint8]:
    """Let a brush draw on a background, at any place and radius (pixels): uint8 [64, 64, 3]."""
    side = IMAGE_SIZE * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), background)
    draw(Brush(ImageDraw.Draw(canvas), center, radius, color))
    small = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).copy()


def _hue_distance(hue: float, rgb: Color) -> float:
    """Between a hue in [0, 1) and a color's, round the circle: 0 to 0.5."""
    other = colorsys.rgb_to_hsv(*(value / 255 for value in rgb))[0]
    return abs((hue - other + 0.5) % 1.0 - 0.5)


def _tint_distance(one: tuple[float, float, float], other: Color) -> float:
    """Between two colors with their brightness taken out."""
    return math.dist([v / max(one) for v in one], [v / max(other) for v in other])


class Brush:
    """Draws in a thing's own coordinates: its box is [-1, 1] x [-1, 1], y downwards."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, center: Point, radius: float, color: Color
    ) -> None:
        self._draw = draw
        self._center = center
        self._radius = radius
        self.color = color
        self._pen = max(1, round(1.2 * _OVERSAMPLING * radius / 12))

    def _at(self, x: float, y: float) -> Point:
        return (
            (self._center[0] + x * self._radius) * _OVERSAMPLING,
            (self._center[1] + y * self._radius) * _OVERSAMPLING,
        )

    def polygon(self, points: list[Point], fill: Color, outline: Color | None = INK) -> None:
        self._draw.polygon([self._at(*p) for p in points], fill=fill)
        if outline:
            ring = [self._at(*p) for p in [*points, points[0], points[1]]]
            self._draw.line(ring, fill=outline, width=self._pen, joint="curve")

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Color, outline: Color | None = INK
    ) -> None:
        box = [self._at(x - rx, y - ry), self._at(x + rx, y + ry)]
        self._draw.ellipse(box, fill=fill, outline=outline, width=self._pen if outline else 0)

    def line(self, points: list[Point], fill: Color, width: float) -> None:
        pixels = max(1, round(width * self._radius * _OVERSAMPLING))
        self._draw.line([self._at(*p) for p in points], fill=fill, width=pixels, joint="curve")


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> list[Point]:
    """Points of an elliptic arc; degrees, 0 = right, 90 = down."""
    angles = [math.radians(start + (stop - start) * k / 24) for k in range(25)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _bell(brush: Brush) -> None:
    brush.ellipse(0, 0.78, 0.24, 0.22, INK)
    body = [
        *_arc(0, -0.35, 0.5, 0.65, 180, 360),
        (0.6, 0.3),
        (0.95, 0.7),
        (-0.95, 0.7),
        (-0.6, 0.3),
    ]
    brush.polygon(body, brush.color)


def _drum(brush: Brush) -> None:
    body = [(-1.0, -0.35), (1.0, -0.35), *_arc(0, 0.5, 1.0, 0.35, 0, 180)]
    brush.polygon(body, brush.color)
    brush.ellipse(0, -0.4, 1.0, 0.36, LIGHT)
    brush.line([(0.15, -0.45), (0.75, -1.0)], INK, 0.14)


def _bird(brush: Brush) -> None:
    brush.polygon([(-0.45, 0.1), (-1.0, -0.3), (-0.95, 0.45)], brush.color)
    brush.polygon([(0.7, -0.6), (1.0, -0.4), (0.7, -0.25)], LIGHT)
    brush.ellipse(-0.05, 0.25, 0.65, 0.5, brush.color)
    brush.ellipse(0.45, -0.4, 0.38, 0.38, brush.color)
    brush.ellipse(0.52, -0.48, 0.1, 0.1, INK, None)
    brush.line([(-0.15, 0.7), (-0.15, 1.0)], INK, 0.12)
    brush.line([(0.15, 0.7), (0.15, 1.0)], INK, 0.12)


def _bee(brush: Brush) -> None:
    brush.ellipse(-0.3, -0.5, 0.3, 0.48, LIGHT)
    brush.ellipse(0.3, -0.5, 0.3, 0.48, LIGHT)
    brush.ellipse(0, 0.3, 0.95, 0.52, brush.color)
    for x, half in ((-0.4, 0.44), (0.0, 0.5), (0.4, 0.44)):
        brush.line([(x, 0.3 - half), (x, 0.3 + half)], INK, 0.19)


def _siren(brush: Brush) -> None:
    brush.polygon([(-0.9, 0.45), (0.9, 0.45), (0.9, 0.95), (-0.9, 0.95)], INK)
    brush.polygon([*_arc(0, 0.05, 0.6, 0.7, 180, 360), (0.6, 0.45), (-0.6, 0.45)], brush.color)
    for sign in (-1, 1):
        brush.line([(sign * 0.72, -0.5), (sign * 1.0, -0.85)], INK, 0.15)
    brush.line([(0, -0.75), (0, -1.0)], INK, 0.15)


def _clock(brush: Brush) -> None:
    brush.ellipse(0, 0, 1.0, 1.0, brush.color)
    brush.ellipse(0, 0, 0.62, 0.62, LIGHT)
    brush.line([(0, -0.48), (0, 0), (0.36, 0.2)], INK, 0.17)


def _horn(brush: Brush) -> None:
    brush.polygon(
        [(-1.0, -0.16), (-0.2, -0.16), (0.75, -0.8), (0.75, 0.8), (-0.2, 0.16), (-1.0, 0.16)],
        brush.color,
    )
    brush.ellipse(0.75, 0, 0.24, 0.82, LIGHT)
    brush.line([(-0.85, -0.32), (-0.85, 0.32)], INK, 0.16)


def _cloud(brush: Brush) -> None:
    for x in (-0.5, 0.0, 0.5):
        brush.line([(x + 0.08, 0.5), (x - 0.12, 1.0)], INK, 0.15)
    lobes = ((-0.55, 0.05, 0.42, 0.4), (0.55, 0.05, 0.42, 0.4), (0, -0.3, 0.52, 0.52))
    for x, y, rx, ry in lobes:
        brush.ellipse(x, y, rx, ry, brush.color)
    for x, y, rx, ry in lobes:
        brush.ellipse(x, y, rx - 0.1, ry - 0.1, brush.color, None)
    brush.polygon([(-0.55, 0.0), (0.55, 0.0), (0.55, 0.42), (-0.55, 0.42)], brush.color, None)
    brush.line([(-0.6, 0.43), (0.6, 0.43)], INK, 0.1)


_PAINTERS: Final = {
    "bell": _bell,
    "drum": _drum,
    "bird": _bird,
    "bee": _bee,
    "siren": _siren,
    "clock": _clock,
    "horn": _horn,
    "cloud": _cloud,
}
