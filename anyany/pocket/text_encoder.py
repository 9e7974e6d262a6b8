"""Pocket's text encoder for pictures: a CLIPTextModel trained contrastively, then frozen.

Two ways to say the same scene attract, all others repel, those that differ in one attribute among
them. Trained jointly with a generator such an encoder collapses (captions become parallel), so it
comes first and stays.

Legend: B batch, T tokens, C width.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyany.alignment.losses import contrastive_loss
from anyany.alignment.trainer import LossOutput, Task
from anyany.pocket.captions import canonical_caption, caption, draw_partial
from anyany.pocket.dialogues import ANNOUNCEMENT, draw_edit
from anyany.pocket.world import Scene, draw_scene

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

    from anyany.alignment.order import Draws

CAPTION_TOKENS: Final = 24  # captions are padded to so many
TEXT_DIM: Final = 128
_LOG_SCALE: Final = math.log(1 / 0.07)


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """The encoder with fresh weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_DIM,
            intermediate_size=4 * TEXT_DIM,
            projection_dim=TEXT_DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CAPTION_TOKENS,
            hidden_act="gelu",
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def caption_ids(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    """Token ids [B, T], as the decoder's own `encode_captions` makes them."""
    ids = tokenizer(
        list(captions),
        padding="max_length",
        max_length=CAPTION_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    assert isinstance(ids, Tensor)
    return ids


def say(scene: Scene, rng: random.Random) -> str:
    """The canonical caption or any other; now and then as a reply says it ("here is ...")."""
    text = canonical_caption(scene) if rng.random() < 0.3 else caption(scene, rng)
    return ANNOUNCEMENT.format(text) if rng.random() < 0.15 else text


class TextContrastTask(Task):
    """Pull two captions of a scene together, in batches made of near misses.

    Args:
        text_encoder: trained.
        tokenizer: the world's.
    """

    def __init__(self, text_encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerFast) -> None:
        head = nn.Linear(TEXT_DIM, TEXT_DIM, bias=False)
        super().__init__({"text_encoder": text_encoder, "head": head}, num_samples=None)
        self.text_encoder = text_encoder
        self.head = head
        self.tokenizer = tokenizer

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Tensor]:
        """Two captions each of a scene and of the scene with one attribute changed."""
        ones: list[str] = []
        others: list[str] = []
        scenes: dict[Scene, int] = {}
        numbers: list[int] = []
        for index in indices:
            rng = random.Random(f"text-contrast:{index}")
            scene = draw_partial(draw_scene(rng, held_out=None), rng)
            for variant in (scene, _near_miss(scene, rng)):
                ones.append(say(variant, rng))
                others.append(say(variant, rng))
                numbers.append(scenes.setdefault(variant, len(scenes)))
        return {
            "scenes": torch.tensor(numbers),
            "ones": caption_ids(self.tokenizer, ones),
            "others": caption_ids(self.tokenizer, others),
        }

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """InfoNCE both ways; captions of the same scene are all each other's positives."""
        ones, others = self._embed(batch["ones"]), self._embed(batch["others"])  # [B, C]
        same = batch["scenes"][:, None] == batch["scenes"][None, :]
        loss = contrastive_loss(ones, others, log_scale=_LOG_SCALE, same=same)
        nearest = (F.normalize(ones, dim=-1) @ F.normalize(others, dim=-1).T).argmax(1)
        top1 = same.gather(1, nearest[:, None]).float().mean()
        return LossOutput(loss, {"top1": top1}, weight=len(ones))

    def _embed(self, ids: Tensor) -> Any:
        states = self.text_encoder(input_ids=ids).last_hidden_state  # [B, T, C]
        # The mean over all positions, padding too: that is what cross-attention will read.
        return self.head(states.mean(1))


def _near_miss(scene: Scene, rng: random.Random) -> Scene:
    while True:
        _, other = draw_edit(scene, rng, held_out=None)
        if other.said().keys() == scene.said().keys():
            return other
