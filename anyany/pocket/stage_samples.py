"""What a stage in training can do so far: held-out scenes, drawn and described."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast

from anyany.messages import Reply
from anyany.pocket.captions import attributes_right, canonical_caption
from anyany.pocket.check import all_right, score_image
from anyany.pocket.dialogues import ASK_WHAT
from anyany.pocket.image_denoiser import save_grid
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.world import Scene, all_scenes
from anyany.system import AnyToAny

NUM_SAMPLES: Final = 24
_STRIDE: Final = 13  # among the held-out scenes, so that all pairs and places come
_BUDGET: Final = 48  # tokens of a reply


def world_samples(
    model: AnyToAny, *, draws: bool, describes: bool
) -> Callable[[Path], Mapping[str, float]]:
    """A function that writes a grid of pictures and a list of descriptions into a folder.

    Args:
        model: the system in training.
        draws: draw held-out scenes from their canonical captions.
        describes: describe true pictures of them.

    Returns:
        The function; its figures are the shares with every attribute right.
    """
    scenes = all_scenes(held_out=True)[::_STRIDE][:NUM_SAMPLES]

    def sample(folder: Path) -> Mapping[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        figures = {}
        if draws:
            figures["drawn"] = _draw(model, scenes, folder)
        if describes:
            figures["described"] = _describe(model, scenes, folder)
        return figures

    return sample


def _draw(model: AnyToAny, scenes: list[Scene], folder: Path) -> float:
    requests = [
        {"prompt": f"draw {canonical_caption(scene)}", "seed": number}
        for number, scene in enumerate(scenes)
    ]
    replies = cast(
        "list[Reply]",
        list(model.generate_batch(requests, outputs={"image"}, max_new_tokens=_BUDGET)),
    )
    pictures = [reply.images[0].image for reply in replies]
    save_grid(pictures, folder / "drawn.png")
    right = [all_right(score_image(p, s)) for p, s in zip(pictures, scenes, strict=True)]
    return sum(right) / len(right)


def _describe(model: AnyToAny, scenes: list[Scene], folder: Path) -> float:
    rng = random.Random(0)
    requests = [
        {"prompt": [render_image(scene, Jitter.draw(rng)), rng.choice(ASK_WHAT)], "seed": 0}
        for scene in scenes
    ]
    replies = cast(
        "list[Reply]",
        list(model.generate_batch(requests, outputs={"text"}, max_new_tokens=_BUDGET)),
    )
    lines = [
        f"{canonical_caption(scene)} -> {reply.text}"
        for scene, reply in zip(scenes, replies, strict=True)
    ]
    (folder / "described.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    right = [
        all_right(attributes_right(reply.text, scene))
        for scene, reply in zip(scenes, replies, strict=True)
    ]
    return sum(right) / len(right)
