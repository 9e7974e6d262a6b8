"""The image decoder: its folder, its conditions, its sizes, and bytes that know no neighbours."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from decoder_cases import SD_TINY, image_decoder, stored_cases, stored_text
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyany.decoders import (
    Condition,
    DecoderPresets,
    DecoderSettings,
    ImageDecoder,
    LoopOptions,
    build_scheduler,
    denoise,
    part_generator,
    to_pil,
)
from anyany.decoders import components as parts
from anyany.decoders.attention import cached_keys_values
from anyany.errors import Cancelled, CheckpointError, ConfigError, UsageError

QUICK = DecoderSettings(2, 3.0, "dpmpp_2m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of sd_tiny that a test may harm."""
    return Path(shutil.copytree(SD_TINY, tmp_path / "decoder"))


def conditions(batch_size: int) -> Condition:
    """The condition of the stored cases, each part with another sign pattern."""
    base = stored_cases("sd_tiny")["ddim"].arrays["prompt_embeds"]
    signs = torch.linspace(-1, 1, batch_size).reshape(-1, 1, 1)
    return Condition({"prompt_embeds": base * signs})


def draw(rows: list[int], **run: Any) -> Tensor:
    """Parts `rows` of a reply of four, drawn together."""
    generators = [part_generator(3, "image", row) for row in rows]
    run = {"settings": QUICK, **run}
    return image_decoder().decode_batch(conditions(4).select(rows), generators, **run)


def digests(images: Tensor) -> list[str]:
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


# A seed means bytes


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_bytes_do_not_depend_on_neighbours(micro_batch: int) -> None:
    everything = digests(draw([0, 1, 2, 3], micro_batch=micro_batch))
    assert len(set(everything)) == 4
    assert digests(draw([3, 1], micro_batch=micro_batch)) == [everything[3], everything[1]]
    assert digests(draw([2], micro_batch=micro_batch)) == [everything[2]]


def test_per_step_noise_does_not_depend_on_neighbours() -> None:
    settings = DecoderSettings(2, 3.0, "ddim", eta=1.0)
    everything = digests(draw([0, 1, 2], settings=settings))
    assert digests(draw([2], settings=settings)) == everything[2:]
    assert digests(draw([2], settings=DecoderSettings(2, 3.0, "ddim"))) != everything[2:]


def test_free_batches_are_close_and_not_padded() -> None:
    rows: list[int] = []
    handle = image_decoder().unet.register_forward_pre_hook(
        lambda module, given: rows.append(given[0].shape[0])
    )
    invariant = draw([0, 1, 2])
    padded = draw([0, 1, 2], micro_batch=2)
    free = draw([0, 1, 2], micro_batch=4, batch_invariant=False)
    handle.remove()
    assert rows == [2] * 6 + [4] * 4 + [6] * 2  # with guidance, two rows a part
    torch.testing.assert_close(free, invariant, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(padded, invariant, rtol=0.0, atol=1e-5)


def test_batch_needs_a_generator_a_part() -> None:
    with pytest.raises(UsageError, match="2 generators, one a part, got 1"):
        image_decoder().decode_batch(conditions(2), [part_generator(0, "image", 0)])


# Conditions


def test_text_encoder_is_read_on_first_need_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = ImageDecoder.from_pretrained(folder)
    assert decoder.text is None
    decoder(conditions(1), generators=part_generator(0, "image", 0), settings=QUICK)
    assert decoder.text is None  # the stored unconditional condition was enough
    decoder.encode_captions(["a red cat"])
    assert decoder.text is not None


def test_unconditional_is_computed_once_and_kept_beside_the_weights(folder: Path) -> None:
    kept = folder / "unconditional.safetensors"
    kept.unlink()
    made = ImageDecoder.from_pretrained(folder).unconditional()["prompt_embeds"]
    torch.testing.assert_close(made, stored_text("empty"), rtol=0.0, atol=1e-5)
    assert torch.equal(load_file(kept)["prompt_embeds"], made)
    shutil.rmtree(folder / "text_encoder")
    (folder / "decoder.json").write_text(
        json.dumps(
            {
                "modality": "image",
                "condition": {"prompt_embeds": {"shape": [77, 32]}},
                "presets": {},
            }
        )
    )
    again = ImageDecoder.from_pretrained(folder)
    assert torch.equal(again.unconditional()["prompt_embeds"], made)
    with pytest.raises(CheckpointError, match=r"text_encoder.config\.json: missing"):
        again.encode_captions(["a red cat"])


def test_conditions_of_another_decoder_are_refused() -> None:
    other = Condition({"prompt_embeds": torch.zeros(1, 77, 768)})
    with pytest.raises(UsageError, match=r"of shape \[B, 77, 32\], got \[1, 77, 768\]"):
        image_decoder()(other, generators=part_generator(0, "image", 0))
    with pytest.raises(UsageError, match=r"of shape \[B, 77, 32\]"):
        image_decoder()(conditions(1), generators=part_generator(0, "image", 0), negative=other)
    with pytest.raises(UsageError, match="at least one caption"):
        image_decoder().encode_captions([])


# The call


def test_nothing_is_left_to_chance() -> None:
    with pytest.raises(UsageError, match="noise or generators"):
        image_decoder()(conditions(1))
    for settings in (DecoderSettings(2, 1.0, "lcm"), DecoderSettings(2, 1.0, "ddim", eta=0.5)):
        with pytest.raises(UsageError, match="expected generators"):
            image_decoder()(conditions(1), noise=torch.zeros(1, 4, 16, 16), settings=settings)


def test_sizes() -> None:
    decoder = image_decoder()
    assert decoder.latent_shape() == (4, 16, 16)
    assert decoder.latent_shape(height=24, width=40) == (4, 12, 20)
    with pytest.raises(UsageError, match="height as a multiple of 2, got 33: nearest is 32"):
        decoder.latent_shape(height=33)
    with pytest.raises(UsageError, match=r"noise \[1, 4, 16, 16\], got \[1, 4, 8, 8\]"):
        decoder(conditions(1), noise=torch.zeros(1, 4, 8, 8), settings=QUICK)


def test_settings_resolve_from_preset_to_single_values() -> None:
    presets = DecoderPresets(reference=DecoderSettings(3, 1.0, "euler"), fast=QUICK)
    decoder = ImageDecoder.from_pretrained(SD_TINY, presets=presets)
    steps: list[int] = []

    def count(**run: Any) -> int:
        steps.clear()
        decoder(
            conditions(1),
            generators=part_generator(0, "image", 0),
            callback=lambda step, timestep, latents: steps.append(step),
            **run,
        )
        return len(steps)

    assert count() == 3
    assert count(settings="fast") == 2
    assert count(settings="fast", num_inference_steps=1) == 1
    assert count(settings=QUICK, scheduler="pndm") == 3  # PNDM evaluates once more
    with pytest.raises(ConfigError, match="a preset among"):
        count(settings="best")
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        count(num_inference_steps=0)
    with pytest.raises(UsageError, match=r"eta 0 with EulerDiscreteScheduler, got 0\.5: use ddim"):
        count(eta=0.5)


def test_cancel_stops_before_the_next_step() -> None:
    steps: list[int] = []
    with pytest.raises(Cancelled, match="at denoising step 2 of 5"):
        image_decoder()(
            conditions(1),
            generators=part_generator(0, "image", 0),
            settings=DecoderSettings(5, 1.0, "euler"),
            callback=lambda step, timestep, latents: steps.append(step),
            cancel=lambda: len(steps) == 2,
        )
    assert steps == [0, 1]


def test_scheduler_and_noise_are_never_changed() -> None:
    decoder = image_decoder()
    scheduler = parts.read_json(SD_TINY / "scheduler" / "scheduler_config.json")
    solver = build_scheduler("pndm", scheduler)
    noise = torch.ones(1, 4, 16, 16)
    run = {"num_inference_steps": 2, "guidance_scale": 1.0, "noise": noise, "scheduler": solver}
    first = denoise(decoder.unet, conditions(1), None, **run)
    assert torch.equal(denoise(decoder.unet, conditions(1), None, **run), first)
    assert torch.equal(noise, torch.ones(1, 4, 16, 16))
    assert solver.timesteps is None  # as it was built
    with pytest.raises(UsageError, match="an unconditional condition"):
        denoise(decoder.unet, conditions(1), None, **{**run, "guidance_scale": 2.0})
    with pytest.raises(UsageError, match="one batch size, got 1 and 2"):
        denoise(decoder.unet, conditions(2), None, **run)
    strange = Condition({"pooled": torch.zeros(1, 3)})
    with pytest.raises(UsageError, match=r"got \['pooled'\]: hand in unet_inputs"):
        denoise(decoder.unet, strange, None, **run)


def test_guidance_on_a_part_of_the_trajectory_runs_fewer_rows() -> None:
    rows: list[int] = []
    handle = image_decoder().unet.register_forward_pre_hook(
        lambda module, given: rows.append(given[0].shape[0])
    )
    window = LoopOptions(guidance_from=0.25, guidance_until=0.75)
    partly = draw([1], settings=DecoderSettings(4, 3.0, "euler"), options=window)
    handle.remove()
    assert rows == [1, 2, 2, 1]
    assert not torch.equal(partly, draw([1], settings=DecoderSettings(4, 3.0, "euler")))
    with pytest.raises(UsageError, match="guidance_from <= guidance_until"):
        LoopOptions(guidance_from=0.8, guidance_until=0.2)


def test_keys_and_values_are_computed_once_a_request() -> None:
    unet = image_decoder().unet
    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    calls = {"self": 0, "cross": 0}

    def count(which: str) -> Any:
        def hook(module: Any, given: Any) -> None:
            calls[which] += 1

        return hook

    handles = [
        layer.attn1.to_k.register_forward_pre_hook(count("self")),
        layer.attn2.to_k.register_forward_pre_hook(count("cross")),
    ]
    before = {name: type(processor) for name, processor in unet.attn_processors.items()}
    run = {"settings": DecoderSettings(4, 3.0, "euler")}
    draw([0], options=LoopOptions(cache_keys_values=True), **run)
    assert calls == {"self": 4, "cross": 1}
    draw([0], options=LoopOptions(cache_keys_values=True, split_guidance=True), **run)
    assert calls == {"self": 12, "cross": 3}
    for handle in handles:
        handle.remove()
    assert {name: type(processor) for name, processor in unet.attn_processors.items()} == before


def test_processors_are_put_back_after_an_error() -> None:
    unet = image_decoder().unet
    before = dict(unet.attn_processors)
    with pytest.raises(RuntimeError, match="stop"), cached_keys_values(unet):
        raise RuntimeError("stop")
    assert dict(unet.attn_processors) == before


def test_pictures_round_to_the_nearest_level() -> None:
    ramp = torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.0])
    (picture,) = to_pil(ramp.expand(1, 3, 2, 5))
    assert picture.size == (5, 2)
    assert [picture.getpixel((x, 1)) for x in range(5)] == [
        (level,) * 3 for level in (0, 0, 1, 255, 255)
    ]


# The folder


def test_save_round_trip_also_opens_in_diffusers(folder: Path, tmp_path: Path) -> None:
    presets = DecoderPresets(fast=QUICK, default="fast")
    decoder = ImageDecoder.from_pretrained(folder, presets=presets)
    saved = decoder.save_pretrained(tmp_path / "saved")
    again = ImageDecoder.from_pretrained(saved)
    assert again.presets == presets
    assert dict(again.condition) == dict(decoder.condition)
    seed = part_generator(0, "image", 0)
    first = decoder(conditions(1), generators=part_generator(0, "image", 0))
    assert torch.equal(again(conditions(1), generators=seed), first)
    captions = ["a red cat"]
    assert torch.equal(
        again.encode_captions(captions)["prompt_embeds"],
        decoder.encode_captions(captions)["prompt_embeds"],
    )
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(saved, local_files_only=True)
    assert torch.equal(pipeline.unet.conv_in.weight, decoder.unet.conv_in.weight)
    third = again.save_pretrained(tmp_path / "third")  # with its text encoder loaded
    assert torch.equal(
        ImageDecoder.from_pretrained(third).encode_captions(captions)["prompt_embeds"],
        decoder.encode_captions(captions)["prompt_embeds"],
    )


@pytest.mark.parametrize(
    "missing",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
    ],
)
def test_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{Path(missing).name}: missing"):
        ImageDecoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "missing", ["text_encoder/model.safetensors", "tokenizer/tokenizer_config.json"]
)
def test_missing_text_file_is_named_when_it_is_needed(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    decoder = ImageDecoder.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=f"{Path(missing).name}: missing"):
        decoder.encode_captions(["a red cat"])


def test_missing_folder_and_pickles_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder of decoder weights"):
        ImageDecoder.from_pretrained(folder / "nowhere")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"only pickled weights .* `anyany import`"):
        ImageDecoder.from_pretrained(folder)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    whole = path.read_bytes()
    lacking = {name: tensor for name, tensor in weights.items() if name != "conv_in.bias"}
    save_file(lacking, path)
    with pytest.raises(CheckpointError, match=r"UNet2DConditionModel.*first 'conv_in\.bias'"):
        ImageDecoder.from_pretrained(folder)
    save_file({**weights, "extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="first 'extra'"):
        ImageDecoder.from_pretrained(folder)
    save_file({**weights, "conv_in.bias": torch.zeros(9)}, path)
    with pytest.raises(CheckpointError, match="UNet2DConditionModel weights that fit"):
        ImageDecoder.from_pretrained(folder)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="whole UNet2DConditionModel weights"):
        ImageDecoder.from_pretrained(folder)


def test_text_encoder_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[1:]), path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="CLIPTextModel"):
        ImageDecoder.from_pretrained(folder).encode_captions(["a red cat"])


def test_record_of_another_decoder_is_refused(folder: Path) -> None:
    record = {
        "modality": "audio",
        "condition": {"prompt_embeds": {"shape": [77, 32]}},
        "presets": {},
    }
    (folder / "decoder.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"of an image decoder, format 1, got audio"):
        ImageDecoder.from_pretrained(folder)
    (folder / "decoder.json").write_text(json.dumps({**record, "presetz": {}}))
    with pytest.raises(ConfigError, match=r"presetz.*nearest valid key: 'presets'"):
        ImageDecoder.from_pretrained(folder)
    (folder / "decoder.json").write_text(
        json.dumps({**record, "modality": "image", "extras": {"seconds": 3}})
    )
    with pytest.raises(CheckpointError, match=r"expected extras among \[\], got \['seconds'\]"):
        ImageDecoder.from_pretrained(folder)
    (folder / "decoder.json").write_text("[")
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        ImageDecoder.from_pretrained(folder)


def test_half_precision_runs_in_half_precision() -> None:
    decoder = ImageDecoder.from_pretrained(SD_TINY, dtype=torch.bfloat16)
    image = decoder(conditions(1), generators=part_generator(0, "image", 0), settings=QUICK)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert not torch.equal(image, draw([0])[:1])
    assert all(not parameter.requires_grad for parameter in decoder.parameters())
