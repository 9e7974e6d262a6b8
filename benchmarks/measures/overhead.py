"""What `generate` costs for one picture beyond the bare denoising loop; prints one JSON line.

Bare loop, loop with the VAE's way out, and the whole `generate` take turns, so that whatever else
the machine does falls on all three alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anyany.decoders import build_scheduler, denoise, part_generator
from anyany.system import AnyToAny

PROMPT = "draw a small red bell on the left on a white background"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure at the shipped preset's steps and at the reference's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args(argv)
    model = AnyToAny.from_pretrained(arguments.model, device="cpu", threads=arguments.threads)
    presets = model.decoders["image"].presets
    report = {
        name: _measure(model, presets.get(name), arguments.repeats)
        for name in ("fast", "reference")
    }
    print(json.dumps(report))
    return 0


def _measure(model: AnyToAny, settings: Any, repeats: int) -> dict[str, float]:
    decoder = model.decoders["image"]
    condition = decoder.encode_captions([PROMPT])
    noise = torch.randn((1, *decoder.latent_shape()), generator=part_generator(0, "image", 0))
    override = {
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "scheduler": settings.scheduler,
    }

    def loop() -> None:
        denoise(
            decoder.unet,
            condition,
            decoder.unconditional(),
            noise=noise,
            scheduler=build_scheduler(settings.scheduler, decoder.scheduler_config),
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
        )

    def decode() -> None:
        decoder(condition, noise=noise, **override)

    stages: list[float] = []

    def whole() -> None:
        reply = model.generate(PROMPT, outputs={"text", "image"}, seed=0, image=override)
        stages.append(reply.timings["decode.image"])

    calls: dict[str, Callable[[], None]] = {"loop": loop, "decoder": decode, "generate": whole}
    for call in calls.values():
        call()
    stages.clear()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "steps": settings.num_inference_steps,
        **{f"{name}_seconds": value for name, value in medians.items()},
        "decode_stage_seconds": statistics.median(stages),
        "decode_stage_overhead": statistics.median(
            stage / bare - 1 for stage, bare in zip(stages, seconds["loop"], strict=True)
        ),
        "generate_overhead": statistics.median(
            full / bare - 1 for full, bare in zip(seconds["generate"], seconds["loop"], strict=True)
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
