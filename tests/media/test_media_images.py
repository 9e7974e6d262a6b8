"""Reading pictures: the conversion policy, rotation, and the pixel limit."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from anyany import media
from anyany.errors import MediaError


def to_bytes(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["image.png", "image.bmp"])
def test_lossless_pictures_come_in_exactly(
    corpus: dict[str, bytes], picture: Image.Image, name: str
) -> None:
    np.testing.assert_array_equal(pixels(media.read_image(corpus[name])), pixels(picture))


@pytest.mark.parametrize("name", ["image.jpg", "image.webp", "image.gif"])
def test_lossy_pictures_come_in_nearly(
    corpus: dict[str, bytes], picture: Image.Image, name: str
) -> None:
    read = media.read_image(corpus[name])
    assert read.size == picture.size
    assert np.abs(pixels(read) - pixels(picture)).mean() < 12


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied_as_pillow_would(
    picture: Image.Image, turn: int, name: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = to_bytes(picture, name, exif=exif.tobytes())
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    read = media.read_image(data)
    np.testing.assert_array_equal(pixels(read), pixels(expected))
    assert read.info == {}
    assert len(read.getexif()) == 0


def test_a_picture_opened_by_the_user_gives_what_the_file_gives(
    picture: Image.Image, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    picture.save(path, exif=exif.tobytes())
    with Image.open(path) as opened:
        given = media.as_rgb(opened)
    np.testing.assert_array_equal(pixels(given), pixels(media.read_image(path)))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_senseless_exif_is_upright(picture: Image.Image, exif: bytes) -> None:
    read = media.read_image(to_bytes(picture, "JPEG", exif=exif))
    assert read.size == picture.size


def test_16_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 256, 32_768, 65_535]], np.uint16)
    read = media.read_image(to_bytes(Image.fromarray(values)))
    np.testing.assert_array_equal(pixels(read)[0, :, 0], [0, 1, 128, 255])
    np.testing.assert_array_equal(pixels(read)[0, :, 0], np.rint(values[0] / 65_535 * 255))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 128)), (255, 127, 127)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("P", (2, 2), 0), (0, 0, 0)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_becomes_rgb_by_the_stated_policy(
    image: Image.Image, expected: tuple[int, int, int]
) -> None:
    assert pixels(media.as_rgb(image))[0, 0].tolist() == list(expected)


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 2), 3)
    image.putpalette([10, 20, 30] * 8)
    data = to_bytes(image, "PNG", transparency=3)
    assert pixels(media.read_image(data))[0, 0].tolist() == [255, 255, 255]


def test_cmyk_jpeg_keeps_its_colours() -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.abs(pixels(media.read_image(to_bytes(image, "JPEG"))) - [0, 255, 255]).max() < 12


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_of_unknown_range_are_refused(mode: str) -> None:
    with pytest.raises(MediaError, match=f"a picture of mode {mode} has no stated range") as caught:
        media.as_rgb(Image.new(mode, (2, 2)))
    assert caught.value.code == "unsupported"


def test_the_result_shares_nothing_with_the_given_picture(picture: Image.Image) -> None:
    given = media.as_rgb(picture)
    given.putpixel((0, 0), (1, 2, 3))
    assert picture.getpixel((0, 0)) != (1, 2, 3)


def test_an_animation_gives_its_first_frame(corpus: dict[str, bytes], frames: np.ndarray) -> None:
    for name in ("video.gif", "video.webp"):
        read = pixels(media.read_image(corpus[name]))
        assert np.abs(read - frames[0].astype(int)).mean() < 3


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""
    body = b""
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1_000))),
        (b"IEND", b""),
    ):
        checked = kind + content
        body += struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [7_100, 13_000, 20_000, 60_000])
def test_bombs_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    started = time.perf_counter()
    with pytest.raises(MediaError) as caught:
        media.read_image(path)
    assert time.perf_counter() - started < 1.0
    assert caught.value.code == "too_large"
    assert str(caught.value) == (
        f"bomb.png: {side} x {side} pixels are over the limit of 50,000,000"
    )


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused(corpus: dict[str, bytes]) -> None:
    data = bytearray(corpus["image.gif"])
    at = data.index(b"\x2c\0\0\0\0") + 5
    data[at : at + 4] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(MediaError) as caught:
        media.read_image(bytes(data))
    assert caught.value.code == "too_large"


def test_a_webp_canvas_is_checked_before_the_decoder_sets_memory_aside(
    corpus: dict[str, bytes],
) -> None:
    data = bytearray(corpus["video.webp"])
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = b"\xff\x3f\0\xff\x3f\0"
    with pytest.raises(MediaError, match="16384 x 16384 pixels") as caught:
        media.read_image(bytes(data))
    assert caught.value.code == "too_large"


def test_the_limit_is_the_callers() -> None:
    tight = media.Limits(image_pixels=100)
    assert media.as_rgb(Image.new("RGB", (10, 10)), limits=tight).size == (10, 10)
    with pytest.raises(MediaError, match="10 x 11 pixels are over the limit of 100"):
        media.as_rgb(Image.new("RGB", (10, 11)), limits=tight)


def test_tiff_is_not_read(picture: Image.Image) -> None:
    with pytest.raises(MediaError) as caught:
        media.read_image(to_bytes(picture, "TIFF"))
    assert caught.value.code == "unsupported"
    assert str(caught.value) == (
        "the given bytes: expected a picture (PNG, JPEG, WebP, GIF or BMP), "
        "got a TIFF picture; save it as PNG"
    )
