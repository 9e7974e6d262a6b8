"""The denoising loop: one pure function for images, videos and audio.

Each step predicts from the noisy latents, under classifier-free guidance (arXiv 2207.12598) with
rows in the order [unconditional, condition], and lets a diffusers scheduler take the step. The
plain path repeats diffusers' pipelines operation by operation, so that its bits are theirs.

Shapes: B batch, C channels, F frames, H W height and width of the latents.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from einops import rearrange
from torch import Generator, Tensor

from anyany.decoders.attention import KeyValueCache, cached_keys_values
from anyany.decoders.condition import Condition
from anyany.decoders.schedulers import start
from anyany.errors import Cancelled, UsageError

StepCallback: TypeAlias = Callable[[int, int, Tensor], None]  # (step, timestep, latents)
UNetInputs: TypeAlias = Callable[[Condition], dict[str, Any]]
Generators: TypeAlias = Generator | Sequence[Generator] | None


@dataclass(frozen=True)
class LoopOptions:
    """Ways to run the loop that are equal to the plain path within 1e-5, not to the bit.

    Args:
        split_guidance: two passes of B rows rather than one of 2B; halves the peak memory.
        cache_keys_values: compute the cross-attention's constant keys and values once.
        guidance_from: fraction of the trajectory, from noise to picture, at which guidance starts.
        guidance_until: fraction at which it ends. Outside [from, until) only the condition is
            evaluated (arXiv 2404.07724): faster, and another picture.
    """

    split_guidance: bool = False
    cache_keys_values: bool = False
    guidance_from: float = 0.0
    guidance_until: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.guidance_from <= self.guidance_until <= 1.0:
            raise UsageError(
                "expected 0 <= guidance_from <= guidance_until <= 1, got "
                f"{self.guidance_from} and {self.guidance_until}"
            )


PLAIN: Final = LoopOptions()


def unet_inputs(condition: Condition) -> dict[str, Any]:
    """Name a condition's tensors as diffusers' UNets do.

    `prompt_embeds` [B, S, C] goes to the cross-attention; `class_labels` [B, C] to the time
    embedding (AudioLDM). A decoder with other tensors hands `denoise` a function of its own.

    Raises:
        UsageError: a tensor has no place in the UNet.
    """
    strange = set(condition.tensors) - {"prompt_embeds", "class_labels"}
    if strange:
        raise UsageError(
            f"expected condition tensors prompt_embeds or class_labels, got {sorted(strange)}: "
            "hand in unet_inputs"
        )
    inputs: dict[str, Any] = {"encoder_hidden_states": condition.tensors.get("prompt_embeds")}
    if "class_labels" in condition.tensors:
        inputs["class_labels"] = condition["class_labels"]
    return inputs


@torch.no_grad()
def denoise(
    unet: Any,
    condition: Condition,
    unconditional: Condition | None,
    *,
    noise: Tensor,
    scheduler: Any,
    num_inference_steps: int,
    guidance_scale: float,
    generators: Generators = None,
    eta: float = 0.0,
    unet_inputs: UNetInputs = unet_inputs,
    options: LoopOptions = PLAIN,
    callback: StepCallback | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Tensor:
    """Turn noise into latents.

    Args:
        unet: a diffusers UNet2DConditionModel or UNet3DConditionModel, or anything called so.
        condition: B parts.
        unconditional: 1 or B parts; may be None where guidance is off.
        noise: standard normal, [B, C, H, W] or [B, C, F, H, W].
        scheduler: a diffusers scheduler; copied, never changed.
        num_inference_steps: at least 1.
        guidance_scale: 1 or less turns guidance off.
        generators: for schedulers that draw noise at each step; one a part, or one for all.
        eta: DDIM's share of fresh noise, 0 to 1.
        unet_inputs: names the condition's tensors for the UNet.
        options: faster or leaner ways.
        callback: called after every step with its index, its timestep and the latents.
        cancel: asked before every step.

    Returns:
        Latents of the shape of `noise`, scaled as the UNet was trained.

    Raises:
        UsageError: sizes or settings do not fit together.
        Cancelled: `cancel` said so.
    """
    _check(noise, condition, num_inference_steps)
    scheduler = start(scheduler, num_inference_steps, noise.device)
    timesteps = scheduler.timesteps
    step_inputs = _step_inputs(scheduler, generators, eta, noise)
    guided = guidance_scale > 1.0 and unet.config.get("time_cond_proj_dim") is None
    if guided and unconditional is None:
        raise UsageError("expected an unconditional condition where guidance_scale is above 1")
    caching = cached_keys_values(unet) if options.cache_keys_values else nullcontext(None)
    latents: Tensor = noise * scheduler.init_noise_sigma
    with caching as cache:
        guide = _Guidance(
            unet,
            unet_inputs,
            condition,
            unconditional if guided else None,
            guidance_scale=guidance_scale,
            split=options.split_guidance,
            cache=cache,
        )
        for index, timestep in enumerate(timesteps):
            if cancel is not None and cancel():
                raise Cancelled(f"cancelled at denoising step {index} of {len(timesteps)}")
            inside = options.guidance_from <= index / len(timesteps) < options.guidance_until
            scaled = scheduler.scale_model_input(latents, timestep)
            prediction = (
                guide(scaled, timestep) if inside else guide.condition_only(scaled, timestep)
            )
            latents = _step(scheduler, prediction, timestep, latents, step_inputs)
            if callback is not None:
                callback(index, int(timestep), latents)
    return latents


class _Guidance:
    """The prediction of one step: u + g * (c - u), or c alone."""

    def __init__(
        self,
        unet: Any,
        name_inputs: UNetInputs,
        condition: Condition,
        unconditional: Condition | None,
        *,
        guidance_scale: float,
        split: bool,
        cache: KeyValueCache | None,
    ) -> None:
        self.unet = unet
        self.scale = guidance_scale
        self.split = split
        self.cache = cache
        self.guided = unconditional is not None
        self.inputs = {"conditional": name_inputs(condition)}
        if unconditional is not None:
            unconditional = unconditional.expand(condition.batch_size)
            self.inputs["unconditional"] = name_inputs(unconditional)
            self.inputs["both"] = name_inputs(Condition.stack([unconditional, condition]))
        width = unet.config.get("time_cond_proj_dim")
        if width is not None:  # distilled for a few steps, the scale is an input
            embedding = guidance_embedding(guidance_scale, width).expand(condition.batch_size, -1)
            first = next(iter(condition.tensors.values()))
            self.inputs["conditional"]["timestep_cond"] = embedding.to(first)

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        if not self.guided:
            return self.condition_only(latents, timestep)
        if self.split:
            away = self._run("unconditional", latents, timestep)
            toward = self._run("conditional", latents, timestep)
        else:
            away, toward = self._run("both", torch.cat([latents] * 2), timestep).chunk(2)
        return away + self.scale * (toward - away)

    def condition_only(self, latents: Tensor, timestep: Tensor) -> Tensor:
        return self._run("conditional", latents, timestep)

    def _run(self, branch: str, latents: Tensor, timestep: Tensor) -> Tensor:
        if self.cache is not None:
            self.cache.branch = branch
        predicted: Tensor = self.unet(latents, timestep, **self.inputs[branch], return_dict=False)[
            0
        ]
        return predicted


def guidance_embedding(guidance_scale: float, width: int) -> Tensor:
    """The guidance scale as an input of a distilled UNet (arXiv 2310.04378, section 4.1).

    Returns:
        Sines, then cosines, of 1000 * (scale - 1) at geometric frequencies: float32 [1, width].
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * -(torch.tensor(math.log(10_000.0)) / (half - 1)))
    angles = torch.tensor([guidance_scale - 1.0])[:, None] * 1000.0 * frequencies[None]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedding, (0, width % 2))


def _check(noise: Tensor, condition: Condition, num_inference_steps: int) -> None:
    batch_size = noise.shape[0]
    if num_inference_steps < 1:
        raise UsageError(f"expected at least 1 inference step, got {num_inference_steps}")
    if condition.batch_size != batch_size:
        raise UsageError(
            f"expected noise and condition of one batch size, got {batch_size} and "
            f"{condition.batch_size}"
        )


def _step(
    scheduler: Any, prediction: Tensor, timestep: Tensor, latents: Tensor, inputs: dict[str, Any]
) -> Tensor:
    """Take one scheduler step; frames of a video go through it as pictures of their own."""
    num_parts = latents.shape[0]
    if latents.ndim == 5:
        latents = rearrange(latents, "b c f h w -> (b f) c h w")
        prediction = rearrange(prediction, "b c f h w -> (b f) c h w")
        taken = scheduler.step(prediction, timestep, latents, **inputs, return_dict=False)[0]
        clips: Tensor = rearrange(taken, "(b f) c h w -> b c f h w", b=num_parts)
        return clips
    following: Tensor = scheduler.step(prediction, timestep, latents, **inputs, return_dict=False)[
        0
    ]
    return following


def _step_inputs(
    scheduler: Any, generators: Generators, eta: float, noise: Tensor
) -> dict[str, Any]:
    """What `scheduler.step` takes beside the tensors; it differs from class to class."""
    accepted = inspect.signature(scheduler.step).parameters
    inputs: dict[str, Any] = {}
    if "eta" in accepted:
        inputs["eta"] = eta
    elif eta:
        raise UsageError(f"expected eta 0 with {type(scheduler).__name__}, got {eta}: use ddim")
    if generators is None and (eta or _draws_noise(scheduler)):
        raise UsageError("expected generators, as this scheduler draws noise at every step")
    if "generator" in accepted and generators is not None:
        inputs["generator"] = _row_generators(generators, noise)
    return inputs


def _draws_noise(scheduler: Any) -> bool:
    algorithm = scheduler.config.get("algorithm_type") or ""
    return type(scheduler).__name__ == "LCMScheduler" or algorithm.startswith("sde")


def _row_generators(
    generators: Generator | Sequence[Generator], noise: Tensor
) -> Generator | list[Generator]:
    """One generator a row of `scheduler.step`: frames of a part draw from its generator in turn."""
    if isinstance(generators, Generator):
        return generators
    if len(generators) != noise.shape[0]:
        raise UsageError(
            f"expected one generator a part, got {len(generators)} for {noise.shape[0]} parts"
        )
    frames = noise.shape[2] if noise.ndim == 5 else 1
    return [generator for generator in generators for _ in range(frames)]
