"""ImageBind as the encoder of one modality: its preprocessing and one of its read-outs.

Shapes: B batch, S clips, P patches, E embedding width, F frames, H W height and width.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from torch import Tensor

from anyany.encoders.features import Encoder, Features, Readout
from anyany.encoders.imagebind.config import AudioConfig, VisionConfig
from anyany.encoders.imagebind.model import ImageBind
from anyany.encoders.preprocessing.audios import prepare_audio
from anyany.encoders.preprocessing.config import PreprocessingConfig
from anyany.encoders.preprocessing.images import prepare_image
from anyany.encoders.preprocessing.videos import prepare_frames, prepare_video
from anyany.encoders.tilers import FrameTile
from anyany.errors import ConfigError

MediaModality: TypeAlias = Literal["image", "video", "audio"]
TOWERS = {"image": "vision", "video": "vision", "audio": "audio"}


class ImageBindEncoder(Encoder):
    """Pictures, videos or recordings to features in ImageBind's space.

    Several encoders may share one ImageBind; its parameters are theirs in common.

    Args:
        imagebind: with the tower that the modality needs.
        modality: "image", "video" or "audio".
        readout: "patches" (v1.5 of NExT-GPT) or "pooled" (its first version: one token).
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
        preprocessing: PreprocessingConfig | None = None,
    ) -> None:
        super().__init__()
        if modality not in TOWERS:
            raise ConfigError(
                f"encoder modality: expected one of {', '.join(TOWERS)}; got {modality!r}"
            )
        if readout not in ("patches", "pooled"):
            raise ConfigError(f"encoder readout: expected patches or pooled; got {readout!r}")
        self.imagebind = imagebind
        self.modality = modality
        self.readout = readout
        self.preprocessing = preprocessing or PreprocessingConfig()
        self.tower = TOWERS[modality]
        self.encoder_dim = imagebind.config.embed_dim
        num_patches = self._num_patches()
        self.num_tokens = 1 if readout == "pooled" else num_patches

    def prepare(self, media: Any) -> Tensor:
        """Turn one item into the tensor that `forward` takes; no weights are involved.

        Args:
            media: a PIL picture for "image"; for "video" something with uint8 `frames` and
                `frames_per_second`, or a FrameTile; for "audio" something with a float32 `waveform`
                [channels, samples] and a `sample_rate`.

        Returns:
            float32 [3, H, W], [S, 3, F, H, W] or [S, 1, mel bins, frames].

        Raises:
            TypeError: it is no picture.
            UsageError: it is no usable video or recording.
        """
        if self.modality == "image":
            return prepare_image(media, self.preprocessing.image)
        if self.modality == "audio":
            return prepare_audio(media, self.preprocessing.audio)
        if isinstance(media, FrameTile):
            return prepare_frames(media.frames, self.preprocessing.video)
        return prepare_video(media, self.preprocessing.video)

    def forward(self, prepared: Tensor) -> Features:
        """Encode a batch on the weights' device and in their type; clips of an item are averaged.

        Args:
            prepared: [B, ...], outputs of `prepare` stacked.

        Returns:
            tokens [B, P, E] (P = 1 for "pooled"), pooled [B, E], and the patches' grid.

        Raises:
            ValueError: the tensor has another shape.
        """
        weight = next(self.imagebind.modality_trunks[self.tower].parameters())
        prepared = prepared.to(device=weight.device, dtype=weight.dtype)
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


def _check_equal(key: str, value: int, wanted: int) -> None:
    if value != wanted:
        raise ConfigError(
            f"preprocessing.{key}: expected {wanted}, the size of ImageBind's tower; got {value}"
        )
