"""The shipped preset against the reference preset on the same captions and noise; one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from anyany.pocket.evaluate import EvaluationConfig, evaluate
from anyany.system import AnyToAny


def main(argv: Sequence[str] | None = None) -> int:
    """Draw held-out scenes twice and count what is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n", type=int, default=500)
    arguments = parser.parse_args(argv)
    model = AnyToAny.from_pretrained(arguments.model, device="cpu", threads=arguments.threads)
    config = EvaluationConfig(num_items=arguments.n, rows=("direct", "reference"))
    results = evaluate(model, config).results
    report = {
        "presets": results["presets"],
        "model": results["model"],
        "difference": results["comparisons"]["direct - reference"],
        "n": arguments.n,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
