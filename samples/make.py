"""Render the sample pictures from the pocket world and write their manifest.

    python samples/make.py            # writes samples/images/*.png and samples/manifest.json

One picture a thing, from fixed seeds; every other one shows a (thing, color) pair that no training
has seen a picture of. The manifest says what each picture shows and the sha256 of its file.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from anyany.media import write_image, write_json
from anyany.pocket.captions import canonical_caption
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.world import THINGS, Scene, complete


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pictures and the manifest."""
    parser = argparse.ArgumentParser(description="Render the sample pictures.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    folder = parser.parse_args(argv).out
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [_render(number, thing, folder) for number, thing in enumerate(THINGS)]
    write_json({"made_by": "python samples/make.py", "images": rows}, folder / "manifest.json")
    print(f"{len(rows)} pictures and manifest.json in {folder}")
    return 0


def _render(number: int, thing: str, folder: Path) -> dict[str, object]:
    """Write one picture; return its row of the manifest."""
    rng = random.Random(f"shown {number}")
    held_out = number % 2 == 1
    scene = complete(Scene(thing=thing), rng, held_out=held_out)
    path = write_image(render_image(scene, Jitter.draw(rng)), folder / "images" / f"{thing}.png")
    return {
        "file": f"images/{thing}.png",
        "scene": asdict(scene),
        "caption": canonical_caption(scene),
        "held_out": held_out,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
