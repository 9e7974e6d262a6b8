"""No encoder: the patches of a picture as they are, for Fuyu's and OtterHD's linear patch map.

Frames of a video and spectrograms become patches in the same way; a spectrogram counts as a grey
picture, so that one projector serves all three.

Shapes: B batch, S clips, P patches, F frames, H W height and width, E = 3 p p numbers of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from anyany.encoders.features import Encoder, Features, Readout
from anyany.encoders.imagebind.encoder import (
    TOWERS,
    ImageBindEncoder,
    MediaModality,
    prepare_media,
)
from anyany.encoders.imagebind.model import ImageBind
from anyany.encoders.preprocessing.config import PreprocessingConfig
from anyany.errors import ConfigError, UsageError


class PixelEncoder(Encoder):
    """Cuts into patches of p x p pixels and nothing else; it has no weights.

    Clips of an item are averaged and so are the frames of a clip: cut videos and recordings into
    tiles.

    Args:
        modality: "image", "video" or "audio".
        patch_size: p.
        preprocessing: sizes and constants; without the tiler `native`, pictures become squares.

    Raises:
        ConfigError: the modality is unknown, or a size is no multiple of p.
    """

    readout = "pixels"

    def __init__(
        self, modality: str, *, patch_size: int, preprocessing: PreprocessingConfig | None = None
    ) -> None:
        super().__init__()
        if modality not in TOWERS:
            raise ConfigError(
                f"encoder modality: expected one of {', '.join(TOWERS)}; got {modality!r}"
            )
        self.modality = modality
        self.preprocessing = preprocessing or PreprocessingConfig()
        if patch_size < 1:
            raise ConfigError(f"encoder patch_size: expected 1 or more; got {patch_size}")
        self.patch_size = patch_size
        self.encoder_dim = 3 * patch_size**2
        audio = self.preprocessing.audio
        sides = {
            "image": (self.preprocessing.image.size,) * 2,
            "video": (self.preprocessing.video.size,) * 2,
            "audio": (audio.num_mel_bins, audio.num_frames),
        }[modality]
        if modality != "audio":
            self.image_size = sides[0]
        self.num_tokens = -(-sides[0] // patch_size) * -(-sides[1] // patch_size)

    def prepare(self, media: Any) -> Tensor:
        """Turn one item or tile into a tensor as `ImageBindEncoder.prepare` does.

        Raises:
            TypeError: it is no picture.
            UsageError: it is no usable video or recording.
        """
        return prepare_media(media, self.modality, self.preprocessing)

    def forward(self, prepared: Tensor, *, adapter_names: Sequence[str] | None = None) -> Features:
        """Cut a batch; the right and lower edge is padded with 0 to whole patches.

        Args:
            prepared: [B, 3, H, W], [B, S, 3, F, H, W] or [B, S, 1, H, W].
            adapter_names: refused: there is nothing to update.

        Returns:
            tokens [B, P, E], pooled [B, E], grid (rows, columns).

        Raises:
            UsageError: `adapter_names` are given.
        """
        if adapter_names is not None:
            raise UsageError(
                "the pixels read-out has no encoder that low-rank updates could change"
            )
        pixels = _as_pictures(prepared)  # [B, 3, H, W]
        p = self.patch_size
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % p, 0, -height % p))
        tokens = rearrange(pixels, "b c (y p) (x q) -> b (y x) (p q c)", p=p, q=p)
        grid = (pixels.shape[-2] // p, pixels.shape[-1] // p)
        return Features(tokens, tokens.mean(dim=1), grid)


def build_encoder(
    imagebind: ImageBind | None,
    modality: str,
    *,
    readout: Readout = "patches",
    class_every: int = 4,
    patch_size: int = 0,
    preprocessing: PreprocessingConfig | None = None,
) -> Encoder:
    """The encoder of a modality that hands over what `readout` names.

    Args:
        imagebind: not needed for "pixels".
        modality: "image", "video" or "audio".
        readout: see `Readout`.
        class_every: blocks from one class token to the next ("classes").
        patch_size: pixels ("pixels").
        preprocessing: sizes and constants.

    Raises:
        ConfigError: a value does not fit, or an ImageBind is needed and missing.
    """
    if readout == "pixels":
        return PixelEncoder(modality, patch_size=patch_size, preprocessing=preprocessing)
    if imagebind is None:
        raise ConfigError(f"encoder readout {readout}: expected an ImageBind; got none")
    return ImageBindEncoder(
        imagebind,
        cast(MediaModality, modality),
        readout=readout,
        class_every=class_every,
        preprocessing=preprocessing,
    )


def _as_pictures(prepared: Tensor) -> Tensor:
    if prepared.ndim == 6:
        return reduce(prepared, "b s c f h w -> b c h w", "mean")
    if prepared.ndim == 5:
        grey = reduce(prepared, "b s 1 h w -> b 1 h w", "mean")
        return torch.cat([grey] * 3, dim=1)
    return prepared
