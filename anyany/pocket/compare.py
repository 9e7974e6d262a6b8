"""Bridges side by side: every one from several seeds, at equal steps and at equal seconds.

A finished run of a bridge and a seed is a small file in the folder, so that a comparison goes on
where it was stopped, and takes further bridges or seeds in.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from anyany.alignment.checkpoints import lock_folder
from anyany.alignment.formats import DataFile, open_data
from anyany.alignment.samples import ListSource, Sample
from anyany.bridges import user_media
from anyany.bridges.recipe import BridgeRecipe
from anyany.config import to_dict
from anyany.errors import ConfigError, RefusedError, UsageError
from anyany.media import write_json
from anyany.pocket.bridge_host import (
    HOST_STEPS,
    Host,
    Lessons,
    make_host,
    system_host,
    text_lessons,
)
from anyany.pocket.bridge_run import RunResult, RunSettings, run_bridge
from anyany.pocket.bridge_task import get_task
from anyany.pocket.bridge_training import CompareData
from anyany.records import versions

FORMAT: Final = 1
POCKET: Final = "pocket"  # as data
RESULTS: Final = "results.json"
EVALUATION_SEED: Final = 1_000_003  # never a training set's
FIGURES: Final = (  # keys of a run's result that are told as mean and spread over seeds
    *("loss", "at_seconds", "shuffled", "never", "accuracy", "exact", "never_accuracy"),
    *("never_exact", "tokens", "trainable", "step_seconds", "memory", "text_before", "text_after"),
)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CompareConfig:
    """What is compared, and on what.

    Args:
        seeds: runs of each bridge, from seed 0 on.
        steps: optimizer steps that all take.
        seconds: that all take, on the CPU the process's own; 0 for none.
        data: "pocket", or a file of conversations.
        task: of the pocket world; "own" gives each bridge its recipe's.
        system: whose encoder is used, and for a file of one's own whose language model.
        num_train: media to learn from (pocket).
        num_held_out: media of each held-out set (pocket); of a file, at most so many.
        host_steps: of the small language model's training.
        batch_size: conversations of a step.
        device: where.
        threads: of torch on the CPU.

    Raises:
        UsageError: a number is out of range, or the task is unknown.
    """

    seeds: int = 3
    steps: int = 300
    seconds: float = 0.0
    data: str = POCKET
    task: str = "captions"
    system: str = "pocket"
    num_train: int = 2048
    num_held_out: int = 128
    host_steps: int = HOST_STEPS
    batch_size: int = 32
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for key in ("seeds", "steps", "num_train", "num_held_out", "batch_size", "threads"):
            if getattr(self, key) < 1:
                raise UsageError(f"--{key}: expected 1 or more; got {getattr(self, key)}")
        if self.seconds < 0:
            raise UsageError(f"--seconds: expected 0 or more; got {self.seconds:g}")
        if self.task != "own":
            get_task(self.task)

    def task_of(self, recipe: BridgeRecipe) -> str:
        """The task of the pocket world on which a recipe is trained."""
        return recipe.data if self.task == "own" else self.task


def compare(
    recipes: Sequence[BridgeRecipe],
    config: CompareConfig,
    folder: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and measure what the folder does not hold yet, and table everything.

    A bridge that does not go with the data or the host is left out with its reason, in `failed`.

    Args:
        recipes: the bridges.
        config: what is compared.
        folder: of the finished runs, the small language model and results.json.
        force: make runs again that were made with other settings.
        progress: told (bridge, runs done, runs of it).

    Raises:
        RefusedError: the folder holds runs of other settings, or another process is at work there.
        Cancelled: a signal came; the same command goes on.
        UsageError: the data cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        return _compare(recipes, config, folder, force, progress or _silent)


def _compare(
    recipes: Sequence[BridgeRecipe],
    config: CompareConfig,
    folder: Path,
    force: bool,
    progress: Progress,
) -> dict[str, Any]:
    keys = {(r.name, seed): _key(r, config, seed) for r in recipes for seed in range(config.seeds)}
    known = {place: _read(folder, *place) for place in keys}
    changed = [place for place, run in known.items() if run and run["key"] != keys[place]]
    if changed and not force:
        name, seed = changed[0]
        raise RefusedError(
            f"{folder.name} holds a run of {name}, seed {seed}, of another recipe or other "
            "settings: take another folder, or --force to make such runs again"
        )
    torch.set_num_threads(config.threads)
    (folder / "runs").mkdir(exist_ok=True)
    bench = _Bench(config, folder)
    failed: dict[str, str] = {}
    runs: dict[str, list[RunResult]] = {}
    for recipe in recipes:
        for seed in range(config.seeds):
            place = recipe.name, seed
            run = known[place]
            if run is None or place in changed:
                try:
                    result = bench.run(recipe, seed)
                except ConfigError as error:
                    failed[recipe.name] = str(error)
                    break
                write_json({"key": keys[place], "result": result.to_dict()}, _path(folder, *place))
            else:
                result = RunResult.from_dict(run["result"])
            runs.setdefault(recipe.name, []).append(result)
            progress(recipe.name, seed + 1, config.seeds)
    results = _results(recipes, config, runs, failed, bench)
    write_json(results, folder / RESULTS)
    return results


class _Bench:
    """Host and data, made when the first run needs them."""

    def __init__(self, config: CompareConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self._host: Host | None = None
        self._data: dict[tuple[str, int], CompareData] = {}

    def run(self, recipe: BridgeRecipe, seed: int) -> RunResult:
        """Train and measure one."""
        config = self.config
        settings = RunSettings(
            config.steps, config.seconds, config.batch_size, device=config.device
        )
        data = self.data(recipe, seed)
        host = self.host()
        missing = [m for m in data.modalities if m not in host.modalities]
        if missing:
            raise UsageError(
                f"expected a system whose encoder takes {missing[0]}, as the data have it; "
                f"{config.system} takes {', '.join(host.modalities)}: give another --model"
            )
        return run_bridge(recipe, host, data, settings, seed, self.folder / "now")

    def host(self) -> Host:
        """The frozen parts."""
        if self._host is None:
            config = self.config
            if config.data == POCKET:
                self._host = make_host(
                    self.folder / "host",
                    encoder=config.system,
                    steps=config.host_steps,
                    device=config.device,
                )
            else:
                self._host = system_host(config.system, device=config.device)
        return self._host

    def data(self, recipe: BridgeRecipe, seed: int) -> CompareData:
        """What a run learns from: pocket's pictures differ from seed to seed, a file does not."""
        config = self.config
        place = (config.task_of(recipe), seed) if config.data == POCKET else (config.data, 0)
        if place not in self._data:
            self._data.clear()  # pictures of one seed at a time
            made = pocket_data(*place, config) if config.data == POCKET else file_data(config)
            self._data[place] = made
        return self._data[place]


def pocket_data(name: str, seed: int, config: CompareConfig) -> CompareData:
    """A task of the pocket world."""
    task = get_task(name)
    return CompareData(
        task.source("train", config.num_train, seed),
        task.source("fresh", config.num_held_out, EVALUATION_SEED),
        task.source("never", config.num_held_out, EVALUATION_SEED),
        (task.modality,),
        task.floor,
        text_lessons(),
        Lessons(),
    )


def file_data(config: CompareConfig) -> CompareData:
    """A file of conversations; every tenth is held out.

    Raises:
        UsageError: the file cannot be used, or has no conversation with media and an answer.
    """
    source = open_data([DataFile(Path(config.data))])
    rows = [source.sample(number, 0) for number in range(source.num_samples or 0)]
    usable = [row for row in rows if _answers_about_media(row)]
    if len(usable) < 2:
        raise UsageError(
            f"{config.data}: expected two conversations or more in which the assistant answers in "
            f"words about media; got {len(usable)}"
        )
    every = min(10, len(usable))
    held = [row for number, row in enumerate(usable) if number % every == every - 1]
    learnt = [row for number, row in enumerate(usable) if number % every != every - 1]
    modalities = {part.modality for row in usable for part in user_media(row.messages).values()}
    ordered = tuple(name for name in ("image", "video", "audio") if name in modalities)
    held = held[: config.num_held_out]
    return CompareData(ListSource(learnt), ListSource(held), None, ordered, None)


def _answers_about_media(sample: Sample) -> bool:
    last = sample.messages[-1]
    return bool(last.role == "assistant" and last.text.strip() and user_media(sample.messages))


def _results(
    recipes: Sequence[BridgeRecipe],
    config: CompareConfig,
    runs: Mapping[str, Sequence[RunResult]],
    failed: Mapping[str, str],
    bench: _Bench,
) -> dict[str, Any]:
    floors = {
        recipe.name: get_task(config.task_of(recipe)).floor if config.data == POCKET else None
        for recipe in recipes
    }
    return {
        "format": FORMAT,
        "config": asdict(config),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "versions": dict(versions()),
        "bridges": {
            recipe.name: {
                "title": recipe.title,
                "source": recipe.source,
                "recipe": to_dict(recipe),
                "floor": floors[recipe.name],
                "seeds": len(runs[recipe.name]),
                "figures": {key: _spread(runs[recipe.name], key) for key in FIGURES},
                "curves": [run.curve for run in runs[recipe.name]],
            }
            for recipe in recipes
            if recipe.name in runs and recipe.name not in failed
        },
        "failed": dict(failed),
    }


def _spread(runs: Sequence[RunResult], key: str) -> dict[str, float] | None:
    """Mean and standard deviation over seeds; None where nothing was measured."""
    values = [getattr(run, key) for run in runs]
    if any(value is None for value in values):
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "spread": deviation}


def _key(recipe: BridgeRecipe, config: CompareConfig, seed: int) -> str:
    """Of everything that a run's result depends on."""
    own = {**asdict(config), "task": config.task_of(recipe), "seed": seed, "format": FORMAT}
    del own["seeds"]
    if config.data != POCKET:
        own |= {"task": "", "data": hashlib.sha256(Path(config.data).read_bytes()).hexdigest()}
    text = json.dumps([to_dict(recipe), own], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _path(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / f"{name}-{seed}.json"


def _read(folder: Path, name: str, seed: int) -> dict[str, Any] | None:
    """A finished run; None if there is none that is whole."""
    try:
        read = json.loads(_path(folder, name, seed).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) and {"key", "result"} <= read.keys() else None


def _silent(bridge: str, done: int, total: int) -> None:
    """No progress is told."""
