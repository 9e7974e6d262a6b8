"""The renderer: the truth that all figures rest on."""

from __future__ import annotations

import itertools
import random

import numpy as np
import numpy.typing as npt
import pytest

from anyany.pocket.render import (
    BACKGROUND_RGB,
    CENTER,
    COLOR_RGB,
    Jitter,
    render_image,
    render_pixels,
)
from anyany.pocket.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    PLACES,
    THINGS,
    Scene,
    all_scenes,
)


def test_a_picture_is_64_pixels_rgb_and_follows_from_its_scene() -> None:
    scene = all_scenes()[0]
    pixels = render_pixels(scene)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, render_pixels(scene))
    picture = render_image(scene)
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), pixels)


def test_a_scene_with_something_unsaid_cannot_be_rendered() -> None:
    with pytest.raises(ValueError, match="expected a full scene"):
        render_pixels(Scene("bell", "red"))


def test_jitter_follows_from_its_source_of_chance_and_stays_small() -> None:
    assert Jitter.draw(random.Random(1)) == Jitter.draw(random.Random(1))
    rng = random.Random(0)
    for _ in range(500):
        jitter = Jitter.draw(rng)
        assert max(abs(jitter.dx), abs(jitter.dy)) <= 1.5
        assert 0.95 <= jitter.scale <= 1.05


def test_no_thing_is_cut_off_by_the_frame_however_it_is_jittered() -> None:
    for thing in THINGS:
        middle = Scene(thing, "red", "large", "center", "white")
        whole = _ink(render_pixels(middle, Jitter(scale=1.05)))
        for place in PLACES:
            for dx, dy in itertools.product((-1.5, 1.5), repeat=2):
                jitter = Jitter(dx, dy, 1.05)
                ink = _ink(render_pixels(middle.changed("place", place), jitter))
                assert ink == pytest.approx(whole, rel=0.03), (thing, place)  # an outline's rim


def _ink(pixels: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(pixels - np.array(BACKGROUND_RGB["white"], dtype=float)).sum())


def test_every_change_of_one_attribute_changes_the_picture() -> None:
    scenes = random.Random(0).sample(all_scenes(), 40)
    for scene in scenes:
        before = render_pixels(scene)
        for name, values in ATTRIBUTES.items():
            for value in values:
                if value != getattr(scene, name):
                    after = render_pixels(scene.changed(name, value))
                    assert np.abs(before.astype(int) - after).max() > 40, (scene, name, value)


def test_palettes_and_places_cover_the_world_and_do_not_meet() -> None:
    assert set(COLOR_RGB) == set(COLORS)
    assert set(BACKGROUND_RGB) == set(BACKGROUNDS)
    assert set(CENTER) == set(PLACES)
    palette = [*COLOR_RGB.values(), *BACKGROUND_RGB.values()]
    for index, one in enumerate(palette):
        for other in palette[index + 1 :]:
            assert np.linalg.norm(np.subtract(one, other)) > 50
