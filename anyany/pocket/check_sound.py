"""Samples back to attributes, by code that shares nothing with the models.

Every event of every thing, high and low, is slid along the spectrum of a recording; the one that
explains most of it, played wherever it fits, says thing and pitch, and the number of places says
the count. What fits nothing well enough is nothing: an attribute that cannot be told is None, and
counts as wrong.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from anyany.pocket.sounds import Sound
from anyany.pocket.synthesis import NUM_SAMPLES, SAMPLE_RATE, sound_event
from anyany.pocket.world import COUNTS, PITCHES, THINGS

_HOP: Final = 160  # samples: 10 ms
_WINDOW: Final = 512
_BANDS: Final = 60
_MIN_HERTZ: Final = 60.0
_MARGIN: Final = 3  # frames before an event that its template covers: they must be quiet
_MIN_GAP: Final = 45  # frames between the onsets of two events
_MIN_PEAK: Final = 0.004  # of the waveform: what is softer is silence
_MIN_FIT: Final = 0.67  # share of the recording's energy that the played events must explain
_MIN_EVENT: Final = 0.45  # of the strongest event: what fits less is no event

_QUIET: Final = 0.1  # quantile of a band's levels that is there without any event
_SOFT: Final = 0.004  # of the loudest band: what is softer is silence
_HANN: Final = np.hanning(_WINDOW).astype(np.float32)

_Array = npt.NDArray[np.float32]
_KINDS: Final = tuple((thing, pitch) for thing in THINGS for pitch in PITCHES)


def check_sound(waveform: npt.NDArray[Any]) -> Sound:
    """Tell the attributes of a recording.

    Args:
        waveform: float [32000] in [-1, 1]: 2 seconds at 16 kHz, mono.

    Returns:
        A sound; what cannot be told is None.

    Raises:
        ValueError: another shape.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.shape != (NUM_SAMPLES,):
        raise ValueError(f"expected samples [{NUM_SAMPLES}], got {list(samples.shape)}")
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak) or peak < _MIN_PEAK:
        return Sound()
    seen = _spectrum(samples, clean=True)  # [frames, bands]
    energy = float(np.square(seen).sum())
    if energy == 0.0:
        return Sound()
    best, best_fit, best_peaks = 0, 0.0, [0.0]
    for number, matched in enumerate(_match(seen)):
        peaks = _peaks(matched)
        fit = float(np.square(peaks).sum()) / energy
        if fit > best_fit:
            best, best_fit, best_peaks = number, fit, peaks
    if best_fit < _MIN_FIT:
        return Sound()
    count = COUNTS[len(best_peaks) - 1] if len(best_peaks) <= len(COUNTS) else None
    thing, pitch = _KINDS[best]
    return Sound(thing, count, pitch)


def score_sound(waveform: npt.NDArray[Any], sound: Sound) -> dict[str, bool]:
    """Per attribute that the sound says, whether the recording has it."""
    heard = check_sound(waveform)
    return {name: getattr(heard, name) == value for name, value in sound.said().items()}


def _spectrum(samples: _Array, *, clean: bool = False) -> _Array:
    """The square root of band magnitudes: loud and soft parts both count; [frames, bands].

    Args:
        samples: float32 [samples].
        clean: take away what a band always has, and what is far softer than the loudest.
    """
    padded = np.pad(samples, (_WINDOW // 2, _WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    levels = np.abs(np.fft.rfft(frames * _HANN, axis=1)).astype(np.float32) @ _bands()
    if clean:
        steady = np.quantile(levels, _QUIET, axis=0)
        levels = np.maximum(levels - 2 * steady - _SOFT * levels.max(), 0)
    spectrum: _Array = np.sqrt(levels).astype(np.float32)
    return spectrum


@functools.lru_cache(maxsize=1)
def _bands() -> _Array:
    """Overlapping bands, narrow below and ever wider above: [bins, bands]."""
    low, high = (np.log(1 + hertz / 500) for hertz in (_MIN_HERTZ, SAMPLE_RATE / 2))
    edges = 500 * (np.exp(np.linspace(low, high, _BANDS + 2)) - 1)
    bins = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)[:, None]
    rising = (bins - edges[:-2]) / np.maximum(edges[1:-1] - edges[:-2], SAMPLE_RATE / _WINDOW)
    falling = (edges[2:] - bins) / np.maximum(edges[2:] - edges[1:-1], SAMPLE_RATE / _WINDOW)
    shares: _Array = np.clip(np.minimum(rising, falling) + 0.5, 0, 1).astype(np.float32)
    return shares


@functools.lru_cache(maxsize=1)
def _templates() -> _Array:
    """Each event's spectrum with a little silence round it, of unit norm: [kinds, frames, bands].

    Shorter ones are padded with zeros, which neither ask for silence nor for sound.
    """
    spectra = []
    for thing, pitch in _KINDS:
        margin = np.zeros(_MARGIN * _HOP, np.float32)
        spectra.append(_spectrum(np.concatenate([margin, sound_event(thing, pitch), margin])))
    longest = max(map(len, spectra))
    stacked = np.stack([np.pad(one, ((0, longest - len(one)), (0, 0))) for one in spectra])
    templates: _Array = stacked / np.linalg.norm(stacked, axis=(1, 2), keepdims=True)
    return templates


def _match(seen: _Array) -> _Array:
    """How loud each event is if its template starts at each frame: [kinds, places]."""
    templates = _templates()
    kinds, length, bands = templates.shape
    padded = np.pad(seen, ((length, length), (0, 0)))
    products = padded @ templates.reshape(kinds * length, bands).T
    products = products.reshape(len(padded), kinds, length)
    row, kind, column = products.strides
    places = len(padded) - length + 1
    diagonals = np.lib.stride_tricks.as_strided(
        products, (kinds, places, length), (kind, row, row + column)
    )
    return diagonals.sum(axis=2)  # type: ignore[no-any-return]


def _peaks(matched: _Array) -> list[float]:
    """The strongest places, each at least a gap from the others and not much weaker."""
    left = matched.copy()
    found: list[float] = []
    while len(found) <= len(COUNTS):
        place = int(left.argmax())
        value = float(left[place])
        if value <= (found[0] * _MIN_EVENT if found else 0.0):
            break
        found.append(value)
        left[max(place - _MIN_GAP, 0) : place + _MIN_GAP] = 0.0
    return found
