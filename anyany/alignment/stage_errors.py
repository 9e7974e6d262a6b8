"""What a stage minimises: errors of tokens and of conditions, summed up with their weights.

One loss serves all stages: the weighted mean, over everything in the batch that is to be learnt,
of the cross-entropy of each of the assistant's tokens, the distance of each condition from its
target (in units of a constant's, `ConditionScale`), and optionally each condition's denoising
loss. It is a plain sum over a sum of weights, so accumulation and several processes change nothing.

Shapes: B batch, T tokens, N tokens or spans to learn, S tokens of a span, D language width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyany.alignment.denoising import DenoisingLoss
from anyany.alignment.losses import IGNORED, ConditionScale, condition_distances
from anyany.alignment.samples import MediaTarget
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.task import LossOutput
from anyany.bridges import BridgeOutput, Layout
from anyany.decoders import Condition
from anyany.errors import ConfigError
from anyany.language import LanguageModel
from anyany.messages import Modality

logger = logging.getLogger(__name__)


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

    @property
    def conditions(self) -> bool:
        """Whether conditions count at all."""
        return self.condition > 0 or self.denoising > 0


@dataclass
class ErrorSum:
    """Errors of one micro-batch: name -> (sum, number, weight of each).

    `extra` is added to their mean as it is: the language model's adapter's own loss.
    """

    terms: dict[str, tuple[Tensor, int, float]] = field(default_factory=dict)
    figures: dict[str, Tensor] = field(default_factory=dict)
    extra: Tensor | None = None

    def add(self, name: str, errors: Tensor, weight: float) -> None:
        """Take in errors [N] that count `weight` each."""
        if len(errors):
            self.terms[name] = (errors.sum(), len(errors), weight)

    def output(self, parameters: Iterable[nn.Parameter]) -> LossOutput:
        """The weighted mean of all, and the plain mean of each kind.

        Args:
            parameters: what trains; where nothing counts, the loss is a zero that depends on them.
        """
        counted = [term for term in self.terms.values() if term[2] > 0]
        weight = sum(number * each for _, number, each in counted)
        named = {name: total / number for name, (total, number, _) in self.terms.items()}
        named |= self.figures
        if self.extra is not None:
            named["adapter"] = self.extra
        if not counted:
            zero = torch.stack([p.sum() * 0.0 for p in parameters]).sum()
            return LossOutput(zero, named, 0.0)
        total = torch.stack([total * each for total, _, each in counted]).sum() / weight
        return LossOutput(total if self.extra is None else total + self.extra, named, weight)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What the assistant's media of one conversation should become, by their index.

    Args:
        row: the conversation's place in the micro-batch, for its noise.
        conditions: targets of one part each.
        latents: clean latents, for the denoising loss.
    """

    row: int
    conditions: Mapping[int, Condition]
    latents: Mapping[int, Tensor]


def add_token_errors(
    errors: ErrorSum, language: LanguageModel, output: BridgeOutput, weights: LossWeights
) -> None:
    """Add the cross-entropy of every token of the assistant's, from the state before it."""
    labels = output.labels[:, 1:]
    learnt = labels != IGNORED  # [B, T - 1]
    if not learnt.any():
        return
    in_span = torch.zeros_like(output.labels, dtype=torch.bool)
    for row, layout in enumerate(output.layouts):
        for place in layout.spans:
            in_span[row, place.positions] = True
    is_signal = in_span[:, 1:][learnt]  # [N]
    logits = language.logits(output.hidden[:, :-1][learnt]).float()  # [N, V + n]
    expected = labels[learnt]
    each = F.cross_entropy(logits, expected, reduction="none")
    errors.add("text", each[~is_signal], weights.text)
    errors.add("signal", each[is_signal], weights.signal)
    if not is_signal.all():
        right = logits.detach()[~is_signal].argmax(-1) == expected[~is_signal]
        errors.figures["text_accuracy"] = right.float().mean()


class ConditionErrors:
    """Distances and denoising losses of conditions, one code for all modalities.

    Args:
        parts: output projectors and decoders.
        weights: what counts how much.
    """

    def __init__(self, parts: StageParts, weights: LossWeights) -> None:
        self.parts = parts
        self.weights = weights
        self.scales = nn.ModuleDict()
        for modality, spec in parts.specs.items():
            own = nn.ModuleDict({name: ConditionScale() for name, _ in spec})
            self.scales[modality] = own
        self.denoising: dict[Modality, DenoisingLoss] = {}
        if weights.denoising > 0:
            self.denoising = {
                m: DenoisingLoss(
                    parts.decoders[m],
                    min_snr_gamma=weights.min_snr_gamma,
                    timestep_power=weights.timestep_power,
                )
                for m in parts.modalities
                if m in parts.decoders
            }

    def fit(
        self, targets: Iterable[MediaTarget], condition_of: Callable[[MediaTarget], Condition]
    ) -> None:
        """Measure how far each modality's targets lie from their mean."""
        found: dict[Modality, list[Condition]] = {m: [] for m in self.parts.modalities}
        for target in targets:
            if target.has_condition and target.modality in found:
                found[target.modality].append(condition_of(target))
        for modality, conditions in found.items():
            for name, scale in self._scales(modality).items():
                rows = [_rows(condition[name]) for condition in conditions]
                if all(torch.equal(rows[0], one) for one in rows[1:]):
                    if rows:
                        logger.warning("all %s targets looked at are the same", modality)
                    continue
                scale.fit(torch.cat(rows))

    def latents(self, target: MediaTarget) -> Tensor | None:
        """Clean latents of a target, if the denoising loss wants them and it has a medium."""
        if target.modality not in self.denoising:
            return None
        return self.denoising[target.modality].latents(target)

    def add(
        self,
        errors: ErrorSum,
        layouts: Sequence[Layout],
        wanted: Sequence[Wanted],
        states: Mapping[tuple[int, int], Tensor],
        generators: Callable[[int], torch.Generator],
    ) -> None:
        """Add the errors of all spans that have a target.

        Args:
            errors: taken into.
            layouts: of the conversations.
            wanted: of the conversations.
            states: signal states [S, D] by conversation and the medium's index.
            generators: row of the micro-batch -> its noise.
        """
        for modality in self.parts.modalities:
            places = [
                (number, place.index)
                for number, layout in enumerate(layouts)
                for place in layout.spans
                if place.modality == modality
                and (
                    place.index in wanted[number].conditions
                    or place.index in wanted[number].latents
                )
            ]
            if not places:
                continue
            projector = self.parts.output_projector(modality)
            stacked = torch.stack([states[place] for place in places])  # [N, S, D]
            predicted = projector(stacked.to(next(projector.parameters()).dtype))
            targets = [wanted[number].conditions.get(index) for number, index in places]
            self._add_distances(errors, modality, targets, predicted)
            latents = [wanted[number].latents.get(index) for number, index in places]
            noise = [generators(wanted[number].row) for number, _ in places]
            self._add_denoising(errors, modality, latents, predicted, noise)

    def _add_distances(
        self,
        errors: ErrorSum,
        modality: Modality,
        targets: Sequence[Condition | None],
        predicted: Condition,
    ) -> None:
        known = [k for k, target in enumerate(targets) if target is not None]
        if not known:
            return
        wanted = Condition.stack([target for target in targets if target is not None])
        given = predicted.select(known)
        each = [
            condition_distances(
                _rows(given[name]), _rows(wanted[name]).to(given[name].device), scale=scale.distance
            )
            for name, scale in self._scales(modality).items()
        ]
        errors.add(f"condition_{modality}", torch.stack(each).mean(0), self.weights.condition)

    def _add_denoising(
        self,
        errors: ErrorSum,
        modality: Modality,
        latents: Sequence[Tensor | None],
        predicted: Condition,
        generators: Sequence[torch.Generator],
    ) -> None:
        known = [k for k, clean in enumerate(latents) if clean is not None]
        if not known or modality not in self.denoising:
            return
        clean = torch.stack([one for one in latents if one is not None])
        each = self.denoising[modality](
            predicted.select(known), clean, [generators[k] for k in known]
        )
        errors.add(f"denoising_{modality}", each, self.weights.denoising)

    def _scales(self, modality: Modality) -> dict[str, ConditionScale]:
        own = self.scales[modality]
        assert isinstance(own, nn.ModuleDict)
        return {name: scale for name, scale in own.items() if isinstance(scale, ConditionScale)}


def _rows(tensor: Tensor) -> Tensor:
    """[N, *shape] -> [N, rows, width]."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])
