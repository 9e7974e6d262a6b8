"""Pixels back to attributes, by code that shares nothing with the models.

Background from the border, color from the saturated pixels, then thing, size and place by fitting
every silhouette at every size near the spot where the picture differs from its background. What
fits nothing well enough is nothing: an attribute that cannot be told is None, and counts as wrong.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from anyany.pocket.render import (
    BACKGROUND_RGB,
    CENTER,
    COLOR_RGB,
    IMAGE_SIZE,
    RADIUS,
    draw_thing,
)
from anyany.pocket.world import SIZES, THINGS, Scene

Pixels = npt.NDArray[np.uint8]
_SCALES: Final = (0.95, 1.0, 1.05)
_SILHOUETTES: Final = tuple(itertools.product(THINGS, SIZES, _SCALES))
_REACH: Final = 24  # pixels that a thing may stand from the middle, either way
_BACKGROUND_REACH: Final = 45.0  # largest RGB distance to a known background
_DIFFERS: Final = 30  # levels by which a pixel must leave the background
_PLACE_REACH: Final = 7.0  # pixels between a thing and its place
_MIN_PIXELS: Final = 30
_MIN_FIT: Final = 0.7  # share of the thing's contrast that the fitted silhouette must explain


def check_image(image: Image.Image | Pixels) -> Scene:
    """Tell the attributes of a picture.

    Args:
        image: an RGB picture of 64 x 64 pixels, or uint8 [64, 64, 3].

    Returns:
        A scene; what cannot be told is None.
    """
    pixels = np.asarray(image).astype(np.float32)
    if pixels.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"expected pixels [64, 64, 3], got {list(pixels.shape)}")
    border = np.concatenate(
        [
            pixels[:2].reshape(-1, 3),
            pixels[-2:].reshape(-1, 3),
            pixels[:, :2].reshape(-1, 3),
            pixels[:, -2:].reshape(-1, 3),
        ]
    )
    ground = np.median(border, axis=0)
    background = _nearest(ground, BACKGROUND_RGB, reach=_BACKGROUND_REACH)
    mask = np.abs(pixels - ground).max(axis=2) > _DIFFERS
    mask &= _neighbours(mask) >= 3  # stray pixels are no thing
    if background is None or mask.sum() < _MIN_PIXELS:
        return Scene(background=background)
    color = _color(pixels[mask])
    if color is None:
        return Scene(background=background)
    thing, size, center = _fit(pixels, color, background)
    distance = {name: np.hypot(x - center[0], y - center[1]) for name, (x, y) in CENTER.items()}
    nearest = min(distance, key=lambda name: distance[name])
    place = nearest if distance[nearest] <= _PLACE_REACH else None
    return Scene(thing, color, size, place, background)


def score_image(image: Image.Image | Pixels, scene: Scene) -> dict[str, bool]:
    """Per attribute that the scene says, whether the picture shows it."""
    seen = check_image(image)
    return {name: getattr(seen, name) == value for name, value in scene.said().items()}


def all_right(scores: Mapping[str, bool]) -> bool:
    """Whether every attribute is right (and there is one)."""
    return bool(scores) and all(scores.values())


def _nearest(
    rgb: npt.NDArray[Any], palette: Mapping[str, tuple[int, int, int]], *, reach: float
) -> str | None:
    distance = {name: float(np.linalg.norm(rgb - np.array(c))) for name, c in palette.items()}
    best = min(distance, key=lambda name: distance[name])
    return best if distance[best] <= reach else None


def _neighbours(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    padded = np.pad(mask, 1).astype(np.int64)
    side = mask.shape[0]
    return (
        sum(  # type: ignore[return-value]
            padded[1 + dy : 1 + dy + side, 1 + dx : 1 + dx + side]
            for dy, dx in itertools.product((-1, 0, 1), repeat=2)
        )
        - mask
    )


def _color(pixels: npt.NDArray[np.float32]) -> str | None:
    """The color for which most saturated pixels vote."""
    high, low = pixels.max(axis=1), pixels.min(axis=1)
    vivid = pixels[(high - low > 0.5 * high) & (high > 90)]
    if len(vivid) < _MIN_PIXELS // 4:
        return None
    names = list(COLOR_RGB)
    palette = np.array([COLOR_RGB[name] for name in names], dtype=np.float32)
    palette /= palette.max(axis=1, keepdims=True)  # brightness aside: edges mix with dark ink
    tint = vivid / vivid.max(axis=1, keepdims=True)
    votes = np.linalg.norm(tint[:, None] - palette[None], axis=2).argmin(axis=1)
    return names[int(np.bincount(votes, minlength=len(names)).argmax())]


@functools.lru_cache(maxsize=32)
def _templates(
    color: str, background: str
) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float32]]:
    """Every thing at every size in the middle, less its background.

    Returns:
        Conjugate spectra [things * sizes * scales, 3, 64, 33] and energies [things * ...].
    """
    ground = np.array(BACKGROUND_RGB[background], dtype=np.float32)
    drawn = [
        draw_thing(
            thing,
            COLOR_RGB[color],
            BACKGROUND_RGB[background],
            center=(IMAGE_SIZE / 2, IMAGE_SIZE / 2),
            radius=RADIUS[size] * scale,
        )
        - ground
        for thing, size, scale in _SILHOUETTES
    ]
    stacked = np.stack(drawn).astype(np.float32).transpose(0, 3, 1, 2)
    spectra = np.conj(np.fft.rfft2(stacked)).astype(np.complex64)
    return spectra, np.square(stacked).sum(axis=(1, 2, 3))


def _fit(
    pixels: npt.NDArray[np.float32], color: str, background: str
) -> tuple[str | None, str, tuple[float, float]]:
    """The silhouette of least squared error over all moves by whole pixels.

    Returns:
        Thing (None if even the best fits badly), size, and the center (x, y) where it stands.
    """
    spectra, energies = _templates(color, background)
    seen = (pixels - np.array(BACKGROUND_RGB[background], dtype=np.float32)).transpose(2, 0, 1)
    product = np.fft.rfft2(seen)[None] * spectra  # [templates, 3, 64, 33]
    matched = np.fft.irfft2(product.sum(axis=1), s=(IMAGE_SIZE, IMAGE_SIZE))
    moves = np.r_[0 : _REACH + 1, -_REACH:0]  # circular: -1 is the last row
    matched = matched[:, moves[:, None], moves[None, :]]  # [templates, dy, dx]
    explained = 2 * matched - energies[:, None, None]  # energy of the picture less the error
    index, row, column = np.unravel_index(int(explained.argmax()), explained.shape)
    thing, size, _ = _SILHOUETTES[int(index)]
    share = float(explained[index, row, column]) / float(np.square(seen).sum())
    center = (IMAGE_SIZE / 2 + float(moves[column]), IMAGE_SIZE / 2 + float(moves[row]))
    return (thing if share >= _MIN_FIT else None), size, center
