"""How much a media file may hold before it is refused.

Every reader takes a `Limits`. Sizes that a header declares are checked before anything is decoded,
and what actually comes out is counted again while decoding, since headers lie.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Limits:
    """Caps on one media file.

    Args:
        file_bytes: size of the file.
        image_pixels: width x height of a picture.
        frame_pixels: width x height of a clip's frame.
        video_pixels: width x height x frames of a clip (3 bytes each in memory).
        video_frames: frames of a clip.
        video_seconds: playing time of a clip.
        audio_seconds: playing time of a recording.
        audio_channels: channels of a recording.
        audio_values: channels x samples of a recording (4 bytes each in memory).
        allow_links: also read a path whose last component is a symbolic link.
    """

    file_bytes: int = 200 * 2**20
    image_pixels: int = 50_000_000
    frame_pixels: int = 3840 * 2160
    video_pixels: int = 800_000_000
    video_frames: int = 1_800
    video_seconds: float = 60.0
    audio_seconds: float = 600.0
    audio_channels: int = 8
    audio_values: int = 128_000_000
    allow_links: bool = False


DEFAULT_LIMITS: Final = Limits()
