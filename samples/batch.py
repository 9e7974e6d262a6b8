"""A batch: describe every sample picture and draw every caption, in one call.

    python samples/batch.py --out out/batch

Requests of all kinds go in as one stream; the engine groups them by stage, and replies come back in
the requests' order. A request that cannot be carried out fails alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyany import AnyToAny, Reply

SAMPLES = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Answer two requests a picture; the exit code is 3 if some failed."""
    parser = argparse.ArgumentParser(description="Describe and draw the sample pictures.")
    parser.add_argument("--manifest", type=Path, default=SAMPLES / "manifest.json")
    parser.add_argument("--out", type=Path, default=Path("out/batch"), help="folder for pictures")
    parser.add_argument("--limit", type=int, help="use so many pictures only")
    parser.add_argument("--steps", type=int, help="denoising steps; the decoder's own if left out")
    arguments = parser.parse_args(argv)
    decoding = {} if arguments.steps is None else {"num_inference_steps": arguments.steps}

    rows = json.loads(arguments.manifest.read_text(encoding="utf-8"))["images"][: arguments.limit]
    requests: list[dict[str, Any]] = []
    for row in rows:
        picture = arguments.manifest.parent / row["file"]
        requests.append({"prompt": ["what is this?", picture], "outputs": {"text"}})
        requests.append(
            {"prompt": f"draw {row['caption']}", "outputs": {"image"}, "seed": 7, **decoding}
        )

    model = AnyToAny.from_pretrained("pocket")
    failed = 0
    for number, answer in enumerate(model.generate_batch(requests, errors="return")):
        row, drawing = rows[number // 2], number % 2 == 1
        name = Path(row["file"]).stem
        if not isinstance(answer, Reply):
            failed += 1
            print(f"{name}: failed: {answer}")
        elif drawing:
            print(f"{name}: {row['caption']!r} -> {answer.save(arguments.out / name)[0]}")
        else:
            print(f"{name}: {row['file']} -> {answer.text!r}")
    return 3 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
