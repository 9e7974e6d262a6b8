"""Nameless shapes: any color, never taken for a held-out thing, the same for the same seed."""

import random

import numpy as np

from anyany.pocket.check import check_image
from anyany.pocket.nameless import render_nameless
from anyany.pocket.render import BACKGROUND_RGB, COLOR_RGB
from anyany.pocket.world import HELD_OUT_PAIRS


def test_no_shape_passes_for_a_held_out_pair() -> None:
    rng = random.Random(1)
    seen = [check_image(render_nameless(rng).pixels) for _ in range(100)]

    assert all((one.thing, one.color) not in HELD_OUT_PAIRS for one in seen)
    assert len({one.color for one in seen if one.color}) == 6
    assert len({one.background for one in seen}) == 4


def test_a_seed_gives_the_same_shape_and_another_seed_another() -> None:
    first, _, background, center = render_nameless(random.Random(3))
    again = render_nameless(random.Random(3)).pixels
    other = render_nameless(random.Random(4)).pixels

    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert tuple(first[0, 0]) == background
    assert all(14 <= value <= 50 for value in center)


def test_what_is_said_of_a_shape_is_what_it_shows() -> None:
    rng = random.Random(2)
    named = [shape for shape in (render_nameless(rng) for _ in range(60)) if shape.scene().color]

    assert len(named) > 20
    for shape in named:
        scene = shape.scene()
        assert scene.thing is None
        assert BACKGROUND_RGB[scene.background or ""] == tuple(shape.pixels[0, 0])
        away = np.abs(shape.pixels.astype(int) - COLOR_RGB[scene.color or ""]).max(axis=-1)
        assert (away < 3).any()
