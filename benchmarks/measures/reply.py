"""Seconds of one reply that has every medium the system makes; prints one JSON line.

One prompt, asked for all modalities at once: what a person waits for. The first reply warms up and
is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence

from anyany.system import AnyToAny

PROMPT = "draw a red bell on the left, film it moving right, and let me hear it twice"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure at the shipped presets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args(argv)
    model = AnyToAny.from_pretrained(arguments.model, device="cpu", threads=arguments.threads)
    outputs = {"text", *model.decoders}
    runs: list[dict[str, float]] = []
    for seed in range(arguments.repeats + 1):
        reply = model.generate(PROMPT, outputs=outputs, seed=seed)
        if {part.modality for part in reply} != outputs:
            raise RuntimeError(f"expected a reply of {sorted(outputs)}; got {reply.raw_text!r}")
        runs.append(dict(reply.timings))
    counted = runs[1:]
    report = {
        "modalities": sorted(outputs),
        "steps": {
            name: d.presets.get(None).num_inference_steps for name, d in model.decoders.items()
        },
        "seconds": [run["total"] for run in counted],
        "stages": {
            name: statistics.median(run[name] for run in counted)
            for name in counted[0]
            if name != "total"
        },
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
