"""Captions to conditions: a decoder's own frozen text encoder, run as its pipeline runs it.

CLIP's last hidden state, padding included, becomes `prompt_embeds` [B, S, C]; CLAP's projected
text embedding, of unit length, becomes `class_labels` [B, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from anyany.decoders.condition import Condition, ConditionSpec
from anyany.errors import UsageError


class TextConditioner(nn.Module):
    """A text encoder with its tokenizer.

    Args:
        text_encoder: CLIPTextModel for `prompt_embeds`, ClapTextModelWithProjection for
            `class_labels`.
        tokenizer: theirs.
        spec: the decoder's condition; a single tensor of one of the two names.

    Raises:
        UsageError: the spec asks for anything else.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any, spec: ConditionSpec) -> None:
        super().__init__()
        names = tuple(spec.tensors)
        if names not in (("prompt_embeds",), ("class_labels",)):
            raise UsageError(
                f"expected a condition of prompt_embeds or class_labels alone, got {list(names)}"
            )
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.spec = spec
        (self._name,) = names

    @torch.no_grad()
    def forward(self, captions: Sequence[str], *, negative: bool = False) -> Condition:
        """Encode captions; those that are too long are cut, as the encoders were trained.

        Args:
            captions: B texts; "" is the unconditional one.
            negative: for a negative prompt. AudioLDM pads those to the embedding's width, not to
                the tokenizer's length: no change in meaning, but in the last bits.

        Returns:
            A condition of B parts in the encoder's precision.
        """
        if not captions:
            raise UsageError("expected at least one caption, got none")
        spec = self.spec.tensors[self._name]
        is_clip = self._name == "prompt_embeds"
        length = spec.rows if is_clip else self.tokenizer.model_max_length
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            max_length=spec.width if negative and not is_clip else length,
            truncation=True,
            return_tensors="pt",
        ).to(self.text_encoder.device)
        embeds = self._clip(tokens) if is_clip else self._clap(tokens)
        if spec.normalize:
            embeds = functional.normalize(embeds, dim=-1)
        return Condition({self._name: embeds.to(self.text_encoder.dtype)})

    def _clip(self, tokens: Any) -> Tensor:
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        embeds: Tensor = self.text_encoder(tokens.input_ids, attention_mask=mask)[0]
        return embeds

    def _clap(self, tokens: Any) -> Tensor:
        embeds: Tensor = self.text_encoder(
            tokens.input_ids, attention_mask=tokens.attention_mask
        ).text_embeds
        return embeds
