"""PyAV containers opened so that they can only ever read the bytes they were given.

The demuxer is named, not probed, so a playlist posing as a clip is never parsed; demuxers and
decoders are on allow-lists; opening anything else on the file's behalf raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar

from anyany.errors import AnyAnyError, ResourceError
from anyany.media.limits import Limits
from anyany.media.source import Source

if TYPE_CHECKING:
    from av import AudioStream, VideoStream
    from av.container import InputContainer

S = TypeVar("S", "VideoStream", "AudioStream")

VIDEO_CODECS: Final = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "theora")
AUDIO_CODECS: Final = (
    *("aac", "mp3", "mp3float", "opus", "libopus", "vorbis", "flac", "alac"),
    *("pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_f32le"),
)
_OPTIONS: Final = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mp3,aac,ogg",
    "codec_whitelist": ",".join((*VIDEO_CODECS, *AUDIO_CODECS)),
    "protocol_whitelist": "",
}


@contextmanager
def open_container(source: Source, name: str) -> Iterator[InputContainer]:
    """Open a container of the format `name` (a key of formats.TITLES).

    Raises:
        MediaError: ("corrupt") it cannot be opened, or decoding fails inside the block.
        ResourceError: memory ran out.
    """
    import av

    try:
        with av.open(
            source.stream(),
            mode="r",
            format=name,
            options=dict(_OPTIONS),
            metadata_errors="replace",
            io_open=_refuse_io,
        ) as container:
            yield container
    except AnyAnyError:
        raise
    except MemoryError as error:
        if not isinstance(error, av.FFmpegError):  # which says so of senseless sizes in headers
            raise ResourceError(f"{source.name}: not enough memory to decode it") from None
        raise source.error("corrupt", "the file is damaged and cannot be decoded") from None
    except Exception:  # whatever a decoder throws at a damaged file; its text is never repeated
        raise source.error("corrupt", "the file is damaged and cannot be decoded") from None


def stream_kinds(source: Source, name: str) -> set[Literal["video", "audio"]]:
    """Which kinds of streams a container holds, cover art left out."""
    with open_container(source, name) as container:
        kinds: set[Literal["video", "audio"]] = set()
        if any(not is_cover_art(stream) for stream in container.streams.video):
            kinds.add("video")
        if container.streams.audio:
            kinds.add("audio")
        return kinds


def is_cover_art(stream: VideoStream) -> bool:
    """Whether a video stream is a still picture attached to a recording."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def decodable(source: Source, stream: S, allowed: tuple[str, ...], limits: Limits) -> S:
    """The stream, if its codec is on the list, set to decode on one thread and within limits.

    Raises:
        MediaError: ("unsupported") the codec is not on the list.
    """
    context: Any = stream.codec_context
    if context is None or context.name not in allowed:
        names = ", ".join(allowed)
        raise source.error("unsupported", f"its codec is not one that is read here ({names})")
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.frame_pixels)}  # before a frame is set aside
    return stream


def _refuse_io(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a media file asked for another file")
