"""One side of the comparison on the fixed mix, in a process of its own; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mix import REPLY_TOKENS, Job, build_mix, load_pocket, peak_mib

SIDES: Final = ("reference", "invariant", "throughput")


def main(argv: Sequence[str] | None = None) -> int:
    """Load, warm up with one request of each kind, run the mix once, report."""
    arguments = _parse(argv)
    jobs = build_mix(arguments.per_kind)
    warm_up = build_mix(1, seed=1)
    began = time.perf_counter()
    run = (_reference if arguments.side == "reference" else _ours)(arguments)
    run(warm_up)
    loaded = time.perf_counter() - began
    before = peak_mib()
    began = time.perf_counter()
    answers = run(jobs)
    seconds = time.perf_counter() - began
    pictures = [picture for picture in answers["pictures"] if picture is not None]
    if arguments.pictures:
        np.save(arguments.pictures, np.stack(pictures))
    stages = answers["stages"]
    stages["decode"] = seconds - stages["encode"] - stages["language"]
    report = {
        "side": arguments.side,
        "requests": len(jobs),
        "pictures": len(pictures),
        "tokens": sum(map(len, answers["token_ids"])),
        "seconds": seconds,
        "stages": stages,
        "peak_mib": peak_mib(),
        "peak_mib_after_warm_up": before,
        "load_and_warm_up_seconds": loaded,
        "token_ids": answers["token_ids"],
    }
    print(json.dumps(report))
    return 0


def _reference(arguments: argparse.Namespace) -> Any:
    from baselines.reference_flow import ReferenceFlow

    flow = ReferenceFlow(
        load_pocket(arguments.model, arguments.threads),
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
    )

    def run(jobs: Sequence[Job]) -> dict[str, Any]:
        replies = [
            flow.answer(job.messages, draws=job.draws, max_new_tokens=REPLY_TOKENS, seed=job.seed)
            for job in jobs
        ]
        return {
            "token_ids": [list(reply.token_ids) for reply in replies],
            "pictures": [reply.picture for reply in replies],
            "stages": {
                name: sum(reply.seconds[name] for reply in replies)
                for name in ("encode", "language")
            },
        }

    return run


def _ours(arguments: argparse.Namespace) -> Any:
    from anyany.engine import WINDOW
    from anyany.language import DecodeSettings
    from anyany.requests import EngineSettings

    invariant = arguments.side == "invariant"
    settings = EngineSettings(
        language=DecodeSettings(rows=8 if invariant else 32, max_spans=1),
        batch_invariant=invariant,
        micro_batch=None if invariant else 16,
    )
    model = load_pocket(arguments.model, arguments.threads, settings=settings)
    decoding = (
        {}
        if arguments.shipped
        else {
            "image": {
                "num_inference_steps": arguments.steps,
                "guidance_scale": arguments.guidance,
                "scheduler": "ddim",
            }
        }
    )

    def run(jobs: Sequence[Job]) -> dict[str, Any]:
        requests = [
            {
                "prompt": list(job.messages),
                "outputs": job.outputs,
                "seed": job.seed,
                "max_new_tokens": REPLY_TOKENS,
                **(decoding if job.draws else {}),
            }
            for job in jobs
        ]
        replies: list[Any] = list(model.generate_batch(requests))
        windows = [replies[i : i + WINDOW] for i in range(0, len(replies), WINDOW)]
        return {
            "token_ids": [list(reply.token_ids) for reply in replies],
            "pictures": [
                np.asarray(reply.images[0].image) if reply.images else None for reply in replies
            ],
            "stages": {
                "encode": sum(reply.timings["encode"] for reply in replies),
                "language": sum(max(r.timings["language"] for r in w) for w in windows),
            },
        }

    return run


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--per-kind", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--shipped", action="store_true", help="our side at its shipped preset")
    parser.add_argument("--pictures", type=Path, help="where to keep them, .npy")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
