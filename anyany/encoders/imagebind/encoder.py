"""ImageBind as the encoder of one modality: its preprocessing and one of its read-outs.

Shapes: B batch, S clips, P patches, E embedding width, F frames, H W height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor, nn

from anyany.encoders.adapters import adapter_names_set
from anyany.encoders.features import Encoder, Features, Readout
from anyany.encoders.imagebind.config import AudioConfig, VisionConfig
from anyany.encoders.imagebind.model import ImageBind
from anyany.encoders.preprocessing.audios import prepare_audio
from anyany.encoders.preprocessing.config import PreprocessingConfig
from anyany.encoders.preprocessing.images import prepare_image, whole_picture
from anyany.encoders.preprocessing.videos import prepare_frames, prepare_video
from anyany.encoders.tilers.base import AudioTile, FrameTile, ImageTile
from anyany.errors import ConfigError

MediaModality: TypeAlias = Literal["image", "video", "audio"]
TOWERS = {"image": "vision", "video": "vision", "audio": "audio"}


class ImageBindEncoder(Encoder):
    """Pictures, videos or recordings to features in ImageBind's space.

    Several encoders may share one ImageBind; its parameters are theirs in common.

    Args:
        imagebind: with the tower that the modality needs.
        modality: "image", "video" or "audio".
        readout: "patches" (v1.5 of NExT-GPT), "pooled" (its first version: one token),
            "penultimate" (LLaVA: patch tokens, one block before the end, in the tower's width) or
            "classes" (LaVIN: the class token of every few blocks, in the tower's width).
        class_every: blocks from one class token to the next.
        preprocessing: sizes; they must be those of the tower.

    Raises:
        ConfigError: the modality is unknown, its tower is not built, or sizes do not agree.
    """

    def __init__(
        self,
        imagebind: ImageBind,
        modality: MediaModality,
        *,
        readout: Readout = "patches",
        class_every: int = 4,
        preprocessing: PreprocessingConfig | None = None,
    ) -> None:
        super().__init__()
        if modality not in TOWERS:
            raise ConfigError(
                f"encoder modality: expected one of {', '.join(TOWERS)}; got {modality!r}"
            )
        if readout not in get_args(Readout) or readout == "pixels":
            names = ", ".join(name for name in get_args(Readout) if name != "pixels")
            raise ConfigError(f"encoder readout: expected one of {names}; got {readout!r}")
        self.imagebind = imagebind
        self.modality = modality
        self.readout = readout
        self.preprocessing = preprocessing or PreprocessingConfig()
        self.tower = TOWERS[modality]
        self.class_every = class_every
        num_patches = self._num_patches()
        tower = getattr(imagebind.config, self.tower)
        inner = readout in ("penultimate", "classes")
        self.encoder_dim = tower.dim if inner else imagebind.config.embed_dim
        counts = {"pooled": 1, "classes": tower.num_blocks // max(class_every, 1)}
        self.num_tokens = counts.get(readout, num_patches)
        if self.num_tokens < 1 or class_every < 1:
            raise ConfigError(
                f"encoder class_every: expected 1 to {tower.num_blocks}, the {self.tower} tower's "
                f"blocks; got {class_every}"
            )
        if isinstance(tower, VisionConfig):
            self.image_size, self.patch_size = tower.image_size, tower.patch_size

    def prepare(self, media: Any) -> Tensor:
        """Turn one item into the tensor that `forward` takes; no weights are involved.

        Args:
            media: a PIL picture or an ImageTile for "image"; for "video" something with uint8
                `frames` and `frames_per_second`, or a FrameTile; for "audio" something with a
                float32 `waveform` [channels, samples] and a `sample_rate`, or an AudioTile.

        Returns:
            float32 [3, H, W], [S, 3, F, H, W] or [S, 1, mel bins, frames]; S = 1 for a tile.

        Raises:
            TypeError: it is no picture.
            UsageError: it is no usable video or recording.
        """
        return prepare_media(media, self.modality, self.preprocessing)

    def own_parameters(self) -> list[nn.Parameter]:
        """Those of its tower."""
        named = self.named_parameters()
        return [p for name, p in named if f".{self.tower}." in name or ".adapter." in f".{name}"]

    def without_gradient(self) -> dict[str, str]:
        """What comes behind the state that is read out: name of a part -> reason."""
        if self.readout in ("patches", "pooled"):
            return {}
        reason = f"behind the {self.readout} read-out"
        num_blocks = getattr(self.imagebind.config, self.tower).num_blocks
        used = self.num_tokens * self.class_every
        used = max(num_blocks - 1, 1) if self.readout == "penultimate" else used
        blocks = f"imagebind.modality_trunks.{self.tower}.blocks"
        dead = {f"{blocks}.{index}": reason for index in range(used, num_blocks)}
        return {**dead, f"imagebind.modality_heads.{self.tower}": reason}

    def forward(self, prepared: Tensor, *, adapter_names: Sequence[str] | None = None) -> Features:
        """Encode a batch on the weights' device and in their type; clips of an item are averaged.

        Args:
            prepared: [B, ...], outputs of `prepare` stacked.
            adapter_names: of each item, its low-rank update.

        Returns:
            tokens [B, P, E] (P = 1 for "pooled"), pooled [B, E], and the patches' grid (None for
            "pooled" and "classes").

        Raises:
            ValueError: the tensor has another shape.
        """
        weight = next(self.imagebind.modality_trunks[self.tower].parameters())
        prepared = prepared.to(device=weight.device, dtype=weight.dtype)
        with adapter_names_set(self.imagebind, adapter_names, batch=prepared):
            if self.readout in ("penultimate", "classes"):
                every = self.class_every if self.readout == "classes" else 0
                return self.imagebind.inner_features(self.tower, prepared, class_every=every)
            features = self.imagebind.features(self.tower, prepared)
        if self.readout == "patches":
            return features
        return Features(features.pooled[:, None], features.pooled, None)

    def _num_patches(self) -> int:
        tower = getattr(self.imagebind.config, self.tower)
        if isinstance(tower, VisionConfig):
            return self._num_vision_patches(tower)
        if isinstance(tower, AudioConfig):
            return self._num_audio_patches(tower)
        raise ConfigError(
            f"encoder modality {self.modality}: expected an ImageBind with the {self.tower} tower; "
            f"got one with {', '.join(self.imagebind.config.modalities)}"
        )

    def _num_vision_patches(self, tower: VisionConfig) -> int:
        if self.modality == "video":
            video = self.preprocessing.video
            _check_equal("video.frames_per_clip", video.frames_per_clip, tower.num_frames)
            _check_equal("video.size", video.size, tower.image_size)
        else:
            _check_equal("image.size", self.preprocessing.image.size, tower.image_size)
        return tower.grid[0] * tower.grid[1]

    def _num_audio_patches(self, tower: AudioConfig) -> int:
        audio = self.preprocessing.audio
        _check_equal("audio.num_mel_bins", audio.num_mel_bins, tower.num_mel_bins)
        _check_equal("audio.num_frames", audio.num_frames, tower.num_frames)
        return tower.grid[0] * tower.grid[1]


def prepare_media(media: Any, modality: str, preprocessing: PreprocessingConfig) -> Tensor:
    """An item or a tile as the tensor that ImageBind's towers take; see `ImageBindEncoder.prepare`.

    Raises:
        TypeError: it is no picture.
        UsageError: it is no usable video or recording.
    """
    if isinstance(media, ImageTile):
        return whole_picture(media.image, preprocessing.image)
    if modality == "image":
        return prepare_image(media, preprocessing.image)
    if isinstance(media, AudioTile):
        return prepare_audio(media, replace(preprocessing.audio, num_clips=1))
    if modality == "audio":
        return prepare_audio(media, preprocessing.audio)
    if isinstance(media, FrameTile):
        return prepare_frames(media.frames, preprocessing.video)
    return prepare_video(media, preprocessing.video)


def _check_equal(key: str, value: int, wanted: int) -> None:
    if value != wanted:
        raise ConfigError(
            f"preprocessing.{key}: expected {wanted}, the size of ImageBind's tower; got {value}"
        )
