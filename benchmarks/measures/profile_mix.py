"""Where the time goes: seconds inside each network while the mix runs; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mix import REPLY_TOKENS, build_mix, load_pocket

from anyany.language import DecodeSettings
from anyany.requests import EngineSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the mix once in the default mode, at the shipped preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--per-kind", type=int, default=16)
    arguments = parser.parse_args(argv)
    settings = EngineSettings(language=DecodeSettings(max_spans=1))
    model = load_pocket(arguments.model, arguments.threads, settings=settings)
    requests = [
        {
            "prompt": list(job.messages),
            "outputs": job.outputs,
            "seed": job.seed,
            "max_new_tokens": REPLY_TOKENS,
        }
        for job in build_mix(arguments.per_kind)
    ]
    decoder = model.decoders["image"]
    watched: dict[str, nn.Module] = {
        "encoder": model.bridge.encoders["image"],
        "input projector": model.bridge.projectors,
        "language model, body": model.language.lm.base_model,
        "language model, head": model.language.lm.get_output_embeddings(),
        "output projector": model.output_projectors["image"],
        "UNet": decoder.unet,
        "VAE decoder": decoder.vae.decoder,
    }
    list(model.generate_batch(requests[:4]))
    seconds = dict.fromkeys(watched, 0.0)
    calls = dict.fromkeys(watched, 0)
    with ExitStack() as stack:
        for name, module in watched.items():
            for child in module.values() if isinstance(module, nn.ModuleDict) else (module,):
                stack.enter_context(_timed(child, name, seconds, calls))
        began = time.perf_counter()
        list(model.generate_batch(requests))
        total = time.perf_counter() - began
    seconds["all else (schedulers, sampling, layout, provenance)"] = total - sum(seconds.values())
    print(json.dumps({"seconds": seconds, "calls": calls, "total": total}))
    return 0


@contextmanager
def _timed(
    module: nn.Module, name: str, seconds: dict[str, float], calls: dict[str, int]
) -> Iterator[None]:
    started: list[float] = []

    def before(*_: Any) -> None:
        started.append(time.perf_counter())

    def after(*_: Any) -> None:
        seconds[name] += time.perf_counter() - started.pop()
        calls[name] += 1

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    sys.exit(main())
