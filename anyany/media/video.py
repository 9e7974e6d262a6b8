"""Clips in: every frame as 8-bit RGB, upright, counted against the limits while decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from anyany.media import formats
from anyany.media.containers import VIDEO_CODECS, decodable, is_cover_art, open_container
from anyany.media.images import as_rgb, open_picture
from anyany.media.kinds import require
from anyany.media.limits import DEFAULT_LIMITS, Limits
from anyany.media.source import MediaSource, Source, load

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer

Frame = npt.NDArray[np.uint8]

_MAX_RATE: Final = 1_000  # frames per second
_DEFAULT_FRAME_MS: Final = 100  # what browsers show for a GIF frame that states no duration


@dataclass(frozen=True, eq=False)
class Video:
    """A clip without its sound.

    Args:
        frames: uint8 [F, H, W, 3].
        frames_per_second: playing rate; of a clip with uneven frames, the average. A GIF or
            WebP whose frames last multiples of the shortest is evened out by repeating them.
    """

    frames: Frame
    frames_per_second: float


def read_video(source: MediaSource, *, limits: Limits = DEFAULT_LIMITS) -> Video:
    """Read an MP4, MOV, WebM, Matroska, AVI, GIF or WebP.

    The rotation that a phone writes is applied. Frames are neither dropped nor resized: a clip
    over a limit is an error.

    Args:
        source: a local file, or its content.
        limits: `file_bytes`, `frame_pixels`, `video_pixels`, `video_frames` and `video_seconds`.

    Raises:
        MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
        ResourceError: memory ran out.
    """
    loaded = load(source, limits)
    name = require(loaded, "video")
    if name in ("gif", "webp"):
        return _read_animation(loaded, name, limits)
    with open_container(loaded, name) as container:
        streams = [stream for stream in container.streams.video if not is_cover_art(stream)]
        if not streams:
            raise loaded.error("unsupported", "expected a clip, found no moving pictures inside")
        stream = decodable(loaded, streams[0], VIDEO_CODECS, limits)
        _check_declared(container, stream, loaded, limits)
        collected = _Frames(loaded, limits)
        for frame in _decode(container, stream, loaded, limits):
            collected.add(frame)
        frames = collected.finish()
        rate = float(stream.average_rate or stream.guessed_rate or 0)
    if not 0 < rate <= _MAX_RATE:
        raise loaded.error("corrupt", "the clip states no usable frame rate")
    return Video(frames, rate)


class _Frames:
    """Frames gathered in one growing array, so that memory is never held twice."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._frames: Frame = np.empty((0, 0, 0, 3), np.uint8)
        self._count = 0

    def add(self, frame: Frame) -> None:
        """Append a frame [H, W, 3].

        Raises:
            MediaError: one frame too many, or of another size than those before.
        """
        limits = self._limits
        if self._count == 0:
            self._frames = np.empty((16, *frame.shape), np.uint8)
        if frame.shape != self._frames.shape[1:]:
            raise self._source.error("unsupported", "the clip changes its size midway")
        height, width, _ = frame.shape
        if self._count >= limits.video_frames:
            raise self._source.error(
                "too_large", f"the clip is over the limit of {limits.video_frames:,} frames"
            )
        if (self._count + 1) * height * width > limits.video_pixels:
            raise _too_many_pixels(self._source, limits)
        if self._count == len(self._frames):
            self._frames.resize((2 * self._count, *frame.shape), refcheck=False)
        self._frames[self._count] = frame
        self._count += 1

    def finish(self) -> Frame:
        """All frames, [F, H, W, 3].

        Raises:
            MediaError: there are none.
        """
        if self._count == 0:
            raise self._source.error("corrupt", "no frame of the clip can be decoded")
        self._frames.resize((self._count, *self._frames.shape[1:]), refcheck=False)
        return self._frames


def _check_declared(
    container: InputContainer, stream: VideoStream, source: Source, limits: Limits
) -> None:
    """Refuse early what the headers already say is too much."""
    _check_frame_size(stream.width, stream.height, source, limits)
    if stream.frames > limits.video_frames:
        raise source.error(
            "too_large",
            f"{stream.frames:,} frames are over the limit of {limits.video_frames:,}",
        )
    if stream.frames * stream.width * stream.height > limits.video_pixels:
        raise _too_many_pixels(source, limits)
    if container.duration is not None:
        _check_seconds(container.duration / 1_000_000, source, limits)  # FFmpeg's unit is 1 us


def _decode(
    container: InputContainer, stream: VideoStream, source: Source, limits: Limits
) -> Iterator[Frame]:
    start: float | None = None
    for frame in container.decode(stream):
        _check_frame_size(frame.width, frame.height, source, limits)
        if frame.is_corrupt:
            raise source.error("corrupt", "the file is damaged and cannot be decoded")
        if frame.time is not None:
            start = frame.time if start is None else start
            _check_seconds(frame.time - start, source, limits)
        pixels = frame.to_ndarray(format="rgb24")
        yield np.rot90(pixels, round(frame.rotation / 90)).astype(np.uint8, copy=False)


def _check_frame_size(width: int, height: int, source: Source, limits: Limits) -> None:
    if width * height > limits.frame_pixels:
        raise source.error(
            "too_large",
            f"frames of {width} x {height} pixels are over the limit of {limits.frame_pixels:,}",
        )


def _check_seconds(seconds: float, source: Source, limits: Limits) -> None:
    if seconds > limits.video_seconds:
        raise source.error(
            "too_large", f"the clip is over the limit of {limits.video_seconds:g} seconds"
        )


def _too_many_pixels(source: Source, limits: Limits) -> Exception:
    return source.error(
        "too_large",
        f"the clip is over the limit of {limits.video_pixels:,} pixels in all its frames; "
        "make it shorter or smaller",
    )


def _read_animation(source: Source, name: str, limits: Limits) -> Video:
    count = formats.num_frames(source.data, name)
    if count > limits.video_frames:
        raise source.error(
            "too_large", f"{count:,} frames are over the limit of {limits.video_frames:,}"
        )
    picture = open_picture(source, name, limits)
    _check_frame_size(*picture.size, source, limits)
    if count * picture.width * picture.height > limits.video_pixels:
        raise _too_many_pixels(source, limits)
    stills: list[Frame] = []
    durations: list[int] = []  # milliseconds
    for index in range(count):
        try:
            picture.seek(index)
            picture.load()
        except Exception:  # whatever a plugin throws at a damaged frame
            raise source.error("corrupt", "the file is damaged and cannot be decoded") from None
        stills.append(np.asarray(as_rgb(picture, limits=limits)))
        durations.append(int(picture.info.get("duration") or 0) or _DEFAULT_FRAME_MS)
        _check_seconds(sum(durations) / 1_000, source, limits)
    return _evenly_timed(stills, durations, source, limits)


def _evenly_timed(
    stills: list[Frame], durations: list[int], source: Source, limits: Limits
) -> Video:
    """Undo what GIF and WebP writers do to equal neighbours: one frame with a longer duration."""
    step = min(durations)
    repeats = [duration // step for duration in durations]
    if any(duration % step for duration in durations):  # timed freely: keep the frames as they are
        repeats = [1] * len(durations)
    collected = _Frames(source, limits)
    for still, times in zip(stills, repeats, strict=True):
        for _ in range(times):
            collected.add(still)
    return Video(collected.finish(), 1_000 * sum(repeats) / sum(durations))
