"""Sizes and constants of ImageBind's preprocessing; the defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from anyany.errors import ConfigError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of RGB pixels in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImagePreprocessing:
    """Pictures: the short side resized to `size`, the centre square kept, pixels normalised.

    Args:
        size: pixels.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    size: int = 224
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        _check_std(self, "image")
        _check_positive("image", size=self.size)


@dataclass(frozen=True)
class VideoPreprocessing:
    """Clips: `num_clips` even pieces of `clip_seconds`, a few frames of each, square crops.

    Args:
        size: pixels.
        num_clips: pieces taken at even distances.
        clip_seconds: length of a piece.
        frames_per_clip: frames taken from a piece, its first and last among them.
        num_crops: 3 (start, centre and end of the long side) or 1 (centre).
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    size: int = 224
    num_clips: int = 5
    clip_seconds: float = 2.0
    frames_per_clip: int = 2
    num_crops: int = 3
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        _check_std(self, "video")
        _check_positive(
            "video",
            size=self.size,
            num_clips=self.num_clips,
            clip_seconds=self.clip_seconds,
            frames_per_clip=self.frames_per_clip,
        )
        if self.num_crops not in (1, 3):
            raise ConfigError(
                f"preprocessing.video: expected num_crops 1 or 3; got {self.num_crops}"
            )


@dataclass(frozen=True)
class AudioPreprocessing:
    """Recordings: even pieces, each a log-mel picture of `num_mel_bins` x `num_frames`.

    Args:
        sample_rate: Hz, to which recordings are resampled.
        num_clips: pieces taken at even distances.
        clip_seconds: length of a piece.
        num_mel_bins: rows of the picture.
        num_frames: columns of the picture; pieces are padded or cut to it.
        frame_milliseconds: length of an analysis window.
        shift_milliseconds: distance of analysis windows.
        min_frequency: Hz, lower edge of the lowest mel bin; the upper edge is sample_rate / 2.
        mean: of log-mel values.
        std: of log-mel values.
        published_mean_quirk: True repeats the published code's in-place mean subtraction, where
            pieces that overlap (recordings under num_clips x clip_seconds) alter one another:
            values in the lowest mel bins of a few frames move by up to 0.4. False treats each
            piece by itself.
    """

    sample_rate: int = 16_000
    num_clips: int = 3
    clip_seconds: float = 2.0
    num_mel_bins: int = 128
    num_frames: int = 204
    frame_milliseconds: float = 25.0
    shift_milliseconds: float = 10.0
    min_frequency: float = 20.0
    mean: float = -4.268
    std: float = 9.138
    published_mean_quirk: bool = False

    def __post_init__(self) -> None:
        _check_positive(
            "audio",
            sample_rate=self.sample_rate,
            num_clips=self.num_clips,
            clip_seconds=self.clip_seconds,
            num_mel_bins=self.num_mel_bins,
            num_frames=self.num_frames,
            frame_milliseconds=self.frame_milliseconds,
            shift_milliseconds=self.shift_milliseconds,
            std=self.std,
        )
        if not 0.0 <= self.min_frequency < self.sample_rate / 2:
            raise ConfigError(
                "preprocessing.audio: expected min_frequency from 0 to below sample_rate / 2; "
                f"got {self.min_frequency} at {self.sample_rate} Hz"
            )


@dataclass(frozen=True)
class PreprocessingConfig:
    """How media become tensors, per modality."""

    image: ImagePreprocessing = field(default_factory=ImagePreprocessing)
    video: VideoPreprocessing = field(default_factory=VideoPreprocessing)
    audio: AudioPreprocessing = field(default_factory=AudioPreprocessing)


def _check_std(config: ImagePreprocessing | VideoPreprocessing, name: str) -> None:
    if min(config.std) <= 0.0:
        raise ConfigError(f"preprocessing.{name}: expected positive std; got {config.std}")


def _check_positive(name: str, **values: float) -> None:
    for key, value in values.items():
        if value <= 0:
            raise ConfigError(f"preprocessing.{name}: expected a positive {key}; got {value}")
