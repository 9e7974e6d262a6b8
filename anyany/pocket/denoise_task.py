"""What training pocket's three generators has in common: velocity of noisy latents from captions.

Background explains hundreds of times more latent variance than the thing does, so the loss counts
the cells where something is more, and the time steps lean to high noise, where layout is decided.
Captions leave out any attribute, the thing as well: a color that is only ever said of things is
learnt as a property of pairs, and fails on pairs that were never shown.

Legend: B batch, N media in the pool; further axes as the modality's latents have them.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from anyany.alignment.losses import add_noise, biased_timesteps, denoising_loss
from anyany.alignment.trainer import LossOutput, Task
from anyany.decoders import Condition, build_scheduler
from anyany.decoders.diffusion import unet_inputs
from anyany.pocket.world import Described

if TYPE_CHECKING:
    from anyany.alignment.order import Draws

Said = TypeVar("Said", bound=Described)
GUIDANCE: Final = 2.0
_EMPTY_CAPTIONS: Final = 0.1  # for guidance
_WHOLE_CAPTIONS: Final = 0.5


class Pool(Protocol[Said]):
    """Latents of trainable media, computed once.

    Attributes:
        said: what can be said of each.
        latents: [N, ...].
        events: [N, ...], 1 in cells where something is, else 0.
    """

    said: list[Said]
    latents: Tensor
    events: Tensor


class DenoiseTask(Task, Generic[Said]):
    """Predict the velocity of noisy latents from captions, whole or partial.

    Args:
        decoder: its UNet is trained; all else is frozen.
        pool: latents of the decoder's VAE.
        evaluation: held-out media to make at each evaluation.
    """

    purpose: ClassVar[str]  # names the stream of chance
    event_weight: ClassVar[float] = 3.0  # cells with something count for so many more
    timestep_power: ClassVar[float] = 0.6  # below 1 leans to high noise

    def __init__(self, decoder: Any, pool: Pool[Said], *, evaluation: Sequence[Said] = ()) -> None:
        super().__init__(decoder.unet, num_samples=None)
        self.decoder = decoder
        self.pool = pool
        self.evaluation = list(evaluation)
        self.unet = decoder.unet.requires_grad_(True)
        self.alphas_cumprod = build_scheduler("native", decoder.scheduler_config).alphas_cumprod

    @abstractmethod
    def say(self, subject: Said, rng: random.Random) -> str:
        """One of many ways to say it."""

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Any]:
        """Latents [B, ...], events [B, ...] and the captions' condition."""
        places: list[int] = []
        captions: list[str] = []
        for index in indices:
            rng = random.Random(f"{self.purpose}:{index}")
            places.append(rng.randrange(len(self.pool.said)))
            captions.append(self.caption(self.pool.said[places[-1]], rng))
        chosen = torch.tensor(places)
        told: Condition = self.decoder.encode_captions(captions)
        return {
            "latents": self.pool.latents[chosen],
            "events": self.pool.events[chosen],
            "condition": {name: tensor.detach() for name, tensor in told.tensors.items()},
        }

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """Squared error of the velocity, weighted towards where something is."""
        clean = batch["latents"]
        alphas = self.alphas_cumprod.to(clean.device)
        steps = biased_timesteps(draws.uniform(), len(alphas), power=self.timestep_power)
        noise = draws.normal(*clean.shape[1:])
        signal = alphas[steps]
        told = unet_inputs(Condition(batch["condition"]))
        output = self.unet(add_noise(clean, noise, signal), steps, **told).sample
        weight = (1 + self.event_weight * batch["events"]).sqrt()  # squared in the error
        error = denoising_loss(
            output * weight,
            clean=clean * weight,
            noise=noise * weight,
            alphas_cumprod=signal,
            prediction_type="v_prediction",
        )
        return LossOutput(error.mean(), weight=len(error))

    def caption(self, subject: Said, rng: random.Random) -> str:
        """What a medium is called in training: all of it, any part of it, sometimes nothing."""
        chance = rng.random()
        if chance < _EMPTY_CAPTIONS:
            return ""
        if chance < _EMPTY_CAPTIONS + _WHOLE_CAPTIONS:
            return self.say(subject, rng)
        names = list(subject.said())
        kept = [name for name in names if rng.random() < 0.5] or [rng.choice(names)]
        return self.say(subject.only(kept), rng)
