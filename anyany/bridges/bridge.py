"""THE forward: tiles -> encode -> project -> merge -> layout -> language model.

Training, generation and caching all call these few steps; there is no other path from media to the
language model.

Shapes: B batch, K tiles of an item, P encoder tokens, E encoder width, M language tokens of an
item, T tokens of a conversation, S tokens of a span, D language width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from anyany.bridges.layout import Layout
from anyany.encoders import (
    Encoder,
    Projector,
    ProjectorConfig,
    ProjectorContext,
    TilerConfig,
    build_projector,
    build_tiler,
    get_merge,
)
from anyany.errors import ConfigError, UsageError
from anyany.language import LanguageModel, media_parts
from anyany.messages import ImagePart, MediaPart, Message, Modality

SHARED: Final = "shared"
IGNORED: Final = -100  # a label without loss


@dataclass(frozen=True)
class BridgeConfig:
    """How media reach the language model.

    Args:
        projector: type and widths of the input projectors.
        sharing: one projector for all modalities, or one each.
        tilers: how an item of a modality is cut; "single" where none is given.
        merge: how the tiles' tokens are joined.
    """

    projector: ProjectorConfig = field(default_factory=ProjectorConfig)
    sharing: Literal["shared", "each"] = "shared"
    tilers: dict[str, TilerConfig] = field(default_factory=dict)
    merge: str = "flat"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A medium as the encoder takes it; no weights were involved.

    Args:
        modality: image, video or audio.
        tiles: float32 [K, ...], what `Encoder.prepare` made of each tile.
        positions: of the tiles in the item.
    """

    modality: Modality
    tiles: Tensor
    positions: tuple[tuple[int, ...] | None, ...]

    def sha256(self) -> str:
        """Key of caches of what the encoder makes of it."""
        digest = hashlib.sha256(f"{self.modality} {tuple(self.tiles.shape)}".encode())
        digest.update(self.tiles.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Encoded:
    """A medium as the encoder sees it.

    Args:
        modality: image, video or audio.
        tokens: [K, P, E].
        grid: how the P tokens of a tile lie.
        positions: of the tiles in the item.
    """

    modality: Modality
    tokens: Tensor
    grid: tuple[int, ...] | None
    positions: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, eq=False)
class BridgeOutput:
    """What the language model makes of a batch of conversations.

    Args:
        hidden: last hidden states [B, T, D], right-padded.
        layouts: of the B conversations.
        labels: int64 [B, T], IGNORED where there is no loss.
    """

    hidden: Tensor
    layouts: tuple[Layout, ...]
    labels: Tensor


class Bridge(nn.Module):
    """Encoders, projectors and the language model, and the one way through them.

    Args:
        encoders: modality -> encoder.
        language: the language model.
        config: projectors, tilers, merge.

    Raises:
        ConfigError: widths do not fit, or a tiler is for a modality without an encoder.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], language: LanguageModel, config: BridgeConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict(dict(encoders))
        self.language = language
        _check_widths(encoders, language, config)
        names = [SHARED] if config.sharing == "shared" else list(encoders)
        self.projectors = nn.ModuleDict({n: build_projector(config.projector) for n in names})
        self.tilers = {
            modality: build_tiler(config.tilers.get(modality, TilerConfig()))
            for modality in encoders
        }
        self.merge = get_merge(config.merge)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that have a way in."""
        return tuple(self.encoders)

    def prepare(self, part: MediaPart) -> Prepared:
        """Cut a medium into tiles and preprocess them.

        Raises:
            UsageError: no encoder takes its modality.
        """
        if part.modality not in self.encoders:
            raise UsageError(
                f"expected media among {', '.join(self.encoders)}; got {part.modality}: this "
                "system has no encoder for it"
            )
        encoder = self.encoders[part.modality]
        assert isinstance(encoder, Encoder)
        media = part.image if isinstance(part, ImagePart) else part
        tiles = self.tilers[part.modality](media)
        prepared = torch.stack([encoder.prepare(tile.media) for tile in tiles])
        return Prepared(part.modality, prepared, tuple(tile.position for tile in tiles))

    def encode(self, prepared: Prepared) -> Encoded:
        """Encode one medium: all its tiles in one pass, whatever stands beside it."""
        encoder = self.encoders[prepared.modality]
        features = encoder(prepared.tiles.to(_device(encoder)))
        return Encoded(prepared.modality, features.tokens, features.grid, prepared.positions)

    def project(self, encoded: Encoded) -> Tensor:
        """Project and merge one medium: [M, D]."""
        (projected,) = self.project_batch([encoded])
        return projected

    def project_batch(self, items: Sequence[Encoded]) -> list[Tensor]:
        """Project and merge several media: [M, D] each.

        Items of one modality whose tiles agree in number and size pass the projector together.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        for number, item in enumerate(items):
            key = (item.modality, tuple(item.tokens.shape), item.grid, item.positions)
            groups.setdefault(key, []).append(number)
        merged: dict[int, Tensor] = {}
        for numbers in groups.values():
            first = items[numbers[0]]
            projector = self._projector(first.modality)
            tokens = torch.stack([items[n].tokens for n in numbers])  # [B, K, P, E]
            tiles = [
                projector(tokens[:, tile], ProjectorContext(first.modality, first.grid, position))
                for tile, position in enumerate(first.positions)
            ]  # K of [B, M, D]
            for n, row in zip(numbers, self.merge(tiles), strict=True):
                merged[n] = row.to(self.language.dtype)
        return [merged[n] for n in range(len(items))]

    def layout(
        self, messages: Sequence[Message], media: Mapping[int, Tensor], *, training: bool = False
    ) -> Layout:
        """Write a conversation and lay it out.

        Args:
            messages: the turns.
            media: projected media [M, D] by their index among `media_parts`.
            training: end after the last reply and mark the loss.

        Raises:
            PromptError: the conversation is empty or out of order.
        """
        segments = self.language.render(messages, training=training)
        return Layout.build(segments, {index: rows.shape[0] for index, rows in media.items()})

    def embed(self, layout: Layout, media: Mapping[int, Tensor]) -> Tensor:
        """The language model's input for one conversation: [T, D]."""
        embeds = self.language.embed(layout.token_ids[None].to(self.language.device))[0]
        pieces: list[Tensor] = []
        end = 0
        for slot in layout.slots:
            pieces += [embeds[end : slot.start], media[slot.index]]
            end = slot.start + slot.length
        return torch.cat([*pieces, embeds[end:]])

    def forward(
        self, layouts: Sequence[Layout], media: Sequence[Mapping[int, Tensor]]
    ) -> BridgeOutput:
        """Run a batch of conversations through the language model.

        Args:
            layouts: B conversations.
            media: of each, projected media [M, D] by index.
        """
        rows = [self.embed(one, own) for one, own in zip(layouts, media, strict=True)]
        embeds = pad_sequence(rows, batch_first=True)  # [B, T, D]
        lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
        keep = torch.arange(embeds.shape[1], device=embeds.device)[None] < lengths[:, None]
        hidden = self.language(embeds, attention_mask=keep)
        labels = pad_sequence(
            [one.token_ids.masked_fill(~one.loss_mask, IGNORED) for one in layouts],
            batch_first=True,
            padding_value=IGNORED,
        ).to(embeds.device)
        return BridgeOutput(hidden, tuple(layouts), labels)

    def signal_states(self, output: BridgeOutput, modality: Modality) -> Tensor:
        """What the output projector of a modality reads, for every span of the batch in order.

        Returns:
            Last hidden states at the spans' own positions plus the rows' embeddings: [N, S, D].
        """
        hidden = [
            output.hidden[row, place.positions]
            for row, layout in enumerate(output.layouts)
            for place in layout.spans
            if place.modality == modality
        ]
        length = self.language.signals.span_length(modality)
        if not hidden:
            return output.hidden.new_zeros(0, length, output.hidden.shape[-1])
        ids = torch.tensor([self.language.signals.span(modality)], device=output.hidden.device)
        return torch.stack(hidden) + self.language.embed(ids)

    def encode_parts(self, parts: Sequence[MediaPart]) -> list[Encoded]:
        """Prepare and encode media one by one, without gradients."""
        with torch.no_grad():
            return [self.encode(self.prepare(part)) for part in parts]

    def _projector(self, modality: str) -> Projector:
        projector = self.projectors[SHARED if self.config.sharing == "shared" else modality]
        assert isinstance(projector, Projector)
        return projector


def user_media(messages: Sequence[Message]) -> dict[int, MediaPart]:
    """The media that need encoding, by their index among `media_parts`: those of user turns."""
    found: dict[int, MediaPart] = {}
    number = 0
    for message in messages:
        for part in media_parts([message]):
            if message.role == "user":
                found[number] = part
            number += 1
    return found


def _check_widths(
    encoders: Mapping[str, Encoder], language: LanguageModel, config: BridgeConfig
) -> None:
    for modality, encoder in encoders.items():
        if encoder.encoder_dim != config.projector.encoder_dim:
            raise ConfigError(
                f"bridge.projector.encoder_dim: expected {encoder.encoder_dim}, the width of the "
                f"{modality} encoder; got {config.projector.encoder_dim}"
            )
    if config.projector.language_dim != language.language_dim:
        raise ConfigError(
            f"bridge.projector.language_dim: expected {language.language_dim}, the width of the "
            f"language model; got {config.projector.language_dim}"
        )
    strange = set(config.tilers) - set(encoders)
    if strange:
        raise ConfigError(
            f"bridge.tilers: expected modalities among {', '.join(encoders)}; "
            f"got {', '.join(sorted(strange))}"
        )


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
