"""Sounds to samples: one event of stated length a thing, played once, twice or three times.

The synthesiser is the truth that generators learn from. It shares no code with any model. Every
tone is a multiple of the 100 frames a second of the mel pictures and starts with phase 0 on that
grid: a time-invariant vocoder can only make waves that repeat from frame to frame, so only such
tones can come back right. The hiss of rain is many such tones of all phases, its loudness
pattering.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from anyany.pocket.sounds import Sound
from anyany.pocket.world import COUNTS

SAMPLE_RATE: Final = 16_000  # Hz
SOUND_SECONDS: Final = 2.0
NUM_SAMPLES: Final = int(SAMPLE_RATE * SOUND_SECONDS)
FRAME: Final = 160  # samples of one mel frame, 10 ms: the grid of onsets and phases
FIRST_ONSET: Final = 8  # frames
PERIOD: Final = 60  # frames from one event's onset to the next one's
EVENT_FRAMES: Final[dict[str, int]] = {
    "bell": 42,
    "drum": 18,
    "bird": 30,
    "bee": 40,
    "siren": 44,
    "clock": 8,
    "horn": 36,
    "cloud": 42,
}
_PEAK: Final = 0.7

Waveform: TypeAlias = npt.NDArray[np.float32]
_Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SoundJitter:
    """Small deviations that a caption does not speak of.

    Args:
        shift: frames by which all events come later.
        delays: frames by which the second and the third come later still.
        loudness: factor of the amplitude.
    """

    shift: int = 4
    delays: tuple[int, int] = (2, 2)
    loudness: float = 0.85

    @classmethod
    def draw(cls, rng: random.Random) -> SoundJitter:
        """Up to 80 ms, up to 40 ms each, and 3 dB."""
        return cls(rng.randint(0, 8), (rng.randint(0, 4), rng.randint(0, 4)), rng.uniform(0.7, 1.0))


def render_sound(sound: Sound, jitter: SoundJitter | None = None) -> Waveform:
    """Play a full sound: float32 [32000] in [-1, 1], 2 seconds at 16 kHz.

    Raises:
        ValueError: the sound leaves an attribute unsaid.
    """
    if not sound.full:
        raise ValueError(f"expected a full sound; got {sound}: complete it first")
    assert sound.thing is not None
    assert sound.count is not None
    assert sound.pitch is not None
    return repeat_event(sound_event(sound.thing, sound.pitch), sound.count, jitter)


def repeat_event(event: Waveform, count: str, jitter: SoundJitter | None = None) -> Waveform:
    """Play an event [samples] once, twice or thrice: float32 [32000]."""
    jitter = jitter or SoundJitter()
    played = np.zeros(NUM_SAMPLES, dtype=np.float32)
    for onset in onsets(count, jitter):
        start = onset * FRAME
        stop = min(start + len(event), NUM_SAMPLES)
        played[start:stop] += event[: stop - start]
    return (played * np.float32(jitter.loudness)).astype(np.float32)


def onsets(count: str, jitter: SoundJitter) -> list[int]:
    """The frames at which the events start."""
    delays = (0, *jitter.delays)
    number = COUNTS.index(count) + 1
    return [FIRST_ONSET + jitter.shift + PERIOD * k + delays[k] for k in range(number)]


def sound_event(thing: str, pitch: str) -> Waveform:
    """The event of one thing: float32 [EVENT_FRAMES * 160], peak 0.7."""
    frames = EVENT_FRAMES[thing]
    wave = _EVENTS[thing](pitch == "high", frames)
    fade = np.ones(len(wave))
    fade[-FRAME:] = np.linspace(1, 0, FRAME)
    wave = wave * fade
    scaled: Waveform = (wave * (_PEAK / np.abs(wave).max())).astype(np.float32)
    return scaled


def partials(
    tones: Sequence[tuple[float, float]], frames: int, *, decay_seconds: float | None = None
) -> _Array:
    """Steady tones of (Hz, amplitude), the higher ones decaying faster; [frames * 160]."""
    time = np.arange(frames * FRAME) / SAMPLE_RATE
    lowest = min(hz for hz, _ in tones)
    wave = np.zeros(len(time))
    for hz, amplitude in tones:
        decay = 1.0
        if decay_seconds is not None:
            decay = np.exp(-time / decay_seconds * (hz / lowest) ** 0.5)
        wave += amplitude * decay * np.sin(2 * np.pi * hz * time)
    return wave


def glide(hertz: Sequence[float], harmonics: Sequence[float] = (1.0,)) -> _Array:
    """A tone whose pitch moves from frame to frame in steps of 100 Hz; [frames * 160]."""
    steps = np.repeat(100 * np.round(np.asarray(hertz) / 100), FRAME)
    time = np.arange(len(steps)) % FRAME / SAMPLE_RATE  # every frame holds whole cycles
    waves = [
        level * np.sin(2 * np.pi * (number + 1) * steps * time)
        for number, level in enumerate(harmonics)
    ]
    return np.sum(waves, axis=0)  # type: ignore[no-any-return]


def envelope(levels: Sequence[float], frames: int) -> _Array:
    """Loudness in straight lines through levels at even distances; [frames * 160]."""
    places = np.linspace(0, len(levels) - 1, frames * FRAME)
    return np.interp(places, np.arange(len(levels)), levels)


def hiss(low: float, high: float, frames: int, *, seed: int) -> _Array:
    """A band of tones on the grid with phases of chance; [frames * 160]."""
    rng = np.random.default_rng(seed)
    time = np.arange(FRAME) / SAMPLE_RATE
    band = np.arange(low, high, 100)
    angles = rng.uniform(0, 2 * np.pi, len(band))
    grain = np.sin(2 * np.pi * band[:, None] * time + angles[:, None]).sum(0)
    return np.tile(grain, frames)


def _bell(high: bool, frames: int) -> _Array:
    base = 1200 if high else 600
    tones = [(base, 1.0), (2 * base, 0.7), (2.5 * base, 0.5), (4 * base, 0.3)]
    return partials(tones, frames, decay_seconds=0.16)


def _drum(high: bool, frames: int) -> _Array:
    slow = [400, 400, 300, 300] if high else [200, 200, 100, 100]
    thump = glide(slow + slow[-1:] * (frames - 4), (1.0, 0.25))
    time = np.arange(frames * FRAME) / SAMPLE_RATE
    click = hiss(1000 if high else 500, 2500 if high else 1200, frames, seed=1) / 6
    return thump * np.exp(-time / 0.07) + click * np.exp(-time / 0.008)


def _bird(high: bool, frames: int) -> _Array:
    floor, width = (3400, 2000) if high else (1700, 1100)
    warble = np.abs(np.arange(frames) % 10 - 5) / 5  # down and up every 100 ms
    return glide(list(floor + width * warble)) * envelope([0.4, 1, 1, 1, 0.4], frames)


def _bee(high: bool, frames: int) -> _Array:
    base = 300 if high else 100
    tones = [(base * k, k**-0.6) for k in range(1, 13)]
    flutter = np.where(np.arange(frames + 1) % 4 < 2, 1.0, 0.6)
    return partials(tones, frames) * envelope(list(flutter), frames)


def _siren(high: bool, frames: int) -> _Array:
    floor, width = (1300, 1000) if high else (500, 600)
    arch = np.sin(np.pi * (np.arange(frames) + 0.5) / frames)
    return glide(list(floor + width * arch), (1.0, 0.4)) * envelope([0.8, 1, 1, 1, 0.8], frames)


def _clock(high: bool, frames: int) -> _Array:
    base = 3800 if high else 1600
    tones = [(base, 1.0), (base + 400, 0.8), (base + 900, 0.6)]
    return partials(tones, frames, decay_seconds=0.025)


def _horn(high: bool, frames: int) -> _Array:
    first, second = (800, 1000) if high else (400, 500)
    tones = [(hz * k, 1.0 / k) for hz in (first, second) for k in (1, 3, 5)]
    return partials(tones, frames) * envelope([0.8, 1, 1, 1, 1, 1, 0.8], frames)


def _cloud(high: bool, frames: int) -> _Array:
    low_edge, high_edge = (4500, 7500) if high else (1500, 3500)
    patter = np.random.default_rng(7).uniform(0.55, 1.0, frames + 1)
    swell = envelope([0.5, 1, 1, 1, 0.5], frames)
    return hiss(low_edge, high_edge, frames, seed=3) * swell * envelope(list(patter), frames)


_EVENTS: Final[dict[str, Any]] = {
    "bell": _bell,
    "drum": _drum,
    "bird": _bird,
    "bee": _bee,
    "siren": _siren,
    "clock": _clock,
    "horn": _horn,
    "cloud": _cloud,
}
