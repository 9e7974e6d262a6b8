"""A toy bridge with any adapter, and conversations with media here and there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from language_toys import SMALL, small_llama, word_tokenizer
from PIL import Image
from torch import Tensor

from anyany.bridges import Bridge, BridgeConfig, Layout
from anyany.encoders import ProjectorConfig
from anyany.language import (
    ExpertsSettings,
    GatedAttentionSettings,
    LanguageConfig,
    LanguageModel,
    ModalityAdapterSettings,
    ModalityExpertSettings,
)
from anyany.messages import AudioPart, ImagePart, Message, TextPart

DIM = 32
SETTINGS: dict[str, Any] = {
    "gated_attention": GatedAttentionSettings(heads=2, ffn_dim=24),
    "modality_adapter": ModalityAdapterSettings(r=4, dropout=0.0),
    "modality_expert": ModalityExpertSettings(),
    "experts": ExpertsSettings(num=4, top_k=2, every=1, capacity=None),
}
KINDS = tuple(SETTINGS)

PICTURE = ImagePart(Image.fromarray(np.zeros((4, 4, 3), np.uint8)))
SOUND = AudioPart(np.zeros((1, 16), np.float32), 16)


def said(*parts: Any) -> Message:
    return Message("user", tuple(TextPart(p) if isinstance(p, str) else p for p in parts))


TALKS: tuple[list[Message], ...] = (
    [said("w1 w2 w3 w4 w5")],
    [said(PICTURE, "w6 w7")],
    [said("w1 w2", PICTURE, "w3", SOUND, "w4 w5 w6", PICTURE, "w7 w8 w9")],
    [
        said(PICTURE, "w9 w8"),
        Message("assistant", (TextPart("w3 w3 w4"),)),
        said(PICTURE, PICTURE, "w5 w6 w7 w8 w9 w10"),
    ],
    [said(SOUND, "w2")],
)


def toy_bridge(
    kind: str | None = None, settings: Any = None, *, stir: bool = False, layers: int = 2
) -> Bridge:
    """A bridge without encoders; the language model is the same whatever hangs on it."""
    tokenizer = word_tokenizer()
    lm: Any = small_llama(len(tokenizer), layers=layers)
    with torch.no_grad():
        for matrix in (lm.get_input_embeddings().weight, lm.get_output_embeddings().weight):
            matrix.mul_(30.0)
    config = LanguageConfig(signals=SMALL)
    if kind is not None:
        settings = SETTINGS[kind] if settings is None else settings
        config = dataclasses.replace(config, **{kind: settings})
    torch.manual_seed(4)
    language = LanguageModel(lm, tokenizer, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for rows in (language.rows.input_rows, language.rows.output_rows):
            rows.copy_(0.5 * torch.randn(rows.shape, generator=generator))
    language.requires_grad_(False)
    for parameter in language.adapter.trainable():
        parameter.requires_grad_(True)
    if stir:
        stirred(language)
    projector = ProjectorConfig(encoder_dim=8, language_dim=DIM)
    return Bridge({}, language, BridgeConfig(projector=projector))


@torch.no_grad()
def stirred(language: LanguageModel) -> None:
    """Move every parameter of the adapter away from where it begins, as training would."""
    generator = torch.Generator().manual_seed(7)
    for parameter in language.adapter.trainable():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def media_of(talk: Sequence[Message], seed: int) -> dict[int, Tensor]:
    """Random tokens for every medium of the user's, three to six each."""
    generator = torch.Generator().manual_seed(seed)
    parts = [p for m in talk for p in m.parts if not isinstance(p, TextPart)]
    return {
        i: 0.5 * torch.randn(3 + (seed + i) % 4, DIM, generator=generator)
        for i in range(len(parts))
    }


MEDIA = tuple(media_of(talk, seed) for seed, talk in enumerate(TALKS))


def laid_out(bridge: Bridge) -> list[Layout]:
    return [bridge.layout(t, m, training=False) for t, m in zip(TALKS, MEDIA, strict=True)]


def logits_of(bridge: Bridge, numbers: Sequence[int] = range(len(TALKS))) -> Tensor:
    """Logits [B, T, V + n] of some talks in one batch."""
    layouts = laid_out(bridge)
    output = bridge([layouts[n] for n in numbers], [MEDIA[n] for n in numbers])
    return bridge.language.logits(output.hidden)


def plain_logits(
    bridge: Bridge, numbers: Sequence[int] = range(len(TALKS)), *, shared: bool = False
) -> Tensor:
    """What the frozen model alone makes of the very embeddings that a bridge hands over.

    Args:
        bridge: whose embeddings.
        numbers: of the talks.
        shared: a medium's tokens have one position.
    """
    plain = toy_bridge().language
    layouts = [laid_out(bridge)[n] for n in numbers]
    rows = [bridge.embed(one, MEDIA[n]) for one, n in zip(layouts, numbers, strict=True)]
    embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    keep = torch.arange(embeds.shape[1])[None] < torch.tensor([len(r) for r in rows])[:, None]
    positions = torch.arange(embeds.shape[1]).repeat(len(rows), 1)
    if shared:
        for row, one in enumerate(layouts):
            positions[row] = shared_positions(one, embeds.shape[1])
    return plain.logits(plain(embeds, attention_mask=keep, position_ids=positions))


def shared_positions(layout: Layout, width: int) -> Tensor:
    """Counted one by one: a step for each token but the later ones of a medium."""
    later = {p for slot in layout.slots for p in range(slot.start + 1, slot.start + slot.length)}
    steps = [int(p > 0 and p not in later) for p in range(width)]
    return torch.tensor(steps).cumsum(0)
