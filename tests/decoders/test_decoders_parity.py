"""Stored cases of diffusers' pipelines: the loop and the ways out reach them within 1e-5."""

from typing import Any

import pytest
import torch
from decoder_cases import Case, decoder_of, image_decoder, stored_cases, stored_text
from einops import rearrange
from torch import Tensor

from anyany.decoders import AudioDecoder, Condition, LoopOptions, VideoDecoder

CASES = [
    (kind, name)
    for kind in ("sd_tiny", "zeroscope_tiny", "audioldm_tiny")
    for name in stored_cases(kind)
]
SIZES = {
    "height": "height",
    "width": "width",
    "num_frames": "num_frames",
    "audio_length_in_s": "seconds",
}


def run_case(case: Case, kind: str, **run: Any) -> tuple[Tensor, Tensor, list[int]]:
    """Decode a stored case.

    Returns:
        The media, the last latents and the time steps that the callback saw.
    """
    decoder = decoder_of(kind)
    decoder.scheduler_config = case.scheduler
    (name,) = decoder.condition.tensors
    if "prompt" in case.call:
        condition = decoder.encode_captions([case.call["prompt"]])
    else:
        condition = case.condition(name) or pytest.fail("the case has no condition")
    noise, generator = case.start()
    seen: list[tuple[int, Tensor]] = []
    run |= {ours: case.call[theirs] for theirs, ours in SIZES.items() if theirs in case.call}
    media = decoder(
        condition,
        noise=noise,
        generators=generator,
        negative=case.condition(name, "negative_prompt_embeds"),
        num_inference_steps=case.call["num_inference_steps"],
        guidance_scale=case.call["guidance_scale"],
        eta=case.call.get("eta", 0.0),
        scheduler="native",
        callback=lambda step, timestep, latents: seen.append((timestep, latents)),
        **run,
    )
    return media, seen[-1][1], [timestep for timestep, _ in seen]


def like_pipeline(media: Tensor) -> Tensor:
    """Channels last, as the pipelines' numpy output has them."""
    if media.ndim == 5:
        return rearrange(media, "b f c h w -> b f h w c")
    return rearrange(media, "b c h w -> b h w c") if media.ndim == 4 else media


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_plain_path_reaches_the_stored_cases(kind: str, name: str) -> None:
    case = stored_cases(kind)[name]
    media, latents, timesteps = run_case(case, kind)
    assert timesteps == case.timesteps  # PNDM: one more than steps
    if not isinstance(decoder_of(kind), VideoDecoder):
        torch.testing.assert_close(like_pipeline(media), case.arrays["output"], rtol=0.0, atol=1e-5)
    if "latents" in case.arrays:
        scale = float(case.arrays["latents"].abs().max())
        torch.testing.assert_close(latents, case.arrays["latents"], rtol=0.0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "options",
    [
        LoopOptions(split_guidance=True),
        LoopOptions(cache_keys_values=True),
        LoopOptions(split_guidance=True, cache_keys_values=True),
    ],
    ids=["split", "cached", "split and cached"],
)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sd_tiny", "euler_rect"),
        ("sd_tiny", "dpm_batch2_n2"),
        ("sd_tiny", "ddim_nocfg"),
        ("zeroscope_tiny", "ddim_batch2"),
        ("audioldm_tiny", "ddim_eta1"),
    ],
)
def test_options_stay_with_the_plain_path(kind: str, name: str, options: LoopOptions) -> None:
    case = stored_cases(kind)[name]
    plain, plain_latents, _ = run_case(case, kind)
    media, latents, _ = run_case(case, kind, options=options)
    torch.testing.assert_close(media, plain, rtol=0.0, atol=1e-5)
    scale = float(plain_latents.abs().max())
    torch.testing.assert_close(latents, plain_latents, rtol=0.0, atol=1e-5 * scale)


def test_audio_has_the_length_that_was_asked_for() -> None:
    decoder = decoder_of("audioldm_tiny")
    assert isinstance(decoder, AudioDecoder)
    decoder.scheduler_config = stored_cases("audioldm_tiny")["ddim_eta1"].scheduler
    waveform = decoder(
        Condition({"class_labels": torch.ones(1, 24)}),
        generators=torch.Generator().manual_seed(1),
        num_inference_steps=1,
        guidance_scale=1.0,
        seconds=0.0119,
    )
    assert waveform.shape == (1, 190)  # 0.0119 s of 16 kHz
    assert waveform.abs().max() <= 1.0


def test_text_encoder_makes_what_the_pipeline_made() -> None:
    decoder = image_decoder()
    embeds = decoder.encode_captions(["a red cat"])["prompt_embeds"]
    torch.testing.assert_close(embeds, stored_text("prompt_a_red_cat"), rtol=0.0, atol=1e-5)
    empty = decoder.encode_captions([""])["prompt_embeds"]
    torch.testing.assert_close(empty, stored_text("empty"), rtol=0.0, atol=1e-5)
