"""One medium on its way: prepared for the encoder, then as the encoder sees it.

Tiles of one size are stacked; those that follow in another size hang on as `rest`.

Shapes: K tiles of an item, P encoder tokens, E encoder width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anyany.encoders import Position
from anyany.language import media_parts
from anyany.messages import MediaPart, Message, Modality


@dataclass(frozen=True, eq=False)
class Prepared:
    """A medium as the encoder takes it; no weights were involved.

    Args:
        modality: image, video or audio.
        tiles: float32 [K, ...], what `Encoder.prepare` made of each tile.
        positions: of the tiles in the item.
        size: height and width of a picture that lies centred in a padded canvas, else None.
        numbers: running number of each tile of a picture in its item, None for an overview.
        rest: the tiles after these, which have another size.
    """

    modality: Modality
    tiles: Tensor
    positions: tuple[Position, ...]
    size: tuple[int, int] | None = None
    numbers: tuple[int | None, ...] = ()
    rest: Prepared | None = None

    def sha256(self) -> str:
        """Key of caches of what the encoder makes of it."""
        digest = hashlib.sha256(f"{self.modality} {tuple(self.tiles.shape)}".encode())
        digest.update(self.tiles.contiguous().numpy().tobytes())
        if any(self.positions):
            digest.update(f"{self.positions} {self.size}".encode())
        if self.rest is not None:
            digest.update(self.rest.sha256().encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Encoded:
    """A medium as the encoder sees it.

    Args:
        modality: image, video or audio.
        tokens: [K, P, E].
        grid: how the P tokens of a tile lie.
        positions: of the tiles in the item.
        size: height and width of a picture that lies centred in a padded canvas, else None.
        rest: the tiles after these, which have another size.
    """

    modality: Modality
    tokens: Tensor
    grid: tuple[int, ...] | None
    positions: tuple[Position, ...]
    size: tuple[int, int] | None = None
    rest: Encoded | None = None

    @property
    def links(self) -> tuple[Encoded, ...]:
        """This and what follows in other sizes."""
        return (self, *(self.rest.links if self.rest is not None else ()))

    @property
    def shape(self) -> tuple[object, ...]:
        """What must agree for media to pass a projector together."""
        own = (self.modality, tuple(self.tokens.shape), self.grid, self.positions, self.size)
        return (*own, *(self.rest.shape if self.rest is not None else ()))

    def to(self, where: torch.device | torch.dtype) -> Encoded:
        """On another device or in another type."""
        rest = None if self.rest is None else self.rest.to(where)
        return replace(self, tokens=self.tokens.to(where), rest=rest)

    def to_entry(self) -> dict[str, Tensor]:
        """As named tensors, for a cache; `from_entry` reads them back."""
        entry: dict[str, Tensor] = {}
        for number, link in enumerate(self.links):
            prefix = f"{number}." if number else ""
            entry[f"{prefix}tokens"] = link.tokens
            if link.grid is not None:
                entry[f"{prefix}grid"] = torch.tensor(link.grid)
            if link.size is not None:
                entry[f"{prefix}size"] = torch.tensor(link.size)
            if any(position is not None for position in link.positions):
                entry[f"{prefix}positions"] = _position_rows(link.positions)
        return entry

    @classmethod
    def from_entry(cls, modality: Modality, entry: Mapping[str, Tensor]) -> Encoded:
        """Read what `to_entry` wrote."""
        links: list[Encoded] = []
        prefix = ""
        while f"{prefix}tokens" in entry:
            tokens = entry[f"{prefix}tokens"]
            grid, size, rows = (
                entry[f"{prefix}{key}"].tolist() if f"{prefix}{key}" in entry else None
                for key in ("grid", "size", "positions")
            )
            positions: tuple[Position, ...] = (None,) * len(tokens)
            if rows is not None:
                positions = tuple(None if row[0] < 0 else tuple(row) for row in rows)
            places = None if size is None else (size[0], size[1])
            links.append(
                cls(modality, tokens, None if grid is None else tuple(grid), positions, places)
            )
            prefix = f"{len(links)}."
        return chain(links)


def chain(links: Sequence[Encoded]) -> Encoded:
    """One medium of pieces in order, each with a `rest` of its own at most."""
    flat = [link for piece in links for link in piece.links]
    whole = replace(flat[-1], rest=None)
    for link in reversed(flat[:-1]):
        whole = replace(link, rest=whole)
    return whole


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


def _position_rows(positions: Sequence[Position]) -> Tensor:
    """[K, axes]; -1 in all axes for a tile without a position."""
    axes = max(len(position) for position in positions if position is not None)
    return torch.tensor(
        [position if position is not None else (-1,) * axes for position in positions]
    )
