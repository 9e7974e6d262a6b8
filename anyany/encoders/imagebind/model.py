"""ImageBind (Girdhar et al. 2023, arXiv 2305.05665): six modalities in one embedding space.

Written from the paper and from the published weights' names and shapes. `forward` gives the
published outputs; `features` gives the two read-outs that language bridges use.

Shapes: B batch, S clips, P patches, T trunk tokens, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from anyany.encoders.features import Features
from anyany.encoders.imagebind.config import MODALITIES, ImageBindConfig
from anyany.encoders.imagebind.stems import (
    IMUTokens,
    StemOutput,
    TextTokens,
    audio_tokens,
    map_tokens,
    vision_tokens,
)
from anyany.encoders.imagebind.transformer import Trunk, init_normal

HEAD_NORM_EPS = 1e-6
IMU_HEAD_DROPOUT = 0.5
MAX_LOGIT_SCALE = 100.0
# Factor on the normalised outputs; vision has none, text's is learnt.
LOGIT_SCALES = {"text": 1 / 0.07, "audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}
CLIP_NDIM = 5  # inputs with at least this many axes are [B, S, ...]


class ImageBind(nn.Module):
    """All towers of a configuration, under the published parameter names.

    Args:
        config: the towers and their sizes.
    """

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        self.config = config
        names = config.modalities
        self.modality_preprocessors = nn.ModuleDict({name: _stem(config, name) for name in names})
        self.modality_trunks = nn.ModuleDict({name: _trunk(config, name) for name in names})
        self.modality_heads = nn.ModuleDict({name: _head(config, name) for name in names})
        self.modality_postprocessors = nn.ModuleDict({name: _postprocessor(name) for name in names})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published outputs: pooled, normalised, scaled, clips averaged.

        The norms differ by modality (vision 1, text 14.3, audio 20, ...) and a mean over clips is
        not normalised again.

        Args:
            inputs: modality -> vision [B, 3, H, W] or [B, S, 3, F, H, W]; text ids [B, T]; audio
                [B, 1, bins, frames] or [B, S, 1, bins, frames]; depth and thermal [B, 1, H, W];
                imu [B, channels, samples].

        Returns:
            Modality -> [B, E].

        Raises:
            ValueError: a modality has no tower here, or a tensor has a wrong shape.
        """
        outputs = {}
        for modality, batch in inputs.items():
            items, num_clips = self._split_clips(modality, batch)
            hidden = self._trunk(modality, self.stem_tokens(modality, items))
            pooled = self._project(modality, self._select(modality, hidden, items))
            scaled = self.modality_postprocessors[modality](pooled)
            outputs[modality] = _mean_clips(scaled, num_clips)
        return outputs

    def features(self, modality: str, batch: Tensor) -> Features:
        """Patch tokens and the pooled state, each normalised and unscaled, clips averaged.

        Patch tokens pass the same norm, projection and normalisation as the pooled state; the
        class token is left out (NExT-GPT v1.5's read-out; the pooled one is its first version's).

        Args:
            modality: one of the towers.
            batch: as in `forward`.

        Returns:
            tokens [B, P, E] (all T positions for text), pooled [B, E], and the patches' grid.

        Raises:
            ValueError: the modality has no tower here, or the tensor has a wrong shape.
        """
        items, num_clips = self._split_clips(modality, batch)
        stem = self.stem_tokens(modality, items)
        hidden = self._trunk(modality, stem)
        patches = hidden if modality == "text" else hidden[:, 1:]
        tokens = F.normalize(self._project(modality, patches), dim=-1)
        pooled = F.normalize(self._project(modality, self._select(modality, hidden, items)), dim=-1)
        return Features(_mean_clips(tokens, num_clips), _mean_clips(pooled, num_clips), stem.grid)

    def inner_features(self, modality: str, batch: Tensor, *, class_every: int) -> Features:
        """States from inside a tower, D wide: not normalised, not projected; clips averaged.

        Args:
            modality: vision or audio.
            batch: as in `forward`.
            class_every: 0 = patch tokens after the last block but one (LLaVA's layer); n = the
                class token after every n-th block (LaVIN's visual neck), first to last.

        Returns:
            tokens [B, P, D], pooled [B, D] and the patches' grid (None for class tokens).

        Raises:
            ValueError: the modality has no tower here, or the tensor has a wrong shape.
        """
        items, num_clips = self._split_clips(modality, batch)
        stem = self.stem_tokens(modality, items)
        trunk = cast(Trunk, self.modality_trunks[modality])
        if class_every:
            states = islice(trunk.states(stem.tokens), class_every - 1, None, class_every)
            tokens = torch.stack([hidden[:, 0] for hidden in states], dim=1)
            tokens = _mean_clips(tokens, num_clips)
            return Features(tokens, tokens.mean(dim=1), None)
        last = len(trunk.blocks) - 2
        hidden = next(islice(trunk.states(stem.tokens), max(last, 0), None))
        hidden = _mean_clips(hidden, num_clips)
        return Features(hidden[:, 1:], hidden[:, 0], stem.grid)

    def stem_tokens(self, modality: str, items: Tensor) -> StemOutput:
        """The trunk's input for a batch without a clip axis."""
        return cast(StemOutput, self.modality_preprocessors[modality](items))

    def _split_clips(self, modality: str, batch: Tensor) -> tuple[Tensor, int | None]:
        if modality not in self.modality_trunks:
            raise ValueError(
                f"expected a modality among {', '.join(self.config.modalities)}; got {modality!r}"
            )
        if batch.ndim < CLIP_NDIM:
            return batch, None
        return batch.flatten(0, 1), batch.shape[1]

    def _trunk(self, modality: str, stem: StemOutput) -> Tensor:
        return cast(Tensor, self.modality_trunks[modality](stem.tokens, stem.mask))

    def _select(self, modality: str, hidden: Tensor, items: Tensor) -> Tensor:
        if modality == "text":  # the end-of-text id is the vocabulary's highest
            return hidden[torch.arange(len(items), device=items.device), items.argmax(dim=-1)]
        return hidden[:, 0]

    def _project(self, modality: str, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.modality_heads[modality](hidden))


class TextHead(nn.Module):
    """Norm and projection; the published weights keep them under `proj`."""

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(dim, eps=HEAD_NORM_EPS), _projection(dim, embed_dim))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., E]."""
        return cast(Tensor, self.proj(hidden))


class Normalize(nn.Module):
    """L2 norm 1 along the last axis."""

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, E] -> [B, E]."""
        return F.normalize(embedding, dim=-1)


class LogitScale(nn.Module):
    """Multiply by exp(log scale), at most 100; learnt for text, constant otherwise."""

    log_logit_scale: Tensor

    def __init__(self, scale: float, *, learnable: bool) -> None:
        super().__init__()
        log_scale = torch.tensor(math.log(scale))
        if learnable:
            self.log_logit_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_logit_scale", log_scale)

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, E] -> [B, E]."""
        return embedding * self.log_logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)


def _stem(config: ImageBindConfig, modality: str) -> nn.Module:
    if modality == "vision" and config.vision is not None:
        return vision_tokens(config.vision)
    if modality == "text" and config.text is not None:
        return TextTokens(config.text)
    if modality == "audio" and config.audio is not None:
        return audio_tokens(config.audio)
    if modality == "depth" and config.depth is not None:
        return map_tokens("depth_stem", config.depth)
    if modality == "thermal" and config.thermal is not None:
        return map_tokens("rgbt_stem", config.thermal)
    assert modality == "imu", (modality, MODALITIES)
    assert config.imu is not None, config
    return IMUTokens(config.imu)


def _trunk(config: ImageBindConfig, modality: str) -> Trunk:
    tower: Any = getattr(config, modality)
    return Trunk(
        tower.dim,
        tower.num_blocks,
        tower.num_heads,
        bias_kv=modality not in ("vision", "text"),
        pre_norm=modality == "vision",
        drop_path=tower.drop_path,
    )


def _head(config: ImageBindConfig, modality: str) -> nn.Module:
    dim: int = getattr(config, modality).dim
    if modality == "text":
        return TextHead(dim, config.embed_dim)
    layers: list[nn.Module] = [
        nn.LayerNorm(dim, eps=HEAD_NORM_EPS),
        nn.Identity(),  # the published head selects the class token here; `_select` does it
    ]
    if modality == "imu":
        layers.append(nn.Dropout(IMU_HEAD_DROPOUT))
    return nn.Sequential(*layers, _projection(dim, config.embed_dim))


def _postprocessor(modality: str) -> nn.Module:
    if modality not in LOGIT_SCALES:
        return Normalize()
    scale = LogitScale(LOGIT_SCALES[modality], learnable=modality == "text")
    return nn.Sequential(Normalize(), scale)


def _projection(dim: int, embed_dim: int) -> nn.Linear:
    linear = nn.Linear(dim, embed_dim, bias=False)
    init_normal(linear.weight)
    return linear


def _mean_clips(values: Tensor, num_clips: int | None) -> Tensor:
    if num_clips is None:
        return values
    return reduce(values, "(b s) ... -> b ...", "mean", s=num_clips)
