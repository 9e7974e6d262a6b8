"""What the trainer trains in the stages: conversations (1, 2a, 3), and projectors alone (2b).

One loss serves all stages: the weighted mean, over everything in the batch that is to be learnt,
of the cross-entropy of each of the assistant's tokens, the distance of each condition from its
target (in units of a constant's, `ConditionScale`), and optionally each condition's denoising
loss. It is a plain sum over a sum of weights, so accumulation and several processes change nothing.

Shapes: B batch, T tokens, N tokens or spans to learn, S tokens of a span, D language width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyany.alignment.caches import TensorStore
from anyany.alignment.denoising import DenoisingLoss
from anyany.alignment.losses import IGNORED, ConditionScale, condition_distances
from anyany.alignment.order import Draws
from anyany.alignment.precomputed import ConditionTargets, EncodedMedia, SignalStates
from anyany.alignment.samples import Sample, SampleSource
from anyany.alignment.task import LossOutput, ParameterGroup, Task
from anyany.alignment.training_state import trainable_parameters
from anyany.bridges import Bridge, BridgeOutput, Encoded, Layout, user_media
from anyany.decoders import Condition, Decoder, OutputProjector
from anyany.errors import ConfigError, MediaError, PromptError, UsageError
from anyany.messages import MEDIA_MODALITIES, Modality

logger = logging.getLogger(__name__)

SCALE_SAMPLES: Final = 512  # looked at to measure a modality's condition scale
SampleMedia = Callable[[Path], Mapping[str, float]]


@dataclass(frozen=True)
class LossWeights:
    """What each thing to learn counts in the mean.

    Args:
        text: a token of a reply's text or its end.
        signal: a token of a signal span.
        condition: a condition's distance from its target.
        denoising: a condition's denoising loss; 0 leaves the UNet out.
        min_snr_gamma: of the denoising loss; null for equal weights of time steps.
        timestep_power: of the denoising loss; below 1 leans to high noise.

    Raises:
        ConfigError: a weight is negative, or all are 0.
    """

    text: float = 1.0
    signal: float = 1.0
    condition: float = 10.0
    denoising: float = 0.0
    min_snr_gamma: float | None = 5.0
    timestep_power: float = 1.0

    def __post_init__(self) -> None:
        weights = (self.text, self.signal, self.condition, self.denoising)
        if min(weights) < 0 or not any(weights):
            raise ConfigError(f"losses: expected weights >= 0 that are not all 0, got {weights}")


@dataclass(frozen=True, eq=False)
class StageParts:
    """The system that a stage works on.

    Args:
        bridge: encoders, input projectors, language model, signal rows.
        output_projectors: modality -> OutputProjector.
        decoders: modality -> decoder.
    """

    bridge: Bridge
    output_projectors: nn.ModuleDict
    decoders: Mapping[str, Decoder]

    def module(self) -> nn.ModuleDict:
        """All parts under the names that tables, checkpoints and stage configs use."""
        decoders = {m: d for m, d in self.decoders.items() if isinstance(d, nn.Module)}
        return nn.ModuleDict(
            {
                "encoders": self.bridge.encoders,
                "input_projectors": self.bridge.projectors,
                "language_model": self.bridge.language.lm,
                "signal_rows": self.bridge.language.rows,
                "output_projectors": self.output_projectors,
                "decoders": nn.ModuleDict(decoders),
            }
        )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those with an output projector."""
        return tuple(m for m in MEDIA_MODALITIES if m in self.output_projectors)

    def output_projector(self, modality: str) -> OutputProjector:
        """The projector of a modality."""
        projector = self.output_projectors[modality]
        assert isinstance(projector, OutputProjector)
        return projector


@dataclass(frozen=True, eq=False)
class Item:
    """A sample of a micro-batch, its frozen parts run.

    Args:
        row: its place in the micro-batch, for its noise.
        sample: the conversation.
        media: the user's media, encoded, by their index.
        conditions: what the assistant's media should become, by their index.
        latents: of the assistant's media, for the denoising loss, by their index.
    """

    row: int
    sample: Sample
    media: Mapping[int, Encoded]
    conditions: Mapping[int, Condition]
    latents: Mapping[int, Tensor]


@dataclass
class _Sum:
    """Errors summed up: name -> (sum of errors, number, weight of each)."""

    terms: dict[str, tuple[Tensor, int, float]] = field(default_factory=dict)
    figures: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, errors: Tensor, weight: float) -> None:
        """Take in errors [N] that count `weight` each."""
        if len(errors):
            self.terms[name] = (errors.sum(), len(errors), weight)

    def output(self, module: nn.Module) -> LossOutput:
        """The weighted mean, and the mean of each kind."""
        counted = [term for term in self.terms.values() if term[2] > 0]
        weight = sum(number * each for _, number, each in counted)
        named = {name: total / number for name, (total, number, _) in self.terms.items()}
        named |= self.figures
        if not weight:
            nothing = sum(p.sum() * 0.0 for p in trainable_parameters(module).values())
            assert isinstance(nothing, Tensor)
            return LossOutput(nothing, named, 0.0)
        total = torch.stack([total * each for total, _, each in counted]).sum() / weight
        return LossOutput(total, named, weight)


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
        module = parts.module()
        super().__init__(module, source.num_samples)
        self.parts, self.bridge = parts, parts.bridge
        self.source, self.weights = source, weights
        self.validation, self.validation_samples = validation, validation_samples
        self.sample_media = sample_media
        self.lr_scales = dict(lr_scales or {})
        self.encoded = EncodedMedia(parts.bridge, store)
        modalities = parts.modalities
        specs = {m: parts.output_projector(m).spec for m in modalities}
        self.targets = ConditionTargets(parts.decoders, specs, store)
        self.scales = nn.ModuleDict(
            {m: nn.ModuleDict({n: ConditionScale() for n, _ in specs[m]}) for m in modalities}
        )
        module["condition_scales"] = self.scales
        self.denoising = (
            {
                m: DenoisingLoss(
                    parts.decoders[m],
                    min_snr_gamma=weights.min_snr_gamma,
                    timestep_power=weights.timestep_power,
                )
                for m in modalities
                if m in parts.decoders
            }
            if weights.denoising > 0
            else {}
        )
        self._warned: set[str] = set()
        if self._wants_conditions:
            self._fit_scales()

    def batch(self, indices: Sequence[int], draws: Draws) -> list[Item]:
        """The samples, with everything frozen that they need."""
        return self._items(self.source, indices, draws)

    def loss(self, batch: list[Item], draws: Draws) -> LossOutput:
        """The stage's loss of a micro-batch."""
        errors = _Sum()
        items, layouts, media = self._laid_out(batch)
        if items:
            output = self.bridge(layouts, media)
            self._add_tokens(errors, output)
            if self._wants_conditions:
                self._add_conditions(errors, items, layouts, self._states(output), draws)
        return errors.output(self.module)

    def evaluate(self, folder: Path) -> Mapping[str, float]:
        """The loss on the validation set, and what `sample_media` finds."""
        figures = self._validate() if self.validation is not None else {}
        if self.sample_media is not None:
            figures |= self.sample_media(folder)
        return figures

    def parameter_groups(self) -> list[ParameterGroup]:
        """One pair of groups a part: matrices decay, vectors and the signal rows do not."""
        groups: list[ParameterGroup] = []
        assert isinstance(self.module, nn.ModuleDict)
        for name, part in self.module.items():
            own = list(trainable_parameters(part).values())
            scale = self.lr_scales.get(name, 1.0)
            decays = [p for p in own if p.ndim >= 2 and name != "signal_rows"]
            others = [p for p in own if p.ndim < 2 or name == "signal_rows"]
            groups.append(ParameterGroup(decays, scale))
            groups.append(ParameterGroup(others, scale, weight_decay=0.0))
        return groups

    @property
    def _wants_conditions(self) -> bool:
        weights = self.weights
        return len(self.scales) > 0 and (weights.condition > 0 or weights.denoising > 0)

    def _items(self, source: SampleSource, indices: Sequence[int], draws: Draws) -> list[Item]:
        items: list[Item] = []
        for row, (index, epoch) in enumerate(zip(indices, draws.epochs, strict=True)):
            sample = source.sample(index, epoch)
            try:
                items.append(self._item(row, sample))
            except MediaError as error:
                self._leave_out(sample, str(error))
        return items

    def _item(self, row: int, sample: Sample) -> Item:
        media = {i: self.encoded(part) for i, part in user_media(sample.messages).items()}
        conditions: dict[int, Condition] = {}
        latents: dict[int, Tensor] = {}
        if self._wants_conditions:
            for index, target in sample.targets.items():
                if target.has_condition and target.modality in self.targets.specs:
                    conditions[index] = self.targets(target)
                if target.modality in self.denoising:
                    clean = self.denoising[target.modality].latents(target)
                    if clean is not None:
                        latents[index] = clean
        return Item(row, sample, media, conditions, latents)

    def _laid_out(
        self, items: Sequence[Item]
    ) -> tuple[list[Item], list[Layout], list[dict[int, Tensor]]]:
        """Project the media and lay out each conversation; those that are too long are left out."""
        encoded = [_cast(one, self.bridge) for item in items for one in item.media.values()]
        projected = iter(self.bridge.project_batch(encoded))
        kept: list[Item] = []
        layouts: list[Layout] = []
        media: list[dict[int, Tensor]] = []
        for item in items:
            own = {index: next(projected) for index in item.media}
            try:
                layout = self.bridge.layout(item.sample.messages, own, training=True)
            except PromptError as error:
                raise PromptError(f"sample {item.sample.key}: {error}") from None
            room = self.bridge.language.context_length
            if len(layout) > room:
                self._leave_out(item.sample, f"{len(layout)} tokens, the context holds {room}")
                continue
            kept.append(item)
            layouts.append(layout)
            media.append(own)
        return kept, layouts, media

    def _add_tokens(self, errors: _Sum, output: BridgeOutput) -> None:
        """Cross-entropy of every token of the assistant's, from the state before it."""
        labels = output.labels[:, 1:]
        learnt = labels != IGNORED  # [B, T - 1]
        if not learnt.any():
            return
        in_span = torch.zeros_like(output.labels, dtype=torch.bool)
        for row, layout in enumerate(output.layouts):
            for place in layout.spans:
                in_span[row, place.positions] = True
        is_signal = in_span[:, 1:][learnt]  # [N]
        logits = self.bridge.language.logits(output.hidden[:, :-1][learnt]).float()  # [N, V + n]
        expected = labels[learnt]
        each = F.cross_entropy(logits, expected, reduction="none")
        right = (logits.detach().argmax(-1) == expected).float()
        errors.add("text", each[~is_signal], self.weights.text)
        errors.add("signal", each[is_signal], self.weights.signal)
        if not is_signal.all():
            errors.figures["text_accuracy"] = right[~is_signal].mean()

    def _states(self, output: BridgeOutput) -> dict[tuple[int, int], Tensor]:
        """States [S, D] of every span, by the conversation's row and the medium's index."""
        found: dict[tuple[int, int], Tensor] = {}
        for modality in self.parts.modalities:
            states = self.bridge.signal_states(output, modality)
            places = [
                (row, place.index)
                for row, layout in enumerate(output.layouts)
                for place in layout.spans
                if place.modality == modality
            ]
            found |= dict(zip(places, states, strict=True))
        return found

    def _add_conditions(
        self,
        errors: _Sum,
        items: Sequence[Item],
        layouts: Sequence[Layout],
        states: Mapping[tuple[int, int], Tensor],
        draws: Draws,
    ) -> None:
        """Distances and denoising losses of all spans that have a target, by modality."""
        for modality in self.parts.modalities:
            places = [
                (row, place.index)
                for row, layout in enumerate(layouts)
                for place in layout.spans
                if place.modality == modality
                and (place.index in items[row].conditions or place.index in items[row].latents)
            ]
            if not places:
                continue
            projector = self.parts.output_projector(modality)
            stacked = torch.stack([states[place] for place in places])  # [N, S, D]
            predicted = projector(stacked.to(_dtype(projector)))
            self._add_distances(errors, modality, items, places, predicted)
            if modality in self.denoising:
                self._add_denoising(errors, modality, items, places, predicted, draws)

    def _add_distances(
        self,
        errors: _Sum,
        modality: Modality,
        items: Sequence[Item],
        places: Sequence[tuple[int, int]],
        predicted: Condition,
    ) -> None:
        known = [k for k, (row, index) in enumerate(places) if index in items[row].conditions]
        if not known:
            return
        wanted = Condition.stack([items[places[k][0]].conditions[places[k][1]] for k in known])
        given = predicted.select(known)
        per_tensor = [
            condition_distances(
                _rows(given[name]), _rows(wanted[name]).to(given[name].device), scale=scale
            )
            for name, scale in self._scales_of(modality).items()
        ]
        each = torch.stack(per_tensor).mean(0)  # [N]
        errors.add(f"condition_{modality}", each, self.weights.condition)

    def _add_denoising(
        self,
        errors: _Sum,
        modality: str,
        items: Sequence[Item],
        places: Sequence[tuple[int, int]],
        predicted: Condition,
        draws: Draws,
    ) -> None:
        known = [k for k, (row, index) in enumerate(places) if index in items[row].latents]
        if not known:
            return
        clean = torch.stack([items[places[k][0]].latents[places[k][1]] for k in known])
        generators = [draws.generators[items[places[k][0]].row] for k in known]
        each = self.denoising[modality](predicted.select(known), clean, generators)
        errors.add(f"denoising_{modality}", each, self.weights.denoising)

    def _scales_of(self, modality: str) -> dict[str, Tensor]:
        own = self.scales[modality]
        assert isinstance(own, nn.ModuleDict)
        return {name: scale.get_buffer("distance") for name, scale in own.items()}

    def _fit_scales(self) -> None:
        """Measure how far each modality's targets lie from their mean."""
        found: dict[str, list[Condition]] = {m: [] for m in self.scales}
        limit = self.source.num_samples or SCALE_SAMPLES
        for index in range(min(limit, SCALE_SAMPLES)):
            for target in self.source.sample(index, 0).targets.values():
                if target.has_condition and target.modality in found:
                    found[target.modality].append(self.targets(target))
        for modality, conditions in found.items():
            scales = self.scales[modality]
            assert isinstance(scales, nn.ModuleDict)
            for name, scale in scales.items():
                assert isinstance(scale, ConditionScale)
                targets = [_rows(condition[name]) for condition in conditions]
                if all(torch.equal(targets[0], one) for one in targets[1:]):
                    if targets:
                        logger.warning("all %s targets looked at are the same", modality)
                    continue
                scale.fit(torch.cat(targets))

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        source = self.validation
        assert source is not None
        total = min(source.num_samples or self.validation_samples, self.validation_samples)
        sums: dict[str, list[float]] = {}
        device = next(self.module.parameters()).device
        for first in range(0, total, 16):
            indices = list(range(first, min(first + 16, total)))
            epochs = [0] * len(indices)
            data = Draws(0, "validation", epochs=epochs, indices=indices)
            noise = Draws(0, "loss", epochs=epochs, indices=indices, device=device)
            output = self.loss(self._items(source, indices, data), noise)
            weight = float(output.weight)
            for name, value in {"loss": output.total, **output.named}.items():
                one = sums.setdefault(name, [0.0, 0.0])
                one[0] += float(value) * weight
                one[1] += weight
        return {f"validation_{n}": value / weight for n, (value, weight) in sums.items() if weight}

    def _leave_out(self, sample: Sample, why: str) -> None:
        if sample.key not in self._warned:
            self._warned.add(sample.key)
            logger.warning("left out: sample %s: %s", sample.key, why)


class ProjectorTask(ConversationTask):
    """Output projectors alone, on signal states that are computed once: stage 2b.

    Args:
        parts: the system.
        source: what to learn from; its replies have media.
        weights: of condition and denoising; tokens do not count, as nothing here changes them.
        store: also keeps signal states.
        validation, validation_samples, sample_media, lr_scales: see `ConversationTask`.
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
        super().__init__(
            parts,
            source,
            weights,
            store=store,
            validation=validation,
            validation_samples=validation_samples,
            sample_media=sample_media,
            lr_scales=lr_scales,
        )
        if not self._wants_conditions:
            raise UsageError("nothing to learn: expected losses.condition or losses.denoising > 0")
        self.signal_states = SignalStates(parts.bridge, store)

    def loss(self, batch: list[Item], draws: Draws) -> LossOutput:
        """The distances of a micro-batch, from kept signal states."""
        errors = _Sum()
        with torch.no_grad():
            items, layouts, media = self._laid_out(batch)
        states = {
            (row, index): state.to(self.bridge.language.device)
            for row, (layout, own) in enumerate(zip(layouts, media, strict=True))
            for index, state in self.signal_states(layout, own).items()
        }
        self._add_conditions(errors, items, layouts, states, draws)
        return errors.output(self.module)


def _rows(tensor: Tensor) -> Tensor:
    """[N, *shape] -> [N, rows, width]."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _cast(encoded: Encoded, bridge: Bridge) -> Encoded:
    """Features in the input projectors' precision."""
    tokens = encoded.tokens.to(_dtype(bridge.projectors))
    return Encoded(encoded.modality, tokens, encoded.grid, encoded.positions)
