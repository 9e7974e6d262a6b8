"""Resampling by a windowed sinc, equal to torchaudio's default (`sinc_interp_hann`).

Other resamplers (soxr among them) filter differently and miss the published features.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

ZERO_CROSSINGS = 6  # of the sinc, on each side of the window
ROLLOFF = 0.99  # cut-off as a part of the lower Nyquist frequency
# One filter per output phase is fast for usual rates (44.1 to 16 kHz: 160 x 475 taps), but 44,099
# to 16,000 Hz would take 16,000 x 44,133; above this many taps, filters are made on the way.
MAX_FILTER_TAPS = 1 << 22
CHUNK = 1 << 16  # output samples at a time on that way


def resample(waveform: Tensor, sample_rate: int, new_sample_rate: int) -> Tensor:
    """Band-limited interpolation (Smith, "Digital Audio Resampling", section on sinc windows).

    Args:
        waveform: float32 [channels, samples].
        sample_rate: Hz.
        new_sample_rate: Hz.

    Returns:
        float32 [channels, ceil(samples * new_sample_rate / sample_rate)].
    """
    if sample_rate == new_sample_rate:
        return waveform
    divisor = math.gcd(sample_rate, new_sample_rate)
    old, new = sample_rate // divisor, new_sample_rate // divisor
    num_samples = -(-new * waveform.shape[-1] // old)
    if new * (2 * _half_width(old, new) + old) > MAX_FILTER_TAPS:
        return _resample_directly(waveform, old, new, num_samples)
    half_width = _half_width(old, new)
    padded = F.pad(waveform, (half_width, half_width + old))
    phases = F.conv1d(padded[:, None], _filters(old, new), stride=old)  # [channels, new, steps]
    return phases.transpose(1, 2).flatten(1)[:, :num_samples]


def _resample_directly(waveform: Tensor, old: int, new: int, num_samples: int) -> Tensor:
    """The same sums, with a filter made for every output sample."""
    half_width = _half_width(old, new)
    padded = F.pad(waveform, (half_width, half_width + 1))
    offsets = torch.arange(-half_width, half_width + 2)
    chunks = []
    for start in range(0, num_samples, CHUNK):
        outputs = torch.arange(start, min(start + CHUNK, num_samples))
        whole = outputs * old // new  # the input sample at or before each output sample
        fraction = (outputs * old - whole * new).to(torch.float64) / new
        taps = _sinc_taps((offsets[None] - fraction[:, None]) / old, old, new)
        inputs = padded[:, whole[:, None] + offsets[None] + half_width]  # [channels, outputs, taps]
        chunks.append((inputs * taps).sum(dim=-1))
    return torch.cat(chunks, dim=-1)


@lru_cache(maxsize=16)
def _filters(old: int, new: int) -> Tensor:
    """One filter per output phase: float32 [new, 1, 2 * half width + old]."""
    half_width = _half_width(old, new)
    taps = torch.arange(-half_width, half_width + old, dtype=torch.float64) / old
    phases = torch.arange(new, dtype=torch.float64) / new
    return _sinc_taps(taps[None, :] - phases[:, None], old, new)[:, None]


def _sinc_taps(distance: Tensor, old: int, new: int) -> Tensor:
    """Weights of input samples, given their distance in units of `old` samples; float32."""
    cutoff = min(old, new) * ROLLOFF  # zero crossings per unit
    position = (distance * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(position * math.pi / ZERO_CROSSINGS / 2).square()
    return (torch.sinc(position) * window * (cutoff / old)).to(torch.float32)


def _half_width(old: int, new: int) -> int:
    """Reach of a filter to each side, in input samples."""
    return math.ceil(ZERO_CROSSINGS * old / (min(old, new) * ROLLOFF))
