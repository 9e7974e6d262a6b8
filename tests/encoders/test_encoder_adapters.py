"""Read-outs and adapters of encoders: identity at the start, gradients, and who sees what."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from imagebind_fixtures import POCKET
from torch import Tensor, nn

from anyany.encoders import (
    EncoderAdapterConfig,
    ImageBind,
    ImageBindEncoder,
    ImagePreprocessing,
    PixelEncoder,
    PreprocessingConfig,
    VideoPreprocessing,
    adapter_state,
    base_state,
    build_encoder,
    install_adapter,
    load_adapter_state,
    tile_name,
)
from anyany.encoders.preprocessing.config import AudioPreprocessing
from anyany.encoders.tilers.base import AudioTile, FrameTile
from anyany.errors import CheckpointError, ConfigError, UsageError

SMALL = PreprocessingConfig(
    ImagePreprocessing(size=32),
    VideoPreprocessing(size=32),
    AudioPreprocessing(num_mel_bins=16, num_frames=32),
)
NAMES = [tile_name(0), tile_name(1), tile_name(None)]


def encoder(readout: str = "patches", **options: int) -> ImageBindEncoder:
    torch.manual_seed(0)
    imagebind = ImageBind(POCKET).eval()
    return ImageBindEncoder(imagebind, "image", readout=readout, preprocessing=SMALL, **options)  # type: ignore[arg-type]


def adapted(kind: str) -> tuple[ImageBindEncoder, nn.Module]:
    own = encoder()
    tower = own.imagebind.modality_trunks["vision"]
    config = EncoderAdapterConfig(kind, r=2, alpha=2)  # type: ignore[arg-type]
    own.adapter = install_adapter(tower, config, num_tiles=2)
    return own, tower


def pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def wake(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if "lora_B" in name or "adapter" in name:
            nn.init.normal_(parameter, std=0.3)


def test_tile_updates_start_as_the_base_and_then_each_tile_has_its_own() -> None:
    batch, base = pictures(), encoder()(pictures()).tokens
    own, _ = adapted("tile_lora")
    assert torch.equal(own(batch, adapter_names=NAMES).tokens, base)
    wake(own)
    tokens = own(batch, adapter_names=NAMES).tokens
    assert torch.equal(tokens[2], base[2])  # the overview keeps the base
    assert (tokens[:2] - base[:2]).abs().amax(dim=(1, 2)).min() > 1e-3
    swapped = own(batch, adapter_names=[NAMES[1], NAMES[0], NAMES[2]]).tokens
    assert (swapped[:2] - tokens[:2]).abs().amax(dim=(1, 2)).min() > 1e-3
    alone = own(batch[1:2], adapter_names=NAMES[1:2]).tokens
    torch.testing.assert_close(alone, tokens[1:2], atol=1e-5, rtol=0)
    torch.testing.assert_close(own(batch).tokens, base)  # nobody named: no update


def test_each_tiles_update_learns_in_one_pass_also_in_training() -> None:
    own, _ = adapted("tile_lora")
    wake(own)
    own.train()
    own.requires_grad_(False)
    lora = {name: p.requires_grad_() for name, p in own.named_parameters() if "lora_" in name}
    own(pictures(), adapter_names=NAMES).tokens.square().mul(pictures(1).mean()).sum().backward()
    own.zero_grad()
    (own(pictures(), adapter_names=NAMES).tokens * torch.randn(3, 16, 16)).sum().backward()
    assert len(lora) == 2 * 2 * 3 * 2  # blocks, tiles, layers, A and B
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lora.values())


def test_an_adapters_tensors_are_kept_apart_from_the_base() -> None:
    plain = encoder()
    for kind, count in (("tile_lora", 24), ("routed", 2 * 2 * 8)):
        own, _ = adapted(kind)
        assert len(adapter_state(own)) == count
        state = {name: torch.randn_like(tensor) for name, tensor in adapter_state(own).items()}
        load_adapter_state(own, state)
        assert all(torch.equal(adapter_state(own)[name], state[name]) for name in state)
        with pytest.raises(CheckpointError, match="do not fit: 1 tensors differ, first"):
            load_adapter_state(own, dict(list(state.items())[1:]))
        assert base_state(own).keys() == plain.state_dict().keys()
        assert all(torch.equal(base_state(own)[k], v) for k, v in plain.state_dict().items())


def test_routed_adapter_starts_as_the_identity_and_learns() -> None:
    own, tower = adapted("routed")
    batch = pictures()
    assert torch.equal(own(batch).tokens, encoder()(batch).tokens)
    wake(own)
    tokens = own(batch).tokens
    assert (tokens - encoder()(batch).tokens).abs().max() > 1e-3
    (tokens * torch.randn_like(tokens)).sum().backward()
    routed = own.get_submodule("adapter")
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in routed.parameters())
    assert len(list(routed.children())) == 2 * len(list(tower.get_submodule("blocks").children()))


def test_a_copy_of_a_routed_encoder_is_one_of_its_own() -> None:
    own, _ = adapted("routed")
    with torch.no_grad():
        before = own(pictures()).tokens
        again = copy.deepcopy(own)
        wake(again)
        assert torch.equal(own(pictures()).tokens, before)
        assert not torch.equal(again(pictures()).tokens, before)


def test_inner_readouts_are_the_towers_own_states() -> None:
    batch, base = pictures(), encoder()
    tower = base.imagebind.modality_trunks["vision"]
    states = list(tower.states(base.imagebind.stem_tokens("vision", batch).tokens))  # type: ignore[operator]
    inner = encoder("penultimate")(batch)
    assert torch.equal(inner.tokens, states[0][:, 1:])
    assert inner.grid == (4, 4)
    classes = encoder("classes", class_every=1)
    assert torch.equal(classes(batch).tokens, torch.stack([s[:, 0] for s in states], dim=1))
    assert (classes.num_tokens, classes(batch).grid) == (2, None)
    last = encoder("classes", class_every=2)
    assert torch.equal(last(batch).tokens[:, 0], states[1][:, 0])
    with pytest.raises(ConfigError, match=r"class_every: expected 1 to 2, .* got 3"):
        encoder("classes", class_every=3)


@pytest.mark.parametrize("readout", ["patches", "pooled", "penultimate", "classes"])
def test_what_a_readout_leaves_out_is_listed(readout: str) -> None:
    own = encoder(readout, class_every=1)
    (own(pictures()).tokens * torch.randn(3, own.num_tokens, 16)).sum().backward()
    told = tuple(f"{name}." for name in own.without_gradient())
    for name, parameter in own.named_parameters():
        if ".vision." in name:
            dead = parameter.grad is None or not parameter.grad.any()
            assert dead == name.startswith(told or ("-",)), name


def test_pixels_are_patches_and_linear_over_them_is_a_convolution() -> None:
    pixels = PixelEncoder("image", patch_size=8, preprocessing=SMALL)
    features = pixels(pictures())
    assert (features.grid, features.tokens.shape, pixels.num_tokens) == ((4, 4), (3, 16, 192), 16)
    layer = nn.Linear(192, 5)
    conv = nn.Conv2d(3, 5, 8, stride=8)
    kernel = layer.weight.detach().view(5, 8, 8, 3).permute(0, 3, 1, 2)
    conv.load_state_dict({"weight": kernel, "bias": layer.bias})
    expected = conv(pictures()).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(features.tokens), expected, atol=1e-5, rtol=0)
    assert pixels(torch.zeros(1, 3, 9, 17)).grid == (2, 3)


def test_frames_and_sounds_are_pixels_of_the_same_width() -> None:
    video = PixelEncoder("video", patch_size=8, preprocessing=SMALL)
    frame = FrameTile(np.full((1, 40, 40, 3), 255, np.uint8))
    assert video(video.prepare(frame)[None]).tokens.shape == (1, 16, 192)
    audio = PixelEncoder("audio", patch_size=8, preprocessing=SMALL)
    sound = AudioTile(np.random.default_rng(0).normal(size=(1, 6000)).astype(np.float32), 16_000)
    features = audio(audio.prepare(sound)[None])
    assert (features.grid, features.tokens.shape) == ((2, 4), (1, 8, 192))


def test_adapter_errors() -> None:
    with pytest.raises(UsageError, match="expected an encoder with low-rank updates"):
        encoder()(pictures(), adapter_names=NAMES)
    with pytest.raises(UsageError, match="the pixels read-out has no encoder"):
        PixelEncoder("image", patch_size=8)(pictures(), adapter_names=NAMES)
    tower = encoder().imagebind.modality_trunks["vision"]
    config = EncoderAdapterConfig("tile_lora", target_modules=("in_proj",))
    with pytest.raises(ConfigError, match="the encoder's tower has no in_proj"):
        install_adapter(tower, config, num_tiles=1)
    with pytest.raises(ConfigError, match="encoder_adapter: expected a positive r; got 0"):
        EncoderAdapterConfig("routed", r=0)
    with pytest.raises(ConfigError, match="modality: expected one of image, video, audio"):
        PixelEncoder("smell", patch_size=8)
    assert isinstance(build_encoder(None, "audio", readout="pixels", patch_size=8), PixelEncoder)
    imagebind = encoder().imagebind
    built = build_encoder(imagebind, "image", readout="penultimate", preprocessing=SMALL)
    assert (built.readout, built.encoder_dim) == ("penultimate", 16)
    with pytest.raises(ConfigError, match="readout patches: expected an ImageBind; got none"):
        build_encoder(None, "image")
    with pytest.raises(ConfigError, match="patch_size: expected 1 or more; got 0"):
        PixelEncoder("image", patch_size=0)
