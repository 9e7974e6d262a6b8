"""Pocket's text encoder for sounds: a ClapTextModelWithProjection, contrastive, then frozen.

Two ways to say the same sound attract, all others repel, near misses among them. Linear heads that
read each attribute off the embedding keep attributes in directions of their own, so that triples
that no recording was shown of still lie where their parts say. Trained jointly with a generator
this encoder collapses: it comes first and stays.

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
from anyany.pocket.dialogues import ANNOUNCEMENT
from anyany.pocket.sounds import (
    SOUND_ATTRIBUTES,
    Sound,
    canonical_sound_caption,
    draw_partial_sound,
    draw_sound,
    sound_caption,
)
from anyany.pocket.text_encoder import CAPTION_TOKENS

if TYPE_CHECKING:
    from transformers import ClapTextModelWithProjection, PreTrainedTokenizerFast

    from anyany.alignment.order import Draws

CLAP_DIM: Final = 128
_LOG_SCALE: Final = math.log(1 / 0.07)
_HEAD_SCALE: Final = 8.0  # length of the embedding that the heads read
_EMPTY: Final = 0.02  # of the captions: nothing is said


def build_clap(tokenizer: PreTrainedTokenizerFast) -> ClapTextModelWithProjection:
    """The encoder with fresh weights."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    return ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=CLAP_DIM,
            intermediate_size=4 * CLAP_DIM,
            projection_dim=CLAP_DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLAP_DIM + 8,  # negative prompts are padded to the width
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def say_sound(sound: Sound, rng: random.Random) -> str:
    """The canonical caption or any other; now and then as a reply says it ("here is ...")."""
    if not sound.said() and rng.random() < 0.5:
        return ""
    canonical = rng.random() < 0.3
    text = canonical_sound_caption(sound) if canonical else sound_caption(sound, rng)
    return ANNOUNCEMENT.format(text) if rng.random() < 0.15 else text


class ClapContrastTask(Task):
    """Pull two captions of a sound together, in batches made of near misses.

    Args:
        text_encoder: trained.
        tokenizer: the world's.
    """

    def __init__(
        self, text_encoder: ClapTextModelWithProjection, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        heads = nn.ModuleDict(
            {
                name: nn.Linear(CLAP_DIM, len(values) + 1)
                for name, values in SOUND_ATTRIBUTES.items()
            }
        )
        super().__init__({"text_encoder": text_encoder, "heads": heads}, num_samples=None)
        self.text_encoder = text_encoder
        self.heads = heads
        self.tokenizer = tokenizer

    def batch(self, indices: Sequence[int], draws: Draws) -> dict[str, Any]:
        """Two captions each of a sound and of the sound with one attribute changed."""
        captions: list[list[str]] = [[], []]
        sounds: list[Sound] = []
        for index in indices:
            rng = random.Random(f"clap:{index}")
            sound = draw_partial_sound(draw_sound(rng, held_out=None), rng)
            if rng.random() < _EMPTY:
                sound = Sound()
            for variant in (sound, _near_miss(sound, rng)):
                sounds.append(variant)
                captions[0].append(say_sound(variant, rng))
                captions[1].append(say_sound(variant, rng))
        numbers = {sound: number for number, sound in enumerate(dict.fromkeys(sounds))}
        labels = [
            [
                values.index(getattr(sound, name)) if getattr(sound, name) else len(values)
                for name, values in SOUND_ATTRIBUTES.items()
            ]
            for sound in sounds
        ]
        tokens = [self._tokens(texts) for texts in captions]
        return {
            "sounds": torch.tensor([numbers[sound] for sound in sounds]),
            "labels": torch.tensor(labels),
            "ids": torch.stack([ids for ids, _ in tokens]),  # [2, B, T]
            "mask": torch.stack([mask for _, mask in tokens]),
        }

    def loss(self, batch: Any, draws: Draws) -> LossOutput:
        """InfoNCE both ways, and cross-entropy of each attribute."""
        ones, others = (
            self.text_encoder(input_ids=ids, attention_mask=mask).text_embeds
            for ids, mask in zip(batch["ids"], batch["mask"], strict=True)
        )  # [B, C]
        same = batch["sounds"][:, None] == batch["sounds"][None, :]
        contrast = contrastive_loss(ones, others, log_scale=_LOG_SCALE, same=same)
        read = _HEAD_SCALE * F.normalize(torch.cat([ones, others]), dim=-1)
        labels = batch["labels"].repeat(2, 1)
        losses = [
            F.cross_entropy(head(read), labels[:, column])
            for column, head in enumerate(self.heads.values())
        ]
        attributes = torch.stack(losses).mean()
        nearest = (F.normalize(ones, dim=-1) @ F.normalize(others, dim=-1).T).argmax(1)
        top1 = same.gather(1, nearest[:, None]).float().mean()
        named = {"contrast": contrast, "attributes": attributes, "top1": top1}
        return LossOutput(contrast + attributes, named, weight=len(ones))

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, T], as the decoder's own `encode_captions` makes them."""
        encoded = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=CAPTION_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        return encoded.input_ids, encoded.attention_mask


def _near_miss(sound: Sound, rng: random.Random) -> Sound:
    """The sound with one of its attributes changed; nothing said stays nothing."""
    if not sound.said():
        return sound
    name = rng.choice(list(sound.said()))
    values = [value for value in SOUND_ATTRIBUTES[name] if value != getattr(sound, name)]
    return sound.changed(name, rng.choice(values))
