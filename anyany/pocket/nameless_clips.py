"""Shapes that have no name, in motion: what the video denoiser sees beside the world's things.

A denoiser that only ever meets the shown (thing, motion) pairs learns them by heart and fails on
the pairs that are held out. Shapes of chance teach it motion apart from things. None of them
passes for a held-out clip: the checker, shown such frames, would say so.
"""

from __future__ import annotations

import random
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from anyany.pocket.animation import ClipJitter, poses
from anyany.pocket.check_clip import check_clip
from anyany.pocket.clips import Clip
from anyany.pocket.nameless import render_nameless
from anyany.pocket.render import IMAGE_SIZE
from anyany.pocket.world import MOTIONS

_RADIUS: Final = 12.0  # pixels, of a nameless shape on the average


def render_nameless_clip(rng: random.Random) -> tuple[Clip, npt.NDArray[np.uint8]]:
    """A shape of chance in one of the world's motions.

    Returns:
        What can be said of it (background and motion), and frames uint8 [8, 64, 64, 3].
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
            return Clip(background=shape.scene().background, motion=motion), clip
