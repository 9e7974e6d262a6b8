"""Gated cross-attention (Flamingo, Alayrac et al. 2022, section 2.2 and figure 4).

Before every k-th layer of the frozen model stands transformers' own gated block
(`IdeficsGatedCrossAttentionLayer`: RMSNorm and SwiGLU where the paper has LayerNorm and squared
ReLU). Both gates begin at 0. Media take one position each, a learnt tag; a token attends to the
last medium that has begun, and one before the first medium passes by the block untouched, so plain
text stays the frozen model's to the bit, whatever was learnt.

Shapes: N rows of a pass, W its width, M tokens of a medium, S of all media of a row, D language
width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.weak import WeakIdKeyDictionary

from anyany.errors import ConfigError
from anyany.language.adapters.hooked import (
    HookedAdapter,
    every_kth,
    expect_dropout,
    expect_positive,
    hidden_input,
    with_input,
)
from anyany.language.adapters.seam import PassLayout, Visual


@dataclass(frozen=True)
class GatedAttentionSettings:
    """Gated cross-attention.

    Args:
        every: a block before every k-th layer.
        heads: of its attention; null for the language model's own number.
        ffn_dim: of its feed-forward part; null for four times the model's width.
        dropout: on both parts, in training.

    Raises:
        ConfigError: a value is out of range.
    """

    every: int = 1
    heads: int | None = None
    ffn_dim: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        expect_positive("gated_attention", self, "every", "heads", "ffn_dim")
        expect_dropout("gated_attention", self.dropout)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the tokens of some rows may attend to.

    Args:
        rows: a slice of the batch, n rows.
        visual: [n, S, D], right-padded.
        mask: float [n, 1, W, S], 0 = attend.
        gate: bool [n, W], False = no medium yet.
    """

    rows: slice
    visual: Tensor
    mask: Tensor
    gate: Tensor


@dataclass(frozen=True, eq=False)
class _RowMedia:
    """The media of a row: [1, S, D], and the number of the medium (from 1) of each token, [S]."""

    visual: Tensor
    numbers: Tensor


class GatedAttentionAdapter(HookedAdapter[GatedAttentionSettings, list[Seen]]):
    """Gated cross-attention to the media of the prompt.

    Args:
        settings: where and how wide.
    """

    kind = "gated_attention"

    def __init__(self, settings: GatedAttentionSettings) -> None:
        super().__init__(settings)
        self.blocks = nn.ModuleList()
        self._kept: dict[int, _RowMedia | None] = {}  # by cache row, while it decodes

    def build(self, lm: Any, layers: Sequence[Any]) -> None:
        """A block before every k-th layer, and the tag that stands for a medium."""
        from transformers import IdeficsConfig
        from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

        embedding: Tensor = lm.get_input_embeddings().weight
        width = int(embedding.shape[1])
        heads = self.settings.heads or int(lm.config.num_attention_heads)
        if width % heads:
            raise ConfigError(
                f"language.gated_attention.heads: expected a divisor of {width}, the model's "
                f"width; got {heads}"
            )
        config = IdeficsConfig(
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=self.settings.ffn_dim or 4 * width,
            dropout=self.settings.dropout,
            alpha_initializer="zeros",
            alpha_type="float",
            vision_config={"embed_dim": width},
        )
        config._attn_implementation = "eager"
        self.tag = nn.Parameter(embedding.detach().float().mean(0))
        for number, layer in enumerate(every_kth(self.kind, self.settings.every, layers)):
            block = IdeficsGatedCrossAttentionLayer(config, layer_idx=number)
            block.cross_attn.k_proj = _Remembering(width, width, bias=False)
            block.cross_attn.v_proj = _Remembering(width, width, bias=False)
            self.blocks.append(block)
            layer.register_forward_pre_hook(
                functools.partial(self._attend, block), with_kwargs=True
            )

    def in_place(self, media: Tensor) -> Tensor:
        """The tag, whatever the medium: [1, D]."""
        return self.tag[None].to(media.dtype)

    def reset(self, rows: Sequence[int]) -> None:
        """Forget the media of these rows."""
        for row in rows:
            self._kept.pop(row, None)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing kept, either."""
        return {**super().__getstate__(), "_kept": {}}

    def prepare(self, layout: PassLayout, visual: Visual) -> list[Seen]:
        """Rows with media: all in one call where gradients flow, else each by itself.

        By itself a row's numbers never depend on its neighbours' media.
        """
        media = [
            self._media(row, start, own, told)
            for row, start, own, told in zip(
                layout.rows, layout.starts, layout.layouts, visual, strict=True
            )
        ]
        phi = layout.last_media().to(self.tag.device)
        if torch.is_grad_enabled():
            groups = [slice(0, len(media))] if any(media) else []
        else:
            groups = [slice(n, n + 1) for n, one in enumerate(media) if one]
        return [_seen(rows, media[rows], phi[rows]) for rows in groups]

    def _media(
        self, row: int, start: int, layout: Any, visual: Mapping[int, Tensor] | None
    ) -> _RowMedia | None:
        """The media of all turns of a row, gathered when it begins."""
        if start > 0 and row in self._kept:
            return self._kept[row]
        slots = () if layout is None else layout.slots
        found = None
        if slots:
            assert visual is not None, "a prompt with media came without them"
            pieces = [visual[slot.index] for slot in slots]
            counts = torch.tensor([len(piece) for piece in pieces])
            numbers = torch.repeat_interleave(torch.arange(1, len(pieces) + 1), counts)
            joined = torch.cat(pieces)[None].to(self.tag.dtype)
            found = _RowMedia(joined, numbers.to(self.tag.device))
        if row >= 0 and layout is not None:
            self._kept[row] = found
        return found

    def _attend(
        self, block: nn.Module, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        hidden = hidden_input(args, kwargs)
        if not self.told:
            return None
        pieces, done = [], 0
        for seen in self.told:
            own = hidden[seen.rows]  # [n, W, D]
            new = block(
                own,
                image_hidden_states=seen.visual,
                image_attention_mask=seen.mask,
                cross_attention_gate=seen.gate,
            )
            pieces += [hidden[done : seen.rows.start], torch.where(seen.gate[..., None], new, own)]
            done = seen.rows.stop
        return with_input(args, kwargs, torch.cat([*pieces, hidden[done:]]))


class _Remembering(nn.Linear):
    """Without gradients, computes a tensor once as long as tensor and weights stay the same.

    So the keys and values of a row's media are computed in its prefill alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(input)
        kept = self.__dict__.setdefault("_made", WeakIdKeyDictionary())
        version = (self.weight._version, self.weight.data_ptr())
        if input not in kept or kept[input][0] != version:
            kept[input] = (version, super().forward(input))
        made: Tensor = kept[input][1]
        return made

    def __getstate__(self) -> dict[str, Any]:
        """A copy remembers nothing."""
        return {name: value for name, value in self.__dict__.items() if name != "_made"}


def _seen(rows: slice, media: Sequence[_RowMedia | None], phi: Tensor) -> Seen:
    some = next(one for one in media if one)
    if len(media) == 1:
        visual, numbers = some.visual, some.numbers[None]  # the very tensor, to be remembered by
    else:
        nothing = _RowMedia(some.visual[:, :0], some.numbers[:0])
        visual = pad_sequence([(one or nothing).visual[0] for one in media], batch_first=True)
        numbers = pad_sequence([(one or nothing).numbers for one in media], batch_first=True)
    attended = numbers[:, None, None] == phi[:, None, :, None]  # [n, 1, W, S]
    attended &= numbers[:, None, None] > 0  # padding
    mask = torch.zeros(attended.shape, dtype=visual.dtype, device=visual.device)
    mask.masked_fill_(~attended, torch.finfo(visual.dtype).min)
    return Seen(rows, visual, mask, phi > 0)
