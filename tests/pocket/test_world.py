"""The world's own rule: which combinations exist and which are held out."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from anyany.pocket.world import (
    ATTRIBUTES,
    COLORS,
    HELD_OUT_PAIRS,
    THINGS,
    Scene,
    all_scenes,
    complete,
    draw_scene,
)


def test_held_out_pairs_are_eight_each_thing_once_no_color_more_than_twice() -> None:
    assert len(HELD_OUT_PAIRS) == 8
    assert sorted(thing for thing, _ in HELD_OUT_PAIRS) == sorted(THINGS)
    colors = Counter(color for _, color in HELD_OUT_PAIRS)
    assert set(colors) <= set(COLORS)
    assert max(colors.values()) <= 2


def test_the_world_has_1920_scenes_of_which_320_are_held_out() -> None:
    scenes = all_scenes()
    assert len(scenes) == len(set(scenes)) == 8 * 6 * 2 * 5 * 4 == 1920
    held_out = all_scenes(held_out=True)
    assert len(held_out) == 320
    assert {(scene.thing, scene.color) for scene in held_out} == set(HELD_OUT_PAIRS)
    assert set(all_scenes(held_out=False)) == set(scenes) - set(held_out)


@pytest.mark.parametrize("held_out", [True, False])
def test_draws_obey_the_split(held_out: bool) -> None:
    rng = random.Random(0)
    drawn = [draw_scene(rng, held_out=held_out) for _ in range(800)]
    assert {scene.held_out for scene in drawn} == {held_out}
    assert all(scene.full for scene in drawn)
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in drawn} == set(values)


def test_draws_follow_from_the_seed() -> None:
    one = [draw_scene(random.Random(3), held_out=None) for _ in range(2)]
    assert one[0] == one[1]
    assert draw_scene(random.Random(3)) != draw_scene(random.Random(4))


def test_completion_keeps_what_is_said_and_obeys_the_split() -> None:
    rng = random.Random(0)
    for _ in range(60):
        partial = draw_scene(rng).only(["thing", "place"])
        full = complete(partial, rng, held_out=False)
        assert full.full
        assert not full.held_out
        assert full.only(["thing", "place"]) == partial
    thing, color = sorted(HELD_OUT_PAIRS)[0]
    with pytest.raises(ValueError, match="completed with held_out=False"):
        complete(Scene(thing, color), rng, held_out=False)


def test_changed_changes_one_attribute() -> None:
    scene = draw_scene(random.Random(0))
    other = scene.changed("size", "large" if scene.size == "small" else "small")
    assert [n for n in ATTRIBUTES if getattr(scene, n) != getattr(other, n)] == ["size"]
