"""The published decoders' configurations: they load strictly and have the published counts."""

import json
import subprocess
import sys

import pytest
from decoder_cases import FIXTURES

from anyany.config import from_dict, to_dict
from anyany.decoders import (
    DecoderPresets,
    DecoderSettings,
    ImageDecoder,
    ImageDecoderConfig,
    TensorSpec,
    VideoDecoder,
    VideoDecoderConfig,
    build_components,
    condition_spec,
    load_decoder_config,
)
from anyany.decoders.config import DECODER_CONFIGS
from anyany.errors import ConfigError

COUNTS = {
    "sd-1.5": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd-2.1-base": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "zeroscope-v2-576w": {"unet": 1_411_233_860, "vae": 83_653_863, "text_encoder": 340_387_840},
    "audioldm-l-full": {
        "unet": 739_139_080,
        "vae": 55_376_873,
        "text_encoder": 125_302_016,
        "vocoder": 55_264_897,
    },
}
SHAPES = {
    "sd-1.5": ("prompt_embeds", (77, 768)),
    "sd-2.1-base": ("prompt_embeds", (77, 1024)),
    "zeroscope-v2-576w": ("prompt_embeds", (77, 1024)),
    "audioldm-l-full": ("class_labels", (512,)),
}


@pytest.mark.parametrize("name", list(DECODER_CONFIGS))
def test_full_size_counts_on_meta(name: str) -> None:
    config = load_decoder_config(name)
    components = build_components(config)
    assert components.num_parameters() == COUNTS[name]
    assert all(parameter.is_meta for parameter in components.unet.parameters())
    ((tensor, spec),) = condition_spec(config.unet, config.text_encoder)
    assert (tensor, spec.shape) == SHAPES[name]
    assert spec.normalize == (name == "audioldm-l-full")


def test_decoders_build_from_config_on_meta() -> None:
    values = json.loads((FIXTURES / "zeroscope_tiny.json").read_text())
    folder = FIXTURES / "sd_tiny"
    parts = {
        part: json.loads((folder / part / "config.json").read_text())
        for part in ("unet", "vae", "text_encoder")
    }
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    image = ImageDecoder.from_config(ImageDecoderConfig(**parts, scheduler=scheduler))
    assert image.latent_shape() == (4, 16, 16)
    assert next(image.parameters()).is_meta
    config = VideoDecoderConfig(**{**parts, **values}, scheduler=scheduler, num_frames=5, width=8)
    video = VideoDecoder.from_config(config)
    assert video.latent_shape() == (4, 5, 16, 4)
    assert video.extras() == {"num_frames": 5, "frames_per_second": 8.0, "height": 0, "width": 8}
    assert dict(video.condition) == {"prompt_embeds": TensorSpec((77, 32))}


@pytest.mark.parametrize("name", list(DECODER_CONFIGS))
def test_configs_go_round(name: str) -> None:
    config = load_decoder_config(name)
    assert from_dict(to_dict(config), type(config), source="memory") == config


def test_unknown_decoder_lists_the_names() -> None:
    with pytest.raises(ConfigError, match=r"a decoder among sd-1\.5, sd-2\.1-base, .*; got 'sdxl'"):
        load_decoder_config("sdxl")


def test_presets_and_settings() -> None:
    fast = DecoderSettings(4, 2.0, "unipc")
    presets = DecoderPresets(fast=fast, default="fast")
    assert presets.get() is presets.get("fast") is fast
    assert presets.get("reference") == DecoderSettings(50, 7.5, "native")
    with pytest.raises(ConfigError, match="a preset among reference, fast; got 'best'"):
        presets.get("best")
    with pytest.raises(ConfigError, match="num_inference_steps of at least 1, got 0"):
        DecoderSettings(0)
    with pytest.raises(ConfigError, match=r"eta in \[0, 1\], got 2"):
        DecoderSettings(eta=2.0)


def test_configuration_needs_no_torch_and_projectors_no_diffusers() -> None:
    code = (
        "import sys\n"
        "from anyany.decoders import ImageDecoderConfig, load_decoder_config\n"
        "load_decoder_config('sd-1.5')\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)\n"
        "from anyany.decoders import OutputProjector, Condition, part_generator\n"
        "assert not {'diffusers', 'transformers'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_exist() -> None:
    from anyany import decoders

    assert sorted(decoders.__all__) == sorted(set(decoders.__all__)) == dir(decoders)
    for name in decoders.__all__:
        assert getattr(decoders, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        decoders.nothing  # noqa: B018
