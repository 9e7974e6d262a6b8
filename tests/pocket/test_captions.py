"""Captions say scenes, and the parser reads them back."""

from __future__ import annotations

import random

import pytest

from anyany.pocket.captions import (
    WORDS,
    attributes_right,
    canonical_caption,
    caption,
    draw_partial,
    parse_caption,
)
from anyany.pocket.world import ATTRIBUTES, Scene, all_scenes, draw_scene


def test_the_canonical_caption_of_every_scene_is_read_back() -> None:
    captions = {canonical_caption(scene): scene for scene in all_scenes()}
    assert len(captions) == 1920
    for text, scene in captions.items():
        assert parse_caption(text) == scene
    assert (
        canonical_caption(Scene("bell", "red", "small", "left", "white"))
        == "a small red bell on the left on a white background"
    )


def test_varied_captions_of_whole_and_partial_scenes_are_read_back() -> None:
    rng = random.Random(0)
    texts = set()
    for _ in range(6000):
        scene = draw_partial(draw_scene(rng, held_out=None), rng)
        text = caption(scene, rng)
        texts.add(text)
        assert parse_caption(text) == scene, text
        assert text == " ".join(text.split())
    assert len(texts) > 4000


def test_what_a_partial_scene_keeps_names_its_thing_or_color() -> None:
    rng = random.Random(0)
    full = draw_scene(rng)
    for _ in range(2000):
        partial = draw_partial(full, rng)
        assert partial.thing or partial.color
        assert all(getattr(full, name) == value for name, value in partial.said().items())


def test_captions_follow_from_the_source_of_chance() -> None:
    scene = draw_scene(random.Random(0))
    assert caption(scene, random.Random(5)) == caption(scene, random.Random(5))
    assert len({caption(scene, random.Random(k)) for k in range(50)}) > 10


def test_no_word_stands_for_two_values() -> None:
    words = [w for values in WORDS.values() for synonyms in values.values() for w in synonyms]
    assert len(words) == len(set(words))
    assert {name: tuple(values) for name, values in WORDS.items()} == ATTRIBUTES
    for values in WORDS.values():
        for value, synonyms in values.items():
            assert synonyms[0] == value


@pytest.mark.parametrize("text", ["a red or blue bell", "a small large drum", "a bell and a bee"])
def test_a_text_with_two_values_of_one_attribute_is_unparsable(text: str) -> None:
    assert parse_caption(text) is None
    right = attributes_right(text, Scene("bell", "red", "small"))
    assert right == {"thing": False, "color": False, "size": False}


def test_a_text_is_right_attribute_by_attribute() -> None:
    scene = Scene("bell", "red", "small", "left", "white")
    assert parse_caption("nothing that is known") == Scene()
    assert attributes_right("A Crimson trumpet, LEFT!", scene) == {
        "thing": False,
        "color": True,
        "size": False,
        "place": True,
        "background": False,
    }
