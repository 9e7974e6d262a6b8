"""Cases of an evaluation: balanced, held out as they say, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from anyany.messages import AudioPart, ImagePart, VideoPart
from anyany.pocket.clips import HELD_OUT_MOTIONS, Clip
from anyany.pocket.evaluate_cases import (
    Split,
    balanced,
    describe_cases,
    draw_cases,
    edit_cases,
    noise_seed,
    true_media,
    turn_cases,
)
from anyany.pocket.evaluate_kinds import KINDS, Kind, combination_name, kind_of
from anyany.pocket.sounds import HELD_OUT_SOUNDS, Sound
from anyany.pocket.world import ATTRIBUTES, HELD_OUT_PAIRS, MOTIONS, Scene, all_scenes

IMAGE, VIDEO, AUDIO = KINDS["image"], KINDS["video"], KINDS["audio"]


@pytest.mark.parametrize(
    ("kind", "split", "number"),
    [
        (IMAGE, "held-out", 8),
        (IMAGE, "seen", 40),
        (IMAGE, None, 48),
        (VIDEO, "held-out", 16),
        (VIDEO, "seen", 40),
        (VIDEO, None, 56),
        (AUDIO, "held-out", 8),
        (AUDIO, "seen", 40),
        (AUDIO, None, 48),
    ],
)
def test_combinations_come_in_turn_and_their_subjects_in_rounds(
    kind: Kind, split: Split | None, number: int
) -> None:
    subjects = list(balanced(kind, number * 20, split, random.Random(0)))
    counts = Counter(map(kind.combination, subjects))
    assert len(counts) == number
    assert set(counts.values()) == {20}
    if split:
        assert all(subject.held_out == (split == "held-out") for subject in subjects)
    first = subjects[::number]  # all of one combination: none comes again before all have come
    there = sum(kind.combination(s) == kind.combination(first[0]) for s in _all(kind, split))
    assert len(set(first[:there])) == min(there, 20)


def _all(kind: Kind, split: Split | None) -> list[Scene | Clip | Sound]:
    held_out = {"held-out": True, "seen": False, None: None}[split]
    return list(kind.subjects(held_out=held_out))


def test_clips_are_held_out_by_color_or_by_motion_and_sounds_by_triple() -> None:
    clips = {VIDEO.combination(clip) for clip in VIDEO.subjects(held_out=True)}
    assert clips == HELD_OUT_PAIRS | HELD_OUT_MOTIONS
    assert {AUDIO.combination(s) for s in AUDIO.subjects(held_out=True)} == HELD_OUT_SOUNDS
    assert combination_name(("bell", "red")) == "red bell"
    assert combination_name(("bell", "left")) == "bell left"
    assert combination_name(("bell", "once", "high")) == "bell once high"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.modality)
def test_captions_say_all_that_they_are_scored_by(kind: Kind) -> None:
    cases = draw_cases(kind, 160, "held-out", 0)
    assert all(kind.read(case.words) == case.target == case.source for case in cases)
    styles = Counter((case.combination, case.group) for case in cases)
    assert set(styles.values()) == {80 // len({case.combination for case in cases})}
    assert len({case.seed for case in cases}) == 160


def test_edit_cases_meet_every_attribute_in_every_pair() -> None:
    cases = edit_cases(200, "held-out", 0)
    counts = Counter((case.combination, case.group) for case in cases)
    assert len(counts) == 8 * 5
    assert set(counts.values()) == {5}
    for case in cases:
        assert isinstance(case.source, Scene)
        assert case.source.held_out
        changed = [
            name for name in ATTRIBUTES if getattr(case.source, name) != getattr(case.target, name)
        ]
        assert changed == [case.group]
    assert any(case.shown_first for case in cases)
    assert not all(case.shown_first for case in cases)
    seen = Counter((c.combination, c.group) for c in edit_cases(200, "seen", 0))
    assert len(seen) == 40 * 5


@pytest.mark.parametrize(
    ("shown", "made"), [(IMAGE, AUDIO), (VIDEO, AUDIO), (AUDIO, IMAGE), (IMAGE, VIDEO)]
)
def test_turned_media_keep_what_is_known(shown: Kind, made: Kind) -> None:
    cases = turn_cases(shown, made, 48, "held-out", 0)
    assert {kind_of(case.source) for case in cases} == {shown}
    assert {kind_of(case.target) for case in cases} == {made}
    for case in cases[:8]:
        assert shown.check(case.shown) == case.source
        assert case.source in shown.subjects(held_out=True)
        known = {n: v for n, v in case.source.said().items() if n in case.target.said()}
        assert known["thing"] == getattr(case.target, "thing", None)
        if made is not VIDEO:
            assert case.target.said() == {"thing": known["thing"]}
    if made is VIDEO:
        assert all(case.target.said() | known_of(case) == case.target.said() for case in cases)
        motions = Counter((case.combination, case.group) for case in cases)
        assert len(motions) == 8 * len(MOTIONS)
        assert all(VIDEO.read(c.words).said() == {"motion": c.group} for c in cases)


def known_of(case: object) -> dict[str, str]:
    """What a picture and a clip of one thing share."""
    source = getattr(case, "source", Scene())
    return {name: getattr(source, name) for name in ("thing", "color", "background")}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.modality)
def test_media_show_their_subjects(kind: Kind) -> None:
    for subject, medium in true_media(kind, 16, "held-out", 0):
        assert subject.held_out
        assert kind.check(medium) == subject
    for described in describe_cases(kind, 8, "held-out", 0):
        assert kind.check(described.shown) == described.source == described.target


def test_edited_pictures_show_their_sources() -> None:
    for edited in edit_cases(8, "held-out", 0):
        assert IMAGE.check(edited.shown) == edited.source


@pytest.mark.parametrize(
    ("kind", "part"), [(IMAGE, ImagePart), (VIDEO, VideoPart), (AUDIO, AudioPart)]
)
def test_a_prompt_holds_the_medium_and_the_words_in_the_case_s_order(
    kind: Kind, part: type
) -> None:
    cases = describe_cases(kind, 12, "held-out", 0)
    assert len({case.shown_first for case in cases}) == 2
    for case in cases:
        first, second = case.prompt() if case.shown_first else reversed(case.prompt())
        assert isinstance(first, part)
        assert second == case.words
        assert np.array_equal(np.asarray(kind.medium(first)), np.asarray(case.shown))
    assert draw_cases(kind, 1, "held-out", 0)[0].prompt() == [
        draw_cases(kind, 1, "held-out", 0)[0].words
    ]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.modality)
def test_cases_follow_from_the_seed_and_differ_between_seeds(kind: Kind) -> None:
    def drawn(seed: int) -> list[tuple[object, ...]]:
        return [
            (c.target, c.words, c.group, c.seed) for c in draw_cases(kind, 40, "held-out", seed)
        ]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    one, other = (describe_cases(kind, 8, "seen", 3) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert (a.source, a.words, a.shown_first) == (b.source, b.words, b.shown_first)
        assert np.array_equal(np.asarray(a.shown), np.asarray(b.shown))


def test_seeds_of_noise_do_not_meet() -> None:
    seeds = {noise_seed(seed, index) for seed in range(3) for index in range(500)}
    assert len(seeds) == 1500
    assert len(all_scenes(held_out=True)) == 320
