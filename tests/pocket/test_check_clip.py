"""The checker of clips: right on what is true, and not fooled by what is not."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from anyany.pocket.animation import ClipJitter, render_clip
from anyany.pocket.check_clip import check_clip, score_clip
from anyany.pocket.clips import CLIP_ATTRIBUTES, Clip, draw_clip
from anyany.pocket.render import BACKGROUND_RGB


def test_true_clips_are_told_apart_in_every_attribute() -> None:
    rng = random.Random(1)
    scores = []
    for _ in range(110):
        clip = draw_clip(rng, held_out=None)
        scores.append(score_clip(render_clip(clip, ClipJitter.draw(rng)), clip))
    for name in CLIP_ATTRIBUTES:
        assert sum(score[name] for score in scores) / len(scores) >= 0.99, name


def test_small_errors_of_a_generator_are_forgiven() -> None:
    rng, noise = random.Random(0), np.random.default_rng(0)
    scores = []
    for number in range(30):
        clip = draw_clip(rng, held_out=None)
        frames = render_clip(clip, ClipJitter.draw(rng))
        if number % 2:
            frames = (frames + noise.normal(0, 6, frames.shape)).clip(0, 255).astype(np.uint8)
        else:
            frames = np.stack([_softened(frame) for frame in frames])
        scores.append(score_clip(frames, clip))
    for name in CLIP_ATTRIBUTES:
        assert sum(score[name] for score in scores) >= 29, name


def _softened(
    frame: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    small = Image.fromarray(frame).resize((48, 48), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((64, 64), Image.Resampling.BICUBIC))


def test_noise_and_blank_frames_show_no_thing() -> None:
    noise = np.random.default_rng(0)
    for _ in range(4):
        frames = noise.integers(0, 256, (8, 64, 64, 3)).astype(np.uint8)
        assert check_clip(frames).thing is None
        ground = np.array(BACKGROUND_RGB["white"])
        frames = (ground - noise.integers(0, 120, (8, 64, 64, 3))).astype(np.uint8)
        assert check_clip(frames).thing is None
    blank = np.full((8, 64, 64, 3), BACKGROUND_RGB["pink"], dtype=np.uint8)
    assert check_clip(blank) == Clip(background="pink")
    assert check_clip(np.zeros((8, 64, 64, 3), np.uint8)) == Clip()


def test_a_thing_that_stands_still_has_no_motion() -> None:
    clip = Clip("bell", "red", "white", "left")
    still = np.stack([render_clip(clip)[3]] * 8)
    assert check_clip(still) == Clip("bell", "red", "white", None)


def test_frames_backwards_show_the_opposite_motion() -> None:
    opposite = {
        **{"left": "right", "right": "left", "up": "down", "down": "up"},
        **{"growing": "shrinking", "shrinking": "growing"},
    }
    for motion, other in opposite.items():
        clip = Clip("clock", "green", "gray", motion)
        assert check_clip(render_clip(clip)[::-1]) == clip.changed("motion", other)


def test_every_single_wrong_attribute_is_found() -> None:
    rng = random.Random(0)
    for _ in range(4):
        clip = draw_clip(rng, held_out=None)
        for name, values in CLIP_ATTRIBUTES.items():
            value = rng.choice([other for other in values if other != getattr(clip, name)])
            score = score_clip(render_clip(clip.changed(name, value)), clip)
            assert [key for key, right in score.items() if not right] == [name], (clip, name)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected frames \[8, 64, 64, 3\]"):
        check_clip(np.zeros((4, 64, 64, 3), np.uint8))
