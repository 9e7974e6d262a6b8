"""Clips to frames: 8 pictures, a second at 8 frames a second, in which one thing moves.

The start is drawn so that the thing stays in frame all the time; where it starts, how large it is
and its exact speed are not spoken of in captions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from anyany.pocket.clips import Clip
from anyany.pocket.render import BACKGROUND_RGB, COLOR_RGB, IMAGE_SIZE, Color, draw_thing

CLIP_FRAMES: Final = 8
CLIP_FRAMES_PER_SECOND: Final = 8.0
STEP: Final = 3.0  # pixels from frame to frame
GROWTH: Final = 1.8  # from the first frame to the last, or its inverse
_RADII: Final = (9.0, 14.0)  # pixels, of things that move
_SMALLEST: Final = (8.0, 9.5)  # pixels, of things that grow or shrink
_STARTS: Final = (0.4, 0.6)
_MARGIN: Final = 2.0  # pixels to the frame
_TOWARDS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class ClipJitter:
    """What a caption does not speak of; each from 0 to 1 within what the motion allows.

    Args:
        x, y: where the thing is.
        size: how large it is.
        speed: 90% to 110% of the usual step.
    """

    x: float = 0.5
    y: float = 0.5
    size: float = 0.5
    speed: float = 0.5

    @classmethod
    def draw(cls, rng: random.Random) -> ClipJitter:
        """At even chance, the start in the middle fifth of what the motion allows.

        From anywhere, a start tells so little of the way that no denoiser learnt to heed the words.
        """
        return cls(rng.uniform(*_STARTS), rng.uniform(*_STARTS), rng.random(), rng.random())


@dataclass(frozen=True)
class Pose:
    """Where a thing is in one frame, and how large: pixels."""

    x: float
    y: float
    radius: float


def render_clip(
    clip: Clip,
    jitter: ClipJitter | None = None,
    *,
    tint: Color | None = None,
    course: Sequence[Pose] | None = None,
) -> npt.NDArray[np.uint8]:
    """Draw a full clip: uint8 [8, 64, 64, 3].

    Args:
        clip: full, but for the color if there is a tint and for the motion if there is a course.
        jitter: the middle of everything by default; a course has its own.
        tint: the thing's color, instead of a named one.
        course: its poses, one a frame, instead of a named motion.

    Raises:
        ValueError: the clip leaves an attribute unsaid, or names a color beside a tint or a motion
            beside a course.
    """
    instead = {"color": tint, "motion": course}
    stated = clip.said()
    if any((name in stated) == (instead.get(name) is not None) for name in clip.ATTRIBUTES):
        raise ValueError(
            f"expected a full clip; got {clip}, tint {tint} and {'a' if course else 'no'} course: "
            "complete it first"
        )
    assert clip.thing is not None
    color = tint or COLOR_RGB[clip.color or ""]
    background = BACKGROUND_RGB[clip.background or ""]
    return np.stack(
        [
            draw_thing(clip.thing, color, background, center=(pose.x, pose.y), radius=pose.radius)
            for pose in course or poses(clip.motion or "", jitter or ClipJitter())
        ]
    )


def poses(motion: str, jitter: ClipJitter) -> list[Pose]:
    """The course of a motion, one pose a frame; the thing's box stays inside all of them."""
    progress = np.linspace(0, 1, CLIP_FRAMES)
    if motion in _TOWARDS:
        radius = _between(_RADII, jitter.size)
        way = STEP * (0.9 + 0.2 * jitter.speed) * (CLIP_FRAMES - 1)
        right, down = _TOWARDS[motion]
        x = _course(jitter.x, radius, right * way, progress)
        y = _course(jitter.y, radius, down * way, progress)
        return [Pose(float(a), float(b), radius) for a, b in zip(x, y, strict=True)]
    smallest = _between(_SMALLEST, jitter.size)
    radii = smallest * GROWTH ** (progress if motion == "growing" else 1 - progress)
    largest = smallest * GROWTH
    x, y = (_course(place, largest, 0.0, progress) for place in (jitter.x, jitter.y))
    return [Pose(float(a), float(b), float(r)) for a, b, r in zip(x, y, radii, strict=True)]


def _course(
    place: float, radius: float, way: float, progress: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """One coordinate from frame to frame: from anywhere from which the way stays in frame."""
    low, high = radius + _MARGIN, IMAGE_SIZE - radius - _MARGIN
    start = _between((low - min(way, 0.0), high - max(way, 0.0)), place)
    return start + way * progress


def _between(ends: tuple[float, float], place: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * place
