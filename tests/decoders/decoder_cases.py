"""Reads tests/fixtures/diffusion: tiny decoders, and what diffusers' pipelines made of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Generator, Tensor
from transformers.models.speecht5.configuration_speecht5 import SpeechT5HifiGanConfig
from transformers.models.speecht5.modeling_speecht5 import SpeechT5HifiGan

from anyany.decoders import AudioDecoder, Condition, ImageDecoder, VideoDecoder, condition_spec
from anyany.decoders.components import Components

FIXTURES = Path(__file__).parents[1] / "fixtures" / "diffusion"
SD_TINY = FIXTURES / "sd_tiny"
SEED = 0


@dataclass(frozen=True)
class Case:
    """One call of a diffusers pipeline, and what came of it."""

    name: str
    scheduler: dict[str, Any]
    call: dict[str, Any]
    timesteps: list[int]
    latents_shape: list[int]
    arrays: dict[str, Tensor] = field(repr=False)

    @property
    def per_prompt(self) -> int:
        """Media a prompt."""
        images: int = self.call.get("num_images_per_prompt", 1)
        waveforms: int = self.call.get("num_waveforms_per_prompt", 1)
        return images * waveforms

    def condition(self, name: str, key: str = "prompt_embeds") -> Condition | None:
        """The case's embeddings under the decoder's name for them, one row a medium."""
        if key not in self.arrays:
            return None
        return Condition({name: self.arrays[key].repeat_interleave(self.per_prompt, 0)})

    def start(self) -> tuple[Tensor, Generator]:
        """The initial noise, and the generator as it stands after drawing it."""
        generator = torch.Generator().manual_seed(SEED)
        return torch.randn(self.latents_shape, generator=generator), generator


@functools.cache
def _stored() -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    with np.load(FIXTURES / "cases.npz") as file:
        values = _join_planes(file["values"])
    record: dict[str, Any] = json.loads((FIXTURES / "cases.json").read_text(encoding="utf-8"))
    return record, values


def stored_text(name: str) -> Tensor:
    """What sd_tiny's text encoder made of "a red cat" (`prompt_a_red_cat`) or "" (`empty`)."""
    record, _ = _stored()
    return _array(record["cases"]["sd_tiny"]["_texts"][name])


@functools.cache
def stored_cases(kind: str) -> dict[str, Case]:
    """The cases of sd_tiny, zeroscope_tiny or audioldm_tiny by name."""
    record, _ = _stored()
    cases = {}
    for name, case in record["cases"][kind].items():
        if name == "_texts":
            continue
        names = ("prompt_embeds", "negative_prompt_embeds", "output", "latents")
        arrays = {key: _array(case[key]) for key in names if key in case}
        timesteps = [int(step) for step in case["timesteps"]]
        cases[name] = Case(
            name, case["scheduler"], case["call"], timesteps, case["latents_shape"], arrays
        )
    return cases


@functools.cache
def image_decoder() -> ImageDecoder:
    """sd_tiny, read once."""
    return ImageDecoder.from_pretrained(SD_TINY)


@functools.cache
def video_decoder() -> VideoDecoder:
    """zeroscope_tiny's UNet, with sd_tiny's VAE (the stored latents do not depend on it)."""
    values = json.loads((FIXTURES / "zeroscope_tiny.json").read_text(encoding="utf-8"))
    unet = UNet3DConditionModel.from_config(values["unet"])
    _fill([unet], "zeroscope_tiny")
    components = Components(unet, image_decoder().vae, {})
    spec = condition_spec(unet.config, {"max_position_embeddings": 77})
    return VideoDecoder(components, spec, num_frames=3)


@functools.cache
def audio_decoder() -> AudioDecoder:
    """audioldm_tiny without its text encoder."""
    values = json.loads((FIXTURES / "audioldm_tiny.json").read_text(encoding="utf-8"))
    unet = UNet2DConditionModel.from_config(values["unet"])
    vae = AutoencoderKL.from_config(values["vae"])
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**values["vocoder"]))
    _fill([unet, vae, vocoder], "audioldm_tiny")
    components = Components(unet, vae, {}, vocoder=vocoder)
    return AudioDecoder(components, condition_spec(unet.config, {}))


def decoder_of(kind: str) -> ImageDecoder | VideoDecoder | AudioDecoder:
    """The decoder that a kind of cases belongs to."""
    makers: dict[str, Callable[[], ImageDecoder | VideoDecoder | AudioDecoder]] = {
        "sd_tiny": image_decoder,
        "zeroscope_tiny": video_decoder,
        "audioldm_tiny": audio_decoder,
    }
    return makers[kind]()


def _fill(networks: list[torch.nn.Module], kind: str) -> None:
    with np.load(FIXTURES / f"{kind}.npz") as file:
        values = torch.from_numpy(_join_planes(file["weights"]))
    place = 0
    with torch.no_grad():
        for network in networks:
            for name, tensor in sorted(network.state_dict().items()):
                if name.startswith(("encoder.", "quant_conv.")):
                    continue
                tensor.copy_(values[place : place + tensor.numel()].view_as(tensor))
                place += tensor.numel()
    assert place == values.numel(), f"{kind}: {place} of {values.numel()} weights were used"


def _array(name: str) -> Tensor:
    record, values = _stored()
    start, shape = record["arrays"][name]
    return torch.from_numpy(values[start : start + int(np.prod(shape))].reshape(shape).copy())


def _join_planes(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """[4, n] bytes to n float32."""
    return np.frombuffer(np.ascontiguousarray(planes.T).tobytes(), np.float32).copy()
