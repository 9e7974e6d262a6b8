"""Projectors that map every encoder token by itself: linear layers and what stands between them.

Shapes: B batch, P encoder tokens, E encoder width, D language width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from anyany.encoders.projectors.base import Projector, ProjectorConfig, ProjectorContext

BOTTLENECK_DIM = 128  # LaVIN's visual neck


class TokenProjector(Projector):
    """One layer for all tokens, chosen by the configuration's type: see `TOKEN_LAYERS`.

    Args:
        config: type, E (3 p p for raw patches), D, `hidden_dim`.
    """

    keeps_grid = True

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        self.layer = TOKEN_LAYERS[config.type](config)

    def project(self, features: Tensor, context: ProjectorContext) -> Tensor:
        """[B, P, E] -> [B, P, D]; the context is not looked at."""
        projected: Tensor = self.layer(features)
        return projected


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(in_dim, hidden_dim, bias=False)
        self.up = nn.Linear(in_dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, out_dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        output: Tensor = self.down(F.silu(self.gate(tokens)) * self.up(tokens))
        return output


def _linear(config: ProjectorConfig) -> nn.Module:
    return nn.Linear(config.encoder_dim, config.language_dim)


def _mlp(config: ProjectorConfig) -> nn.Module:
    width = config.language_dim
    return nn.Sequential(_linear(config), nn.GELU(), nn.Linear(width, width))


def _mlp_norm(config: ProjectorConfig) -> nn.Module:
    width = config.language_dim
    first = (_linear(config), nn.LayerNorm(width))
    return nn.Sequential(*first, nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))


def _bottleneck(config: ProjectorConfig) -> nn.Module:
    inner = config.hidden_dim or BOTTLENECK_DIM
    down, up = nn.Linear(config.encoder_dim, inner), nn.Linear(inner, config.language_dim)
    return nn.Sequential(down, nn.SiLU(), up)


def _swiglu(config: ProjectorConfig) -> nn.Module:
    inner = config.hidden_dim or 2 * config.language_dim
    return SwiGLU(config.encoder_dim, inner, config.language_dim)


TOKEN_LAYERS: Final[Mapping[str, Callable[[ProjectorConfig], nn.Module]]] = {
    "linear": _linear,  # NExT-GPT's first version, LLaVA
    "patch_linear": _linear,  # Fuyu's and OtterHD's way in without an encoder, over raw patches
    "mlp": _mlp,  # LLaVA-1.5's mlp2x, with an exact GELU
    "mlp_norm": _mlp_norm,  # Yi-VL (2403.04652, section 5)
    "bottleneck": _bottleneck,  # LaVIN's visual neck, over class tokens
    "swiglu": _swiglu,  # CogVLM's adapter (2311.03079, section 2.1)
}
