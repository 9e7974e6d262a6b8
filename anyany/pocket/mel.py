"""Log-mel pictures of recordings: what the mel autoencoder codes and the vocoder reads.

A picture has one row every 10 ms, row t centred on sample 160 t, and 64 mel bins from 50 Hz to
8 kHz. Values are brought to about zero mean and unit variance by constants, so that the decoded
picture can go straight into the vocoder, as AudioLDM's pipeline hands it on.

Shapes: B recordings, F frames.
"""

from __future__ import annotations

import functools
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from anyany.pocket.synthesis import FRAME, NUM_SAMPLES, SAMPLE_RATE

NUM_MELS: Final = 64
NUM_FRAMES: Final = NUM_SAMPLES // FRAME
_FFT: Final = 1024
_WINDOW: Final = 640  # samples: 40 ms, neighbouring tones 100 Hz apart just stay apart
_MIN_HERTZ: Final = 50.0
_FLOOR: Final = 0.03  # of mel magnitude, about 70 dB under a loud tone
_MEAN: Final = -2.8  # of log-mel values of the world's sounds
_STD: Final = 2.2


def log_mel(waveform: Tensor) -> Tensor:
    """Normalised log-mel pictures.

    Args:
        waveform: float32 [B, samples] in [-1, 1] at 16 kHz; samples a multiple of 160.

    Returns:
        float32 [B, samples / 160, 64].
    """
    return (log_mel_raw(waveform) - _MEAN) / _STD


def log_mel_raw(waveform: Tensor) -> Tensor:
    """As `log_mel`, natural logarithms not normalised."""
    padded = F.pad(waveform, (_FFT // 2, _FFT // 2))
    spectrum = torch.stft(
        padded,
        _FFT,
        hop_length=FRAME,
        win_length=_WINDOW,
        window=torch.hann_window(_WINDOW),
        center=False,
        return_complex=True,
    ).abs()  # [B, bins, frames + 1]
    mel = filterbank() @ spectrum[..., : waveform.shape[-1] // FRAME]
    return mel.clamp(min=_FLOOR).log().transpose(1, 2)


@functools.lru_cache(maxsize=1)
def filterbank() -> Tensor:
    """Triangles at even mel distances (O'Shaughnessy's scale): float32 [64, 513]."""
    edges = _to_hertz(torch.linspace(_to_mel(_MIN_HERTZ), _to_mel(SAMPLE_RATE / 2), NUM_MELS + 2))
    bins = torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def _to_mel(hertz: float) -> float:
    return float(2595 * torch.log10(torch.tensor(1 + hertz / 700)))


def _to_hertz(mel: Tensor) -> Tensor:
    return 700 * (10 ** (mel / 2595) - 1)
