"""Pocket's audio parts: mel pictures, their training tasks, and the decoder that they make."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import anyany.pocket
from anyany.alignment.order import Draws
from anyany.alignment.trainer import Task
from anyany.pocket import audio_denoiser, clap, image_vae, mel, mel_vae, vocoder
from anyany.pocket.sounds import Sound, all_sounds
from anyany.pocket.synthesis import NUM_SAMPLES, render_sound
from anyany.pocket.text_encoder import CAPTION_TOKENS
from anyany.pocket.tokenizer import train_tokenizer


def _draws(number: int) -> Draws:
    return Draws(0, "batch", epochs=[0] * number, indices=range(number))


def _step(task: Task, number: int) -> None:
    """One step of training: a finite loss, and gradients in everything that is trained."""
    task.module.train()
    output = task.loss(task.batch(range(number), _draws(number)), _draws(number))
    assert torch.isfinite(output.total)
    torch.autograd.backward(output.total)
    trained = [p for p in task.module.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    task.module.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(num_dialogues=50)


def test_a_mel_picture_has_a_row_every_10_ms_and_sensible_values() -> None:
    waveforms = torch.from_numpy(np.stack([render_sound(sound) for sound in all_sounds()]))
    pictures = mel.log_mel(waveforms)
    assert pictures.shape == (48, 200, 64)
    assert abs(pictures.mean()) < 0.3
    assert 0.7 < pictures.std() < 1.3
    silence = mel.log_mel(torch.zeros(1, NUM_SAMPLES))
    assert torch.allclose(silence, pictures.min())


def test_a_tone_lights_the_bin_of_its_frequency() -> None:
    time = torch.arange(NUM_SAMPLES) / 16_000
    peaks = []
    for hertz in (200, 800, 3000, 6000):
        picture = mel.log_mel(torch.sin(2 * torch.pi * hertz * time)[None])[0]
        column = int(picture[100].argmax())
        peaks.append(column)
        center = mel.filterbank()[column].argmax() * 8000 / 512
        assert abs(float(center) - hertz) < 0.06 * hertz + 16
    assert peaks == sorted(peaks)


def test_the_autoencoder_learns_and_its_latents_can_be_normalised() -> None:
    torch.manual_seed(0)
    vae = mel_vae.build_mel_vae()
    _step(mel_vae.MelVaeTask(vae, crop=16), 2)
    mels = mel_vae.to_mel([render_sound(sound) for sound in all_sounds()[:4]])
    latents = mel_vae.encode_mels(vae, mels)
    assert tuple(latents.shape[1:]) == mel_vae.MEL_LATENT
    with torch.no_grad():
        before = vae.decode(latents).sample
        image_vae.fold_statistics(vae, latents)
        folded = mel_vae.encode_mels(vae, mels)
        after = vae.decode(folded).sample
    assert torch.allclose(folded.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-3)
    assert torch.allclose(folded.std(dim=(0, 2, 3)), torch.ones(8), atol=1e-3)
    assert torch.allclose(before, after, atol=1e-3)
    frozen = mel_vae.MelVaeTask(vae, crop=16, decoder_only=True)
    assert not any(p.requires_grad for p in frozen.vae.encoder.parameters())


def test_the_vocoder_learns_from_true_and_from_decoded_pictures() -> None:
    torch.manual_seed(0)
    network = vocoder.build_vocoder()
    _step(vocoder.VocoderTask(network), 2)
    vae = mel_vae.build_mel_vae()
    task = vocoder.VocoderTask(network, vae)
    batch = task.batch(range(2), _draws(2))
    true = vocoder.VocoderTask(network).batch(range(2), _draws(2))
    assert batch["mels"].shape == (2, 48, 64)
    assert batch["waveforms"].shape == (2, 48 * 160)
    assert torch.equal(batch["mels"][1], true["mels"][1])
    assert not torch.allclose(batch["mels"][0], true["mels"][0])
    figures = vocoder.round_trip(network, None, number=2)
    assert set(figures) == {"thing", "count", "pitch", "all"}


def test_the_text_encoder_is_trained_on_near_misses(tokenizer: Any) -> None:
    torch.manual_seed(0)
    encoder = clap.build_clap(tokenizer)
    task = clap.ClapContrastTask(encoder, tokenizer)
    batch = task.batch(range(8), _draws(8))
    assert batch["ids"].shape == (2, 16, CAPTION_TOKENS)
    changed = batch["labels"][0::2] != batch["labels"][1::2]
    assert (changed.sum(1) <= 1).all()
    assert changed.any(1).float().mean() > 0.8
    _step(task, 4)


def test_the_decoder_of_these_parts_makes_two_seconds(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = mel_vae.build_mel_vae()
    decoder = audio_denoiser.assemble_audio_decoder(
        audio_denoiser.build_audio_unet(),
        vae,
        vocoder.build_vocoder(),
        clap.build_clap(tokenizer),
        tokenizer,
    )
    assert decoder.latent_shape() == mel_vae.MEL_LATENT
    assert decoder.sample_rate == 16_000
    assert decoder.presets.get().num_inference_steps == 12
    empty = decoder.encode_captions([""])["class_labels"]
    assert torch.allclose(decoder.unconditional()["class_labels"], empty, atol=1e-5)
    pool = audio_denoiser.SoundPool(vae, recordings=1)
    assert len(pool) == 48
    assert pool.latents.shape == (48, *mel_vae.MEL_LATENT)
    assert 0.02 < pool.events.mean() < 0.6
    held_out = all_sounds(held_out=True)[:1]
    task = audio_denoiser.AudioDenoiseTask(decoder, pool, evaluation=held_out)
    _step(task, 2)
    made = audio_denoiser.make_sounds(decoder, held_out, num_inference_steps=2)
    assert [waveform.shape for waveform in made] == [(NUM_SAMPLES,)]
    assert np.isfinite(made[0]).all()
    again = audio_denoiser.make_sounds(decoder, held_out, num_inference_steps=2)
    assert np.array_equal(made[0], again[0])


def test_training_captions_say_nothing_that_is_not_so() -> None:
    from anyany.pocket.sounds import parse_sound

    rng = random.Random(0)
    sound, nameless = Sound("bee", "twice", "high"), Sound(count="twice")
    task = object.__new__(audio_denoiser.AudioDenoiseTask)  # captions need no networks
    for _ in range(300):
        parsed = parse_sound(task.caption(sound, rng))
        assert parsed is not None
        assert parsed.said().items() <= sound.said().items()
        parsed = parse_sound(task.caption(nameless, rng))
        assert parsed is not None
        assert set(parsed.said()) <= {"count"}


def test_no_training_plays_a_held_out_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Sound] = []

    def render(sound: Sound, *_: object) -> Any:
        played.append(sound)
        return np.zeros(NUM_SAMPLES, np.float32)

    monkeypatch.setattr(mel_vae, "render_sound", render)
    monkeypatch.setattr(audio_denoiser, "render_sound", render)
    monkeypatch.setattr(mel_vae, "render_nameless_sound", lambda rng: (Sound(), render(Sound())))
    monkeypatch.setattr(
        audio_denoiser, "render_nameless_sound", lambda rng: (Sound(), render(Sound()))
    )
    monkeypatch.setattr(audio_denoiser, "encode_mels", lambda vae, mels: torch.zeros(len(mels), 1))
    for purpose in ("mel-vae", "vocoder"):
        for index in range(400):
            mel_vae.training_sound(index, purpose)
    audio_denoiser.SoundPool(torch.nn.Identity(), recordings=1)  # type: ignore[arg-type]
    assert len(played) > 800
    assert not [sound for sound in played if sound.held_out]


def test_only_watched_modules_play_sounds() -> None:
    folder = Path(anyany.pocket.__file__ or "").parent
    playing = set()
    for path in folder.glob("*.py"):
        names = {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.alias)
        }
        if "render_sound" in names:
            playing.add(path.stem)
    # the vocoder plays held-out sounds in its evaluation alone; its training uses training_sound
    assert {"mel_vae", "vocoder", "audio_denoiser"} <= playing
