"""Shapes that have no name, in motion, and courses that have none: beside the world's clips.

A model that only ever meets the shown (thing, motion) pairs learns them by heart and fails on the
pairs that are held out. Shapes of chance teach it motion apart from things, courses of chance teach
it things apart from motions. No shape passes for a held-out clip: the checker, shown its frames,
would say so. No course leans the way that is held out for its thing, though the checker may take
a nearly diagonal one for it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from anyany.pocket.animation import CLIP_FRAMES, ClipJitter, Pose, poses, render_clip
from anyany.pocket.check_clip import check_clip
from anyany.pocket.clips import HELD_OUT_MOTIONS, Clip
from anyany.pocket.nameless import render_nameless
from anyany.pocket.render import IMAGE_SIZE, PALEST, draw_tint
from anyany.pocket.world import MOTIONS

_RADIUS: Final = 12.0  # pixels, of a nameless shape on the average
_RADII: Final = (8.0, 16.0)  # pixels, of a thing on a nameless course
_AT_REST: Final = 0.3  # of the courses
_ASLANT: Final = (8.0, 18.0)  # pixels, to a side and up or down alike
_UNEVEN: Final = (0.8, 1.2)  # of that, each on its own
_MOST_GROWTH: Final = 1.15  # or its inverse, from the first frame to the last
_MARGIN: Final = 2.0  # pixels to the frame


def render_nameless_clip(rng: random.Random) -> tuple[Clip, npt.NDArray[np.uint8]]:
    """A shape of chance in one of the world's motions.

    Returns:
        What can be said of it (background, motion, and its color if that has a name), and frames
        uint8 [8, 64, 64, 3].
    """
    while True:
        shape = render_nameless(rng)
        motion = rng.choice(MOTIONS)
        picture = Image.fromarray(shape.pixels)
        frames = []
        for pose in poses(motion, ClipJitter.draw(rng)):
            shrink = _RADIUS / pose.radius
            moved = picture.transform(
                (IMAGE_SIZE, IMAGE_SIZE),
                Image.Transform.AFFINE,
                (
                    *(shrink, 0.0, shape.center[0] - shrink * pose.x),
                    *(0.0, shrink, shape.center[1] - shrink * pose.y),
                ),
                resample=Image.Resampling.BICUBIC,
                fillcolor=shape.background,
            )
            frames.append(np.asarray(moved, dtype=np.uint8))
        clip = np.stack(frames)
        if not check_clip(clip).held_out:
            seen = shape.scene()
            return Clip(color=seen.color, background=seen.background, motion=motion), clip


def render_untold_clip(
    clip: Clip, rng: random.Random, *, tinted: bool, wandering: bool
) -> tuple[Clip, npt.NDArray[np.uint8]]:
    """A full clip whose color or motion has no name.

    Args:
        clip: the clip.
        rng: the source of chance.
        tinted: in a nameless color.
        wandering: on a nameless course.

    Returns:
        What can still be said of it, and frames uint8 [8, 64, 64, 3].
    """
    thing = clip.thing
    assert thing is not None
    tint = course = None
    if tinted:
        tint = draw_tint(thing, rng, palest=PALEST)
        clip = replace(clip, color=None)
    if wandering:
        course = draw_course(thing, rng)
        clip = replace(clip, motion=None)
    return clip, render_clip(clip, ClipJitter.draw(rng), tint=tint, course=course)


def draw_course(thing: str, rng: random.Random) -> list[Pose]:
    """A course that no motion's name fits: at rest, or aslant. One pose a frame.

    Args:
        thing: what takes it: never aslant towards where a held-out motion would take it.
        rng: the source of chance.
    """
    growth = _MOST_GROWTH ** rng.uniform(-1.0, 1.0)
    radius = rng.uniform(*_RADII)
    reach = max(radius, radius * growth) + _MARGIN
    right, down = (0.0, 0.0) if rng.random() < _AT_REST else _way_aslant(reach, rng)
    while right and (thing, _nearest(right, down)) in HELD_OUT_MOTIONS:
        right, down = _way_aslant(reach, rng)
    x, y = (
        rng.uniform(reach - min(way, 0.0), IMAGE_SIZE - reach - max(way, 0.0))
        for way in (right, down)
    )
    return [
        Pose(x + right * progress, y + down * progress, radius * growth**progress)
        for progress in np.linspace(0.0, 1.0, CLIP_FRAMES).tolist()
    ]


def _way_aslant(reach: float, rng: random.Random) -> tuple[float, float]:
    """Pixels to the right and down, from the first frame to the last."""
    room = IMAGE_SIZE - 2 * reach
    way = min(rng.uniform(*_ASLANT), room / _UNEVEN[1])
    right, down = (way * rng.uniform(*_UNEVEN) * rng.choice((-1, 1)) for _ in range(2))
    return right, down


def _nearest(right: float, down: float) -> str:
    """The named motion that a course aslant is nearest to."""
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"
