"""The example pictures of the chat page, drawn by the renderer that pocket learnt from.

`python tests/browser/page_pictures.py` (with the project on PYTHONPATH) writes them again;
`test_page_files.py` compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

import anyany.serve
from anyany.pocket.render import BACKGROUND_RGB, COLOR_RGB, IMAGE_SIZE, draw_thing, render_image
from anyany.pocket.world import THINGS, Scene

FOLDER: Final = Path(anyany.serve.__path__[0]) / "page" / "pictures"
SCENES: Final = {
    "bell": Scene("bell", "red", "small", "left", "pink"),
    "bee": Scene("bee", "yellow", "large", "right", "white"),
    "horn": Scene("horn", "cyan", "large", "left", "pink"),
    "drum": Scene("drum", "blue", "large", "top", "beige"),
    "clock": Scene("clock", "purple", "large", "center", "beige"),
}


def page_pictures() -> dict[str, Image.Image]:
    """Every picture of the page by its name."""
    return {**{name: render_image(scene) for name, scene in SCENES.items()}, "things": all_things()}


def all_things() -> Image.Image:
    """The eight things in rows of three, two and three, each in a color of its own."""
    ground = BACKGROUND_RGB["gray"]
    colors = ("red", "blue", "green", "yellow", "cyan", "purple", "cyan", "yellow")
    rows = ((12, 13), (32, 13), (52, 13), (21, 32), (43, 32), (12, 51), (32, 51), (52, 51))
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), ground, dtype=np.uint8)
    for thing, color, center in zip(THINGS, colors, rows, strict=True):
        x, y = center
        drawn = draw_thing(thing, COLOR_RGB[color], ground, center=(float(x), float(y)), radius=6.5)
        canvas = np.where(drawn == np.array(ground, dtype=np.uint8), canvas, drawn)
    return Image.fromarray(canvas)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, picture in page_pictures().items():
        picture.save(FOLDER / f"{name}.png", optimize=True)
