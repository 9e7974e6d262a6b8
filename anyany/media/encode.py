"""Media out, as bytes: equal content and record give equal bytes, on any day.

No encoder here writes a clock, a host or a library banner of its own choosing, and each runs on
one thread. PNG, WebP and FLAC are lossless (FLAC and WAV at 16 bits); MP4 is H.264 at high quality.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from anyany.errors import UsageError
from anyany.media.audio import MAX_RATE, MIN_RATE
from anyany.media.images import as_rgb
from anyany.media.provenance import AI_MARK, Provenance
from anyany.media.records import PNG_KEYWORD, comment_text, software_text

if TYPE_CHECKING:
    from av import VideoStream
    from PIL import Image

_EXIF_LIMIT: Final = 65_000  # bytes: what a JPEG segment can hold
_GIF_TICK: Final = 10  # milliseconds
# Plain C: on some processors x264's AVX-512 code gives other bytes from one call to the next.
_X264: Final = {"crf": "12", "preset": "medium", "x264-params": "asm=0"}
_MPEG4: Final = {"qscale": "2"}


def encode_image(
    image: Image.Image, provenance: Provenance | None = None, *, extension: str = ".png"
) -> bytes:
    """Encode a picture.

    Args:
        image: any picture that `as_rgb` accepts.
        provenance: its record; None writes no metadata at all.
        extension: ".png" or ".webp" (both lossless), ".jpg" or ".jpeg" (quality 95).

    Raises:
        UsageError: no such ending, or a record too long for a JPEG.
    """
    encoder = _chosen(_IMAGE_ENCODERS, extension, "a picture")
    return encoder(as_rgb(image), provenance)


def encode_video(
    frames: npt.NDArray[np.uint8],
    frames_per_second: float,
    provenance: Provenance | None = None,
    *,
    extension: str = ".mp4",
) -> bytes:
    """Encode a clip.

    Args:
        frames: uint8 [F, H, W, 3], F at least 1; for MP4, H and W even.
        frames_per_second: playing rate; GIF rounds each frame to 1/100 s, WebP to 1/1000 s.
        provenance: its record; None writes no metadata at all.
        extension: ".mp4" (H.264, or MPEG-4 where PyAV was built without x264), ".gif" (256
            colours) or ".webp" (lossless).

    Raises:
        UsageError: no such ending, or frames that cannot be written so.
    """
    encoder = _chosen(_VIDEO_ENCODERS, extension, "a clip")
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or 0 in frames.shape or frames.shape[3] != 3:
        raise UsageError(
            f"expected frames as uint8 [F, H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )
    if not 0 < frames_per_second <= 1_000:
        raise UsageError(f"expected a frame rate above 0 and up to 1000, got {frames_per_second!r}")
    return encoder(np.ascontiguousarray(frames), float(frames_per_second), provenance)


def encode_audio(
    waveform: npt.NDArray[np.float32],
    sample_rate: int,
    provenance: Provenance | None = None,
    *,
    extension: str = ".wav",
) -> bytes:
    """Encode a recording at 16 bits; samples beyond [-1, 1] are clipped there.

    Args:
        waveform: float [channels, samples], at least one of each.
        sample_rate: Hz.
        provenance: its record; None writes no metadata at all.
        extension: ".wav" or ".flac".

    Raises:
        UsageError: no such ending, or a waveform of another shape or with NaN in it.
    """
    encoder = _chosen(_AUDIO_ENCODERS, extension, "a recording")
    waveform = np.asarray(waveform)
    if waveform.dtype.kind != "f" or waveform.ndim != 2 or 0 in waveform.shape:
        raise UsageError(
            "expected a waveform as float [channels, samples], "
            f"got {waveform.dtype} {list(waveform.shape)}"
        )
    if waveform.shape[0] > 8:
        raise UsageError(f"expected at most 8 channels, got {waveform.shape[0]}")
    if not np.isfinite(waveform).all():
        raise UsageError("expected a waveform of finite numbers, got NaN or infinity in it")
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise UsageError(
            f"expected a sample rate of {MIN_RATE:,} to {MAX_RATE:,} Hz, got {sample_rate!r}"
        )
    scaled = np.rint(waveform.astype(np.float64) * 32_768)  # the inverse of how it is read
    samples = np.clip(scaled, -32_768, 32_767).astype("<i2").T  # [samples, channels]
    return encoder(np.ascontiguousarray(samples), int(sample_rate), provenance)


def _chosen(
    encoders: Mapping[str, Callable[..., bytes]], extension: str, what: str
) -> Callable[..., bytes]:
    if extension.lower() not in encoders:
        raise UsageError(
            f"expected {what} to be written as {', '.join(encoders)}; got {extension!r}"
        )
    return encoders[extension.lower()]


def _encode_png(image: Image.Image, provenance: Provenance | None) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    if provenance is not None:
        texts.add_text("Software", software_text(provenance))
        texts.add_text("Comment", AI_MARK)
        texts.add_itxt(PNG_KEYWORD, provenance.to_json())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=texts, compress_level=6)
    return buffer.getvalue()


def _encode_jpeg(image: Image.Image, provenance: Provenance | None) -> bytes:
    exif = _exif(provenance)
    if len(exif) > _EXIF_LIMIT:
        raise UsageError("the provenance record is too long for a JPEG; write a PNG")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0, exif=exif)
    return buffer.getvalue()


def _encode_webp(image: Image.Image, provenance: Provenance | None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=75, method=4, exif=_exif(provenance))
    return buffer.getvalue()


def _exif(provenance: Provenance | None) -> bytes:
    from PIL import Image

    if provenance is None:
        return b""
    exif = Image.Exif()
    exif[0x010E] = comment_text(provenance)  # ImageDescription
    exif[0x0131] = software_text(provenance)  # Software
    return exif.tobytes()


def _encode_gif(
    frames: npt.NDArray[np.uint8], frames_per_second: float, provenance: Provenance | None
) -> bytes:
    ticks = max(2, round(1_000 / frames_per_second / _GIF_TICK))  # players disbelieve less
    comment = comment_text(provenance).encode() if provenance else b""
    return _animation(
        frames, "GIF", duration=ticks * _GIF_TICK, **({"comment": comment} if comment else {})
    )


def _encode_animated_webp(
    frames: npt.NDArray[np.uint8], frames_per_second: float, provenance: Provenance | None
) -> bytes:
    exif, milliseconds = _exif(provenance), max(1, round(1_000 / frames_per_second))
    return _animation(
        frames, "WEBP", duration=milliseconds, exif=exif, lossless=True, quality=75, method=4
    )


def _animation(frames: npt.NDArray[np.uint8], name: str, **options: Any) -> bytes:
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, name, save_all=True, append_images=others, loop=0, **options)
    return buffer.getvalue()


def _encode_mp4(
    frames: npt.NDArray[np.uint8], frames_per_second: float, provenance: Provenance | None
) -> bytes:
    import av

    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise UsageError(
            f"expected even height and width for MP4, got {height} x {width}; write GIF or WebP"
        )
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        if provenance is not None:
            container.metadata["comment"] = comment_text(provenance)
            container.metadata["description"] = AI_MARK
        rate = Fraction(frames_per_second).limit_denominator(1_001)
        options = _X264 if codec == "libx264" else _MPEG4
        stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=dict(options)))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _encode_wav(
    samples: npt.NDArray[np.int16], sample_rate: int, provenance: Provenance | None
) -> bytes:
    channels = samples.shape[1]
    layout = struct.pack(
        "<HHIIHH", 1, channels, sample_rate, 2 * channels * sample_rate, 2 * channels, 16
    )
    chunks = _riff_chunk(b"fmt ", layout)
    if provenance is not None:
        info = _riff_chunk(b"ICMT", comment_text(provenance).encode() + b"\0")
        info += _riff_chunk(b"ISFT", software_text(provenance).encode() + b"\0")
        chunks += _riff_chunk(b"LIST", b"INFO" + info)
    chunks += _riff_chunk(b"data", samples.tobytes())
    return _riff_chunk(b"RIFF", b"WAVE" + chunks)


def _riff_chunk(kind: bytes, content: bytes) -> bytes:
    if len(content) >= 2**32 - 1:
        raise UsageError("expected less than 4 GiB of samples for a WAV; write a FLAC")
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _encode_flac(
    samples: npt.NDArray[np.int16], sample_rate: int, provenance: Provenance | None
) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", sample_rate, samples.shape[1], "PCM_16", format="FLAC"
    ) as file:
        if provenance is not None:
            file.comment = comment_text(provenance)
            file.software = software_text(provenance)
        file.write(samples)
    return buffer.getvalue()


_IMAGE_ENCODERS: Final[Mapping[str, Callable[..., bytes]]] = {
    ".png": _encode_png,
    ".webp": _encode_webp,
    ".jpg": _encode_jpeg,
    ".jpeg": _encode_jpeg,
}
_VIDEO_ENCODERS: Final[Mapping[str, Callable[..., bytes]]] = {
    ".mp4": _encode_mp4,
    ".gif": _encode_gif,
    ".webp": _encode_animated_webp,
}
_AUDIO_ENCODERS: Final[Mapping[str, Callable[..., bytes]]] = {
    ".wav": _encode_wav,
    ".flac": _encode_flac,
}
