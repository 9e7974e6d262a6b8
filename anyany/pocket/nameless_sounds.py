"""Sounds that have no name: what the audio parts hear beside the world's things.

Parts that only ever hear the shown (thing, count, pitch) triples learn them by heart and fail on
those that are held out. Events of chance teach them tones, bands and repetition apart. None of
them passes for a held-out sound: the checker, played such a recording, would say so.
"""

from __future__ import annotations

import random
from typing import Final

import numpy as np

from anyany.pocket.check_sound import check_sound
from anyany.pocket.sounds import Sound
from anyany.pocket.synthesis import (
    FRAME,
    SoundJitter,
    Waveform,
    envelope,
    glide,
    hiss,
    partials,
    repeat_event,
)
from anyany.pocket.world import COUNTS

_FRAMES: Final = (5, 44)  # shortest and longest event


def render_nameless_sound(rng: random.Random) -> tuple[Sound, Waveform]:
    """An event of chance, played once, twice or thrice.

    Returns:
        What can be said of it (its count), and float32 [32000].
    """
    while True:
        count = rng.choice(COUNTS)
        waveform = repeat_event(_event(rng), count, SoundJitter.draw(rng))
        if not check_sound(waveform).held_out:
            return Sound(count=count), waveform


def _event(rng: random.Random) -> Waveform:
    """One to three layers of tones, glides or bands under envelopes of chance, peak 0.7."""
    frames = rng.randint(*_FRAMES)
    wave = np.zeros(frames * FRAME)
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.randrange(3)
        if kind == 0:
            base = 100 * rng.randint(1, 40)
            tones = [(base, 1.0)]
            tones += [(100 * rng.randint(1, 70), rng.uniform(0.1, 1.0)) for _ in range(5)]
            decay = rng.choice((None, rng.uniform(0.01, 0.2)))
            layer = partials(tones[: rng.randint(1, 6)], frames, decay_seconds=decay)
        elif kind == 1:
            points = [rng.uniform(200, 5000) for _ in range(rng.randint(2, 5))]
            course = np.interp(
                np.linspace(0, len(points) - 1, frames), np.arange(len(points)), points
            )
            layer = glide(list(course), (1.0, rng.uniform(0, 0.5)))
        else:
            low = 100 * rng.randint(1, 60)
            layer = hiss(low, min(low + 100 * rng.randint(5, 30), 7600), frames, seed=3)
        levels = [rng.uniform(0.3, 1.0) for _ in range(rng.randint(2, 6))]
        wave += layer / np.abs(layer).max() * envelope(levels, frames) * rng.uniform(0.3, 1.0)
    wave[-FRAME:] *= np.linspace(1, 0, FRAME)
    scaled: Waveform = (wave * (0.7 / np.abs(wave).max())).astype(np.float32)
    return scaled
