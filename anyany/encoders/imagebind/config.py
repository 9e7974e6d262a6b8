"""Sizes of ImageBind: one nested, frozen dataclass per modality tower.

The defaults of each tower are those of the published `imagebind_huge`; `ImageBindConfig` itself
builds only the towers it is given, so that a small system need not carry six.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyany.errors import ConfigError

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")  # order of the state dict


@dataclass(frozen=True)
class VisionConfig:
    """Pictures and clips: a patch is `num_frames` x `patch_size` x `patch_size` pixels."""

    dim: int = 1280
    num_blocks: int = 32
    num_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    num_frames: int = 2  # a still picture is repeated this often
    drop_path: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return (self.image_size // self.patch_size,) * 2


@dataclass(frozen=True)
class TextConfig:
    """Text: causal; the state at the highest token id (end of text) is the pooled one."""

    dim: int = 1024
    num_blocks: int = 24
    num_heads: int = 16
    vocab_size: int = 49_408
    context_length: int = 77
    drop_path: float = 0.0


@dataclass(frozen=True)
class AudioConfig:
    """Sound: a log-mel picture of `num_mel_bins` x `num_frames`, cut in overlapping patches."""

    dim: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    num_mel_bins: int = 128
    num_frames: int = 204
    patch_size: int = 16
    stride: int = 10
    drop_path: float = 0.1

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along frequency and along time."""
        return (
            (self.num_mel_bins - self.patch_size) // self.stride + 1,
            (self.num_frames - self.patch_size) // self.stride + 1,
        )


@dataclass(frozen=True)
class DepthConfig:
    """Depth maps: one channel."""

    dim: int = 384
    num_blocks: int = 12
    num_heads: int = 8
    image_size: int = 224
    patch_size: int = 16
    drop_path: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return (self.image_size // self.patch_size,) * 2


@dataclass(frozen=True)
class ThermalConfig:
    """Thermal pictures: one channel."""

    dim: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    image_size: int = 224
    patch_size: int = 16
    drop_path: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return (self.image_size // self.patch_size,) * 2


@dataclass(frozen=True)
class IMUConfig:
    """Motion sensors: `num_channels` series of `num_samples`, cut in pieces of `kernel_size`."""

    dim: int = 512
    num_blocks: int = 6
    num_heads: int = 8
    num_channels: int = 6
    num_samples: int = 2_000
    kernel_size: int = 8
    drop_path: float = 0.7

    @property
    def grid(self) -> tuple[int]:
        """Pieces along time."""
        return (self.num_samples // self.kernel_size,)


@dataclass(frozen=True)
class ImageBindConfig:
    """An ImageBind with the towers that are given; a tower left at None is not built.

    Args:
        embed_dim: E, width of the shared space.

    Raises:
        ConfigError: no tower is given, or a tower's sizes do not divide.
    """

    embed_dim: int = 1024
    vision: VisionConfig | None = None
    text: TextConfig | None = None
    audio: AudioConfig | None = None
    depth: DepthConfig | None = None
    thermal: ThermalConfig | None = None
    imu: IMUConfig | None = None

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ConfigError(
                f"imagebind: expected at least one tower among {', '.join(MODALITIES)}; got none"
            )
        for name in self.modalities:
            tower = getattr(self, name)
            _check_divides(name, "num_heads", tower.num_heads, "dim", tower.dim)
            if isinstance(tower, VisionConfig | DepthConfig | ThermalConfig):
                _check_divides(name, "patch_size", tower.patch_size, "image_size", tower.image_size)
            if isinstance(tower, AudioConfig) and min(tower.grid) < 1:
                raise ConfigError(
                    f"imagebind.audio: expected num_mel_bins and num_frames of at least patch_size "
                    f"{tower.patch_size}; got {tower.num_mel_bins} and {tower.num_frames}"
                )
            if isinstance(tower, IMUConfig):
                _check_divides(
                    name, "kernel_size", tower.kernel_size, "num_samples", tower.num_samples
                )

    @classmethod
    def huge(cls) -> ImageBindConfig:
        """The published `imagebind_huge`: all six towers, 1,200,781,057 parameters."""
        return cls(
            vision=VisionConfig(),
            text=TextConfig(),
            audio=AudioConfig(),
            depth=DepthConfig(),
            thermal=ThermalConfig(),
            imu=IMUConfig(),
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """The towers that are built, in the state dict's order."""
        return tuple(name for name in MODALITIES if getattr(self, name) is not None)


def _check_divides(name: str, part: str, divisor: int, whole: str, value: int) -> None:
    if divisor < 1 or value < 1 or value % divisor:
        raise ConfigError(
            f"imagebind.{name}: expected {whole} to be a positive multiple of {part}; "
            f"got {whole} {value} and {part} {divisor}"
        )
