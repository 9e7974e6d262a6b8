"""Media of many conversations through a bridge's encoders together; kept if nothing there learns.

Shapes: K tiles of an item, P encoder tokens, E encoder width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch

from anyany.alignment.samples import MediaFile
from anyany.bridges import Bridge, Encoded, Prepared
from anyany.messages import MediaPart


class MediaFeatures:
    """What the encoders make of media that stay in memory as long as this does.

    Args:
        bridge: its encoders are run.
        learns: something in them is trained: nothing is kept, and gradients flow.
    """

    def __init__(self, bridge: Bridge, *, learns: bool) -> None:
        self.bridge = bridge
        self.learns = learns
        self._kept: dict[int, tuple[MediaPart | MediaFile, Encoded]] = {}

    def __call__(self, parts: Sequence[MediaPart | MediaFile]) -> list[Encoded]:
        """Encode media, in order.

        Raises:
            MediaError: a file cannot be used.
            UsageError: no encoder takes a modality.
        """
        if self.learns:
            return self._encode(parts)
        missing = list({id(part): part for part in parts if id(part) not in self._kept}.values())
        with torch.no_grad():
            found = self._encode(missing)
        self._kept |= {id(part): (part, one) for part, one in zip(missing, found, strict=True)}
        return [self._kept[id(part)][1] for part in parts]

    def _encode(self, parts: Sequence[MediaPart | MediaFile]) -> list[Encoded]:
        read = [part.read() if isinstance(part, MediaFile) else part for part in parts]
        return encode_together(self.bridge, [self.bridge.prepare(part) for part in read])


def encode_together(bridge: Bridge, items: Sequence[Prepared]) -> list[Encoded]:
    """`Bridge.encode` of each; neighbours with alike tiles pass the encoder as one long medium."""
    made: list[Encoded] = []
    for (alone, *_), run in itertools.groupby(items, key=_kind):
        group = list(run)
        if alone:
            made += [bridge.encode(item) for item in group]
            continue
        long = replace(
            group[0],
            tiles=torch.cat([item.tiles for item in group]),
            positions=tuple(place for item in group for place in item.positions),
            numbers=tuple(number for item in group for number in item.numbers),
        )
        seen = bridge.encode(long)
        counts = [len(item.tiles) for item in group]
        for item, tokens in zip(group, torch.split(seen.tokens, counts), strict=True):
            made.append(replace(seen, tokens=tokens, positions=item.positions, size=item.size))
    return made


def _kind(item: Prepared) -> tuple[object, ...]:
    """What neighbours must agree in; the first says that an item has tiles of several sizes."""
    return (item.rest is not None, item.modality, tuple(item.tiles.shape[1:]))
