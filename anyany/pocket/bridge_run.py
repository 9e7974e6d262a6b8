"""One bridge of a comparison: built, trained by the one trainer, and measured.

A run takes a number of steps and goes on until a number of seconds is over, if that comes later;
its learning rate is constant after the warm-up, so that its curve can be read at any step and any
second. On the CPU, seconds are the process's own: other programs do not count.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from anyany.alignment import train_config
from anyany.alignment.mixing import MixedSource
from anyany.alignment.order import derive_seed
from anyany.alignment.samples import SampleSource
from anyany.alignment.train_config import TrainConfig
from anyany.alignment.trainer import train
from anyany.bridges.recipe import BridgeRecipe, build_bridge, fitted, trainable_parameters
from anyany.errors import Cancelled
from anyany.pocket.bridge_host import Host
from anyany.pocket.bridge_measures import measure, step_memory
from anyany.pocket.bridge_training import BridgeTraining, CompareData

_EVALUATIONS: Final = 10  # of a run's steps
_MOST_LONGER: Final = 20  # times the steps, to fill the seconds


@dataclass(frozen=True)
class RunSettings:
    """How every bridge of a comparison is trained.

    Args:
        steps: optimizer steps that all take.
        seconds: that all take; 0 for none.
        batch_size: conversations of a step.
        warmup: steps.
        device: where.
    """

    steps: int = 300
    seconds: float = 0.0
    batch_size: int = 32
    warmup: int = 20
    device: str = "cpu"


@dataclass(frozen=True)
class RunResult:
    """What was found.

    Args:
        bridge: the recipe's name.
        seed: of weights, order and dropout.
        steps: that were taken, those beyond the settings' to fill the seconds included.
        loss: on the fresh set after the settings' steps, nats a token.
        shuffled: the same with every medium replaced by another conversation's.
        never: loss on combinations that training never shows.
        accuracy: share of words right in greedy answers about fresh media.
        exact: share of such answers right as a whole.
        never_accuracy: words right about combinations that training never shows.
        never_exact: answers right about them.
        at_seconds: loss on the fresh set after the settings' seconds; None without.
        tokens: handed to the language model for a medium, the mean.
        trainable: parameters.
        step_seconds: the mean.
        memory: bytes of weights, gradients, optimizer and one step's saved activations.
        text_before: loss on text alone before training; None if there is no such set.
        text_after: loss on text alone afterwards, likewise.
        curve: (step, seconds, loss on the fresh set).
    """

    bridge: str
    seed: int
    steps: int
    loss: float
    shuffled: float
    never: float | None
    accuracy: float
    exact: float
    never_accuracy: float | None
    never_exact: float | None
    at_seconds: float | None
    tokens: float
    trainable: int
    step_seconds: float
    memory: int
    text_before: float | None
    text_after: float | None
    curve: tuple[tuple[int, float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> RunResult:
        """Read what `to_dict` wrote."""
        curve = tuple((int(s), float(t), float(v)) for s, t, v in record["curve"])
        return cls(**{**record, "curve": curve})


def run_bridge(
    recipe: BridgeRecipe,
    host: Host,
    data: CompareData,
    settings: RunSettings,
    seed: int,
    folder: Path,
) -> RunResult:
    """Train one bridge from one seed, and measure it.

    Args:
        recipe: which; its sizes are cut to the host.
        host: is copied, so that it stays as it is.
        data: what it learns and is measured on.
        settings: how long.
        seed: of weights, order and dropout.
        folder: of the run; emptied before and removed afterwards.

    Raises:
        ConfigError: the recipe does not fit the host or the data.
        Cancelled: a signal came; the same command does the run again from its beginning.
    """
    task, recipe = begin(recipe, host, data, seed)
    task.module.to(settings.device)
    before = task.loss_on(data.text) if data.text is not None else None
    memory = step_memory(task, settings.batch_size)
    shutil.rmtree(folder, ignore_errors=True)
    train_bridge(task, recipe, settings, settings.steps, seed, folder)
    found = measure(task, data)
    after = task.loss_on(data.text) if data.text is not None else None
    step_seconds = task.seconds / task.steps
    if settings.seconds > task.seconds:
        more = math.ceil((settings.seconds - task.seconds) / step_seconds) + 1
        total = settings.steps + min(more, _MOST_LONGER * settings.steps)
        train_bridge(task, recipe, settings, total, seed, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return RunResult(
        bridge=recipe.name,
        seed=seed,
        steps=task.steps,
        **found,
        at_seconds=at_second(task.curve, settings.seconds) if settings.seconds else None,
        trainable=sum(p.numel() for p in task.module.parameters() if p.requires_grad),
        step_seconds=task.seconds / task.steps,
        memory=memory,
        text_before=before,
        text_after=after,
        curve=tuple(task.curve),
    )


def begin(
    recipe: BridgeRecipe, host: Host, data: CompareData, seed: int
) -> tuple[BridgeTraining, BridgeRecipe]:
    """The training task of a recipe, and the recipe as it fits the host.

    Raises:
        ConfigError: the recipe does not fit the host or the data.
    """
    own = host.copy()
    recipe = fitted(recipe, own.imagebind, own.language)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("bridge", seed))
        bridge = build_bridge(
            recipe,
            own.imagebind,
            own.language,
            data.modalities,
            preprocessing=own.preprocessing,
        )
    trainable_parameters(bridge, recipe)
    source: SampleSource = data.train
    if recipe.text_share and data.lessons is not None:
        shares = [1 - recipe.text_share, recipe.text_share]
        source = MixedSource([data.train, data.lessons], shares, seed=seed)
    return BridgeTraining(bridge, source, data.fresh), recipe


def at_second(curve: Sequence[tuple[int, float, float]], seconds: float) -> float:
    """A curve's loss at a moment, linear between its points; its ends beyond them."""
    before = curve[0]
    for point in curve:
        if point[1] >= seconds:
            width = point[1] - before[1]
            share = (seconds - before[1]) / width if width > 0 else 1.0
            return before[2] + max(share, 0.0) * (point[2] - before[2])
        before = point
    return before[2]


def train_bridge(
    task: BridgeTraining,
    recipe: BridgeRecipe,
    settings: RunSettings,
    steps: int,
    seed: int,
    folder: Path,
) -> None:
    """Train to a number of steps, on from where the folder's run is.

    Raises:
        Cancelled: a signal came.
    """
    config = TrainConfig(
        steps=steps,
        batch_size=settings.batch_size,
        lr=recipe.lr,
        warmup=settings.warmup,
        schedule="constant",
        seed=seed,
        device=settings.device,
        evaluate_every=max(settings.steps // _EVALUATIONS, 1),
        save_seconds=0.0,
        keep=1,
    )
    with _unsaid():
        result = train(task, config, folder, progress=False, allow_changed=True)
    if result.reason != "finished":
        raise Cancelled(f"stopped by {result.reason}: the same command goes on")


@contextmanager
def _unsaid() -> Iterator[None]:
    """No warning that a run goes on with more steps: that is meant."""
    told = logging.getLogger(train_config.__name__)
    before = told.level
    told.setLevel(logging.ERROR)
    try:
        yield
    finally:
        told.setLevel(before)
