"""Small media made on the spot, one of each format that is read."""

import io
from collections.abc import Callable
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from anyany import media


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 9 % 256, rows * 13 % 256, (rows + columns) * 5 % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def moving_square(num_frames: int = 8, size: int = 32) -> npt.NDArray[np.uint8]:
    frames = np.full((num_frames, size, size, 3), 230, np.uint8)
    for index in range(num_frames):
        frames[index, 8:20, index : index + 12] = (200, 30, 40)
    return frames


def tone(channels: int = 1, rate: int = 16_000, seconds: float = 0.5) -> npt.NDArray[np.float32]:
    times = np.arange(int(rate * seconds)) / rate
    hertz = 440.0 * (1 + np.arange(channels))[:, None]
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def save(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def encode_clip(container: str, codec: str, num_frames: int = 8) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = cast(av.VideoStream, output.add_stream(codec, rate=8))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in moving_square(num_frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def encode_sound(container: str, codec: str, rate: int = 48_000, seconds: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    samples = (tone(1, rate, seconds) * 32_767).astype(np.int16)
    with av.open(buffer, "w", format=container) as output:
        stream = cast(av.AudioStream, output.add_stream(codec, rate=rate, layout="mono"))
        frame = av.AudioFrame.from_ndarray(samples, format="s16p", layout="mono")
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


MAKERS: dict[str, Callable[[], bytes]] = {
    "image.png": lambda: save(gradient(), "PNG"),
    "image.jpg": lambda: save(gradient(), "JPEG"),
    "image.webp": lambda: save(gradient(), "WEBP"),
    "image.gif": lambda: save(gradient(), "GIF"),
    "image.bmp": lambda: save(gradient(), "BMP"),
    "video.mp4": lambda: media.encode_video(moving_square(), 8),
    "video.webm": lambda: encode_clip("webm", "libvpx-vp9"),
    "video.avi": lambda: encode_clip("avi", "mpeg4"),
    "video.gif": lambda: media.encode_video(moving_square(), 10, extension=".gif"),
    "video.webp": lambda: media.encode_video(moving_square(), 8, extension=".webp"),
    "audio.wav": lambda: media.encode_audio(tone(), 16_000),
    "audio.flac": lambda: media.encode_audio(tone(), 16_000, extension=".flac"),
    "audio.mp3": lambda: encode_sound("mp3", "libmp3lame"),
    "audio.m4a": lambda: encode_sound("mp4", "aac"),
    "audio.aac": lambda: encode_sound("adts", "aac"),
    "audio.ogg": lambda: encode_sound("ogg", "libopus"),
}
