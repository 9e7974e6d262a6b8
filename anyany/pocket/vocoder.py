"""Pocket's vocoder: a SpeechT5HifiGan from normalised mel pictures to samples.

It is time-invariant, so from a steady picture it can only make waves that repeat every 10 ms: the
world's tones lie on that grid (see `synthesis`), and it can learn them to the phase. That is why a
plain L1 of the waveform works beside the spectral loss, and no discriminator is needed.

Legend: B batch, F mel frames.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyany.alignment.trainer import LossOutput, Task
from anyany.pocket.check_sound import score_sound
from anyany.pocket.mel import NUM_FRAMES, NUM_MELS
from anyany.pocket.mel_vae import to_mel, training_sound
from anyany.pocket.sounds import SOUND_ATTRIBUTES, draw_sound
from anyany.pocket.synthesis import FRAME, SAMPLE_RATE, SoundJitter, Waveform, render_sound

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import SpeechT5HifiGan

    from anyany.alignment.order import Draws

VOCODER: Final[dict[str, Any]] = {
    "model_in_dim": NUM_MELS,
    "sampling_rate": SAMPLE_RATE,
    "upsample_initial_channel": 128,
    "upsample_rates": [4, 40],
    "upsample_kernel_sizes": [8, 80],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 9]],
    "normalize_before": False,  # the pictures are normalised already
}
CROP: Final = 48  # frames of a training stretch, a multiple of the autoencoder's 8
_EDGE: Final = 4  # frames at either end that lack their neighbours: they do not count
_WAVE_WEIGHT: Final = 10.0
_FFTS: Final = (1024, 512, 128)
_SOFT: Final = 1e-2  # of magnitudes: below it all is silence


def build_vocoder() -> SpeechT5HifiGan:
    """The vocoder with fresh weights."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER))


class VocoderTask(Task):
    """Waveforms from mel pictures, of trainable and nameless sounds.

    Args:
        vocoder: trained.
        vae: frozen; if given, half of the pictures have been through it, as generated ones have.
    """

    def __init__(self, vocoder: SpeechT5HifiGan, vae: AutoencoderKL | None = None) -> None:
        super().__init__(vocoder, num_samples=None)
        self.vocoder = vocoder
        self.vae = None if vae is None else vae.eval().requires_grad_(False)

    @torch.no_grad()
    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Tensor]:
        """Mel pictures [B, F, 64] and waveforms [B, F * 160]."""
        recordings = [training_sound(index, "vocoder")[1] for index in indices]
        mels = to_mel(recordings)
        stretches, waveforms = [], []
        for index, mel, recording in zip(indices, mels, recordings, strict=True):
            start = 8 * random.Random(f"vocoder-crop:{index}").randint(0, (NUM_FRAMES - CROP) // 8)
            stretches.append(mel[:, start : start + CROP])
            waveforms.append(recording[start * FRAME : (start + CROP) * FRAME])
        pictures = torch.stack(stretches)  # [B, 1, F, 64]
        if self.vae is not None:
            half = len(pictures) // 2
            latents = self.vae.encode(pictures[:half]).latent_dist.mean
            pictures = torch.cat([self.vae.decode(latents).sample, pictures[half:]])
        return {"mels": pictures[:, 0], "waveforms": torch.from_numpy(np.stack(waveforms))}

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """L1 of samples, and of (log-)magnitudes at three resolutions."""
        inner = slice(_EDGE * FRAME, -_EDGE * FRAME)
        made = self.vocoder(batch["mels"])[:, inner]
        true = batch["waveforms"][:, inner]
        wave = F.l1_loss(made, true)
        spectral = torch.stack([_spectral_distance(made, true, fft) for fft in _FFTS]).mean()
        return LossOutput(
            _WAVE_WEIGHT * wave + spectral, {"wave": wave, "spectral": spectral}, weight=len(made)
        )

    def evaluate(self, folder: Path) -> dict[str, float]:
        """Attributes of held-out sounds after the round trip, without the autoencoder and with."""
        figures = {f"mel_{k}": v for k, v in round_trip(self.vocoder, None).items()}
        if self.vae is not None:
            figures |= {f"vae_{k}": v for k, v in round_trip(self.vocoder, self.vae).items()}
        return figures


@torch.no_grad()
def round_trip(
    vocoder: SpeechT5HifiGan,
    vae: AutoencoderKL | None,
    *,
    number: int = 64,
    held_out: bool | None = True,
    seed: int = 0,
) -> dict[str, float]:
    """Share of true sounds whose attributes survive mel, autoencoder (if given) and vocoder."""
    rng = random.Random(seed)
    scores = []
    for _ in range(number):
        sound = draw_sound(rng, held_out=held_out)
        mels = to_mel([render_sound(sound, SoundJitter.draw(rng))])
        if vae is not None:
            mels = vae.decode(vae.encode(mels).latent_dist.mean).sample
        scores.append(score_sound(play(vocoder, mels)[0], sound))
    figures = {name: sum(s[name] for s in scores) / number for name in SOUND_ATTRIBUTES}
    return {**figures, "all": sum(all(s.values()) for s in scores) / number}


@torch.no_grad()
def play(vocoder: SpeechT5HifiGan, mels: Tensor) -> list[Waveform]:
    """Mel pictures [B, 1, F, 64] to waveforms, float32 [F * 160] each."""
    return list(vocoder(mels[:, 0]).float().numpy())


def _spectral_distance(made: Tensor, true: Tensor, fft: int) -> Tensor:
    """L1 of log-magnitudes and of magnitudes."""
    one, other = (_magnitudes(wave, fft) for wave in (made, true))
    logs = F.l1_loss((one + _SOFT).log(), (other + _SOFT).log())
    scale = other.mean().clamp(min=_SOFT)
    return logs + 0.5 * F.l1_loss(one, other) / scale


def _magnitudes(waveform: Tensor, fft: int) -> Tensor:
    spectrum = torch.stft(
        waveform, fft, hop_length=fft // 4, window=torch.hann_window(fft), return_complex=True
    )
    squared = spectrum.real.square() + spectrum.imag.square()
    magnitudes: Tensor = (squared + 1e-8).sqrt() / fft**0.5
    return magnitudes
