"""Nameless shapes: any color, never taken for a held-out thing, the same for the same seed."""

import random

import numpy as np

from anyany.pocket.check import check_image
from anyany.pocket.nameless import render_nameless
from anyany.pocket.world import HELD_OUT_PAIRS


def test_no_shape_passes_for_a_held_out_pair() -> None:
    rng = random.Random(1)
    seen = [check_image(render_nameless(rng)[0]) for _ in range(100)]

    assert all((one.thing, one.color) not in HELD_OUT_PAIRS for one in seen)
    assert len({one.color for one in seen if one.color}) == 6
    assert len({one.background for one in seen}) == 4


def test_a_seed_gives_the_same_shape_and_another_seed_another() -> None:
    first, background, center = render_nameless(random.Random(3))
    again, _, _ = render_nameless(random.Random(3))
    other, _, _ = render_nameless(random.Random(4))

    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert tuple(first[0, 0]) == background
    assert all(14 <= value <= 50 for value in center)
