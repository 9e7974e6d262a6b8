"""Pictures in: any file on the allow-list becomes one clean 8-bit RGB picture.

The policy, in order: EXIF rotation is applied; 16-bit grey is scaled (not clipped) to 8 bits;
transparency is flattened on white; CMYK, palette, grey and one-bit pictures are converted by
Pillow's plain formulas, colour profiles ignored; animations give their first frame. Float, 32-bit
and Lab pictures are refused, for their range is not known. TIFF is not read at all: its decoder is
where Pillow's holes are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from anyany.errors import AnyAnyError, MediaError, ResourceError
from anyany.media import formats
from anyany.media.exif import orientation
from anyany.media.kinds import require
from anyany.media.limits import DEFAULT_LIMITS, Limits
from anyany.media.source import MediaSource, Source, load

if TYPE_CHECKING:
    from PIL import Image, ImageFile

_DIRECT: Final = ("RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBX")
_ALPHA: Final = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT: Final = ("I;16", "I;16L", "I;16B", "I;16N")


def read_image(source: MediaSource, *, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Read a PNG, JPEG, WebP, GIF or BMP (the last three: their first frame) as RGB.

    Args:
        source: a local file, or its content.
        limits: `file_bytes` and `image_pixels` apply; pixels are counted before decoding.

    Raises:
        MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
        ResourceError: memory ran out.
    """
    loaded = load(source, limits)
    picture = open_picture(loaded, require(loaded, "image"), limits)
    return _to_rgb(picture, loaded, limits)


def as_rgb(image: Image.Image, *, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Convert a picture in memory by the same policy; the result shares nothing with it.

    Raises:
        MediaError: it is too large, of an unsupported mode, or its file turns out damaged.
    """
    return _to_rgb(image, Source(b"", "the given picture"), limits)


def open_picture(source: Source, name: str, limits: Limits) -> ImageFile.ImageFile:
    """Open a picture of the format `name` without decoding it, if its size is within the limit.

    Raises:
        MediaError: its header is damaged, or it has too many pixels.
    """
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        WebPImagePlugin,
    )

    # These five classes are the allow-list: Image.open could reach all of Pillow's forty decoders.
    plugins: dict[str, type[ImageFile.ImageFile]] = {
        "png": PngImagePlugin.PngImageFile,
        "jpeg": JpegImagePlugin.JpegImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
        "gif": GifImagePlugin.GifImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
    }
    try:
        if name in ("gif", "webp"):  # whose classes set memory aside already on opening
            walk = formats.walk_gif if name == "gif" else formats.walk_webp
            _check_pixels((walk(source.data)[0], walk(source.data)[1]), source, limits)
        picture = plugins[name](source.stream())
        _check_pixels(picture.size, source, limits)
    except AnyAnyError:
        raise
    except Exception:  # whatever a plugin throws at a damaged header; its text is never repeated
        raise source.error("corrupt", "its header is damaged") from None
    return picture


def _to_rgb(image: Image.Image, source: Source, limits: Limits) -> Image.Image:
    _check_pixels(image.size, source, limits)
    try:
        image.load()
        turned = _upright(image)
        return _convert(turned, source)
    except AnyAnyError:
        raise
    except MemoryError:
        raise ResourceError(f"{source.name}: not enough memory to decode it") from None
    except Exception:  # as above
        raise source.error("corrupt", "the file is damaged and cannot be decoded") from None


def _check_pixels(size: tuple[int, int], source: Source, limits: Limits) -> None:
    width, height = size
    if width * height > limits.image_pixels:
        raise source.error(
            "too_large",
            f"{width} x {height} pixels are over the limit of {limits.image_pixels:,}",
        )
    if width < 1 or height < 1:
        raise source.error("corrupt", "the picture has no pixels")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(orientation(image.info.get("exif", b"")))
    return image if turn is None else image.transpose(turn)


def _convert(image: Image.Image, source: Source) -> Image.Image:
    from PIL import Image

    if image.mode in _SIXTEEN_BIT:
        image = _scale_to_8_bits(image)
    elif image.mode in _ALPHA or (image.mode in _DIRECT and "transparency" in image.info):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    elif image.mode not in _DIRECT:
        raise _unknown_range(image.mode, source)
    rgb = image.convert("RGB")
    rgb.info = {}  # no EXIF, profile or comment travels on
    return rgb


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.uint32)  # [H, W] in [0, 65535]
    return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8))


def _unknown_range(mode: str, source: Source) -> MediaError:
    return source.error(
        "unsupported", f"a picture of mode {mode} has no stated range; convert it to RGB first"
    )
