"""The checkers: right on what is true, and not fooled by what is not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from anyany.pocket.check import all_right, check_image, score_image
from anyany.pocket.evaluate_cases import true_media
from anyany.pocket.evaluate_kinds import KINDS
from anyany.pocket.render import BACKGROUND_RGB, render_image, render_pixels
from anyany.pocket.world import ATTRIBUTES, Scene, draw_scene


def test_true_renders_are_told_apart_in_every_attribute() -> None:
    shown = true_media(KINDS["image"], 300, None, 11)
    scores = [score_image(picture, scene) for scene, picture in shown]
    for name in ATTRIBUTES:
        assert sum(score[name] for score in scores) / len(scores) >= 0.99, name


def test_small_errors_of_a_generator_are_forgiven() -> None:
    rng, noise = random.Random(0), np.random.default_rng(0)
    scores = []
    for _ in range(40):
        scene = draw_scene(rng, held_out=None)
        pixels = render_pixels(scene) + noise.normal(0, 6, (64, 64, 3))
        scores.append(score_image(pixels.clip(0, 255).astype(np.uint8), scene))
    for name in ATTRIBUTES:
        assert sum(score[name] for score in scores) >= 39, name


@pytest.mark.parametrize("background", BACKGROUND_RGB)
def test_a_blank_picture_has_a_background_and_nothing_else(background: str) -> None:
    pixels = np.full((64, 64, 3), BACKGROUND_RGB[background], dtype=np.uint8)
    assert check_image(pixels) == Scene(background=background)


def test_a_blank_picture_of_an_unknown_color_has_nothing() -> None:
    assert check_image(np.zeros((64, 64, 3), dtype=np.uint8)) == Scene()


def test_noise_shows_no_thing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        assert check_image(pixels).thing is None
    ground = np.array(BACKGROUND_RGB["white"])
    for _ in range(20):  # a known background under heavy noise
        pixels = (ground - rng.integers(0, 120, (64, 64, 3))).astype(np.uint8)
        assert check_image(pixels).thing is None


def test_a_thing_torn_to_pieces_is_no_thing() -> None:
    rng = np.random.default_rng(0)
    for scene in (
        Scene("bell", "red", "large", "center", "white"),
        Scene("clock", "blue", "large", "center", "beige"),
    ):
        pixels = render_pixels(scene)
        tiles = pixels.reshape(16, 4, 16, 4, 3).swapaxes(1, 2).reshape(256, 4, 4, 3)
        rng.shuffle(tiles)
        torn = tiles.reshape(16, 16, 4, 4, 3).swapaxes(1, 2).reshape(64, 64, 3)
        assert check_image(torn).thing is None


def test_every_single_wrong_attribute_is_found() -> None:
    rng = random.Random(0)
    for _ in range(25):
        scene = draw_scene(rng, held_out=None)
        for name, values in ATTRIBUTES.items():
            value = rng.choice([other for other in values if other != getattr(scene, name)])
            score = score_image(render_image(scene.changed(name, value)), scene)
            assert [key for key, right in score.items() if not right] == [name], (scene, name)
            assert not all_right(score)


def test_scores_cover_what_is_said_alone() -> None:
    scene = draw_scene(random.Random(0))
    picture = render_image(scene)
    assert score_image(picture, scene.only(["thing"])) == {"thing": True}
    assert all_right({"thing": True, "color": True})
    assert not all_right({})


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected pixels \[64, 64, 3\]"):
        check_image(np.zeros((32, 32, 3), dtype=np.uint8))
