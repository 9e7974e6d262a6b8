"""Training: a few steps of stage 1 on pocket, from files to a system that can be loaded.

    python samples/train.py --out out/train --steps 20

Pictures and captions of the pocket world are written as a data file, the stage trains the input
projector alone, and the system is saved with it. Run again with the same folder, a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from anyany import AnyToAny
from anyany.alignment.formats import DataFile, open_data
from anyany.alignment.stages import StageConfig, run_stage
from anyany.alignment.train_config import TrainConfig
from anyany.media import write_image
from anyany.pocket.captions import canonical_caption
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.world import draw_scene


def main(argv: Sequence[str] | None = None) -> int:
    """Write data, train, save, load, ask."""
    parser = argparse.ArgumentParser(description="A few steps of stage 1 on pocket.")
    parser.add_argument("--out", type=Path, default=Path("out/train"))
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps")
    parser.add_argument("--pictures", type=int, default=64, help="pictures to learn from")
    arguments = parser.parse_args(argv)

    data = write_data(arguments.out / "data", arguments.pictures)
    config = StageConfig(
        name="encoder",
        train=TrainConfig(steps=arguments.steps, batch_size=8, lr=1e-4, log_every=5),
        data=(DataFile(data),),
    )
    model = AnyToAny.from_pretrained("pocket")
    result = run_stage(
        model.bridge,
        model.output_projectors,
        model.decoders,
        open_data(config.data),
        config,
        arguments.out / "run",
    )
    print(f"{result.reason} after step {result.step}: loss {result.metrics['loss']:.3f}")

    folder = model.save_pretrained(arguments.out / "system")
    trained = AnyToAny.from_pretrained(folder)
    picture = data.parent / "0.png"
    print(f"{picture}: {trained.generate(['what is this?', picture], outputs={'text'}).text!r}")
    return 0


def write_data(folder: Path, num_pictures: int) -> Path:
    """Pictures of the world and one conversation a line about each; return the data file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(num_pictures):
        rng = random.Random(f"training {number}")
        scene = draw_scene(rng, held_out=False)
        write_image(render_image(scene, Jitter.draw(rng)), folder / f"{number}.png")
        question = [
            {"type": "image", "path": f"{number}.png"},
            {"type": "text", "text": "what is this?"},
        ]
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": canonical_caption(scene)},
        ]
        lines.append(json.dumps({"id": str(number), "messages": messages}))
    path = folder / "pictures.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
