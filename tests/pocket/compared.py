"""Frozen parts and data for the tests that train bridges, and results that no training made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from anyany.bridges.recipe import BridgeRecipe, load_recipe
from anyany.encoders import TilerConfig
from anyany.pocket.bridge_host import Host, Lessons, text_lessons
from anyany.pocket.bridge_run import RunResult, RunSettings, run_bridge
from anyany.pocket.bridge_task import get_task
from anyany.pocket.bridge_training import CompareData

MARGIN = 0.2  # nats a token


def toy_data(name: str, *, train: int = 1024, held_out: int = 64, seed: int = 0) -> CompareData:
    """A task of the pocket world, small."""
    task = get_task(name)
    return CompareData(
        task.source("train", train, seed),
        task.source("fresh", held_out, 99),
        task.source("never", held_out, 99),
        (task.modality,),
        task.floor,
        text_lessons(),
        Lessons(),
    )


def trained(
    recipe: str | BridgeRecipe, host: Host, data: CompareData, folder: Path, steps: int
) -> RunResult:
    """One bridge after some steps."""
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    return run_bridge(loaded, host, data, RunSettings(steps=steps), 0, folder / "run")


def resized(name: str, queries: int) -> BridgeRecipe:
    """A recipe with so many queries."""
    recipe = load_recipe(name)
    sizes = replace(recipe.projector.resampler, num_queries=queries)
    return replace(recipe, projector=replace(recipe.projector, resampler=sizes))


def single_view(name: str) -> BridgeRecipe:
    """A recipe that sees every picture at once and whole: squeezed to the encoder's square."""
    recipe = load_recipe(name)
    whole = TilerConfig("grid", rows=1, columns=1, overview=False)
    return replace(recipe, name=f"{name}-single", tilers={"image": whole}, merge="flat")


def sees(result: RunResult, floor: float | None) -> None:
    """It does better than anything blind, and only with the right pictures."""
    assert floor is not None
    assert result.loss < floor - MARGIN, (result.bridge, result.loss)
    assert result.shuffled > result.loss + MARGIN, (result.bridge, result.shuffled)


def made_up(bridge: str, seed: int, **changes: Any) -> RunResult:
    """A result of no run."""
    values: dict[str, Any] = {
        "bridge": bridge,
        "seed": seed,
        "steps": 20,
        "loss": 0.5 + 0.1 * seed,
        "shuffled": 2.0,
        "never": 0.75,
        "accuracy": 0.9,
        "exact": 0.5,
        "never_accuracy": 0.8,
        "never_exact": 0.25,
        "at_seconds": None,
        "tokens": 16.0,
        "trainable": 8256,
        "step_seconds": 0.05,
        "memory": 12_300_000,
        "text_before": 0.01,
        "text_after": 0.02,
        "curve": ((10, 0.5, 1.5 + seed), (20, 1.0, 0.5 + 0.1 * seed)),
    }
    return RunResult(**{**values, **changes})
