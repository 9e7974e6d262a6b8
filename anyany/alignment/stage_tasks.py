"""What the trainer trains in the stages: conversations (1, 2a, 3), and projectors alone (2b).

Both put samples through the one bridge; what is minimised stands in `stage_errors`.

Shapes: T tokens of a conversation, S tokens of a span, D language width.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from anyany.alignment.caches import TensorStore
from anyany.alignment.order import Draws
from anyany.alignment.precomputed import ConditionTargets, EncodedMedia, SignalStates
from anyany.alignment.samples import MediaFile, Sample, SampleSource
from anyany.alignment.stage_errors import (
    ConditionErrors,
    ErrorSum,
    LossWeights,
    Wanted,
    add_token_errors,
)
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.task import LossOutput, ParameterGroup, Task
from anyany.alignment.training_state import trainable_parameters
from anyany.bridges import Bridge, BridgeOutput, Encoded, Layout, Prepared, user_media
from anyany.decoders import Condition
from anyany.errors import MediaError, PromptError, UsageError
from anyany.messages import MediaPart, TextPart

logger = logging.getLogger(__name__)

SCALE_SAMPLES: Final = 512  # looked at to measure a modality's condition scale
VALIDATION_BATCH: Final = 16  # samples
KEPT_LAYOUTS: Final = 100_000  # conversations, about 2 KB each
SampleMedia = Callable[[Path], Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Item:
    """A sample of a micro-batch, its frozen parts run.

    Args:
        sample: the conversation.
        media: the user's media by their index: encoded, or prepared where an encoder learns.
        wanted: what the assistant's media should become.
    """

    sample: Sample
    media: Mapping[int, Encoded | Prepared]
    wanted: Wanted


@dataclass(frozen=True, eq=False)
class LaidOut:
    """The samples of a micro-batch that fit the context, ready for the bridge.

    Args:
        items: the samples.
        layouts: of each.
        media: of each, projected media [M, D] by index.
    """

    items: list[Item]
    layouts: list[Layout]
    media: list[dict[int, Tensor]]


class ConversationTask(Task):
    """Conversations through the whole bridge: stages 1 (encoder), 2a (decoder) and 3 (instruct).

    A sample whose media cannot be read, or that is longer than the context, is left out with a
    warning that names it.

    Args:
        parts: the system.
        source: what to learn from.
        weights: what counts how much.
        store: keeps encoder features and embedded captions; None computes them every time.
        validation: what `evaluate` measures the loss on.
        validation_samples: at most so many of it.
        sample_media: draws samples into a folder at each evaluation; its figures are logged.
        lr_scales: part (a name of `StageParts.module`) -> times the learning rate.
    """

    def __init__(
        self,
        parts: StageParts,
        source: SampleSource,
        weights: LossWeights,
        *,
        store: TensorStore | None = None,
        validation: SampleSource | None = None,
        validation_samples: int = 256,
        sample_media: SampleMedia | None = None,
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(parts.module(), source.num_samples)
        self.bridge = parts.bridge
        self.modalities = parts.modalities
        self.source, self.weights, self.store = source, weights, store
        self.validation, self.validation_samples = validation, validation_samples
        self.sample_media = sample_media
        self.lr_scales = dict(lr_scales or {})
        self.encoded = EncodedMedia(parts.bridge, store)
        self.targets = ConditionTargets(parts.decoders, parts.specs, store)
        self.conditions = ConditionErrors(parts, weights)
        assert isinstance(self.module, nn.ModuleDict)
        self.module["condition_scales"] = self.conditions.scales
        self._warned: set[str] = set()
        if weights.conditions:
            looked_at = range(min(source.num_samples or SCALE_SAMPLES, SCALE_SAMPLES))
            samples = (source.sample(index, 0) for index in looked_at)
            self.conditions.fit((t for s in samples for t in s.targets.values()), self.targets)

    @property
    def shardable(self) -> nn.Module | None:
        """The language model, which every micro-batch runs once."""
        lm: nn.Module = self.bridge.language.lm
        return lm

    def batch(self, indices: Sequence[int], draws: Draws) -> list[Item]:
        """The samples, with everything frozen that they need."""
        return self._items(self.source, indices, draws.epochs)

    def loss(self, batch: list[Item], draws: Draws) -> LossOutput:
        """The stage's loss of a micro-batch."""
        errors = ErrorSum()
        ready = self._lay_out(batch)
        if ready.items:
            output = self.bridge(ready.layouts, ready.media)
            add_token_errors(errors, self.bridge.language, output, self.weights)
            errors.extra = output.aux if output.aux.requires_grad else None
            if self.weights.conditions:
                self._add_conditions(errors, ready, self._states(output), draws)
        return errors.output(self._trained())

    def evaluate(self, folder: Path) -> Mapping[str, float]:
        """The loss on the validation set, and what `sample_media` finds."""
        figures = {} if self.validation is None else self._validate(self.validation)
        if self.sample_media is not None:
            figures |= self.sample_media(folder)
        return figures

    def parameter_groups(self) -> list[ParameterGroup]:
        """Two groups a part: matrices decay, vectors and the signal rows do not."""
        groups: list[ParameterGroup] = []
        for name, part in self.module.named_children():
            own = list(trainable_parameters(part).values())
            scale = self.lr_scales.get(name, 1.0)
            decays = [p for p in own if p.ndim >= 2 and name != "signal_rows"]
            others = [p for p in own if p.ndim < 2 or name == "signal_rows"]
            groups.append(ParameterGroup(decays, scale))
            groups.append(ParameterGroup(others, scale, weight_decay=0.0))
        return groups

    def _items(
        self, source: SampleSource, indices: Sequence[int], epochs: Sequence[int]
    ) -> list[Item]:
        items: list[Item] = []
        for row, (index, epoch) in enumerate(zip(indices, epochs, strict=True)):
            sample = source.sample(index, epoch)
            try:
                media = {i: self._seen(part) for i, part in user_media(sample.messages).items()}
                items.append(Item(sample, media, self._wanted(row, sample)))
            except MediaError as error:
                self._leave_out(sample, str(error))
        return items

    def _seen(self, part: MediaPart | MediaFile) -> Encoded | Prepared:
        learns = self.encoded.learns(part.modality)
        return self.encoded.prepare(part) if learns else self.encoded(part)

    def _wanted(self, row: int, sample: Sample) -> Wanted:
        conditions: dict[int, Condition] = {}
        latents: dict[int, Tensor] = {}
        if self.weights.conditions:
            for index, target in sample.targets.items():
                if target.has_condition and target.modality in self.modalities:
                    conditions[index] = self.targets(target)
                clean = self.conditions.latents(target)
                if clean is not None:
                    latents[index] = clean
        return Wanted(row, conditions, latents)

    def _lay_out(self, items: Sequence[Item]) -> LaidOut:
        """Project the media and lay out each conversation; those that are too long are left out."""
        encoded = [_encoded(one, self.bridge) for item in items for one in item.media.values()]
        questions = [self.bridge.instructions(item.sample.messages) for item in items]
        asked = [q.get(i) for q, item in zip(questions, items, strict=True) for i in item.media]
        projected = iter(self.bridge.project_batch(encoded, asked))
        ready = LaidOut([], [], [])
        for item in items:
            own = {index: next(projected) for index in item.media}
            try:
                layout = self._layout(item.sample, own)
            except PromptError as error:
                raise PromptError(f"sample {item.sample.key}: {error}") from None
            room = self.bridge.language.context_length
            if len(layout) > room:
                self._leave_out(item.sample, f"{len(layout)} tokens, the context holds {room}")
                continue
            ready.items.append(item)
            ready.layouts.append(layout)
            ready.media.append(own)
        return ready

    def _layout(self, sample: Sample, media: Mapping[int, Tensor]) -> Layout:
        return self.bridge.layout(sample.messages, media, training=True)

    def _states(self, output: BridgeOutput) -> dict[tuple[int, int], Tensor]:
        """States [S, D] of every span, by the conversation and the medium's index."""
        found: dict[tuple[int, int], Tensor] = {}
        for modality in self.modalities:
            states = self.bridge.signal_states(output, modality)
            places = [
                (number, place.index)
                for number, layout in enumerate(output.layouts)
                for place in layout.spans
                if place.modality == modality
            ]
            found |= dict(zip(places, states, strict=True))
        return found

    def _add_conditions(
        self,
        errors: ErrorSum,
        ready: LaidOut,
        states: Mapping[tuple[int, int], Tensor],
        draws: Draws,
    ) -> None:
        wanted = [item.wanted for item in ready.items]
        self.conditions.add(errors, ready.layouts, wanted, states, draws.generators.__getitem__)

    def _validate(self, source: SampleSource) -> dict[str, float]:
        total = min(source.num_samples or self.validation_samples, self.validation_samples)
        sums: dict[str, list[float]] = {}
        for first in range(0, total, VALIDATION_BATCH):
            indices = list(range(first, min(first + VALIDATION_BATCH, total)))
            noise = Draws(0, "validation", epochs=[0] * len(indices), indices=indices)
            with torch.no_grad():
                output = self.loss(self._items(source, indices, noise.epochs), noise)
            weight = float(output.weight)
            for name, value in {"loss": output.total, **output.named}.items():
                one = sums.setdefault(name, [0.0, 0.0])
                one[0] += float(value) * weight
                one[1] += weight
        return {f"validation_{n}": value / weight for n, (value, weight) in sums.items() if weight}

    def _trained(self) -> Iterator[nn.Parameter]:
        """Looked for only where a micro-batch has nothing to learn from."""
        yield from trainable_parameters(self.module).values()

    def _leave_out(self, sample: Sample, why: str) -> None:
        if sample.key not in self._warned:
            self._warned.add(sample.key)
            logger.warning("left out: sample %s: %s", sample.key, why)


class ProjectorTask(ConversationTask):
    """Output projectors alone, on signal states that are computed once: stage 2b.

    Tokens do not count, as nothing that trains here changes them. It takes what `ConversationTask`
    takes; the store also keeps the signal states.

    Raises:
        UsageError: neither the conditions' distance nor their denoising loss counts.
    """

    @property
    def shardable(self) -> nn.Module | None:
        """None: the language model runs only for states that are not kept yet."""
        return None

    def loss(self, batch: list[Item], draws: Draws) -> LossOutput:
        """The condition errors of a micro-batch, from kept signal states."""
        if not self.weights.conditions:
            raise UsageError("nothing to learn: expected losses.condition or losses.denoising > 0")
        errors = ErrorSum()
        with torch.no_grad():
            ready = self._lay_out(batch)
        device = self.bridge.language.device
        states = {
            (number, index): state.to(device)
            for number, (layout, own) in enumerate(zip(ready.layouts, ready.media, strict=True))
            for index, state in self.signal_states(layout, own).items()
        }
        self._add_conditions(errors, ready, states, draws)
        return errors.output(self._trained())

    def _layout(self, sample: Sample, media: Mapping[int, Tensor]) -> Layout:
        """Words alone are written out once: here that would cost as much as the projectors."""
        if media:
            return super()._layout(sample, media)
        words = tuple(
            (
                one.role,
                tuple(p.text if isinstance(p, TextPart) else (p.modality,) for p in one.parts),
            )
            for one in sample.messages
        )
        layout = self._layouts.get(words)
        if layout is None:
            layout = super()._layout(sample, media)
            if len(self._layouts) < KEPT_LAYOUTS:
                self._layouts[words] = layout
        return layout

    @functools.cached_property
    def _layouts(self) -> dict[tuple[object, ...], Layout]:
        return {}

    @functools.cached_property
    def signal_states(self) -> SignalStates:
        """The states, under a key that is taken when the first one is needed."""
        return SignalStates(self.bridge, self.store)


def _encoded(medium: Encoded | Prepared, bridge: Bridge) -> Encoded:
    """Features in the input projectors' precision, made here where an encoder learns."""
    encoded = bridge.encode(medium) if isinstance(medium, Prepared) else medium
    return encoded.to(next(bridge.projectors.parameters()).dtype)
