"""Schedulers by exact name, built from the configuration that ships with a decoder's weights.

The noise schedule (betas, prediction type, offsets) belongs to the weights; the name only chooses
how its differential equation is solved. "native" is the solver that the weights were shipped with.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Final

import diffusers
import torch

from anyany.errors import CheckpointError, ConfigError

NATIVE: Final = "native"
SCHEDULERS: Final[Mapping[str, str]] = {  # name -> class of diffusers, imported when it is used:
    "ddim": "DDIMScheduler",  # half of them import scipy's statistics, a second on a laptop
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "lcm": "LCMScheduler",
}
_FORCED: Final[Mapping[str, dict[str, Any]]] = {
    "dpmpp_2m": {"algorithm_type": "dpmsolver++", "solver_order": 2},
    "pndm": {"skip_prk_steps": True},  # latent diffusion's form: no Runge-Kutta warm-up
}


def build_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Build a scheduler.

    Args:
        name: a key of SCHEDULERS, or "native".
        config: what the weights ship as scheduler_config.json, `_class_name` included.

    Returns:
        A fresh diffusers scheduler.

    Raises:
        ConfigError: the name is unknown.
        CheckpointError: "native" is of a class that we do not drive.
    """
    if name == NATIVE:
        kind = str(config.get("_class_name"))
        if kind not in SCHEDULERS.values():
            raise CheckpointError(
                f"expected a scheduler_config.json of class {', '.join(SCHEDULERS.values())}; got "
                f"{config.get('_class_name')!r}: choose a scheduler by name"
            )
        return getattr(diffusers, kind).from_config(dict(config))
    if name not in SCHEDULERS:
        known = ", ".join((NATIVE, *SCHEDULERS))
        raise ConfigError(f"expected a scheduler among {known}; got {name!r}")
    values = {**config, **_FORCED.get(name, {})}
    if name == "ddim":  # DDIM's own default clips, which is for pixels and never for latents
        values.setdefault("clip_sample", False)
    return getattr(diffusers, SCHEDULERS[name]).from_config(values)


def start(scheduler: Any, num_inference_steps: int, device: torch.device) -> Any:
    """Copy a scheduler and set its time steps; the one handed in is never changed."""
    running = copy.deepcopy(scheduler)
    with warnings.catch_warnings():  # diffusers 0.42 hands tensors to numpy 2 in the old way
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        running.set_timesteps(num_inference_steps, device=device)
    return running
