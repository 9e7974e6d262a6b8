"""Recordings to log-mel pictures, equal to the published (torchaudio) preprocessing.

Shapes: S clips.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from anyany.encoders.preprocessing.clips import clip_spans
from anyany.encoders.preprocessing.config import AudioPreprocessing
from anyany.encoders.preprocessing.fbank import log_mel
from anyany.encoders.preprocessing.resampling import resample
from anyany.errors import UsageError


class AudioLike(Protocol):
    """A decoded recording, as `anyany.media.Audio` and `AudioPart` are.

    `waveform` is float32 [channels, samples] in [-1, 1]; `sample_rate` is in Hz.
    """

    @property
    def waveform(self) -> npt.NDArray[np.float32]: ...

    @property
    def sample_rate(self) -> int: ...


def prepare_audio(audio: AudioLike, config: AudioPreprocessing) -> Tensor:
    """Resample, take even clips, make each a normalised log-mel picture.

    Of several channels the first is used; the mean that is subtracted is taken over all.

    Args:
        audio: waveform and rate.
        config: counts, sizes, normalisation.

    Returns:
        float32 [S, 1, num_mel_bins, num_frames].

    Raises:
        UsageError: there is no sample, a wrong shape or type, or no positive rate.
    """
    waveform = torch.tensor(checked_waveform(audio))
    waveform = resample(waveform, audio.sample_rate, config.sample_rate).clone()
    spans = clip_spans(
        waveform.shape[-1] / config.sample_rate,
        num_clips=config.num_clips,
        clip_seconds=config.clip_seconds,
    )
    pictures = []
    for span in spans:
        start, stop = int(span.start * config.sample_rate), int(span.end * config.sample_rate)
        clip = waveform[:, start:stop]
        if config.published_mean_quirk:
            clip -= clip.mean()  # in place: clips that overlap see each other's shift
        else:
            clip = clip - clip.mean()
        pictures.append(_picture(clip[0], config))
    return torch.stack(pictures)


def _picture(clip: Tensor, config: AudioPreprocessing) -> Tensor:
    mels = log_mel(
        clip,
        config.sample_rate,
        num_mel_bins=config.num_mel_bins,
        frame_milliseconds=config.frame_milliseconds,
        shift_milliseconds=config.shift_milliseconds,
        min_frequency=config.min_frequency,
    ).T[:, : config.num_frames]
    # The published code pads with 0 before it normalises.
    padded = F.pad(mels, (0, config.num_frames - mels.shape[1]))
    return ((padded - config.mean) / config.std)[None]


def checked_waveform(audio: Any) -> npt.NDArray[np.float32]:
    """The waveform of a recording, after a look at it.

    Raises:
        UsageError: there is no sample, a wrong shape or type, or no positive rate.
    """
    waveform = getattr(audio, "waveform", None)
    rate = getattr(audio, "sample_rate", None)
    if not isinstance(waveform, np.ndarray) or waveform.dtype != np.float32 or waveform.ndim != 2:
        got = (
            f"{waveform.dtype} {waveform.shape}"
            if isinstance(waveform, np.ndarray)
            else type(audio)
        )
        raise UsageError(f"expected audio with a float32 waveform [channels, samples]; got {got}")
    if waveform.size == 0:
        raise UsageError(f"expected at least one sample of audio; got shape {waveform.shape}")
    if not isinstance(rate, int) or rate <= 0:
        raise UsageError(f"expected a whole, positive sample rate in Hz; got {rate}")
    return waveform
