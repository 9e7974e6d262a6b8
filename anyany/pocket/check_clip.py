"""Frames back to attributes, by code that shares nothing with the models.

Background and color are voted on by the pixels of all frames. In the first and the last frame every
silhouette is fitted at every size; the thing that explains them best wins, and its course through
four frames says the motion. What fits nothing well enough is nothing: an attribute that cannot be
told is None, and counts as wrong.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from anyany.pocket.animation import CLIP_FRAMES
from anyany.pocket.clips import Clip
from anyany.pocket.render import BACKGROUND_RGB, COLOR_RGB, IMAGE_SIZE, INK, LIGHT, draw_thing
from anyany.pocket.world import THINGS

_LOOKED_AT: Final = (0, 2, 5, 7)  # frames
_RADII: Final = tuple(7.5 * 1.1**k for k in range(10))  # pixels, to 17.7
_ALL: Final = slice(None)
_KINDS: Final = tuple((thing, radius) for thing in THINGS for radius in _RADII)
_BACKGROUND_REACH: Final = 45.0  # largest RGB distance to a known background
_DIFFERS: Final = 30  # levels by which a pixel must leave the background
_MIN_PIXELS: Final = 30  # of a thing in a frame
_MIN_FIT: Final = 0.6  # share of the contrast that the fitted silhouettes must explain
_MIN_WAY: Final = 9.0  # pixels from the first frame to the last
_MIN_GROWTH: Final = 1.3  # from the first frame to the last

_Array = npt.NDArray[np.float32]


class _Look(NamedTuple):
    """The best fit of each silhouette in one frame."""

    explained: _Array  # [kinds], energy
    x: _Array  # [kinds], pixels
    y: _Array
    energy: float  # of the frame's contrast


def check_clip(frames: npt.NDArray[np.uint8]) -> Clip:
    """Tell the attributes of a clip.

    Args:
        frames: uint8 [8, 64, 64, 3].

    Returns:
        A clip; what cannot be told is None.

    Raises:
        ValueError: another shape.
    """
    shape = (CLIP_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
    if frames.shape != shape:
        raise ValueError(f"expected frames {list(shape)}, got {list(frames.shape)}")
    pixels = frames.astype(np.float32)
    edges = (pixels[:, :2], pixels[:, -2:], pixels[:, :, :2], pixels[:, :, -2:])
    ground = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)
    background = _background(ground)
    differs = np.abs(pixels - ground).max(axis=3) > _DIFFERS  # [F, H, W]
    if background is None or differs.sum() < _MIN_PIXELS * CLIP_FRAMES:
        return Clip(background=background)
    color = _color(pixels[differs])
    if color is None:
        return Clip(background=background)
    # A thing keeps its name while its size changes: the best size counts, frame by frame.
    ends = [_look(pixels[number], color, background, _ALL) for number in (0, CLIP_FRAMES - 1)]
    fits = [look.explained.reshape(len(THINGS), len(_RADII)).max(axis=1) for look in ends]
    thing = int(np.sum(fits, axis=0).argmax())
    kinds = slice(thing * len(_RADII), (thing + 1) * len(_RADII))
    looks = [_look(pixels[number], color, background, kinds) for number in _LOOKED_AT]
    places = [int(look.explained.argmax()) for look in looks]
    explained = sum(float(look.explained.max()) for look in looks)
    if explained < _MIN_FIT * sum(look.energy for look in looks):
        return Clip(color=color, background=background)
    x = [float(look.x[place]) for look, place in zip(looks, places, strict=True)]
    y = [float(look.y[place]) for look, place in zip(looks, places, strict=True)]
    motion = _motion(x, y, [_RADII[place] for place in places])
    return Clip(THINGS[thing], color, background, motion)


def score_clip(frames: npt.NDArray[np.uint8], clip: Clip) -> dict[str, bool]:
    """Per attribute that the clip says, whether the frames show it."""
    seen = check_clip(frames)
    return {name: getattr(seen, name) == value for name, value in clip.said().items()}


def _background(ground: npt.NDArray[Any]) -> str | None:
    distance = {n: float(np.linalg.norm(ground - np.array(c))) for n, c in BACKGROUND_RGB.items()}
    nearest = min(distance, key=lambda name: distance[name])
    return nearest if distance[nearest] <= _BACKGROUND_REACH else None


def _color(pixels: _Array) -> str | None:
    """The color for which most vivid pixels of all frames vote, brightness aside."""
    high, low = pixels.max(axis=1), pixels.min(axis=1)
    vivid = pixels[(high - low > 0.5 * high) & (high > 90)]
    if len(vivid) < _MIN_PIXELS * CLIP_FRAMES // 4:
        return None
    palette = np.array(list(COLOR_RGB.values()), dtype=np.float32)
    palette /= palette.max(axis=1, keepdims=True)
    tint = vivid / vivid.max(axis=1, keepdims=True)
    votes = np.linalg.norm(tint[:, None] - palette[None], axis=2).argmin(axis=1)
    return list(COLOR_RGB)[int(np.bincount(votes, minlength=len(palette)).argmax())]


@functools.lru_cache(maxsize=1)
def _coverage() -> tuple[npt.NDArray[np.complex64], _Array]:
    """How much of each pixel every silhouette covers with its color, with ink and with light.

    Returns:
        Conjugate spectra [kinds, 3, 64, 33] and the coverages' products [kinds, 3, 3].
    """
    color, ground = (255, 0, 0), (0, 0, 255)
    mixing = np.array([color, INK, LIGHT, ground], dtype=np.float64).T  # [RGB, 4]
    unmix = np.linalg.inv(np.vstack([mixing, np.full(4, 255.0)]))  # the four shares add up to 1
    covered = []
    for thing, radius in _KINDS:
        drawn = draw_thing(
            thing, color, ground, center=(IMAGE_SIZE / 2, IMAGE_SIZE / 2), radius=radius
        )
        padded = np.concatenate([drawn, np.full_like(drawn[..., :1], 255)], axis=2)
        covered.append((padded @ unmix.T)[..., :3].transpose(2, 0, 1))
    stacked = np.stack(covered).astype(np.float32)  # [kinds, 3, 64, 64]
    products = np.einsum("kchw,kdhw->kcd", stacked, stacked)
    return np.conj(np.fft.rfft2(stacked)).astype(np.complex64), products


def _look(pixels: _Array, color: str, background: str, kinds: slice) -> _Look:
    """Fit some silhouettes over all moves by whole pixels, in least squares."""
    spectra, products = (one[kinds] for one in _coverage())
    ground = np.array(BACKGROUND_RGB[background], dtype=np.float32)
    paints = np.array([COLOR_RGB[color], INK, LIGHT], dtype=np.float32) - ground  # [3, RGB]
    seen = pixels - ground
    layers = np.fft.rfft2((seen @ paints.T).transpose(2, 0, 1)).astype(np.complex64)
    matched = np.fft.irfft2((layers[None] * spectra).sum(axis=1), s=pixels.shape[:2])
    energies = np.einsum("kcd,cr,dr->k", products, paints, paints)
    flat = matched.reshape(len(matched), -1)
    places = flat.argmax(axis=1)
    explained = 2 * flat[np.arange(len(flat)), places] - energies
    rows, columns = np.divmod(places, IMAGE_SIZE)  # moves, circular: the last row is -1
    half = IMAGE_SIZE // 2
    return _Look(
        explained.astype(np.float32),
        ((columns + half) % IMAGE_SIZE).astype(np.float32),
        ((rows + half) % IMAGE_SIZE).astype(np.float32),
        float(np.square(seen).sum()),
    )


def _motion(x: list[float], y: list[float], radii: list[float]) -> str | None:
    """The motion of a course: growth first, else the longer way."""
    last = CLIP_FRAMES - 1
    right, down = (float(np.polyfit(_LOOKED_AT, values, 1)[0]) * last for values in (x, y))
    growth = float(np.exp(np.polyfit(_LOOKED_AT, np.log(radii), 1)[0] * last))
    if max(growth, 1 / growth) >= _MIN_GROWTH:
        return "growing" if growth > 1 else "shrinking"
    if max(abs(right), abs(down)) < _MIN_WAY:
        return None
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"
