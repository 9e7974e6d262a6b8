"""Preprocessing against what the published code makes of the same files."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from imagebind_fixtures import FOLDER, goldens, records
from PIL import Image

from anyany.encoders import (
    AudioPreprocessing,
    ImagePreprocessing,
    TextPreparation,
    VideoPreprocessing,
)
from anyany.encoders.preprocessing import resampling
from anyany.encoders.preprocessing.audios import prepare_audio
from anyany.encoders.preprocessing.clips import clip_spans
from anyany.encoders.preprocessing.fbank import log_mel, mel_bank
from anyany.encoders.preprocessing.images import centre_square, prepare_image
from anyany.encoders.preprocessing.resampling import resample
from anyany.encoders.preprocessing.text import clean_text
from anyany.encoders.preprocessing.videos import clip_frame_indices, prepare_frames, prepare_video
from anyany.errors import CheckpointError, ConfigError, UsageError

IMAGES = ["landscape_320x240", "portrait_201x333", "small_97x61"]
IMAGES += ["rgba_256x300", "gray_224x224", "wide_1000x100"]
VIDEOS = ["land_128x96_10fps_55f", "port_80x128_8fps_12f"]


@dataclass
class Clip:
    frames: Any
    frames_per_second: Any


@dataclass
class Recording:
    waveform: Any
    sample_rate: Any


def _read_clip(name: str) -> Clip:
    with av.open(str(FOLDER / f"{name}.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return Clip(np.stack(frames), records()["video"][name]["fps"])


def _read_audio(name: str) -> Recording:
    waveform, rate = soundfile.read(FOLDER / f"{name}.flac", dtype="float32", always_2d=True)
    return Recording(np.ascontiguousarray(waveform.T), rate)


@pytest.mark.parametrize("name", IMAGES)
def test_image_equals_the_published_crop(name: str) -> None:
    record = records()["images"][name]
    with Image.open(FOLDER / f"{name}.png") as image:
        crop = np.asarray(centre_square(image, 224))
        prepared = prepare_image(image, ImagePreprocessing())
    assert crop.shape == (224, 224, 3)
    np.testing.assert_array_equal(crop[::7, ::7], goldens()[f"image.{name}"])
    assert hashlib.sha256(crop.tobytes()).hexdigest() == record["sha256"]
    assert prepared.shape == (3, 224, 224)
    assert prepared.mean().item() == pytest.approx(record["mean"], abs=1e-6)
    assert prepared.std().item() == pytest.approx(record["std"], abs=1e-5)


def test_image_normalisation_is_bit_equal() -> None:
    with Image.open(FOLDER / "landscape_320x240.png") as image:
        prepared = prepare_image(image, ImagePreprocessing())
    digest = hashlib.sha256(prepared.contiguous().numpy().tobytes()).hexdigest()
    assert digest == records()["images"]["landscape_320x240"]["normalised_sha256"]


def test_image_at_its_own_size_is_only_normalised() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    config = ImagePreprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    prepared = prepare_image(Image.fromarray(pixels), config)
    expected = pixels.transpose(2, 0, 1) / 127.5 - 1.0
    np.testing.assert_allclose(prepared.numpy(), expected, atol=1e-6)


def test_image_errors() -> None:
    with pytest.raises(UsageError, match=r"sides differ at most 64-fold; got 1 x 20000 pixels"):
        prepare_image(Image.new("RGB", (1, 20_000)), ImagePreprocessing())
    with pytest.raises(TypeError, match="expected a PIL image; got ndarray"):
        prepare_image(np.zeros((4, 4, 3)), ImagePreprocessing())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a positive size; got 0"):
        ImagePreprocessing(size=0)
    with pytest.raises(ConfigError, match="expected positive std"):
        ImagePreprocessing(std=(1.0, 0.0, 1.0))


@pytest.mark.parametrize("name", VIDEOS)
def test_video_equals_the_published_views(name: str) -> None:
    record, clip = records()["video"][name], _read_clip(name)
    assert len(clip.frames) == record["frames"]
    config = VideoPreprocessing()
    assert clip_frame_indices(len(clip.frames), record["fps"], config) == record["frame_indices"]
    prepared = prepare_video(clip, config)
    assert prepared.shape == (15, 3, 2, 224, 224)
    np.testing.assert_allclose(
        prepared[..., ::28, ::28].numpy(), goldens()[f"video.{name}"], atol=1e-6, rtol=0
    )
    assert prepared.double().mean().item() == pytest.approx(record["mean"], abs=1e-5)


def test_video_with_one_crop_takes_the_centre_ones() -> None:
    clip = _read_clip("port_80x128_8fps_12f")
    small = {"size": 32, "num_clips": 2, "clip_seconds": 0.5}
    every = prepare_video(clip, VideoPreprocessing(**small))  # type: ignore[arg-type]
    centre = prepare_video(clip, VideoPreprocessing(**small, num_crops=1))  # type: ignore[arg-type]
    assert centre.shape == (2, 3, 2, 32, 32)
    assert torch.equal(centre, every[1::3])


def test_frames_of_a_tile_are_all_used() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    config = VideoPreprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    both = prepare_frames(frames, config)
    assert both.shape == (1, 3, 2, 32, 32)
    expected = frames.transpose(3, 0, 1, 2) / 127.5 - 1.0
    np.testing.assert_allclose(both[0].numpy(), expected, atol=1e-6)
    one = prepare_frames(frames[:1], config)
    assert torch.equal(one[0, :, 0], one[0, :, 1])
    with pytest.raises(UsageError, match="expected 1 or 2 frames per tile; got 3"):
        prepare_frames(np.zeros((3, 32, 32, 3), np.uint8), config)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(np.zeros((2, 8, 8, 3), np.float32), 8.0), r"uint8 frames .*; got float32 \(2, 8, 8,"),
        (Clip(np.zeros((0, 8, 8, 3), np.uint8), 8.0), "at least one frame of RGB"),
        (Clip(np.zeros((2, 8, 8, 4), np.uint8), 8.0), "at least one frame of RGB"),
        (Clip(np.zeros((2, 8, 8, 3), np.uint8), 0.0), "positive number of frames per second"),
        (Clip(np.zeros((2, 1, 999, 3), np.uint8), 8.0), "differ at most 64-fold; got 999 x 1"),
        ("clip.mp4", "expected a video with uint8 frames"),
    ],
)
def test_video_errors(clip: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare_video(clip, VideoPreprocessing(size=8))


def test_time_points_are_the_published_ones() -> None:
    for entry in records()["clip_timepoints"]:
        for num_clips in (3, 5):
            spans = clip_spans(entry["duration"], num_clips=num_clips, clip_seconds=2.0)
            got = [[float(span.start), float(span.end)] for span in spans]
            assert got == entry[f"clips{num_clips}"]


@pytest.mark.parametrize(
    ("name", "quirk", "golden"),
    [
        ("mono16k_5s", True, "audio.mono16k_5s"),
        ("mono16k_5s", False, "audio_clean.mono16k_5s"),
        ("mono16k_0p7s", True, "audio.mono16k_0p7s"),
        ("mono16k_0p7s", False, "audio.mono16k_0p7s"),
    ],
)
def test_audio_equals_the_published_pictures(name: str, quirk: bool, golden: str) -> None:
    prepared = prepare_audio(_read_audio(name), AudioPreprocessing(published_mean_quirk=quirk))
    assert prepared.shape == (3, 1, 128, 204)
    sample = prepared[:, :, records()["audio_rows"], ::2].numpy()
    np.testing.assert_allclose(sample, goldens()[golden], atol=3e-4, rtol=0)


def test_audio_quirk_makes_a_difference_and_leaves_the_input_alone() -> None:
    recording = _read_audio("mono16k_5s")
    recording.waveform = recording.waveform + np.float32(0.1)
    before = recording.waveform.copy()
    quirk, clean = (
        prepare_audio(recording, AudioPreprocessing(published_mean_quirk=value))
        for value in (True, False)
    )
    assert (quirk - clean).abs().max() > 0.01
    np.testing.assert_array_equal(recording.waveform, before)


def test_audio_uses_the_first_channel() -> None:
    first = _read_audio("mono16k_0p7s").waveform
    prepared = prepare_audio(
        Recording(np.concatenate([first, np.zeros_like(first)]), 16_000), AudioPreprocessing()
    )
    alone = prepare_audio(Recording(first, 16_000), AudioPreprocessing())
    torch.testing.assert_close(prepared, alone, atol=3e-4, rtol=0)


def test_audio_shorter_than_a_window_is_padding() -> None:
    prepared = prepare_audio(Recording(np.ones((1, 10), np.float32), 16_000), AudioPreprocessing())
    torch.testing.assert_close(prepared, torch.full_like(prepared, 4.268 / 9.138))


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (Recording(np.zeros((1, 0), np.float32), 16_000), "at least one sample of audio"),
        (Recording(np.zeros(9, np.float32), 16_000), r"waveform \[channels, samples\]; got float"),
        (Recording(np.zeros((1, 9)), 16_000), "got float64"),
        (Recording(np.zeros((1, 9), np.float32), 0), "positive sample rate in Hz; got 0"),
        (b"RIFF", "expected audio with a float32 waveform"),
    ],
)
def test_audio_errors(recording: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare_audio(recording, AudioPreprocessing())
    with pytest.raises(ConfigError, match="min_frequency from 0 to below sample_rate / 2; got 9"):
        AudioPreprocessing(min_frequency=9_000.0)


def test_resampling_equals_the_published_one() -> None:
    waveform = torch.from_numpy(_read_audio("stereo44k_start").waveform)
    resampled = resample(waveform, 44_100, 16_000)[:, :8_000:5]
    np.testing.assert_allclose(resampled.numpy(), goldens()["resampled"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rate", "new_rate"), [(48_000, 16_000), (8_000, 16_000), (22_050, 16_000)]
)
def test_resampling_keeps_a_tone(rate: int, new_rate: int) -> None:
    tone = torch.sin(2 * math.pi * 440 * torch.arange(rate) / rate)[None]
    resampled = resample(tone, rate, new_rate)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(new_rate) / new_rate)
    assert resampled.shape == (1, new_rate)
    torch.testing.assert_close(resampled[0, 100:-100], expected[100:-100], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("rate", "new_rate"), [(44_100, 16_000), (11_025, 16_000)])
def test_resampling_without_a_filter_bank_is_the_same(
    monkeypatch: pytest.MonkeyPatch, rate: int, new_rate: int
) -> None:
    waveform = torch.randn(2, 1_999, generator=torch.Generator().manual_seed(0))
    expected = resample(waveform, rate, new_rate)
    monkeypatch.setattr(resampling, "MAX_FILTER_TAPS", 0)
    monkeypatch.setattr(resampling, "CHUNK", 100)
    torch.testing.assert_close(resample(waveform, rate, new_rate), expected, atol=1e-5, rtol=0)


def test_mel_bank_equals_the_published_one() -> None:
    bank = mel_bank(16_000, num_mel_bins=128, fft_size=512, min_frequency=20.0)
    np.testing.assert_allclose(bank.numpy(), goldens()["mel_bank"], atol=5e-5, rtol=0)


def _naive_log_mel(waveform: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """16 kHz, windows of 20 ms every 16 ms, from the definitions, one window and bin at a time."""
    size, shift, fft_size = 320, 256, 512

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    edges = np.linspace(mel(50.0), mel(8_000.0), bins + 2)
    rows = []
    for start in range(0, len(waveform) - size + 1, shift):
        window = waveform[start : start + size] - waveform[start : start + size].mean()
        emphasised = window - 0.97 * np.concatenate([window[:1], window[:-1]])
        shaped = emphasised * np.hanning(size)
        power = np.abs(np.fft.rfft(shaped, fft_size)) ** 2
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for index in range(fft_size // 2):
                at = mel(index * 16_000 / fft_size)
                if low < at < high:
                    side = (at - low) / (centre - low) if at <= centre else 0.0
                    side = side or (high - at) / (high - centre)
                    total += side * power[index]
            row.append(math.log(max(total, float(np.finfo(np.float32).eps))))
        rows.append(row)
    return np.array(rows)


def test_log_mel_at_other_sizes_equals_a_naive_loop() -> None:
    waveform = np.random.default_rng(3).standard_normal(3_000)
    ours = log_mel(
        torch.tensor(waveform, dtype=torch.float32),
        16_000,
        num_mel_bins=20,
        frame_milliseconds=20.0,
        shift_milliseconds=16.0,
        min_frequency=50.0,
    )
    np.testing.assert_allclose(ours.numpy(), _naive_log_mel(waveform, 20), atol=2e-3)


@pytest.fixture(scope="module")
def preparation() -> TextPreparation:
    """CLIP's tokenizer with the part of its vocabulary that the stored texts use."""
    from transformers import CLIPTokenizer

    stored = json.loads((FOLDER / "clip_text.json").read_text())
    merges: Any = [tuple(merge.split()) for merge in stored["merges"]]
    return TextPreparation(CLIPTokenizer(vocab=stored["vocab"], merges=merges))


def test_text_ids_are_the_published_ones(preparation: TextPreparation) -> None:
    stored = json.loads((FOLDER / "clip_text.json").read_text())
    ids = preparation(stored["texts"])
    assert ids.shape == (16, 77)
    assert ids.dtype == torch.int64
    for row, expected in zip(ids.tolist(), stored["token_ids"], strict=True):
        assert row == expected + [0] * (77 - len(expected))


def test_text_keeps_its_end_mark_when_cut(preparation: TextPreparation) -> None:
    assert preparation(["a dog " * 100])[0, [0, -1]].tolist() == [49_406, 49_407]


def test_text_folder_round_trip(preparation: TextPreparation, tmp_path: Path) -> None:
    preparation.tokenizer.save_pretrained(tmp_path)
    again = TextPreparation.from_folder(tmp_path)
    assert torch.equal(again(["a dog"]), preparation(["a dog"]))
    with pytest.raises(CheckpointError, match=r"expected a CLIP tokenizer .*; found none"):
        TextPreparation.from_folder(tmp_path / "none")


def test_cleaning() -> None:
    assert clean_text("  A &amp;lt;b&amp;gt;\n don\u00e2\u20ac\u2122t ") == "a <b> don't"
