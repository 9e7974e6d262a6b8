"""Bit by bit: the loop beside diffusers' own pipelines, in one process and at one batch size."""

from typing import Any

import diffusers
import pytest
import torch
from decoder_cases import (
    SD_TINY,
    Case,
    audio_decoder,
    image_decoder,
    stored_cases,
    video_decoder,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from anyany.decoders import Condition, DecoderSettings, build_scheduler
from anyany.decoders.components import Components
from anyany.decoders.image import ImageDecoder

# diffusers' own set_timesteps, called by its pipelines
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
EMBEDS = ("prompt_embeds", "negative_prompt_embeds")


def image_pipeline(unet: Any = None, *, scheduler: Any) -> Any:
    """diffusers' pipeline over sd_tiny."""
    decoder = image_decoder()
    text_encoder: Any = CLIPTextModel.from_pretrained(SD_TINY / "text_encoder")
    text_encoder.eval()
    pipeline = diffusers.StableDiffusionPipeline(
        vae=decoder.vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(SD_TINY / "tokenizer"),
        unet=unet or decoder.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def scheduler_of(case: Case) -> Any:
    return build_scheduler("native", case.scheduler)


@pytest.mark.parametrize("name", list(stored_cases("sd_tiny")))
def test_image_is_bit_equal_to_the_pipeline(name: str) -> None:
    case = stored_cases("sd_tiny")[name]
    pipeline = image_pipeline(scheduler=scheduler_of(case))
    theirs_steps: list[Tensor] = []

    def keep(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        theirs_steps.append(given["latents"].clone())
        return given

    theirs = pipeline(
        **case.call,
        **{key: case.arrays[key] for key in EMBEDS if key in case.arrays},
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        callback_on_step_end=keep,
    ).images

    decoder = image_decoder()
    decoder.scheduler_config = case.scheduler
    ours_steps: list[Tensor] = []
    condition = case.condition("prompt_embeds")
    noise, generator = case.start()
    ours = decoder(
        condition or decoder.encode_captions([case.call["prompt"]]),
        noise=noise,
        generators=generator,
        negative=case.condition("prompt_embeds", "negative_prompt_embeds")
        or decoder.encode_captions([""]),
        height=case.call.get("height"),
        width=case.call.get("width"),
        settings=DecoderSettings(
            case.call["num_inference_steps"],
            case.call["guidance_scale"],
            eta=case.call.get("eta", 0.0),
        ),
        callback=lambda step, timestep, latents: ours_steps.append(latents),
    )
    assert len(ours_steps) == len(theirs_steps)
    for mine, its in zip(ours_steps, theirs_steps, strict=True):
        assert torch.equal(mine, its)
    assert torch.equal(ours, theirs)


def test_negative_prompts_are_encoded_as_the_pipeline_does() -> None:
    case = stored_cases("sd_tiny")["ddim"]
    call = {"num_inference_steps": 2, "guidance_scale": 4.0}
    theirs = image_pipeline(scheduler=scheduler_of(case))(
        ["a red cat", "a dog"],
        negative_prompt=["blue", "a very long negative prompt, " * 30],
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **call,
    ).images
    decoder = image_decoder()
    decoder.scheduler_config = case.scheduler
    ours = decoder(
        decoder.encode_captions(["a red cat", "a dog"]),
        generators=torch.Generator().manual_seed(0),
        negative=["blue", "a very long negative prompt, " * 30],
        scheduler="native",
        **call,
    )
    assert torch.equal(ours, theirs)


def test_lcm_with_its_guidance_input_is_bit_equal_to_the_pipeline() -> None:
    torch.manual_seed(0)
    decoder = image_decoder()
    unet = UNet2DConditionModel.from_config({**decoder.unet.config, "time_cond_proj_dim": 9}).eval()
    values = stored_cases("sd_tiny")["ddim"].scheduler
    condition = stored_cases("sd_tiny")["dpm_batch2_n2"].arrays["prompt_embeds"]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = image_pipeline(unet, scheduler=build_scheduler("lcm", values))(
        prompt_embeds=condition,
        num_inference_steps=3,
        guidance_scale=8.0,
        generator=generators,
        output_type="pt",
    ).images
    components = Components(unet, decoder.vae, values)
    ours = ImageDecoder(components, decoder.condition)(
        Condition({"prompt_embeds": condition}),
        generators=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        settings=DecoderSettings(3, 8.0, scheduler="lcm"),
        negative=Condition({"prompt_embeds": torch.zeros(1, 77, 32)}),
    )
    assert torch.equal(ours, theirs)


def deprecated(name: str) -> Any:
    """A pipeline class that diffusers may drop."""
    kind = getattr(diffusers, name, None)
    return kind or pytest.skip(f"diffusers {diffusers.__version__} has no {name}")


def compare(pipeline: Any, decoder: Any, case: Case, name: str, size: dict[str, Any]) -> None:
    """Latents after every step, to the bit."""
    theirs: list[Tensor] = []
    ours: list[Tensor] = []
    pipeline.set_progress_bar_config(disable=True)
    negative = case.condition(name, "negative_prompt_embeds")
    assert negative is not None
    media = pipeline(
        **case.call,
        **{key: case.arrays[key] for key in EMBEDS},
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        callback=lambda step, timestep, latents: theirs.append(latents.clone()),
        return_dict=False,
    )[0]
    noise, generator = case.start()
    decoder.scheduler_config = case.scheduler
    made = decoder(
        case.condition(name),
        noise=noise,
        generators=generator,
        negative=negative,
        callback=lambda step, timestep, latents: ours.append(latents),
        settings=DecoderSettings(
            case.call["num_inference_steps"],
            case.call["guidance_scale"],
            eta=case.call.get("eta", 0.0),
        ),
        **size,
    )
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.equal(mine, its)
    assert torch.equal(made, media)


@pytest.mark.parametrize("name", list(stored_cases("zeroscope_tiny")))
def test_video_is_bit_equal_to_the_pipeline(name: str) -> None:
    case = stored_cases("zeroscope_tiny")[name]
    decoder = video_decoder()
    pipeline = deprecated("TextToVideoSDPipeline")(
        vae=decoder.vae,
        text_encoder=None,
        tokenizer=None,
        unet=decoder.unet,
        scheduler=scheduler_of(case),
    )
    sizes = ("num_frames", "height", "width")
    size: dict[str, Any] = {key: case.call[key] for key in sizes if key in case.call}
    compare(pipeline, decoder, case, "prompt_embeds", size)


@pytest.mark.parametrize("name", list(stored_cases("audioldm_tiny")))
def test_audio_is_bit_equal_to_the_pipeline(name: str) -> None:
    case = stored_cases("audioldm_tiny")[name]
    decoder = audio_decoder()

    class Encoder(torch.nn.Module):  # the pipeline asks its text encoder for nothing but this
        dtype = torch.float32
        device = torch.device("cpu")

    pipeline = deprecated("AudioLDMPipeline")(
        vae=decoder.vae,
        text_encoder=Encoder(),
        tokenizer=None,
        unet=decoder.unet,
        scheduler=scheduler_of(case),
        vocoder=decoder.vocoder,
    )
    compare(pipeline, decoder, case, "class_labels", {})


def test_one_generator_a_part_is_what_a_list_is_to_the_pipeline() -> None:
    case = stored_cases("sd_tiny")["ddim"]
    seeds = (5, 6)
    embeds = stored_cases("sd_tiny")["dpm_batch2_n2"].arrays
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "eta": 0.7}

    def generators() -> list[Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    theirs = image_pipeline(scheduler=scheduler_of(case))(
        **{key: embeds[key] for key in EMBEDS},
        generator=generators(),
        output_type="pt",
        **call,
    ).images
    decoder = image_decoder()
    decoder.scheduler_config = case.scheduler
    ours = decoder(
        Condition({"prompt_embeds": embeds["prompt_embeds"]}),
        negative=Condition({"prompt_embeds": embeds["negative_prompt_embeds"]}),
        generators=generators(),
        scheduler="native",
        **call,
    )
    assert torch.equal(ours, theirs)
