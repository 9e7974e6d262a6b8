"""Pictures to tensors, equal bit for bit to the published (torchvision) preprocessing.

Shapes: H W height and width of the square result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anyany.encoders.preprocessing.config import ImagePreprocessing
from anyany.errors import UsageError

# A picture of 1 x 20,000 pixels would grow to 224 x 4,480,000 before its centre is cut out.
MAX_ASPECT = 64


def prepare_image(image: Image.Image, config: ImagePreprocessing) -> Tensor:
    """Resize the short side (bicubic), keep the centre square, normalise.

    Args:
        image: RGB; other modes are converted as the published code does it (alpha is dropped),
            unless `anyany.media.as_rgb` has applied this project's policy before.
        config: size and normalisation.

    Returns:
        float32 [3, H, W].

    Raises:
        TypeError: it is no PIL picture.
        UsageError: one side is more than 64 times the other.
    """
    return whole_picture(centre_square(image, config.size), config)


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of a picture whose short side is resized to `size`.

    Args:
        image: any PIL picture.
        size: pixels.

    Returns:
        RGB, size x size.

    Raises:
        TypeError: it is no PIL picture.
        UsageError: one side is more than 64 times the other.
    """
    rgb = checked_picture(image)
    width, height = rgb.size
    if width <= height:
        resized_width, resized_height = size, int(size * height / width)
    else:
        resized_width, resized_height = int(size * width / height), size
    if (resized_width, resized_height) != rgb.size:
        rgb = rgb.resize((resized_width, resized_height), Image.Resampling.BICUBIC)
    left = round((resized_width - size) / 2)
    top = round((resized_height - size) / 2)
    return rgb.crop((left, top, left + size, top + size))


def checked_picture(image: Any) -> Image.Image:
    """A picture in RGB, after a look at it.

    Raises:
        TypeError: it is no PIL picture.
        UsageError: one side is more than 64 times the other.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a PIL image; got {type(image).__name__}")
    width, height = image.size
    check_aspect(height, width)
    return image.convert("RGB")


def whole_picture(image: Image.Image, config: ImagePreprocessing) -> Tensor:
    """Normalise a picture that has its size already.

    Args:
        image: RGB.
        config: normalisation.

    Returns:
        float32 [3, H, W].
    """
    pixels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.uint8))
    return normalise_pixels(pixels.permute(2, 0, 1), config.mean, config.std)


def normalise_pixels(
    pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Bytes to normalised floats.

    Args:
        pixels: uint8 [3, ...].
        mean: per channel, of pixels in [0, 1].
        std: per channel.

    Returns:
        float32 [3, ...].
    """
    scaled = pixels.to(torch.float32).div(255)
    return normalise_channels(scaled, mean, std)


def normalise_channels(
    scaled: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Subtract and divide per channel; [3, ...] -> [3, ...]."""
    shape = (3,) + (1,) * (scaled.ndim - 1)
    return (scaled - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def check_aspect(height: int, width: int) -> None:
    """Refuse pictures and frames that resizing would blow up.

    Raises:
        UsageError: a side is 0, or more than 64 times the other.
    """
    short, long = sorted((height, width))
    if short < 1 or long > MAX_ASPECT * short:
        raise UsageError(
            f"expected a picture whose sides differ at most {MAX_ASPECT}-fold; "
            f"got {width} x {height} pixels"
        )
