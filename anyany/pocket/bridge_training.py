"""A bridge in training: the stages' own task on conversations, with a clock and a curve."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from anyany.alignment.order import Draws
from anyany.alignment.samples import ListSource, SampleSource
from anyany.alignment.stage_errors import Wanted
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stage_tasks import ConversationTask, Item
from anyany.alignment.training_state import set_training_mode
from anyany.bridges import Bridge, user_media
from anyany.pocket.bridge_features import MediaFeatures
from anyany.pocket.bridge_host import TEXT_ONLY

_CHUNK: Final = 32  # samples


@dataclass(frozen=True, eq=False)
class CompareData:
    """What every bridge of a comparison is trained and measured on.

    Args:
        train: conversations to learn from.
        fresh: held out, drawn as those of training are.
        never: held out, of combinations that training never shows; None if there is no such set.
        modalities: of their media.
        floor: best possible loss without the media, nats a token; None if not known.
        text: what the language model knows of text alone; None if there is no such set.
        lessons: more of it, to learn from; None likewise.
    """

    train: ListSource
    fresh: ListSource
    never: ListSource | None
    modalities: tuple[str, ...]
    floor: float | None
    text: ListSource | None = None
    lessons: SampleSource | None = None


class BridgeTraining(ConversationTask):
    """A bridge on conversations, with a clock for its steps and a curve of the held-out loss.

    Args:
        bridge: with what learns set.
        source: what to learn from.
        fresh: what the curve is measured on.
    """

    def __init__(self, bridge: Bridge, source: SampleSource, fresh: ListSource) -> None:
        super().__init__(StageParts(bridge, nn.ModuleDict(), {}), source, TEXT_ONLY)
        learns = any(p.requires_grad for p in bridge.encoders.parameters())
        self.features = MediaFeatures(bridge, learns=learns)
        self.fresh = fresh
        self.steps = 0
        self.seconds = 0.0
        self.curve: list[tuple[int, float, float]] = []
        self._since: float | None = None

    def batch(self, indices: Sequence[int], draws: Draws) -> list[Item]:
        """Also: a step begins, and the last one is over."""
        self.lap()
        self.steps += 1
        self._since = time.process_time() if self._on_cpu else time.perf_counter()
        return super().batch(indices, draws)

    def evaluate(self, folder: Path) -> Mapping[str, float]:
        """Loss on the fresh set; the clock stands still."""
        self.lap()
        loss = self.loss_on(self.fresh)
        self.curve.append((self.steps, self.seconds, loss))
        return {"fresh": loss}

    def lap(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            now = time.process_time() if self._on_cpu else time.perf_counter()
            self.seconds += now - self._since
            self._since = None

    def items(self, source: ListSource) -> list[Item]:
        """All of a set, encoded."""
        return self._items(source, range(source.num_samples), [0] * source.num_samples)

    @torch.no_grad()
    def loss_on(self, source: ListSource) -> float:
        """Nats a token on a set."""
        total = weight = 0.0
        set_training_mode(self.module, training=False)
        for first in range(0, source.num_samples, _CHUNK):
            chunk = ListSource(source.samples[first : first + _CHUNK])
            own = self.items(chunk)
            output = self.loss(own, Draws(0, "compare", epochs=[0], indices=[0]))
            text = float(output.named["text"])  # without the adapter's own loss
            total += text * float(output.weight)
            weight += float(output.weight)
        return total / weight

    def _items(self, source: Any, indices: Sequence[int], epochs: Sequence[int]) -> list[Item]:
        samples = [source.sample(i, epoch) for i, epoch in zip(indices, epochs, strict=True)]
        media = [user_media(sample.messages) for sample in samples]
        seen = iter(self.features([part for own in media for part in own.values()]))
        return [
            Item(sample, {index: next(seen) for index in own}, Wanted(row, {}, {}))
            for row, (sample, own) in enumerate(zip(samples, media, strict=True))
        ]

    @property
    def _on_cpu(self) -> bool:
        return self.bridge.language.device.type == "cpu"
