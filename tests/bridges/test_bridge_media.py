"""Any tiler with any projector and any merge through the one Bridge; and those that cannot go."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stage_toys import DIM, toy_parts
from torch import Tensor

from anyany.bridges import Bridge, BridgeConfig, Encoded, check_mix
from anyany.bridges.media import chain
from anyany.config import from_dict, to_dict
from anyany.encoders import (
    PROJECTORS,
    AudioConfig,
    AudioPreprocessing,
    EncoderAdapterConfig,
    ImageBind,
    ImageBindConfig,
    ImageBindEncoder,
    ImagePreprocessing,
    PixelEncoder,
    PreprocessingConfig,
    ProjectorConfig,
    ResamplerConfig,
    TilerConfig,
    VideoPreprocessing,
    VisionConfig,
    build_tiler,
)
from anyany.encoders.projectors.base import ProjectorType
from anyany.errors import ConfigError
from anyany.language import LanguageModel
from anyany.messages import AudioPart, ImagePart, Message, TextPart, VideoPart

SIZES = ResamplerConfig(num_queries=4, dim=8, num_heads=2, mlp_ratio=2, max_words=16)
GRIDDED = ("linear", "mlp", "mlp_norm", "bottleneck", "swiglu")
PICTURE_TILERS = ("single", "grid", "anyres", "uhd", "native")
SMALL = PreprocessingConfig(
    ImagePreprocessing(size=16),
    VideoPreprocessing(size=16, num_clips=1, num_crops=1),
    AudioPreprocessing(num_mel_bins=16, num_frames=32, num_clips=2),
)


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    found: LanguageModel = toy_parts().bridge.language
    return found


def make(
    language: LanguageModel,
    kind: Any = "linear",
    merge: str = "flat",
    *,
    tiler: Any = "single",
    pixels: bool = False,
    **options: Any,
) -> Bridge:
    torch.manual_seed(0)
    tower = {"dim": 8, "num_blocks": 2, "num_heads": 2, "patch_size": 8}
    imagebind = ImageBind(
        ImageBindConfig(
            embed_dim=8,
            vision=VisionConfig(**tower, image_size=16),
            audio=AudioConfig(**tower, num_mel_bins=16, num_frames=32, stride=8),
        )
    ).eval()
    encoders: dict[str, Any] = {
        name: PixelEncoder(name, patch_size=8, preprocessing=SMALL)
        if pixels
        else ImageBindEncoder(imagebind, name, preprocessing=SMALL)  # type: ignore[arg-type]
        for name in ("image", "video", "audio")
    }
    width = 192 if pixels else 8
    projector = ProjectorConfig(kind, width, DIM, hidden_dim=6, resampler=SIZES)
    tilers = {"image": TilerConfig(tiler), **options.pop("tilers", {})}
    return Bridge(
        encoders, language, BridgeConfig(projector, merge=merge, tilers=tilers, **options)
    )


def photo(width: int = 40, height: int = 26, seed: int = 0) -> ImagePart:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return ImagePart(Image.fromarray(pixels))


def clip(num_frames: int) -> VideoPart:
    rng = np.random.default_rng(0)
    return VideoPart(rng.integers(0, 255, (num_frames, 16, 16, 3), np.uint8), 1.0)


@pytest.mark.parametrize("kind", [name for name in PROJECTORS if name not in ("grouped",)])
def test_every_tiler_and_merge_goes_with_every_projector(
    language: LanguageModel, kind: ProjectorType
) -> None:
    pixels = kind == "patch_linear"
    keeps, joins = PROJECTORS[kind].keeps_grid, PROJECTORS[kind].joins
    first = make(language, kind, pixels=pixels)
    encoded: dict[str, Encoded] = {}
    for merge in ("flat", "newline", "schema"):
        if (merge == "newline" and not keeps) or (merge == "schema" and joins):
            with pytest.raises(ConfigError, match=f"merge {merge} does not go with .*{kind}"):
                make(language, kind, merge, tiler="grid", pixels=pixels)
            continue
        bridge = make(language, kind, merge, tiler="grid", pixels=pixels).eval()
        for tiler in PICTURE_TILERS:
            bridge.tilers["image"] = build_tiler(TilerConfig(tiler), first.encoders["image"])  # type: ignore[arg-type]
            with torch.no_grad():
                if tiler not in encoded:
                    encoded[tiler] = bridge.encode(bridge.prepare(photo()))
                rows = bridge.project(encoded[tiler])
            assert rows.isfinite().all()
            assert rows.shape == (expected(encoded[tiler], bridge, merge), DIM), (tiler, merge)


def expected(encoded: Encoded, bridge: Bridge, merge: str) -> int:
    """Tokens counted by hand: of every tile, and the separators of 40 x 26 pixels."""
    projector: Any = bridge.projectors["shared"]
    if projector.joins:
        return int(projector.num_outputs(0))
    tiles = [link.tokens.shape[1] for link in encoded.links for _ in link.positions]
    places = [place for link in encoded.links for place in link.positions]
    total = sum(int(projector.num_outputs(count)) for count in tiles)
    if merge == "schema":
        return total + sum(place is not None for place in places)
    if merge == "newline":
        if encoded.size:  # anyres: 40 x 26 in 32 x 32 is 32 x 20.8, of 4 x 4 patches 4 x 2
            return 4 + 2 * (4 + 1)
        link = encoded.links[-1]  # where the map is
        assert link.grid is not None
        down = len({place[0] for place in link.positions if place is not None}) or 1
        return total + down * link.grid[0]
    return total


def test_batched_equals_single_for_mixed_sizes_and_questions(language: LanguageModel) -> None:
    for kind, tiler in (("instruct_qformer", "uhd"), ("perceiver", "uhd"), ("mlp", "anyres")):
        bridge = make(language, kind, tiler=tiler)
        photos = [photo(), photo(64, 16), photo(seed=1), photo(64, 16, seed=2)]
        asked: list[Tensor | None] = [torch.randn(n, DIM) for n in (3, 2, 5)]
        asked.append(None)
        with torch.no_grad():
            encoded = bridge.encode_parts(photos)
            together = bridge.project_batch(encoded, asked)
            for rows, item, words in zip(together, encoded, asked, strict=True):
                torch.testing.assert_close(rows, bridge.project(item, words), atol=1e-5, rtol=0)


def test_the_question_is_that_of_the_turn(language: LanguageModel) -> None:
    bridge = make(language, "instruct_qformer")
    messages = [
        Message("user", (photo(), TextPart("draw a bell"))),
        Message("assistant", (TextPart("here"), photo())),
        Message("user", (photo(),)),
        Message("assistant", (TextPart("a"),)),
        Message("user", (TextPart("what is this ?"),)),
    ]
    questions = bridge.instructions(messages)
    assert list(questions) == [0, 2]
    for index, text in ((0, "draw a bell"), (2, "what is this ?")):
        ids = torch.tensor([language.encode_text(text)])
        assert torch.equal(questions[index], language.embed(ids)[0])
    assert not questions[0].requires_grad
    default = bridge.instructions([Message("user", (photo(),))])[0]
    assert len(default) == len(language.encode_text(language.template.default_instruction))
    assert make(language, "qformer").instructions(messages) == {}
    with torch.no_grad():
        one, other = (bridge.read(photo(), questions[index]) for index in (0, 2))
    assert (one - other).abs().max() > 1e-6


def test_an_hour_of_video_at_two_tokens_a_frame_stays_small(
    language: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiler = TilerConfig("frames", num_tiles=4000, frames_per_tile=1, tiles_per_second=1.0)
    bridge = make(language, "context_content", tilers={"video": tiler}, tiles_per_pass=100)
    encoder: Any = bridge.encoders["video"]
    alive: list[weakref.ref[Tensor]] = []
    most, sizes, forward = [0], set(), encoder.forward

    def watched(prepared: Tensor, **told: Any) -> Any:
        most[0] = max(most[0], sum(one() is not None for one in alive))
        sizes.add(len(prepared))
        features = forward(prepared, **told)
        alive.append(weakref.ref(features.tokens))
        return features

    monkeypatch.setattr(encoder, "forward", watched)
    gc.disable()  # nothing may depend on a collection
    try:
        with torch.no_grad():
            rows = bridge.read(clip(3600))
    finally:
        gc.enable()
    assert rows.shape == (7200, DIM)
    assert sizes == {100}
    assert len(alive) == 36
    assert most[0] == 0  # no features of an earlier pass are left when the next begins


def test_reading_in_pieces_equals_reading_at_once(language: LanguageModel) -> None:
    tilers = {"video": TilerConfig("frames", num_tiles=7, frames_per_tile=1)}
    for kind in ("context_content", "perceiver"):
        whole = make(language, kind, tilers=tilers)
        pieces = make(language, kind, tilers=tilers, tiles_per_pass=3)
        with torch.no_grad():
            at_once = whole.project(whole.encode(whole.prepare(clip(9))))
            torch.testing.assert_close(pieces.read(clip(9)), at_once, atol=1e-5, rtol=0)
    cut = {"adapter": EncoderAdapterConfig("tile_lora", r=2)}
    whole = make(language, tiler="anyres", encoder_adapter=cut["adapter"])
    pieces = make(language, tiler="anyres", encoder_adapter=cut["adapter"], tiles_per_pass=2)
    for bridge in (whole, pieces):
        for name, parameter in bridge.encoders.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, float(name.split("tile_")[1][0]))
    with torch.no_grad():
        at_once = whole.project(whole.encode(whole.prepare(photo())))
        torch.testing.assert_close(pieces.read(photo()), at_once, atol=1e-5, rtol=0)


def test_frames_and_spectrograms_take_the_same_way(language: LanguageModel) -> None:
    tilers = {
        "video": TilerConfig("frames", num_tiles=3, frames_per_tile=1),
        "audio": TilerConfig("clips", num_tiles=3, clip_seconds=0.3),
    }
    noise = np.random.default_rng(0).normal(size=(1, 16_000)).astype(np.float32)
    bridge = make(language, "linear", "newline", tilers=tilers)
    with torch.no_grad():
        assert bridge.read(clip(5)).shape == (3 * 2 * (2 + 1), DIM)
        assert bridge.read(AudioPart(noise, 16_000)).shape == (3 * 2 * (4 + 1), DIM)
    bridge = make(language, "position2d", "schema", tilers=tilers)
    with torch.no_grad():
        assert bridge.read(clip(5)).shape == (3 * 4 + 3, DIM)
        assert bridge.read(AudioPart(noise, 16_000)).shape == (3 * 4 + 3, DIM)


def test_tile_updates_and_separators_learn_through_the_bridge(language: LanguageModel) -> None:
    adapter = EncoderAdapterConfig("tile_lora", r=2)
    bridge = make(language, "linear", "newline", tiler="grid", encoder_adapter=adapter)
    rows = bridge.project(bridge.encode(bridge.prepare(photo())))
    (rows * torch.randn_like(rows)).sum().backward()  # type: ignore[no-untyped-call]
    touched = {n for n, p in bridge.named_parameters() if p.grad is not None and p.grad.any()}
    assert "projectors.shared.separators" in touched
    for tile in range(4):
        assert any(f"lora_B.tile_{tile}" in name for name in touched)
    assert not any("lora_B.tile_4" in name for name in touched)  # the overview keeps the base


def test_encoded_media_survive_the_cache(language: LanguageModel) -> None:
    for tiler in PICTURE_TILERS:
        bridge = make(language, "linear", tiler=tiler)
        prepared = bridge.prepare(photo(64, 20))
        with torch.no_grad():
            encoded = bridge.encode(prepared)
        back = Encoded.from_entry("image", encoded.to_entry())
        assert back.shape == encoded.shape
        links = zip(back.links, encoded.links, strict=True)
        assert all(torch.equal(one.tokens, other.tokens) for one, other in links)
        assert chain([encoded]).shape == encoded.shape
        assert prepared.sha256() == bridge.prepare(photo(64, 20)).sha256()
        assert prepared.sha256() != bridge.prepare(photo(64, 20, seed=1)).sha256()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"merge": "newline", "projector": {"type": "qformer"}},
            "merge newline does not go with projector qformer, .* take merge flat or schema",
        ),
        (
            {"merge": "newline", "projector": {"type": "perceiver"}},
            "merge newline does not go with projector perceiver, .* take merge flat, or",
        ),
        (
            {
                "merge": "schema",
                "projector": {"type": "perceiver"},
                "tilers": {"image": {"type": "uhd"}},
            },
            "merge schema does not go with projector perceiver, .* take merge flat",
        ),
        ({"merge": "schema"}, "merge schema does not go with tiler single, .* a tiler that cuts"),
        (
            {"tilers": {"video": {"type": "anyres"}}},
            "tiler anyres does not go with modality video, .* among single, frames for video",
        ),
        (
            {"encoder_adapter": {"type": "tile_lora"}},
            "encoder_adapter tile_lora does not go with the tilers, .* take tiler grid",
        ),
        ({"merge": "spiral"}, "expected one of flat, newline, schema; got 'spiral'"),
        ({"tiles_per_pass": 0}, "tiles_per_pass: expected 1 or more; got 0"),
    ],
)
def test_mixes_that_cannot_work_fail_as_they_are_read(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(values, BridgeConfig, source="test")


def test_mixes_with_a_readout_fail_before_anything_runs() -> None:
    newline = BridgeConfig(merge="newline")
    check_mix(newline, {"image": "patches", "audio": "penultimate"})
    for readout in ("pooled", "classes"):
        with pytest.raises(ConfigError, match=f"newline does not go with read-out {readout} of"):
            check_mix(newline, {"image": readout})  # type: ignore[dict-item]
    raw = BridgeConfig(ProjectorConfig("patch_linear"))
    check_mix(raw, {"image": "pixels"})
    with pytest.raises(ConfigError, match="patch_linear does not go with read-out patches"):
        check_mix(raw, {"image": "patches"})
    routed = replace(raw, encoder_adapter=EncoderAdapterConfig("routed"))
    with pytest.raises(ConfigError, match="routed does not go with read-out pixels of image"):
        check_mix(routed, {"image": "pixels"})


def test_a_whole_configuration_survives_the_loader() -> None:
    config = BridgeConfig(
        ProjectorConfig("position2d", resampler=SIZES),
        tilers={"image": TilerConfig("anyres", pins=((1, 2), (3, 1)))},
        merge="schema",
        encoder_adapter=EncoderAdapterConfig("tile_lora"),
    )
    assert from_dict(to_dict(config), BridgeConfig, source="test") == config
