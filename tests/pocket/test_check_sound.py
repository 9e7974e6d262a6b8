"""The checker of sounds: right on what is true, and not fooled by what is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anyany.pocket.check_sound import check_sound, score_sound
from anyany.pocket.sounds import SOUND_ATTRIBUTES, Sound, all_sounds, draw_sound
from anyany.pocket.synthesis import NUM_SAMPLES, SAMPLE_RATE, SoundJitter, render_sound


def _scores(number: int, change: Callable[[Any], Any] = lambda w: w) -> dict[str, float]:
    rng = random.Random(1)
    scores = []
    for _ in range(number):
        sound = draw_sound(rng, held_out=None)
        scores.append(score_sound(change(render_sound(sound, SoundJitter.draw(rng))), sound))
    return {name: sum(score[name] for score in scores) / number for name in SOUND_ATTRIBUTES}


def test_true_sounds_are_told_apart_in_every_attribute() -> None:
    assert min(_scores(200).values()) >= 0.99


def test_small_errors_of_a_generator_are_forgiven() -> None:
    noise = np.random.default_rng(0)
    assert min(_scores(40, lambda w: w + noise.normal(0, 0.01, len(w))).values()) >= 0.98
    assert min(_scores(40, lambda w: np.tanh(3 * w)).values()) >= 0.98
    assert min(_scores(40, _other_phases).values()) >= 0.98


def _other_phases(waveform: Any) -> Any:
    """The same magnitudes with phases of chance, as a poor vocoder has them."""
    noise = np.random.default_rng(0)
    size = 512
    made = np.zeros(len(waveform) + size)
    for start in range(0, len(waveform) - size, size // 4):
        piece = np.fft.rfft(waveform[start : start + size] * np.hanning(size))
        turned = np.abs(piece) * np.exp(2j * np.pi * noise.random(len(piece)))
        made[start : start + size] += np.fft.irfft(turned) * np.hanning(size)
    return made[: len(waveform)]


def test_silence_noise_and_a_steady_tone_are_nothing() -> None:
    noise = np.random.default_rng(0)
    time = np.arange(NUM_SAMPLES) / SAMPLE_RATE
    assert check_sound(np.zeros(NUM_SAMPLES)) == Sound()
    assert check_sound(np.full(NUM_SAMPLES, np.nan)) == Sound()
    for _ in range(10):
        assert check_sound(noise.normal(0, 0.2, NUM_SAMPLES)) == Sound()
        assert check_sound(0.5 * np.sin(2 * np.pi * noise.uniform(100, 6000) * time)) == Sound()


def test_a_sound_torn_to_pieces_is_nothing() -> None:
    noise = np.random.default_rng(0)
    fooled = 0
    for sound in all_sounds():
        if sound.thing == "clock":
            continue  # a tick is a few frames long: pieces of it are ticks
        pieces = render_sound(sound).reshape(-1, 160).copy()
        noise.shuffle(pieces)
        fooled += check_sound(pieces.reshape(-1)).thing is not None
    assert fooled <= 2


def test_every_single_wrong_attribute_is_found() -> None:
    rng = random.Random(0)
    for _ in range(25):
        sound = draw_sound(rng, held_out=None)
        for name, values in SOUND_ATTRIBUTES.items():
            value = rng.choice([other for other in values if other != getattr(sound, name)])
            score = score_sound(render_sound(sound.changed(name, value)), sound)
            assert [key for key, right in score.items() if not right] == [name], (sound, name)


def test_four_events_are_no_count() -> None:
    ticks = np.zeros(NUM_SAMPLES, np.float32)
    once = render_sound(Sound("clock", "once", "high"))
    for k in range(4):
        ticks += np.roll(once, k * 7600)
    assert check_sound(ticks) == Sound("clock", None, "high")


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected samples \[32000\], got \[100\]"):
        check_sound(np.zeros(100))
