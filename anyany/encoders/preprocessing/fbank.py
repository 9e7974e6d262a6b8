"""Log-mel filter banks after Kaldi's `compute-fbank-feats`, with a Hann window.

Shapes: M mel bins.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

PREEMPHASIS = 0.97
LOG_FLOOR = torch.finfo(torch.float32).eps


def log_mel(
    waveform: Tensor,
    sample_rate: int,
    *,
    num_mel_bins: int,
    frame_milliseconds: float,
    shift_milliseconds: float,
    min_frequency: float,
) -> Tensor:
    """Log energies of mel bands per analysis window.

    Args:
        waveform: float32 [samples] of one channel.
        sample_rate: Hz.
        num_mel_bins: M.
        frame_milliseconds: window length.
        shift_milliseconds: distance of windows.
        min_frequency: Hz, lower edge of the lowest band; the highest ends at sample_rate / 2.

    Returns:
        float32 [windows, M]; windows that would leave the waveform are left out, so a waveform
        shorter than one window gives [0, M].
    """
    window_size = int(sample_rate * frame_milliseconds * 0.001)
    shift = int(sample_rate * shift_milliseconds * 0.001)
    if len(waveform) < window_size:
        return waveform.new_zeros(0, num_mel_bins)
    windows = waveform.unfold(0, window_size, shift)
    windows = windows - windows.mean(dim=1, keepdim=True)
    previous = torch.cat([windows[:, :1], windows[:, :-1]], dim=1)
    windows = (windows - PREEMPHASIS * previous) * torch.hann_window(window_size, periodic=False)
    fft_size = 1 << (window_size - 1).bit_length()
    power = torch.fft.rfft(windows, n=fft_size).abs().square()  # [windows, fft_size / 2 + 1]
    bank = mel_bank(
        sample_rate, num_mel_bins=num_mel_bins, fft_size=fft_size, min_frequency=min_frequency
    )
    energies: Tensor = power[:, :-1] @ bank.T
    return energies.clamp(min=LOG_FLOOR).log()


@lru_cache(maxsize=16)
def mel_bank(sample_rate: int, *, num_mel_bins: int, fft_size: int, min_frequency: float) -> Tensor:
    """Triangles, evenly spaced and linear on the mel scale.

    Args:
        sample_rate: Hz.
        num_mel_bins: M.
        fft_size: points of the Fourier transform.
        min_frequency: Hz, lower edge of the lowest triangle.

    Returns:
        float32 [M, fft_size / 2]; the Nyquist bin has no weight and is left out.
    """
    lowest, highest = _mel(min_frequency), _mel(sample_rate / 2)
    step = (highest - lowest) / (num_mel_bins + 1)
    left = lowest + step * torch.arange(num_mel_bins)[:, None]
    frequencies = sample_rate / fft_size * torch.arange(fft_size // 2)
    mels = 1127.0 * (1.0 + frequencies / 700.0).log()[None]
    rising = (mels - left) / step
    falling = (left + 2 * step - mels) / step
    return torch.minimum(rising, falling).clamp(min=0.0)


def _mel(frequency: float) -> float:
    """Hz on O'Shaughnessy's mel scale."""
    return 1127.0 * math.log(1.0 + frequency / 700.0)
