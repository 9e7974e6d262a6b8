"""Cases of an evaluation: balanced, held out as they say, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from anyany.pocket.captions import parse_caption
from anyany.pocket.check import check_image
from anyany.pocket.evaluate_cases import (
    Split,
    balanced_scenes,
    describe_cases,
    draw_cases,
    edit_cases,
    noise_seed,
    pair_of,
    true_pictures,
)
from anyany.pocket.world import ATTRIBUTES, HELD_OUT_PAIRS, all_scenes


@pytest.mark.parametrize(("split", "num_pairs"), [("held-out", 8), ("seen", 40), (None, 48)])
def test_pairs_come_in_turn_and_their_scenes_in_rounds(split: Split | None, num_pairs: int) -> None:
    scenes = list(balanced_scenes(num_pairs * 40, split, random.Random(0)))
    counts = Counter(pair_of(scene) for scene in scenes)
    assert len(counts) == num_pairs
    assert set(counts.values()) == {40}
    assert len(set(scenes)) == len(scenes)  # one round holds every scene once
    assert (set(counts) == set(HELD_OUT_PAIRS)) == (split == "held-out")


def test_draw_cases_say_everything_half_of_every_pair_canonically() -> None:
    cases = draw_cases(160, "held-out", 0)
    assert all(case.scene.held_out for case in cases)
    assert all(parse_caption(case.caption) == case.scene for case in cases)
    styles = Counter((pair_of(case.scene), case.style) for case in cases)
    assert set(styles.values()) == {10}
    assert len({case.seed for case in cases}) == 160


def test_edit_cases_meet_every_attribute_in_every_pair() -> None:
    cases = edit_cases(200, "held-out", 0)
    counts = Counter((pair_of(case.source), case.attribute) for case in cases)
    assert len(counts) == 8 * 5
    assert set(counts.values()) == {5}
    for case in cases:
        assert case.source.held_out
        changed = [
            name for name in ATTRIBUTES if getattr(case.source, name) != getattr(case.target, name)
        ]
        assert changed == [case.attribute]
    assert any(case.picture_first for case in cases)
    assert not all(case.picture_first for case in cases)
    seen = Counter((pair_of(c.source), c.attribute) for c in edit_cases(200, "seen", 0))
    assert len(seen) == 40 * 5


def test_pictures_show_their_scenes() -> None:
    for scene, picture in true_pictures(16, "held-out", 0):
        assert scene.held_out
        assert check_image(picture) == scene
    for described in describe_cases(8, "held-out", 0):
        assert described.scene.held_out
        assert check_image(described.picture) == described.scene
    for edited in edit_cases(8, "held-out", 0):
        assert check_image(edited.picture) == edited.source


def test_cases_follow_from_the_seed_and_differ_between_seeds() -> None:
    assert draw_cases(40, "held-out", 3) == draw_cases(40, "held-out", 3)
    assert draw_cases(40, "held-out", 3) != draw_cases(40, "held-out", 4)
    one, other = (describe_cases(8, "seen", 3) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert (a.scene, a.question, a.picture_first) == (b.scene, b.question, b.picture_first)
        assert a.picture.tobytes() == b.picture.tobytes()
    seeds = {noise_seed(seed, index) for seed in range(3) for index in range(500)}
    assert len(seeds) == 1500
    assert len(all_scenes(held_out=True)) == 320
