"""Clips: words and back, what is held out, and the renderer."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from anyany.pocket.animation import ClipJitter, poses, render_clip
from anyany.pocket.clips import (
    CLIP_ATTRIBUTES,
    HELD_OUT_MOTIONS,
    Clip,
    all_clips,
    canonical_clip_caption,
    clip_attributes_right,
    clip_caption,
    complete_clip,
    draw_clip,
    draw_partial_clip,
    parse_clip,
)
from anyany.pocket.nameless_clips import draw_course, render_nameless_clip, render_untold_clip
from anyany.pocket.render import BACKGROUND_RGB, COLOR_RGB
from anyany.pocket.world import HELD_OUT_PAIRS, MOTIONS, THINGS


def test_the_canonical_caption_of_every_clip_is_read_back() -> None:
    captions = {canonical_clip_caption(clip): clip for clip in all_clips()}
    assert len(captions) == 1152
    for text, clip in captions.items():
        assert parse_clip(text) == clip
    assert (
        canonical_clip_caption(Clip("bell", "red", "white", "left"))
        == "a red bell moving left on a white background"
    )
    assert canonical_clip_caption(Clip("bee", motion="growing")) == "a bee growing"


def test_varied_captions_of_whole_and_partial_clips_are_read_back() -> None:
    rng = random.Random(0)
    texts = set()
    for _ in range(4000):
        clip = draw_partial_clip(draw_clip(rng, held_out=None), rng)
        text = clip_caption(clip, rng)
        texts.add(text)
        assert parse_clip(text) == clip, text
        assert text == " ".join(text.split())
    assert len(texts) > 2000


def test_a_text_with_two_values_of_one_attribute_is_unparsable() -> None:
    for text in ("a bell moving left and right", "a red or blue bee", "a growing, falling drum"):
        assert parse_clip(text) is None
    assert clip_attributes_right("a Trumpet, expanding", Clip("horn", "red", None, "growing")) == {
        "thing": True,
        "color": False,
        "motion": True,
    }


def test_each_thing_has_one_held_out_motion_beside_its_held_out_color() -> None:
    assert len(HELD_OUT_MOTIONS) == 8
    assert {thing for thing, _ in HELD_OUT_MOTIONS} == set(THINGS)
    motions = Counter(motion for _, motion in HELD_OUT_MOTIONS)
    assert set(motions) == set(MOTIONS)
    assert max(motions.values()) <= 2
    # of each thing's 144 clips: 24 by color, 24 by motion, 4 by both
    assert len(all_clips(held_out=True)) == 8 * (24 + 24 - 4)
    for clip in all_clips(held_out=False):
        assert (clip.thing, clip.color) not in HELD_OUT_PAIRS
        assert (clip.thing, clip.motion) not in HELD_OUT_MOTIONS


def test_draws_keep_to_the_split() -> None:
    rng = random.Random(0)
    assert not any(draw_clip(rng).held_out for _ in range(500))
    assert all(draw_clip(rng, held_out=True).held_out for _ in range(50))
    thing, motion = next(iter(HELD_OUT_MOTIONS))
    assert complete_clip(Clip(thing), rng).thing == thing
    with pytest.raises(ValueError, match="can be completed"):
        complete_clip(Clip(thing, motion=motion), rng, held_out=False)


def test_a_clip_follows_from_its_words_and_jitter() -> None:
    clip, jitter = Clip("horn", "cyan", "pink", "up"), ClipJitter.draw(random.Random(2))
    frames = render_clip(clip, jitter)
    assert frames.shape == (8, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, render_clip(clip, jitter))
    with pytest.raises(ValueError, match="expected a full clip"):
        render_clip(Clip("horn", "cyan"))
    with pytest.raises(ValueError, match="expected a full clip"):
        render_clip(clip, tint=(10, 200, 100))
    with pytest.raises(ValueError, match="expected a full clip"):
        render_clip(clip, course=draw_course("horn", random.Random(2)))


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_thing_stays_in_frame_and_moves_as_said(motion: str) -> None:
    rng = random.Random(0)
    for number in range(200):
        jitter = ClipJitter.draw(rng) if number else ClipJitter(0.0, 1.0, 1.0, 1.0)
        course = poses(motion, jitter)
        for pose in course:
            for place in (pose.x, pose.y):
                assert pose.radius + 1.9 <= place <= 64 - pose.radius - 1.9
        right, down = course[-1].x - course[0].x, course[-1].y - course[0].y
        growth = course[-1].radius / course[0].radius
        if motion in ("growing", "shrinking"):
            assert (right, down) == (0, 0)
            assert growth == pytest.approx(1.8 if motion == "growing" else 1 / 1.8)
        else:
            way = {"left": -right, "right": right, "up": -down, "down": down}[motion]
            assert 7 * 2.7 - 0.01 <= way <= 7 * 3.3 + 0.01
            assert way == pytest.approx(abs(right) + abs(down))
            assert growth == 1


def test_no_thing_touches_the_frame() -> None:
    rng = random.Random(0)
    for _ in range(15):
        clip = draw_clip(rng, held_out=None)
        frames = render_clip(clip, ClipJitter.draw(rng)).astype(int)
        ground = np.array(BACKGROUND_RGB[clip.background or ""])
        for edge in (frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]):
            assert np.abs(edge - ground).max() == 0


def test_nameless_clips_say_background_motion_and_a_color_that_has_a_name() -> None:
    colors = []
    for seed in range(12):
        clip, frames = render_nameless_clip(random.Random(seed))
        colors.append(clip.color)
        assert set(clip.said()) - {"color"} == {"background", "motion"}
        if clip.color is not None:
            named = np.array(COLOR_RGB[clip.color])
            assert (np.abs(frames.astype(int) - named).max(-1) < 40).any()
        assert frames.shape == (8, 64, 64, 3)
        assert np.abs(frames[0].astype(int) - frames[-1]).max() > 40
    assert None in colors
    assert len(set(colors)) > 2
    assert set(CLIP_ATTRIBUTES) == {"thing", "color", "background", "motion"}


def test_a_nameless_course_stays_in_frame_and_never_leans_the_way_held_out() -> None:
    rng = random.Random(0)
    aslant = 0
    for number in range(800):
        thing = THINGS[number % len(THINGS)]
        course = draw_course(thing, rng)
        for pose in course:
            for place in (pose.x, pose.y):
                assert pose.radius + 1.9 <= place <= 64 - pose.radius - 1.9
        right, down = course[-1].x - course[0].x, course[-1].y - course[0].y
        assert 1 / 1.16 < course[-1].radius / course[0].radius < 1.16
        if right:
            aslant += 1
            assert 0.6 < abs(right / down) < 1.6
            leans = ("right" if right > 0 else "left") if abs(right) > abs(down) else "up"
            leans = "down" if leans == "up" and down > 0 else leans
            assert (thing, leans) not in HELD_OUT_MOTIONS
        else:
            assert down == 0
    assert 450 < aslant < 650


@pytest.mark.parametrize(("tinted", "wandering"), [(True, False), (False, True), (True, True)])
def test_an_untold_clip_says_what_has_a_name(tinted: bool, wandering: bool) -> None:
    clip = Clip("horn", "cyan", "pink", "up")
    said, frames = render_untold_clip(clip, random.Random(0), tinted=tinted, wandering=wandering)
    assert said == Clip("horn", None if tinted else "cyan", "pink", None if wandering else "up")
    assert frames.shape == (8, 64, 64, 3)
