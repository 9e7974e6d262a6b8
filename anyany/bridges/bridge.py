"""THE forward: tiles -> encode -> project -> merge -> layout -> language model.

Training, generation and caching all call these few steps; there is no other path from media to the
language model.

Shapes: B batch, K tiles of an item, P encoder tokens, E encoder width, M language tokens of an
item, T tokens of a conversation, S tokens of a span, D language width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from anyany.bridges.config import BridgeConfig, check_mix
from anyany.bridges.layout import Layout
from anyany.bridges.media import Encoded, Prepared, chain
from anyany.bridges.projection import ProjectedTile, merge_tiles, project_tiles
from anyany.encoders import (
    NUM_SEPARATORS,
    Encoder,
    ImageBindEncoder,
    Projector,
    Tile,
    TilerConfig,
    build_projector,
    build_tiler,
    get_merge,
    install_adapter,
    tile_name,
)
from anyany.errors import ConfigError, UsageError
from anyany.language import HookedAdapter, LanguageModel, PassLayout, media_parts
from anyany.messages import ImagePart, MediaPart, Message, Modality

SHARED: Final = "shared"
IGNORED: Final = -100  # a label without loss


@dataclass(frozen=True, eq=False)
class BridgeOutput:
    """What the language model makes of a batch of conversations.

    Args:
        hidden: last hidden states [B, T, D], right-padded.
        layouts: of the B conversations.
        labels: int64 [B, T], IGNORED where there is no loss.
        aux: the adapter's own loss, to be added to what is minimised; scalar, mostly 0.
    """

    hidden: Tensor
    layouts: tuple[Layout, ...]
    labels: Tensor
    aux: Tensor


class Bridge(nn.Module):
    """Encoders, projectors and the language model, and the one way through them.

    Args:
        encoders: modality -> encoder.
        language: the language model.
        config: projectors, tilers, merge, encoder adapter.

    Raises:
        ConfigError: parts or widths do not fit, or a tiler is for a modality without an encoder.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], language: LanguageModel, config: BridgeConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict(dict(encoders))
        self.language = language
        _check_widths(encoders, language, config)
        check_mix(config, {modality: encoder.readout for modality, encoder in encoders.items()})
        names = [SHARED] if config.sharing == "shared" else list(encoders)
        sizes = replace(config.projector, separators=NUM_SEPARATORS[config.merge])
        self.projectors = nn.ModuleDict({n: build_projector(sizes) for n in names})
        self.tilers = {
            modality: build_tiler(config.tilers.get(modality, TilerConfig()), encoder)
            for modality, encoder in encoders.items()
        }
        self.merge = get_merge(config.merge)
        self.changed: set[str] = set()  # trained as a whole: "encoders", "language_model"
        if config.encoder_adapter.type != "none":
            self._adapt_encoders()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that have a way in."""
        return tuple(self.encoders)

    def prepare(self, part: MediaPart) -> Prepared:
        """Cut a medium into tiles and preprocess them.

        Raises:
            UsageError: no encoder takes its modality.
        """
        return self._prepare(part, self._tiles(part))

    def encode(self, prepared: Prepared) -> Encoded:
        """Encode one medium, whatever stands beside it: `tiles_per_pass` tiles at a time."""
        encoder = self.encoders[prepared.modality]
        device, step = self.device_of(prepared.modality), self.config.tiles_per_pass
        lora = self.config.encoder_adapter.type == "tile_lora"
        passes = []
        for start in range(0, len(prepared.tiles), step):
            numbers = prepared.numbers[start : start + step]
            cut = lora and any(number is not None for number in numbers)
            told = {"adapter_names": [tile_name(number) for number in numbers]} if cut else {}
            passes.append(encoder(prepared.tiles[start : start + step].to(device), **told))
        tokens = passes[0].tokens if len(passes) == 1 else torch.cat([one.tokens for one in passes])
        rest = None if prepared.rest is None else self.encode(prepared.rest)
        return Encoded(
            prepared.modality, tokens, passes[0].grid, prepared.positions, prepared.size, rest
        )

    def read(self, part: MediaPart, instruction: Tensor | None = None) -> Tensor:
        """Prepare, encode and project one medium: [M, D].

        No more than `tiles_per_pass` tiles are there as pixels or features at once (as features
        all, for a projector that joins them), so that an hour of video fits.

        Args:
            part: the medium.
            instruction: its question's embeddings, [words, D], as `instructions` gives them.

        Raises:
            UsageError: no encoder takes its modality.
        """
        tiles, step = self._tiles(part), self.config.tiles_per_pass
        pieces = (
            self.encode(self._prepare(part, tiles[start : start + step]))
            for start in range(0, len(tiles), step)
        )
        if self._projector(part.modality).joins or len(tiles) <= step:
            return self.project(chain(list(pieces)), instruction)
        projector = self._projector(part.modality)
        projected: list[ProjectedTile] = []
        for piece in pieces:
            projected += project_tiles(projector, [piece], [instruction])
            del piece  # before the next one is encoded
        return self._merge(projected, projector, self._size_of(part))[0]

    def project(self, encoded: Encoded, instruction: Tensor | None = None) -> Tensor:
        """Project and merge one medium: [M, D]."""
        (projected,) = self.project_batch([encoded], [instruction])
        return projected

    def project_batch(
        self, items: Sequence[Encoded], instructions: Sequence[Tensor | None] | None = None
    ) -> list[Tensor]:
        """Project and merge several media: [M, D] each.

        Items of one modality whose tiles agree in number and size pass the projector together.

        Args:
            items: the media.
            instructions: of each, its question's embeddings [words, D], or None.
        """
        asked = instructions or [None] * len(items)
        groups: dict[tuple[object, ...], list[int]] = {}
        for number, (item, words) in enumerate(zip(items, asked, strict=True)):
            groups.setdefault((*item.shape, words is None), []).append(number)
        merged: dict[int, Tensor] = {}
        for numbers in groups.values():
            first = items[numbers[0]]
            projector = self._projector(first.modality)
            tiles = project_tiles(
                projector, [items[n] for n in numbers], [asked[n] for n in numbers]
            )
            rows = self._merge(tiles, projector, first.size)
            merged |= dict(zip(numbers, rows, strict=True))
        return [merged[n] for n in range(len(items))]

    @property
    def reads_instructions(self) -> bool:
        """Whether a projector looks at a medium with its question in mind."""
        return any(cast(Projector, one).reads_instruction for one in self.projectors.values())

    def instructions(self, messages: Sequence[Message]) -> dict[int, Tensor]:
        """What is asked about each medium of the user: embeddings [words, D] by its index.

        The question is the text of the medium's own turn, else of the next user turn that has some,
        else the default instruction. Empty where no projector reads it; no gradient runs into it.
        """
        if not self.reads_instructions:
            return {}
        found: dict[int, Tensor] = {}
        default = self.language.config.default_instruction or ""
        default = default or self.language.template.default_instruction
        for number, message in enumerate(messages):
            later = (m.text.strip() for m in messages[number:] if m.role == "user")
            text = next((text for text in later if text), default)
            before = len(media_parts(messages[:number]))
            for index in range(before, before + len(media_parts([message]))):
                if message.role == "user" and (ids := self.language.encode_text(text)):
                    known = torch.tensor([ids], device=self.language.device)
                    found[index] = self.language.embed(known)[0].detach()
        return found

    def without_gradient(self) -> dict[str, str]:
        """Parameters that get no gradient by construction: name -> reason.

        Names are those of `named_parameters`, where what encoders share stands once.
        """
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        parts: list[Any] = [*self.encoders.values(), *self.projectors.values()]
        if isinstance(self.language.adapter, HookedAdapter):
            parts.append(self.language.adapter)
        found: dict[str, str] = {}
        for part in parts:
            for inner, reason in part.without_gradient().items():
                for name, parameter in part.named_parameters():
                    if f"{name}.".startswith(f"{inner}."):
                        found[names[id(parameter)]] = reason
        return found

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
        in_place = self.language.adapter.in_place
        return Layout.build(segments, {i: len(in_place(rows)) for i, rows in media.items()})

    def embed(self, layout: Layout, media: Mapping[int, Tensor]) -> Tensor:
        """The language model's input for one conversation: [T, D]."""
        embeds = self.language.embed(layout.token_ids[None].to(self.language.device))[0]
        in_place = self.language.adapter.in_place
        pieces: list[Tensor] = []
        end = 0
        for slot in layout.slots:
            pieces += [embeds[end : slot.start], in_place(media[slot.index])]
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
        adapter = self.language.adapter
        if adapter.needs_layout:
            number = len(rows)
            told = PassLayout((-1,) * number, (0,) * number, embeds.shape[1], tuple(layouts))
            adapter.before(told, tuple(media))
        hidden = self.language(embeds, attention_mask=keep)
        labels = pad_sequence(
            [one.token_ids.masked_fill(~one.loss_mask, IGNORED) for one in layouts],
            batch_first=True,
            padding_value=IGNORED,
        ).to(embeds.device)
        return BridgeOutput(hidden, tuple(layouts), labels, adapter.aux().to(hidden.device))

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

    def _tiles(self, part: MediaPart) -> list[tuple[Tile, int | None]]:
        """The tiles, and the running number of each that lies in a picture."""
        if part.modality not in self.encoders:
            raise UsageError(
                f"expected media among {', '.join(self.encoders)}; got {part.modality}: this "
                "system has no encoder for it"
            )
        running = count()
        tiles = self.tilers[part.modality](part.image if isinstance(part, ImagePart) else part)
        return [(tile, next(running) if _lies_in_picture(tile) else None) for tile in tiles]

    def _prepare(self, part: MediaPart, tiles: Sequence[tuple[Tile, int | None]]) -> Prepared:
        encoder = cast(Encoder, self.encoders[part.modality])
        rows = [(encoder.prepare(tile.media), tile.position, number) for tile, number in tiles]
        whole: Prepared | None = None
        runs = [list(run) for _, run in groupby(rows, key=lambda row: row[0].shape)]
        for run in reversed(runs):
            tensors, positions, numbers = zip(*run, strict=True)
            size = self._size_of(part)
            whole = Prepared(part.modality, torch.stack(tensors), positions, size, numbers, whole)
        assert whole is not None, "a tiler makes at least one tile"
        return whole

    def _size_of(self, part: MediaPart) -> tuple[int, int] | None:
        if isinstance(part, ImagePart) and self.tilers[part.modality].pads:
            return part.image.height, part.image.width
        return None

    def _merge(
        self, tiles: Sequence[ProjectedTile], projector: Projector, size: tuple[int, int] | None
    ) -> Tensor:
        merged = merge_tiles(self.merge, tiles, size=size, separators=projector.separators)
        return merged.to(self.language.dtype)

    def _adapt_encoders(self) -> None:
        """Put the encoder adapter into every tower once, though encoders may share it.

        Updates of tiles go only where pictures are cut.
        """
        of_tiles = self.config.encoder_adapter.type == "tile_lora"
        most: dict[int, int] = {}
        for modality, encoder in self.encoders.items():
            key = id(_tower(encoder))
            most[key] = max(most.get(key, 0), self.tilers[modality].num_placed)
        done = {key for key, number in most.items() if of_tiles and not number}
        for encoder in self.encoders.values():
            tower = _tower(encoder)
            if id(tower) not in done:
                encoder.adapter = install_adapter(
                    tower, self.config.encoder_adapter, num_tiles=most[id(tower)]
                )
            done.add(id(tower))

    def device_of(self, modality: str) -> torch.device:
        """Where the modality's encoder is; one without weights is beside the language model."""
        parameter = next(self.encoders[modality].parameters(), None)
        return self.language.device if parameter is None else parameter.device

    def _projector(self, modality: str) -> Projector:
        projector = self.projectors[SHARED if self.config.sharing == "shared" else modality]
        assert isinstance(projector, Projector)
        return projector


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


def _tower(encoder: nn.Module) -> nn.Module:
    assert isinstance(encoder, ImageBindEncoder), "check_mix lets no others through"
    return encoder.imagebind.modality_trunks[encoder.tower]


def _lies_in_picture(tile: Tile) -> bool:
    return tile.position is not None and len(tile.position) == 2
