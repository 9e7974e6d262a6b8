"""Pocket's text encoder for clips: a CLIPTextModel trained contrastively, then frozen.

It starts from the text encoder of pictures and is held to it wherever a caption says no motion:
the video denoiser starts from the picture denoiser, whose cross-attention reads those states.

Legend: B batch, T tokens, C width.
"""

from __future__ import annotations

import copy
import math
import random
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyany.alignment.losses import contrastive_loss
from anyany.alignment.trainer import LossOutput, Task
from anyany.pocket.clips import (
    CLIP_ATTRIBUTES,
    Clip,
    canonical_clip_caption,
    clip_caption,
    draw_clip,
    draw_partial_clip,
)
from anyany.pocket.dialogues import ANNOUNCEMENT
from anyany.pocket.text_encoder import TEXT_DIM, caption_ids

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

    from anyany.alignment.order import Draws

_LOG_SCALE: Final = math.log(1 / 0.07)
_HELD_WEIGHT: Final = 2.0  # of the distance to the picture encoder's states


def say_clip(clip: Clip, rng: random.Random) -> str:
    """The canonical caption or any other; now and then as a reply says it ("here is ...")."""
    text = canonical_clip_caption(clip) if rng.random() < 0.3 else clip_caption(clip, rng)
    return ANNOUNCEMENT.format(text) if rng.random() < 0.15 else text


class ClipTextTask(Task):
    """Pull two captions of a clip together, in batches made of near misses.

    Args:
        text_encoder: trained; for a warm start, with the weights of the picture encoder.
        tokenizer: the world's.
        hold: stay near the encoder's own first states where a caption says no motion.
    """

    def __init__(
        self,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        hold: bool = True,
    ) -> None:
        head = nn.Linear(TEXT_DIM, TEXT_DIM, bias=False)
        super().__init__({"text_encoder": text_encoder, "head": head}, num_samples=None)
        self.text_encoder = text_encoder
        self.head = head
        self.tokenizer = tokenizer
        self.first: Any = None
        if hold:
            self.first = copy.deepcopy(text_encoder).requires_grad_(False)
            self.first.eval()

    def batch(self, indices: Any, draws: Draws) -> dict[str, Tensor]:
        """Two captions each of a clip and of a near miss, and captions without a motion."""
        ones: list[str] = []
        others: list[str] = []
        still: list[str] = []
        numbers: dict[Clip, int] = {}
        labels: list[int] = []
        for index in indices:
            rng = random.Random(f"clip-text:{index}")
            clip = draw_partial_clip(draw_clip(rng, held_out=None), rng)
            for variant in (clip, _near_miss(clip, rng)):
                ones.append(say_clip(variant, rng))
                others.append(say_clip(variant, rng))
                labels.append(numbers.setdefault(variant, len(numbers)))
            still.append(say_clip(clip.only(["thing", "color", "background"]), rng))
        still[0] = ""  # the caption that guidance leaves
        return {
            "clips": torch.tensor(labels),
            "ones": caption_ids(self.tokenizer, ones),
            "others": caption_ids(self.tokenizer, others),
            "still": caption_ids(self.tokenizer, still),
        }

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """InfoNCE both ways, and the distance to the picture encoder's states."""
        ones, others = self._embed(batch["ones"]), self._embed(batch["others"])  # [B, C]
        same = batch["clips"][:, None] == batch["clips"][None, :]
        contrast = contrastive_loss(ones, others, log_scale=_LOG_SCALE, same=same)
        held = contrast.new_zeros(())
        if self.first is not None:
            with torch.no_grad():
                first = self.first(input_ids=batch["still"]).last_hidden_state
            now = self.text_encoder(input_ids=batch["still"]).last_hidden_state
            held = F.mse_loss(now, first)
        nearest = (F.normalize(ones, dim=-1) @ F.normalize(others, dim=-1).T).argmax(1)
        top1 = same.gather(1, nearest[:, None]).float().mean()
        named = {"contrast": contrast, "held": held, "top1": top1}
        return LossOutput(contrast + _HELD_WEIGHT * held, named, weight=len(ones))

    def _embed(self, ids: Tensor) -> Any:
        states = self.text_encoder(input_ids=ids).last_hidden_state  # [B, T, C]
        # The mean over all positions, padding too: that is what cross-attention will read.
        return self.head(states.mean(1))


def _near_miss(clip: Clip, rng: random.Random) -> Clip:
    """The clip with one of its attributes changed."""
    name = rng.choice(list(clip.said()))
    values = [value for value in CLIP_ATTRIBUTES[name] if value != getattr(clip, name)]
    return clip.changed(name, rng.choice(values))
