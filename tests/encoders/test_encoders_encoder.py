"""ImageBind as an encoder: prepare, batch, read out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from imagebind_fixtures import POCKET
from PIL import Image

from anyany.encoders import (
    AudioPreprocessing,
    Encoder,
    FramesTiler,
    ImageBind,
    ImageBindEncoder,
    ImagePreprocessing,
    PreprocessingConfig,
    TilerConfig,
    VideoPreprocessing,
)
from anyany.errors import ConfigError, UsageError

SMALL = PreprocessingConfig(
    image=ImagePreprocessing(size=32),
    video=VideoPreprocessing(size=32, num_clips=2, clip_seconds=0.5, num_crops=1),
    audio=AudioPreprocessing(
        num_clips=1, clip_seconds=0.5, num_mel_bins=16, num_frames=32, shift_milliseconds=16.0
    ),
)


@dataclass
class Clip:
    frames: Any
    frames_per_second: float = 8.0


@dataclass
class Recording:
    waveform: Any
    sample_rate: int = 16_000


@pytest.fixture(scope="module")
def imagebind() -> ImageBind:
    torch.manual_seed(0)
    return ImageBind(POCKET).eval()


def _media(modality: str, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    if modality == "audio":
        return Recording(generator.uniform(-1, 1, (1, 8_000)).astype(np.float32))
    frames = generator.integers(0, 256, (8, 40, 48, 3), dtype=np.uint8)
    return Image.fromarray(frames[0]) if modality == "image" else Clip(frames)


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
@pytest.mark.parametrize("readout", ["patches", "pooled"])
def test_features_have_the_stated_sizes_and_do_not_depend_on_the_batch(
    imagebind: ImageBind, modality: Any, readout: Any
) -> None:
    encoder = ImageBindEncoder(imagebind, modality, readout=readout, preprocessing=SMALL)
    prepared = [encoder.prepare(_media(modality, seed)) for seed in range(3)]
    patches = 8 if modality == "audio" else 16
    assert encoder.encoder_dim == 16
    assert encoder.num_tokens == (1 if readout == "pooled" else patches)
    with torch.no_grad():
        features = encoder(torch.stack(prepared))
        alone = encoder(prepared[1][None])
    assert features.tokens.shape == (3, encoder.num_tokens, 16)
    assert features.pooled.shape == (3, 16)
    grid = (2, 4) if modality == "audio" else (4, 4)
    assert features.grid == (grid if readout == "patches" else None)
    torch.testing.assert_close(features.tokens[1:2], alone.tokens, atol=1e-6, rtol=1e-5)
    if readout == "pooled":
        assert torch.equal(features.tokens[:, 0], features.pooled)
    again = encoder.prepare(_media(modality, 1))
    assert again.numpy().tobytes() == prepared[1].numpy().tobytes()


def test_half_precision_weights_take_prepared_floats(imagebind: ImageBind) -> None:
    half = ImageBind(POCKET).eval()
    half.load_state_dict(imagebind.state_dict())
    half.to(torch.bfloat16)
    prepared = torch.randn(2, 3, 32, 32)
    outputs = []
    for model in (imagebind, half):
        with torch.no_grad():
            outputs.append(ImageBindEncoder(model, "image", preprocessing=SMALL)(prepared).pooled)
    assert outputs[1].dtype == torch.bfloat16
    torch.testing.assert_close(outputs[1].float(), outputs[0], atol=0.03, rtol=0)


def test_one_vision_tower_serves_pictures_and_videos(imagebind: ImageBind) -> None:
    pictures = ImageBindEncoder(imagebind, "image", preprocessing=SMALL)
    videos = ImageBindEncoder(imagebind, "video", preprocessing=SMALL)
    both = torch.nn.ModuleDict({"image": pictures, "video": videos})
    assert len(list(both.parameters())) == len(list(imagebind.parameters()))


def test_tiles_of_a_video_are_encoded_one_by_one(imagebind: ImageBind) -> None:
    encoder = ImageBindEncoder(imagebind, "video", preprocessing=SMALL)
    tiler = FramesTiler(TilerConfig("frames", num_tiles=4, frames_per_tile=2))
    tiles = tiler(_media("video", 0))
    with torch.no_grad():
        features = encoder(torch.stack([encoder.prepare(tile.media) for tile in tiles]))
    assert features.tokens.shape == (4, 16, 16)
    assert not torch.allclose(features.tokens[0], features.tokens[3])


def test_gradients_reach_the_weights_through_both_readouts(imagebind: ImageBind) -> None:
    encoder = ImageBindEncoder(imagebind, "image", preprocessing=SMALL)
    features = encoder(torch.randn(1, 3, 32, 32))
    (features.tokens.square() * torch.arange(16)).sum().backward()
    weight = imagebind.modality_trunks["vision"].blocks[0].attn.in_proj_weight  # type: ignore[index,union-attr]
    assert weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    imagebind.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    ("modality", "change", "message"),
    [
        ("image", {"image": ImagePreprocessing(size=64)}, r"image.size: expected 32, .*; got 64"),
        ("video", {"video": VideoPreprocessing(size=32, frames_per_clip=4)}, "expected 2, the"),
        ("video", {"video": VideoPreprocessing()}, r"video.size: expected 32, .*; got 224"),
        ("audio", {"audio": AudioPreprocessing()}, r"audio.num_mel_bins: expected 16, .* got 128"),
    ],
)
def test_sizes_that_disagree_are_refused(
    imagebind: ImageBind, modality: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageBindEncoder(imagebind, modality, preprocessing=replace(SMALL, **change))


def test_unknown_modalities_towers_and_readouts_are_refused(imagebind: ImageBind) -> None:
    with pytest.raises(ConfigError, match="one of image, video, audio; got 'smell'"):
        ImageBindEncoder(imagebind, "smell")  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match="one of patches, pooled, penultimate, classes; got 'cls'"
    ):
        ImageBindEncoder(imagebind, "image", readout="cls", preprocessing=SMALL)  # type: ignore[arg-type]
    deaf = ImageBind(replace(POCKET, audio=None))
    with pytest.raises(ConfigError, match="expected an ImageBind with the audio tower; got one wi"):
        ImageBindEncoder(deaf, "audio", preprocessing=SMALL)
    with pytest.raises(UsageError, match="expected a video with uint8 frames"):
        ImageBindEncoder(imagebind, "video", preprocessing=SMALL).prepare(_media("image", 0))


def test_the_base_class_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="Encoder does not define prepare"):
        Encoder().prepare(None)
    with pytest.raises(NotImplementedError, match="Encoder does not define forward"):
        Encoder()(torch.zeros(1))
