"""Sounds: words and back, what is held out, and the synthesiser."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from anyany.pocket.nameless_sounds import render_nameless_sound
from anyany.pocket.sounds import (
    HELD_OUT_SOUNDS,
    Sound,
    all_sounds,
    canonical_sound_caption,
    complete_sound,
    draw_partial_sound,
    draw_sound,
    parse_sound,
    sound_attributes_right,
    sound_caption,
)
from anyany.pocket.synthesis import (
    EVENT_FRAMES,
    FRAME,
    NUM_SAMPLES,
    SoundJitter,
    onsets,
    render_sound,
    sound_event,
)
from anyany.pocket.world import COUNTS, PITCHES, THINGS


def test_the_canonical_caption_of_every_sound_is_read_back() -> None:
    captions = {canonical_sound_caption(sound): sound for sound in all_sounds()}
    assert len(captions) == 48
    for text, sound in captions.items():
        assert parse_sound(text) == sound
    assert (
        canonical_sound_caption(Sound("bell", "twice", "high"))
        == "the sound of a bell, twice, high"
    )


def test_varied_captions_of_whole_and_partial_sounds_are_read_back() -> None:
    rng = random.Random(0)
    texts = set()
    for _ in range(3000):
        sound = draw_partial_sound(draw_sound(rng, held_out=None), rng)
        text = sound_caption(sound, rng)
        texts.add(text)
        assert parse_sound(text) == sound, text
        assert text == " ".join(text.split())
    assert len(texts) > 400


@pytest.mark.parametrize(
    "text", ["a high and low bell", "a bell buzzing", "a drum, once or twice", "two or three horns"]
)
def test_a_text_with_two_values_of_one_attribute_is_unparsable(text: str) -> None:
    assert parse_sound(text) is None
    assert sound_attributes_right(text, Sound("bell", "once")) == {"thing": False, "count": False}


def test_a_text_is_right_attribute_by_attribute() -> None:
    sound = Sound("horn", "thrice", "low")
    assert parse_sound("nothing that is known") == Sound()
    assert sound_attributes_right("A Trumpet, three times, HIGH!", sound) == {
        "thing": True,
        "count": True,
        "pitch": False,
    }


def test_one_triple_of_each_thing_is_held_out() -> None:
    assert len(HELD_OUT_SOUNDS) == 8
    assert {thing for thing, _, _ in HELD_OUT_SOUNDS} == set(THINGS)
    pairs = Counter((count, pitch) for _, count, pitch in HELD_OUT_SOUNDS)
    assert set(pairs) == set(itertools.product(COUNTS, PITCHES))
    assert max(pairs.values()) <= 2
    assert len(all_sounds(held_out=True)) == 8
    assert len(all_sounds(held_out=False)) == 40


def test_draws_keep_to_the_split() -> None:
    rng = random.Random(0)
    assert not any(draw_sound(rng).held_out for _ in range(500))
    assert all(draw_sound(rng, held_out=True).held_out for _ in range(50))
    held = next(iter(HELD_OUT_SOUNDS))
    assert complete_sound(Sound(thing=held[0]), rng).thing == held[0]
    with pytest.raises(ValueError, match="can be completed"):
        complete_sound(Sound(*held), rng, held_out=False)


def test_a_sound_follows_from_its_words_and_jitter() -> None:
    sound, jitter = Sound("bell", "twice", "low"), SoundJitter.draw(random.Random(3))
    assert jitter == SoundJitter.draw(random.Random(3))
    waveform = render_sound(sound, jitter)
    assert waveform.shape == (NUM_SAMPLES,)
    assert waveform.dtype == np.float32
    assert np.array_equal(waveform, render_sound(sound, jitter))
    with pytest.raises(ValueError, match="expected a full sound"):
        render_sound(Sound("bell"))


def test_events_are_apart_in_time_as_often_as_said() -> None:
    rng = random.Random(0)
    for sound in all_sounds():
        assert sound.thing is not None
        assert sound.count is not None
        jitter = SoundJitter.draw(rng)
        waveform = render_sound(sound, jitter)
        assert 0.3 < np.abs(waveform).max() <= 1.0
        loud = np.abs(waveform.reshape(-1, FRAME)).max(axis=1) > 0.0
        expected = np.zeros_like(loud)
        for onset in onsets(sound.count, jitter):
            expected[onset : onset + EVENT_FRAMES[sound.thing]] = True
        assert not (loud & ~expected).any()
        assert (loud & expected).sum() > 0.9 * expected.sum()
        starts = np.flatnonzero(np.diff(loud.astype(int)) == 1)
        gaps = np.diff(starts)
        assert len(starts) == COUNTS.index(sound.count) + 1
        assert all(gap >= 55 for gap in gaps)  # frames: the longest event has 44


@pytest.mark.parametrize(("thing", "pitch"), list(itertools.product(THINGS, PITCHES)))
def test_every_tone_lies_on_the_grid_of_frames(thing: str, pitch: str) -> None:
    event = sound_event(thing, pitch)
    assert len(event) == EVENT_FRAMES[thing] * FRAME
    frames = event.reshape(-1, FRAME)
    if thing not in ("bird", "siren", "drum"):  # those glide, from step to step of 100 Hz
        for one, other in itertools.pairwise(frames[1:-1]):
            alike = np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
            assert alike > 0.95
    else:
        for frame in frames[3:-1]:  # whole cycles: what is left over a frame is next to nothing
            assert abs(frame.sum()) < 0.06 * np.abs(frame).sum()


def test_high_is_higher_than_low() -> None:
    for thing in THINGS:
        centers = []
        for pitch in ("high", "low"):
            power = np.square(np.abs(np.fft.rfft(sound_event(thing, pitch))))
            centers.append(float((power * np.arange(len(power))).sum() / power.sum()))
        assert centers[0] > 1.3 * centers[1], thing


def test_nameless_sounds_say_their_count_and_are_never_held_out() -> None:
    from anyany.pocket.check_sound import check_sound

    for seed in range(40):
        sound, waveform = render_nameless_sound(random.Random(seed))
        assert set(sound.said()) == {"count"}
        assert waveform.shape == (NUM_SAMPLES,)
        assert not check_sound(waveform).held_out
