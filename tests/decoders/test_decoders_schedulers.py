"""Schedulers by exact name, on the noise schedule of the weights."""

from typing import Any

import pytest
import torch

from anyany.decoders import SCHEDULERS, build_scheduler
from anyany.decoders.config import SCHEDULER_NAMES
from anyany.errors import CheckpointError, ConfigError

PNDM: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_name_chooses_the_solver_and_the_weights_keep_their_schedule(name: str) -> None:
    scheduler = build_scheduler(name, PNDM)
    assert type(scheduler).__name__ == SCHEDULERS[name]
    assert scheduler.config["prediction_type"] == "v_prediction"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod, torch.cumprod(1 - betas, 0))


def test_forced_values() -> None:
    solver = build_scheduler("dpmpp_2m", {**PNDM, "algorithm_type": "dpmsolver"})
    assert (solver.config["algorithm_type"], solver.config["solver_order"]) == ("dpmsolver++", 2)
    assert build_scheduler("ddim", PNDM).config["clip_sample"] is False
    assert build_scheduler("ddim", {**PNDM, "clip_sample": True}).config["clip_sample"] is True
    assert build_scheduler("ddim", PNDM).config["set_alpha_to_one"] is False


def test_native_is_what_the_weights_ship() -> None:
    assert type(build_scheduler("native", PNDM)).__name__ == "PNDMScheduler"
    with pytest.raises(CheckpointError, match="got 'HeunDiscreteScheduler': choose a scheduler"):
        build_scheduler("native", {**PNDM, "_class_name": "HeunDiscreteScheduler"})


def test_names_are_known_without_diffusers() -> None:
    assert ("native", *SCHEDULERS) == SCHEDULER_NAMES


def test_unknown_name_lists_the_names() -> None:
    known = "native, ddim, dpmpp_2m, euler, pndm, unipc, lcm"
    with pytest.raises(ConfigError, match=f"a scheduler among {known}; got 'DDIM'"):
        build_scheduler("DDIM", PNDM)
